"""cmrkit reproduce."""

from __future__ import annotations

import time

import click

from cmrkit.cli.shared import dataset_option, json_option, offline_option, print_json
from cmrkit.errors import UsageError
from cmrkit.pipeline.resolve import parse_integers, parse_overrides, resolve


@click.command()
@click.argument("key")
@dataset_option
@click.option("--bits", help="Code lengths, such as 16,32; the recipe's sweep where left out.")
@click.option("--seed", help="Seeds, such as 0,1,2; the recipe's sweep where left out.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a parameter, such as train.iterations=10.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--force", metavar="STEP", help="Do this step again, and what depends on it.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@offline_option
@json_option
def command(key, dataset, bits, seed, sets, device, force, dry_run, offline, as_json) -> None:
    """Reproduce paper KEY: fetch, prepare, train, evaluate, and print paper beside obtained."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: every method that runs today runs on the CPU; use auto or cpu")
    chosen = {"bits": parse_integers(bits, "--bits"), "seeds": parse_integers(seed, "--seed"),
              "overrides": parse_overrides(list(sets))}  # fmt: skip
    if dry_run:
        from cmrkit.cli.plan import describe, print_plan

        document = describe(resolve(key, dataset, **chosen))
        return print_json(document) if as_json else print_plan(document)
    from cmrkit.api import reproduce
    from cmrkit.recipe.library import load_recipe

    started = time.perf_counter()
    document = reproduce(key, dataset, **chosen, force=force, offline=offline)
    if as_json:
        return print_json(document)
    from cmrkit.reporting.card import print_card

    print_card(document, load_recipe(key).paper, time.perf_counter() - started)
    return None
