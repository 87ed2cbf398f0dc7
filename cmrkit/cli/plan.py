"""cmrkit plan."""

from __future__ import annotations

from typing import Any

import click

from cmrkit.cli.shared import dataset_option, human_size, json_option, print_json
from cmrkit.pipeline.plan import needed_assets, plan_run
from cmrkit.pipeline.resolve import Run, parse_integers, parse_overrides, resolve


def describe(runs: list[Run]) -> dict[str, Any]:
    """Return the steps of some runs, cached or not, and the files they need, found or missing."""
    from cmrkit.api import open_context
    from cmrkit.pipeline.fetch import locate

    context = open_context()
    steps = {s.key: s for run in runs for s in plan_run(run).ancestry()}
    rows = []
    for step in steps.values():
        artifact = context.store.find(step.name, step.key)
        rows.append({
            "name": step.name, "key": step.key, "label": step.label, "cached": artifact is not None,
            "bytes": artifact.size if artifact else None,
            "seconds": artifact.manifest["seconds"] if artifact else None,
        })  # fmt: skip
    manifest, files = runs[0].manifest, []
    for name in needed_assets(manifest, runs[0].choice):
        asset = manifest.assets[name]
        found = locate(asset, destination=context.store.root / "downloads", mirror=list(context.mirror))
        files.append({"name": name, "path": asset.path, "bytes": asset.size, "found": str(found) if found else None,
                      "licence": asset.licence or manifest.licence, "urls": list(asset.urls)})  # fmt: skip
    compute = runs[0].recipe.compute
    return {
        "recipe": runs[0].recipe.key, "dataset": runs[0].dataset, "runs": len(runs), "steps": rows, "files": files,
        "minutes": compute.minutes * len(runs) if compute else None,
        "memory_gb": compute.memory_gb if compute else None,
    }  # fmt: skip


@click.command()
@click.argument("key")
@dataset_option
@click.option("--bits", help="Code lengths, such as 16,32.")
@click.option("--seed", help="Seeds, such as 0,1,2.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Change a parameter.")
@json_option
def command(key: str, dataset: str | None, bits: str | None, seed: str | None, sets: tuple, as_json: bool) -> None:
    """Show the steps of a reproduction: cached or not, sizes, times; missing files are named."""
    runs = resolve(key, dataset, bits=parse_integers(bits, "--bits"), seeds=parse_integers(seed, "--seed"),
                   overrides=parse_overrides(list(sets)))  # fmt: skip
    document = describe(runs)
    print_json(document) if as_json else print_plan(document)


def print_plan(document: dict[str, Any]) -> None:
    """Print a plan as tables."""
    from rich.markup import escape

    from cmrkit.reporting.card import console, table

    out = console()
    rows = table("step", "of", "state", ">size", ">took")
    for s in document["steps"]:
        size = human_size(s["bytes"]) if s["cached"] else ""
        took = f"{s['seconds']:.1f} s" if s["cached"] else ""
        rows.add_row(s["name"], s["label"], "cached" if s["cached"] else "to do", size, took)
    out.print(rows)
    for f in document["files"]:
        where = f["found"] or "to be fetched from " + "; ".join(f["urls"])
        size = human_size(f["bytes"]) if f["bytes"] else "size unknown"
        out.print(escape(f"file {f['path']} ({size}; licence: {f['licence'] or 'none stated'}): {where}"))
    todo = sum(not s["cached"] for s in document["steps"])
    guess = f", about {document['minutes']:.1f} CPU minutes in all" if document["minutes"] and todo else ""
    out.print(f"{document['runs']} runs, {todo} steps to do{guess}")
