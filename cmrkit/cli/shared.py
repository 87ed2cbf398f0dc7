"""What several verbs share."""

from __future__ import annotations

import json
from typing import Any

import click

from cmrkit.cli.completion import complete_dataset

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
offline_option = click.option("--offline", is_flag=True, help="Never use the network.")
dataset_option = click.option(
    "--dataset", "-d", shell_complete=complete_dataset, help="Dataset; the recipe's first where left out."
)
origin_option = click.option(
    "--from",
    "origin",
    type=click.Choice(["checkpoint", "pretrained", "scratch"]),
    help="Evaluate the authors' weights, train from those they published to start from, or train from nothing.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1), help="Keep so many query images: a look, comparable with no table."
)

skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Leave out, and count, images that cannot be read or have an empty caption."
)


def limited(overrides: dict, limit: int | None) -> dict:
    """Return overrides with the number of query images that --limit keeps."""
    return overrides if limit is None else {**overrides, "eval.limit": limit}


def print_json(document: Any) -> None:
    """Print ``document`` as JSON on standard output."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def human_size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
