"""cmrkit verify."""

from __future__ import annotations

from pathlib import Path

import click

from cmrkit.cli.shared import json_option, offline_option, print_json


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE..", type=click.Path(path_type=Path))
@click.option("--rerun/--no-rerun", default=True, show_default=True, help="Do the runs again and compare numbers.")
@offline_option
@json_option
@click.pass_context
def command(ctx, files, rerun, offline, as_json) -> None:
    """Check attestations: hash, recipe, data and code, and the numbers, run again. Exit 1 where one does not hold.

    Nothing cached is believed: the runs are made anew from the data's files on. On the machine that was attested they
    must come out to the last bit, elsewhere within the attested tolerance. Code that has changed is named; without
    a rerun that fails, with one the numbers decide.
    """
    from cmrkit.reporting.attestation import read_attestation
    from cmrkit.reporting.verification import check

    documents = [(read_attestation(path), path) for path in files]
    reports = []
    for document, path in documents:
        reports.append(check(document, path, rerun=rerun, offline=offline))
        if not as_json:
            _print(reports[-1])
    if as_json:
        print_json(reports)
    if not all(report["holds"] for report in reports):
        ctx.exit(1)


def _print(report: dict) -> None:
    click.echo(f"{report['file']}: {'holds' if report['holds'] else 'DOES NOT HOLD'}")
    click.echo(f"  hash      {'as attested' if report['sealed'] else 'wrong'}")
    for part, found in report["changes"].items():
        click.echo(f"  {part:9} {'as attested' if not found else 'changed'}")
        for each in found:
            click.echo(f"            {each}")
    if report["runs"]:
        click.echo(f"  expected  {report['expected']}" + ("; " + "; ".join(report["elsewhere"])
                                                         if report["elsewhere"] else ""))  # fmt: skip
        numbers, equal = (sum(run[name] for run in report["runs"]) for name in ("numbers", "equal"))
        largest = max(run["largest"] for run in report["runs"])
        click.echo(f"  numbers   {equal} of {numbers} to the last bit in {len(report['runs'])} runs; largest difference"
                   f" {largest:.2g}")  # fmt: skip
    for fault in report["faults"]:
        click.echo(f"  fault     {fault}")
