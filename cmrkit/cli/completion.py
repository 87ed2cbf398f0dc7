"""cmrkit completion, and what the shell is offered: only the standard library and click are imported here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")


def _recipe_folders() -> Iterator[Path]:
    """Yield what ``recipe.library.roots`` names, found without reading a recipe."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "recipes"
    yield checkout if checkout.is_dir() else package / "_recipes"
    for place in os.environ.get("CMRKIT_PATH", "").split(os.pathsep):
        if place:
            yield Path(place) / "recipes"
    for entry in entry_points(group="cmrkit.recipes"):
        spec = find_spec(entry.value)
        yield from (Path(place) / "recipes" for place in (spec.submodule_search_locations or ()) if spec)


def recipe_files() -> list[Path]:
    """Return the file of every recipe: its stem is the key, its folder the family."""
    found = (path for root in _recipe_folders() for path in root.glob("*/*.yaml"))
    return sorted((path for path in found if path.parent.name != "datasets"), key=lambda path: path.stem)


def _items(files: list[Path], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(p.stem, help=p.parent.name) for p in files if p.stem.startswith(incomplete)]


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer every paper's key."""
    return _items(recipe_files(), incomplete)


def complete_runnable(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the keys of papers that run, but for those that are given already."""
    given = ctx.params.get(param.name) or ()
    given = (given,) if isinstance(given, str) else given
    files = [p for p in recipe_files() if p.stem.startswith(incomplete) and p.stem not in given]
    return _items([p for p in files if "\nstatus: catalogued" not in p.read_text(encoding="utf-8")], incomplete)


def complete_dataset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of datasets."""
    names = {path.stem for root in _recipe_folders() for path in (root / "datasets").glob("*.yaml")}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def complete_family(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of families."""
    names = sorted({path.parent.name for path in recipe_files()})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_downloadable(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer datasets and the papers that run: what ``download`` takes."""
    return [*complete_dataset(ctx, param, incomplete), *complete_runnable(ctx, param, incomplete)]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that completes verbs, options, papers and datasets in a SHELL.

    \b
    bash: eval "$(cmrkit completion bash)" in ~/.bashrc
    zsh:  eval "$(cmrkit completion zsh)" in ~/.zshrc, after compinit
    fish: cmrkit completion fish > ~/.config/fish/completions/cmrkit.fish
    """
    from click.shell_completion import get_completion_class

    from cmrkit.cli.main import cli

    script = get_completion_class(shell)(cli, {}, "cmrkit", "_CMRKIT_COMPLETE")
    click.echo(script.source_template % script.source_vars())
