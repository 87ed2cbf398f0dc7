"""cmrkit eval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from cmrkit.cli.shared import dataset_option, json_option, offline_option, print_json
from cmrkit.errors import UsageError

UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


@click.command()
@click.option("--ckpt", type=click.Path(), help="A checkpoint directory.")
@click.option("--codes", type=click.Path(), help="An .npz file of codes or embeddings.")
@click.option("--run", type=click.Path(), help="A ranking in TREC's run format, to be judged by --qrels.")
@click.option("--qrels", type=click.Path(), help="Judgements in TREC's format.")
@dataset_option
@click.option("--protocol", help="Protocol name (see 'cmrkit show protocols'); the recipe's where left out.")
@click.option("--all-protocols", is_flag=True, help="The same codes under every variant, with [worst, best] bounds.")
@click.option("--metrics", help="Metric names separated by commas (see 'cmrkit show metrics').")
@click.option("--set", "settings", multiple=True, help="Change a field of the protocol: ties=worst, items=query, ..")
@click.option("--against", type=click.Path(), help="Another checkpoint, file or run: test the difference.")
@click.option("--save-codes", type=click.Path(), help="Write the evaluated arrays, packed, as an .npz file.")
@click.option("--save-run", type=click.Path(), help="Write rankings and judgements under this prefix.")
@click.option("--depth", type=int, help="Items of each ranking that --save-run writes; 1000 where left out.")
@click.option("--memory", help="Memory for one block of queries, such as 500MB.")
@click.option("--device", help="A torch device to compute on, such as cuda:0; compiled code where left out.")
@offline_option
@json_option
def command(run, qrels, as_json, all_protocols, save_codes, save_run, **given) -> None:
    """Evaluate a checkpoint (--ckpt), codes made elsewhere (--codes) or a ranking (--run with --qrels)."""
    from cmrkit.evaluating import evaluate_run_file, evaluate_subject
    from cmrkit.pipeline.resolve import parse_overrides

    if sum(map(bool, (given["ckpt"], given["codes"], run))) != 1:
        raise UsageError("give one of --ckpt DIRECTORY, --codes FILE.npz and --run FILE")
    if bool(run) != bool(qrels):
        raise UsageError("--run and --qrels go together: a ranking and what is relevant")
    if given["dataset"] and not given["ckpt"]:
        raise UsageError("--dataset goes with --ckpt: what was made elsewhere carries its own labels")
    overrides = parse_overrides(given["settings"])
    metrics = given["metrics"].split(",") if given["metrics"] else None
    if run:
        _refuse_for_runs(all_protocols=all_protocols, save_codes=save_codes, save_run=save_run, **given)
        document = evaluate_run_file(run, qrels, metrics=metrics, ties=_ties(overrides), against=given["against"])
    else:
        subject = _subject(given["ckpt"] or given["codes"], bool(given["ckpt"]), given["dataset"], given["offline"])
        common = {"protocol": given["protocol"], "metrics": metrics, "overrides": overrides,
                  "memory": _bytes(given["memory"])}  # fmt: skip
        if given["against"]:
            document = _compared(subject, given, common, all_protocols)
        else:
            document = evaluate_subject(subject, all_protocols=all_protocols, device=given["device"],
                                        offline=given["offline"], **common)  # fmt: skip
        if save_codes or save_run:
            from cmrkit.evaluating import write_subject

            options = {"protocol": given["protocol"], "overrides": overrides, "depth": given["depth"]}
            document["written"] = write_subject(subject, codes=save_codes, run=save_run, **options)
    if as_json:
        return print_json(document)
    _print(document, all_protocols)
    return None


def _subject(path: str, is_checkpoint: bool, dataset: str | None, offline: bool) -> Any:
    from cmrkit.evaluating import encode_subject, read_subject

    return encode_subject(path, dataset, offline=offline) if is_checkpoint else read_subject(path)


def _compared(subject: Any, given: dict[str, Any], common: dict[str, Any], all_protocols: bool) -> dict[str, Any]:
    from cmrkit.evaluating import compare_subjects

    if all_protocols:
        raise UsageError("--against tests one protocol: leave --all-protocols out")
    other = _subject(given["against"], Path(given["against"]).is_dir(), given["dataset"], given["offline"])
    return compare_subjects(subject, other, **common)


def _ties(overrides: dict[str, Any]) -> str:
    if set(overrides) - {"ties"}:
        raise UsageError(f"--set {next(iter(set(overrides) - {'ties'}))}: of a run only the ties can be set")
    return overrides.get("ties", "expected")


def _refuse_for_runs(**options: Any) -> None:
    for name in ("protocol", "all_protocols", "save_codes", "save_run", "memory", "device"):
        if options[name]:
            raise UsageError(f"--{name.replace('_', '-')} does not go with --run: a ranking is already made")


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise UsageError(f"--memory takes a size such as 500MB or 2GB, not {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _print(document: dict[str, Any], all_protocols: bool) -> None:
    from cmrkit.reporting.card import console
    from cmrkit.reporting.metrics import comparison_table, metrics_table, variants_tables

    out = console()
    protocol = document["protocol"]
    if isinstance(protocol, dict):
        protocol = ", ".join(str(v) if k == "protocol" else f"{k} {v}" for k, v in protocol.items())
    out.print(document["source"], soft_wrap=True)
    out.print(f"dataset {document.get('dataset') or '-'} · protocol {protocol}")
    if document.get("same_code") is False:
        out.print("note: the method's code has changed since this checkpoint was trained")
    if "comparison" in document:
        out.print(f"against {document['against']}")
        out.print(comparison_table(document["comparison"]))
    elif all_protocols:
        for title, rows in variants_tables(document["metrics"]):
            out.print(f"\n{title}")
            out.print(rows)
        out.print("\n[worst, best] are the same codes with tied items ordered against or for them")
    else:
        out.print(metrics_table(document["metrics"]))
    for path in document.get("written", ()):
        out.print(f"wrote {path}")
