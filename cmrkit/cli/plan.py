"""cmrkit plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cmrkit.cli.completion import complete_runnable
from cmrkit.cli.shared import (
    dataset_option,
    human_size,
    json_option,
    limit_option,
    limited,
    origin_option,
    print_json,
    skip_bad_option,
)

if TYPE_CHECKING:
    from cmrkit.pipeline.resolve import Run


def describe(runs: list[Run], skip_bad: bool = False) -> dict[str, Any]:
    """Return the steps of some runs, cached or not, and the files they need, found or missing."""
    from cmrkit.api import open_context
    from cmrkit.pipeline.fetch import locate
    from cmrkit.pipeline.plan import plan_run

    context = open_context()
    steps = {s.key: s for run in runs for s in plan_run(run, skip_bad).ancestry()}
    rows = []
    for step in steps.values():
        artifact = context.store.find(step.name, step.key)
        rows.append({
            "name": step.name, "key": step.key, "label": step.label, "cached": artifact is not None,
            "bytes": artifact.size if artifact else None,
            "seconds": artifact.manifest["seconds"] if artifact else None,
        })  # fmt: skip
    manifest, files = runs[0].manifest, []
    of_dataset = {asset.path: manifest.licence for asset in manifest.assets.values()}
    for name, asset in needed_files(runs[0]).items():
        found = locate(asset, destination=context.store.root / "downloads", mirror=list(context.mirror))
        files.append({"name": name, "path": asset.path, "bytes": asset.size, "found": str(found) if found else None,
                      "licence": asset.licence or of_dataset.get(asset.path), "urls": list(asset.urls)})  # fmt: skip
    compute = runs[0].recipe.compute
    todo = any(row["name"] == "encode" and not row["cached"] for row in rows)
    return {
        "recipe": runs[0].recipe.key, "dataset": runs[0].dataset, "runs": len(runs), "steps": rows, "files": files,
        "minutes": compute.minutes * len(runs) if compute and runs[0].origin != "checkpoint" else None,
        "device": compute.device if compute else None,
        "memory_gb": compute.memory_gb if compute else None,
        "pairs": pairs_to_score(runs[0]) if todo else None,
    }  # fmt: skip


def needed_files(run: Run) -> dict[str, Any]:
    """Return the assets that a run needs, by name: its dataset's, and those of published weights."""
    from cmrkit.pipeline.plan import needed_assets

    files = {name: run.manifest.assets[name] for name in needed_assets(run.manifest, run.choice)}
    return {**files, **(run.recipe.checkpoints[run.published] if run.published else {})}


def pairs_to_score(run: Run) -> dict[str, Any] | None:
    """Return how many pairs a run's method scores one by one, and the hours of this machine's CPU that takes.

    The hours are those of ``compute.gflop_per_pair`` at the speed of a matrix product, which networks stay below;
    None for methods that do not score pairs. Captions are counted as five an image.
    """
    if "shortlist" not in run.params:
        return None
    images = run.manifest.splits[run.choice.split if run.choice.split in run.manifest.splits
                                 else run.manifest.default_split].counts["query"]  # fmt: skip
    images = min(images, run.eval.limit) if run.eval.limit else images
    texts, k = 5 * images, run.params["shortlist"]
    pairs = images * texts if not k else images * min(k, texts) + texts * min(k, images)
    flops = run.recipe.compute.gflop_per_pair if run.recipe.compute else None
    hours = pairs * flops / matrix_speed() / 3600 if flops else None
    return {"count": pairs, "all": not k, "gflop_each": flops, "cpu_hours": hours}


def matrix_speed(size: int = 1024) -> float:
    """Return this machine's speed at a float32 matrix product, in GFLOP/s."""
    import time

    import numpy as np

    a = np.ones((size, size), np.float32)
    a @ a
    started = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * size**3 / 1e9 / (time.perf_counter() - started)


@click.command()
@click.argument("key", shell_complete=complete_runnable)
@dataset_option
@click.option("--bits", help="Code lengths, such as 16,32.")
@click.option("--seed", help="Seeds, such as 0,1,2.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Change a parameter.")
@origin_option
@limit_option
@skip_bad_option
@json_option
def command(key, dataset, bits, seed, sets, origin, limit, skip_bad, as_json) -> None:
    """Show the steps of a reproduction: cached or not, sizes, times; missing files are named."""
    from cmrkit.pipeline.resolve import parse_integers, parse_overrides, resolve

    runs = resolve(key, dataset, bits=parse_integers(bits, "--bits"), seeds=parse_integers(seed, "--seed"),
                   overrides=limited(parse_overrides(list(sets)), limit), origin=origin)  # fmt: skip
    document = describe(runs, skip_bad)
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
    if pairs := document["pairs"]:
        kind = "all pairs" if pairs["all"] else "pairs at most, those of the shortlists"
        each = f", {pairs['gflop_each']:g} GFLOP each" if pairs["gflop_each"] else ""
        hours = pairs["cpu_hours"]
        time = f": at least {_short(hours)} hours of this CPU" if hours else ""
        hint = "; a GPU of 100 TFLOP/s at 40 %: " + (
            f"{_short(pairs['count'] * pairs['gflop_each'] / 40e3 / 3600)} hours") if hours else ""  # fmt: skip
        out.print(f"{pairs['count']:,} {kind}{each}{time}{hint}")
    todo = sum(not s["cached"] for s in document["steps"])
    guess = f", about {_short(document['minutes'])} {document['device'].upper()} minutes in all" if (
        document["minutes"] and todo) else ""  # fmt: skip
    out.print(f"{document['runs']} runs, {todo} steps to do{guess}")


def _short(number: float) -> str:
    """Return a number with two digits that count, or all before the point."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
