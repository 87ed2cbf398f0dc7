"""cmrkit search."""

from __future__ import annotations

from pathlib import Path

import click

from cmrkit.cli.shared import json_option, print_json
from cmrkit.errors import UsageError


@click.command()
@click.option("--ckpt", required=True, type=click.Path(path_type=Path), help="A checkpoint's directory.")
@click.option("--text", "texts", multiple=True, help="What to look for among the images; may be given several times.")
@click.option("--images", type=click.Path(path_type=Path), help="A folder or zip archive of images to look through.")
@click.option("--image", "image_files", multiple=True, type=click.Path(path_type=Path), help="An image to describe.")
@click.option("--texts", "text_file", type=click.Path(path_type=Path), help="A file with one sentence a line.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Results for each query.")
@click.option("-o", "out", type=click.Path(path_type=Path), help="A contact sheet: FILE.html or FILE.png.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--device", help="auto, cpu, cuda:N or mps.")
@json_option
def command(ckpt, texts, images, image_files, text_file, top, out, skip_bad, device, as_json) -> None:
    """Search images by text, or texts by image, with a checkpoint that cmrkit trained or converted."""
    from cmrkit.searching import search

    by_text, by_image = bool(texts) or images is not None, bool(image_files) or text_file is not None
    if by_text == by_image or (by_text and not (texts and images)) or (by_image and not (image_files and text_file)):
        raise UsageError("give --text with --images to look for images, or --image with --texts to look for texts")
    document = search(
        ckpt, texts=list(texts), images=images, image_files=list(image_files), text_file=text_file, top=top,
        skip_bad=skip_bad, device=device,
    )  # fmt: skip
    if out:
        from cmrkit.reporting.sheet import write_sheet

        write_sheet(document, out)
        document["sheet"] = str(out)
    print_json(document) if as_json else _print(document)


def _print(document: dict) -> None:
    from rich.markup import escape

    from cmrkit.reporting.card import console, table

    console_out = console()
    for query in document["queries"]:
        console_out.print(f"[bold]{escape(query['query'])}[/bold]")
        rows = table(">rank", ">score", "result")
        for rank, hit in enumerate(query["results"], start=1):
            rows.add_row(str(rank), f"{hit['score']:.4f}", escape(hit["result"]))
        console_out.print(rows)
    for note in document["notes"]:
        console_out.print(escape(note))
    if "sheet" in document:
        console_out.print(f"contact sheet: {escape(document['sheet'])}")
