"""cmrkit show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cmrkit.cli.completion import complete_recipe
from cmrkit.cli.evaluation_terms import is_evaluation_term, show_evaluation_term
from cmrkit.cli.shared import json_option, print_json

if TYPE_CHECKING:
    from cmrkit.recipe.model import Recipe


def bibtex(recipe: Recipe) -> str:
    """Return the recipe's BibTeX, made from its fields where none was written down."""
    paper = recipe.paper
    if paper.bibtex:
        return paper.bibtex.strip()
    journals = (
        "T",
        "J",
        "IEEE T",
        "ACM T",
        "Neurocomputing",
        "Pattern",
        "Inf",
        "Neural",
        "Knowledge",
        "Information",
    )
    journal = paper.venue.startswith(journals) and paper.venue.upper() != "TREC"
    fields = {
        "title": paper.title,
        "author": " and ".join(paper.authors),
        "journal" if journal else "booktitle": paper.venue,
        "year": str(paper.year),
        "doi": paper.doi,
        "url": paper.url,
    }
    body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items() if v)
    return f"@{'article' if journal else 'inproceedings'}{{{recipe.key},\n{body}\n}}"


@click.command()
@click.argument("key", shell_complete=complete_recipe)
@click.option("--variants", is_flag=True, help="What was obtained under every variant, with [worst, best] over ties.")
@json_option
def command(key: str, variants: bool, as_json: bool) -> None:
    """Show a paper: links, BibTeX, steps, datasets, parameters with their provenance, claims and results.

    KEY may also be the name of a protocol or of a metric, 'protocols' or 'metrics'.
    """
    if is_evaluation_term(key):
        return show_evaluation_term(key, as_json)
    from cmrkit.cli.list import entry
    from cmrkit.recipe.library import load_recipe

    recipe = load_recipe(key)
    if as_json:
        document = {**entry(recipe), **recipe.model_dump(mode="json"), "bibtex": bibtex(recipe)}
        return print_json({**document, "results": _results(key)})
    from rich.markup import escape

    from cmrkit.reporting.card import console, table

    out = console()
    paper = recipe.paper
    out.print(f"[bold]{paper.acronym}[/bold]  {escape(paper.title)}")
    out.print(f"{escape(paper.venue)} {paper.year} · {recipe.family} · {recipe.status}"
              + (f" · fidelity: {recipe.fidelity}" if recipe.fidelity else ""))  # fmt: skip
    if paper.authors:
        out.print(escape(", ".join(paper.authors)))
    for name, value in (("paper", paper.url), ("doi", paper.doi), ("code", paper.code and paper.code.url),
                        ("heading", ", ".join(paper.taxonomy)), ("remark", paper.remark),
                        ("unsettled", ", ".join(paper.unsettled))):  # fmt: skip
        if value:
            out.print(f"{name:9} {escape(str(value))}", soft_wrap=True)
    for note in (*paper.notes, *recipe.notes):
        out.print(f"note      {escape(note)}")
    if recipe.runnable:
        _print_method(out, table, recipe)
        _print_obtained(out, recipe, variants)
    out.print(f"\n{escape(bibtex(recipe))}", soft_wrap=True)
    return None


def _print_method(out, table, recipe: Recipe) -> None:
    from rich.markup import escape

    from cmrkit.methods.inspect import find_method
    from cmrkit.pipeline.plan import STEPS

    out.print(f"\n{escape(find_method(recipe.family, recipe.model['name']).doc)}\n")
    out.print(f"steps     {' -> '.join((*STEPS, 'judge'))}")
    for dataset, choice in recipe.data.items():
        out.print(f"data      {dataset}: {choice.image} + {choice.text}, split {choice.split}")
    out.print(f"protocol  {', '.join(f'{k}={v}' for k, v in recipe.eval.model_dump().items() if v)}")
    rows = table("parameter", "value", "from")
    for section in ("model", "train"):
        for name, value in getattr(recipe, section).items():
            if name != "name":
                source = next((s for k, s in recipe.provenance.items() if f"{section}.{name}" in k.split(",")), "")
                rows.add_row(f"{section}.{name}", str(value), escape(source))
    out.print(rows)


def _print_obtained(out, recipe: Recipe, variants: bool) -> None:
    from cmrkit.api import open_store
    from cmrkit.reporting.card import obtained_table
    from cmrkit.reporting.metrics import variants_tables
    from cmrkit.reporting.records import group_over_seeds, mean_variants, read_records

    found = read_records(open_store().root, recipe.key)
    groups = group_over_seeds(found.records)
    out.print(f"\n{len(recipe.claims)} sourced claims; {len(found.records)} results in this cache")
    for skipped in found.skipped:
        out.print(f"skipped   {skipped.path.name}: {skipped.reason}", soft_wrap=True, markup=False)
    if groups:
        out.print(obtained_table(groups, recipe))
    for group in groups if variants else ():
        for where, rows in variants_tables(mean_variants(group)):
            out.print(f"\n[bold]{group.first.dataset} {group.label}[/bold], {len(group.seeds)} seeds, {where}")
            out.print(rows)


def _results(key: str) -> list[dict]:
    from cmrkit.api import open_store
    from cmrkit.reporting.records import read_records

    return [
        {
            "dataset": r.dataset,
            "params": {**r.params, "seed": r.seed},
            "seed": r.seed,
            "metrics": r.metrics,
            "when": r.when,
        }
        for r in read_records(open_store().root, key).records
    ]
