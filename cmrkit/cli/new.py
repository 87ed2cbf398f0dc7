"""cmrkit new."""

from __future__ import annotations

import re
from pathlib import Path

import click
import yaml

from cmrkit.cli.completion import complete_recipe, complete_runnable
from cmrkit.cli.shared import json_option, print_json
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.inspect import find_method
from cmrkit.pipeline.resolve import runnable_recipe
from cmrkit.recipe.library import PACKAGE, Root, home, read_recipe, recipe_keys, recipe_path
from cmrkit.recipe.source import read_yaml


@click.command()
@click.argument("key", shell_complete=complete_recipe)
@click.option(
    "--like", required=True, metavar="OTHER", shell_complete=complete_runnable, help="A runnable recipe to start from."
)
@json_option
@click.option("--into", type=click.Path(path_type=Path), help="A directory of your own papers (see CMRKIT_PATH).")
def command(key: str, like: str, into: Path | None, as_json: bool) -> None:
    """Start paper KEY from its relative OTHER: writes one recipe and one method file, both of which run."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise UsageError(f"a key is lower-case letters, digits and '-', starting with a letter, not {key!r}")
    other = runnable_recipe(like)
    if key in recipe_keys() and recipe_path(key).parent.name != other.family:
        raise UsageError(f"{key!r} is catalogued in {recipe_path(key).parent.name}, not beside {like!r}")
    if key in recipe_keys() and read_recipe(recipe_path(key)).runnable:
        raise UsageError(f"{key!r} exists already: {recipe_path(key)}")
    root = Root(into / "recipes", into / "methods") if into else home()
    if not into and root.recipes.is_relative_to(PACKAGE):
        raise UsageError("cmrkit is installed, not a checkout: say where with --into DIR, and set CMRKIT_PATH to it")
    recipe_file = root.recipes / other.family / f"{key}.yaml"
    method_file = root.methods / other.family / f"{key.replace('-', '_')}.py"
    if method_file.exists():
        raise UsageError(f"{method_file} exists already")
    recipe, method = _recipe_text(key, like), _method_text(key, like)
    for path, text in ((recipe_file, recipe), (method_file, method)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CmrkitError(f"{path}: {error.strerror}") from None
    if as_json:
        print_json({"key": key, "recipe": str(recipe_file), "method": str(method_file)})
    else:
        click.echo(f"{recipe_file}\n{method_file}")


def _recipe_text(key: str, like: str) -> str:
    data = read_yaml(recipe_path(like))
    if key in recipe_keys():
        data["paper"] = read_yaml(recipe_path(key))["paper"]
    else:
        data["paper"] = {"acronym": key.upper(), "title": f"Title of {key}", "venue": "unknown",
                         "year": data["paper"]["year"], "taxonomy": data["paper"]["taxonomy"],
                         "unsettled": ["title", "venue", "year"]}  # fmt: skip
    data |= {"status": "runnable", "fidelity": "secondary"}
    data["model"]["name"] = key
    data.pop("claims", None)
    data["notes"] = [f"started as a copy of {like}: its mathematics, parameters and provenance are still {like}'s"]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def _method_text(key: str, like: str) -> str:
    other = runnable_recipe(like)
    source = find_method(other.family, other.model["name"])
    name = "".join(part.capitalize() for part in key.split("-"))
    text = re.sub(rf"\b{source.class_name}\b", name, source.path.read_text(encoding="utf-8"))
    return re.sub(r'\A"""', f'"""{name}: started as a copy of {like}; describe the paper here.\n\n', text)
