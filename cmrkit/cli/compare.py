"""cmrkit compare."""

from __future__ import annotations

from pathlib import Path

import click

from cmrkit.cli.completion import complete_dataset, complete_runnable
from cmrkit.cli.shared import json_option, offline_option, print_json


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY KEY ..", shell_complete=complete_runnable)
@click.option("--dataset", "-d", required=True, shell_complete=complete_dataset, help="The one dataset.")
@click.option("--bits", help="Code lengths, such as 16,32; those that all the recipes sweep over where left out.")
@click.option("--seeds", type=click.IntRange(1), help="How many seeds, 0 to N-1; the recipes' own where left out.")
@click.option("--protocol", type=click.Choice(["map", "recall"]), help="By labels or by pairs, where recipes differ.")
@click.option("--database", type=click.Choice(["hashed", "learned", "unified"]), default="hashed", show_default=True,
              help="Whose codes the database has.")  # fmt: skip
@click.option("--items", type=click.Choice(["database", "query"]), default="database", show_default=True,
              help="Rank the database, or the query set itself.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write tables and figures into this folder.")
@offline_option
@json_option
def command(keys, dataset, out, as_json, bits, **given) -> None:
    """Compare papers on one split under one protocol; what is missing is run.

    Prints means and deviations over seeds with letters for the groups that do not differ. With -o there are
    comparison.csv, .json, .md and .tex, and figures as SVG, PDF and PNG.
    """
    from cmrkit.errors import UsageError
    from cmrkit.pipeline.resolve import parse_integers
    from cmrkit.reporting.comparison import compare

    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"-o {out}: is a file; name a folder")
    document = compare(keys, dataset, bits=parse_integers(bits, "--bits"), **given)
    written = write(document, out) if out else []
    if as_json:
        return print_json({**document, "written": written})
    from cmrkit.reporting.card import console
    from cmrkit.reporting.comparison_tables import print_tables

    screen = console()
    print_tables(screen, document)
    for path in written:
        screen.print(f"wrote {path}", soft_wrap=True, markup=False)
    return None


def write(document: dict, folder: Path) -> list[str]:
    """Write tables and figures into ``folder``; return the paths. Raises CmrkitError where that cannot be done."""
    import json

    from cmrkit.errors import CmrkitError
    from cmrkit.reporting import comparison_tables as tables
    from cmrkit.reporting.plots import draw

    texts = {
        "comparison.csv": tables.as_csv(document),
        "comparison.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        "comparison.md": tables.as_markdown(document),
        "comparison.tex": tables.as_latex(document),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        return [*(str(folder / name) for name in texts), *map(str, draw(document, folder))]
    except OSError as error:
        raise CmrkitError(f"{error.filename or folder}: {error.strerror}") from None
