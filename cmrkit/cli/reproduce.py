"""cmrkit reproduce."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from cmrkit.cli.completion import complete_runnable
from cmrkit.cli.shared import (
    dataset_option,
    json_option,
    limit_option,
    limited,
    offline_option,
    origin_option,
    print_json,
    skip_bad_option,
)
from cmrkit.errors import UsageError

if TYPE_CHECKING:
    from cmrkit.pipeline.resolve import Run


@click.command()
@click.argument("key", shell_complete=complete_runnable)
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
@click.option("--device", help="auto (the fastest there is, unless CMRKIT_DEVICE says otherwise), cpu, cuda:N or mps.")
@click.option(
    "--gpus", type=click.IntRange(1), help="Train with so many processes, one a GPU (CPUs with --device cpu)."
)
@click.option("--workers", type=click.IntRange(0), help="Threads that read batches ahead.")
@click.option("--checkpoint-every", type=click.IntRange(1), help="Steps between working checkpoints of a training.")
@click.option("--tensorboard", type=click.Path(file_okay=False), help="Write TensorBoard files below this folder.")
@origin_option
@limit_option
@skip_bad_option
@click.option("--force", metavar="STEP", help="Do this step again, and what depends on it.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@offline_option
@json_option
def command(
    key, dataset, bits, seed, sets, origin, limit, skip_bad, force, dry_run, offline, as_json, gpus, **training
) -> None:
    """Reproduce paper KEY: fetch, prepare, train, evaluate, and print paper beside obtained."""
    from cmrkit.pipeline.resolve import parse_integers, parse_overrides, resolve
    from cmrkit.training.options import process_count

    chosen = {"bits": parse_integers(bits, "--bits"), "seeds": parse_integers(seed, "--seed"),
              "overrides": limited(parse_overrides(list(sets)), limit), "origin": origin}  # fmt: skip
    if dry_run:
        from cmrkit.cli.plan import describe, print_plan

        document = describe(resolve(key, dataset, **chosen), skip_bad)
        return print_json(document) if as_json else print_plan(document)
    _check_device(resolve(key, dataset, **chosen)[0], training["device"], gpus)
    os.environ.update({f"CMRKIT_{name.upper()}": str(value) for name, value in training.items() if value is not None})
    if gpus and process_count() == 1:
        _start_processes(gpus)
    from cmrkit.api import reproduce
    from cmrkit.recipe.library import load_recipe

    started = time.perf_counter()
    document = reproduce(key, dataset, **chosen, force=force, offline=offline, skip_bad=skip_bad)
    if as_json:
        return print_json(document)
    from cmrkit.reporting.card import print_card

    print_card(document, load_recipe(key).paper, time.perf_counter() - started)
    return None


def _check_device(run: Run, device: str | None, gpus: int | None) -> None:
    """Raise UsageError where the device is not there, before anything is fetched; a CPU is taken as given."""
    if not run.method.deep:
        if device not in (None, "auto", "cpu") or gpus:
            raise UsageError(f"{run.recipe.key} is not a deep method: it runs on the CPU, in one process")
        return
    device = device or os.environ.get("CMRKIT_DEVICE") or "auto"
    if device not in ("auto", "cpu") or (gpus and device == "auto"):
        import torch

        from cmrkit.training.device import pick_device

        found = pick_device("cuda" if device == "auto" else device)
        if gpus and found.type == "cuda" and gpus > torch.cuda.device_count():
            raise UsageError(f"--gpus {gpus}: this machine has {torch.cuda.device_count()}")


def _start_processes(count: int) -> None:
    """Become torchrun, which starts this very command ``count`` times."""
    args = sys.argv[1:]
    at = next(i for i, a in enumerate(args) if a.startswith("--gpus"))
    del args[at : at + (1 if "=" in args[at] else 2)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    os.execv(sys.executable, [*launcher, "-m", "cmrkit", *args])
