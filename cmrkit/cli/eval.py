"""cmrkit eval."""

from __future__ import annotations

from typing import Any

import click

from cmrkit.cli.shared import dataset_option, json_option, offline_option, print_json
from cmrkit.errors import UsageError


@click.command()
@click.option("--ckpt", type=click.Path(), help="A checkpoint directory.")
@click.option("--codes", type=click.Path(), help="An .npz file of codes or embeddings.")
@dataset_option
@click.option("--protocol", help="Protocol name; the recipe's where left out.")
@click.option("--all-protocols", is_flag=True, help="The same codes under every variant.")
@offline_option
@json_option
def command(ckpt, codes, dataset, protocol, all_protocols, offline, as_json) -> None:
    """Evaluate a checkpoint (--ckpt) or codes that somebody else made (--codes)."""
    from cmrkit.api import evaluate_checkpoint, evaluate_codes

    if bool(ckpt) == bool(codes):
        raise UsageError("give either --ckpt DIRECTORY or --codes FILE.npz")
    if codes:
        if dataset:
            raise UsageError("--codes carries its own labels: --dataset goes with --ckpt")
        document = evaluate_codes(codes, protocol=protocol, all_protocols=all_protocols)
    else:
        document = evaluate_checkpoint(ckpt, dataset, protocol=protocol, all_protocols=all_protocols, offline=offline)
    if as_json:
        return print_json(document)
    _print(document, all_protocols)
    return None


def _print(document: dict[str, Any], all_protocols: bool) -> None:
    from cmrkit.reporting.card import console, table

    out = console()
    out.print(f"{document['source']}  dataset {document['dataset'] or '-'}  protocol {document['protocol']}")
    if document.get("same_code") is False:
        out.print("note: the method's code has changed since this checkpoint was trained")
    groups = document["metrics"] if all_protocols else {"": document["metrics"]}
    rows = table("variant", "metric", ">i2t", ">t2i") if all_protocols else table("metric", ">i2t", ">t2i")
    for variant, metrics in groups.items():
        for name, value in metrics.items():
            cells = _cells(value)
            if cells:
                rows.add_row(*([variant] if all_protocols else []), name, *cells)
    out.print(rows)


def _cells(value: Any) -> list[str]:
    if isinstance(value, (int, float)):
        return [f"{value:.4f}" if isinstance(value, float) else str(value), ""]
    if not isinstance(value, dict) or not all(isinstance(value.get(d, 0), (int, float)) for d in ("i2t", "t2i")):
        return []
    return [f"{value[d]:.4f}" if d in value else "" for d in ("i2t", "t2i")]
