"""cmrkit schema."""

from __future__ import annotations

import click

from cmrkit.cli.shared import print_json
from cmrkit.recipe.manifest import Manifest
from cmrkit.recipe.model import Recipe


@click.command()
@click.argument("kind", type=click.Choice(["recipe", "dataset"]), default="recipe")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: the output is JSON always.")
def command(kind: str, as_json: bool) -> None:
    """Print the JSON Schema of a recipe or of a dataset's manifest."""
    schema = (Recipe if kind == "recipe" else Manifest).model_json_schema()
    for name in ("key", "family"):  # these come from the file's place
        schema["properties"].pop(name, None)
        if name in schema.get("required", []):
            schema["required"].remove(name)
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
