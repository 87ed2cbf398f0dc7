"""cmrkit download."""

from __future__ import annotations

import click

from cmrkit.cli.completion import complete_downloadable
from cmrkit.cli.shared import dataset_option, json_option, offline_option, print_json
from cmrkit.errors import UsageError


@click.command()
@click.argument("name", shell_complete=complete_downloadable)
@click.option("--all-assets", is_flag=True, help="Every file of the dataset, optional ones too.")
@dataset_option
@offline_option
@json_option
def command(name: str, all_assets: bool, dataset: str | None, offline: bool, as_json: bool) -> None:
    """Fetch and verify the files of dataset NAME, or all that recipe NAME needs; train nothing."""
    from cmrkit.api import open_context
    from cmrkit.pipeline.fetch import fetch_all
    from cmrkit.recipe.library import load_manifest

    context = open_context(offline)
    assets = {
        f"{key}/{asset}": load_manifest(key).assets[asset]
        for key, names in _wanted(name, dataset, all_assets).items()
        for asset in names
    }
    paths = fetch_all(
        assets,
        destination=context.store.root / "downloads",
        mirror=context.mirror,
        offline=offline,
        progress=context.progress,
    )
    if as_json:
        files = [{"dataset": n.split("/")[0], "asset": n.split("/")[1], "path": str(p)} for n, p in paths.items()]
        return print_json({"name": name, "files": files})
    for asset, path in paths.items():
        click.echo(f"{asset}: {path}")
    if not paths:
        click.echo(f"{name} is embedded: nothing to download")
    return None


def _wanted(name: str, dataset: str | None, all_assets: bool) -> dict[str, list[str]]:
    from cmrkit.pipeline.plan import needed_assets
    from cmrkit.pipeline.resolve import pick_dataset, runnable_recipe
    from cmrkit.recipe.library import dataset_keys, load_manifest, recipe_keys
    from cmrkit.recipe.source import did_you_mean

    if name in dataset_keys():
        if dataset:
            raise UsageError(f"{name!r} is a dataset already: --dataset goes with a recipe")
        manifest = load_manifest(name)
        optional = [a for a in manifest.assets if not all_assets and manifest.assets[a].variant]
        return {name: [a for a in manifest.assets if a not in optional] or list(manifest.assets)}
    if name not in recipe_keys():
        known = [*dataset_keys(), *recipe_keys()]
        raise UsageError(f"no dataset and no recipe {name!r}{did_you_mean(name, known)}")
    recipe = runnable_recipe(name)
    chosen = [pick_dataset(recipe, dataset)] if dataset else list(recipe.data)
    return {key: needed_assets(load_manifest(key), None if all_assets else recipe.data[key]) for key in chosen}
