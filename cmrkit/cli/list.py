"""cmrkit list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cmrkit.cli.completion import complete_dataset, complete_family
from cmrkit.cli.shared import json_option, print_json
from cmrkit.errors import UsageError

if TYPE_CHECKING:
    from cmrkit.recipe.model import Recipe


def entry(recipe: Recipe) -> dict:
    """Return what ``list --json`` says of one recipe."""
    paper = recipe.paper
    return {
        "key": recipe.key,
        "acronym": paper.acronym,
        "title": paper.title,
        "venue": paper.venue,
        "year": paper.year,
        "family": recipe.family,
        "taxonomy": list(paper.taxonomy),
        "status": recipe.status,
        "fidelity": recipe.fidelity,
        "datasets": list(recipe.data),
    }


@click.command(name="list")
@click.option(
    "--family", "-f", shell_complete=complete_family, help="Only this family, or part of a family's or heading's name."
)
@click.option("--status", "-s", type=click.Choice(["catalogued", "runnable", "verified"]), help="Only this status.")
@click.option("--dataset", "-d", shell_complete=complete_dataset, help="Only recipes that name this dataset.")
@click.option("--year", "-y", type=int, help="Only this year.")
@json_option
def command(family: str | None, status: str | None, dataset: str | None, year: int | None, as_json: bool) -> None:
    """Browse the catalogue by family, status, dataset and year. 'runnable' includes verified ones."""
    from cmrkit.recipe.library import dataset_keys, load_all
    from cmrkit.recipe.model import FAMILIES
    from cmrkit.recipe.source import did_you_mean

    if dataset and dataset not in dataset_keys():
        raise UsageError(f"no dataset {dataset!r}{did_you_mean(dataset, dataset_keys())}")
    entries = [entry(r) for r in load_all()]
    if family:
        entries = [e for e in entries if any(family in name for name in (e["family"], *e["taxonomy"]))]
        if not entries:
            raise UsageError(f"no family {family!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    wanted = {"runnable": ("runnable", "verified")}.get(status, (status,))
    entries = [e for e in entries if not status or e["status"] in wanted]
    entries = [e for e in entries if (not dataset or dataset in e["datasets"]) and year in (None, e["year"])]
    if as_json:
        return print_json(entries)
    from rich.markup import escape

    from cmrkit.reporting.card import console, table

    out = console()
    for name in FAMILIES:
        members = [e for e in entries if e["family"] == name]
        if not members:
            continue
        rows = table("key", "title", "venue", ">year", "status")
        for e in members:
            title = e["title"] if len(e["title"]) <= 48 else e["title"][:47] + "…"
            rows.add_row(e["key"], escape(title), escape(e["venue"]), str(e["year"]), e["status"])
        out.print(f"[bold]{name}[/bold] ({len(members)})")
        out.print(rows)
        out.print()
    ready = sum(e["status"] != "catalogued" for e in entries)
    verified = sum(e["status"] == "verified" for e in entries)
    out.print(f"{len(entries)} papers, {ready} runnable, {verified} of them verified")
    return None
