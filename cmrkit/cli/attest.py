"""cmrkit attest."""

from __future__ import annotations

from pathlib import Path

import click

from cmrkit.cli.completion import complete_runnable
from cmrkit.cli.shared import dataset_option, json_option, print_json


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RECORD..", shell_complete=complete_runnable)
@dataset_option
@click.option("--tolerance", type=click.FloatRange(0, 1), help="How far numbers may differ on another machine; 0.01.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; results/KEY/DATASET-HASH.json.")
@json_option
def command(names, dataset, tolerance, out, as_json) -> None:
    """Write what runs came to as a file that others can check with 'cmrkit verify'.

    RECORD is a file that 'cmrkit reproduce' wrote, the start of its name, or the KEY of a paper: all of its own runs
    in the cache. One file holds the runs of one paper on one dataset. Contribute it by a pull request under results/.
    """
    from cmrkit.api import open_store
    from cmrkit.errors import CmrkitError
    from cmrkit.reporting.attestation import TOLERANCE, as_text, attest, file_name, select

    document = attest(select(open_store().root, names, dataset), TOLERANCE if tolerance is None else tolerance)
    path = out or Path("results") / file_name(document)
    if path.is_dir():
        path /= file_name(document)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_text(document), encoding="utf-8")
    except OSError as error:
        raise CmrkitError(f"{error.filename or path}: {error.strerror}") from None
    if as_json:
        return print_json({**document, "written": str(path)})
    click.echo(f"{path}: {len(document['runs'])} runs of {document['recipe']} on {document['dataset']},"
               f" sha256 {document['sha256']}")  # fmt: skip
    return None
