"""cmrkit report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cmrkit.cli.shared import human_size, json_option, print_json


@click.command()
@click.option("--output", "-o", default="site", show_default=True, type=click.Path(file_okay=False),
              help="Folder to write the page into.")  # fmt: skip
@click.option("--no-gallery", is_flag=True, help="Leave out queries and their results.")
@json_option
def command(output: str, no_gallery: bool, as_json: bool) -> None:
    """Write one page about all papers and every result in this cache, to open in any browser, offline."""
    from tqdm import tqdm

    from cmrkit.api import open_store
    from cmrkit.reporting.html import write_site

    def progress(items: list):
        return tqdm(items, unit="", leave=False, disable=not sys.stderr.isatty())

    written = write_site(open_store(), Path(output), not no_gallery, progress)
    if as_json:
        return print_json(written)
    gallery = written["gallery"]
    click.echo(f"{written['page']}: {human_size(written['bytes'])}, {written['papers']} papers,"
               f" {written['with_results']} of them with results from {written['records']} runs")  # fmt: skip
    if gallery["files"]:
        click.echo(f"gallery: {gallery['files']} images, {human_size(gallery['bytes'])} in {Path(output) / 'gallery'}")
    for name, reason in written["skipped"]:
        click.echo(f"skipped {name}: {reason}", err=True)
    if not written["records"]:
        click.echo("no results yet: 'cmrkit reproduce batch --dataset shapes' makes the first in about a minute")
    return None
