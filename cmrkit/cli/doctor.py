"""cmrkit doctor."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click

from cmrkit.cli.shared import human_size, json_option, print_json
from cmrkit.errors import CmrkitError


def checks() -> list[dict]:
    """Return what was checked, each with a verdict: ok, note or fault."""
    return [*_packages(), *_cache(), *_mirror(), *_recipes()]


def _check(what: str, verdict: str, detail: str) -> dict:
    return {"check": what, "verdict": verdict, "detail": detail}


def _packages() -> list[dict]:
    found = [_check("python", "ok" if sys.version_info >= (3, 10) else "fault", sys.version.split()[0])]
    try:
        needed = [r for r in requires("cmrkit") or [] if "extra ==" not in r]
    except PackageNotFoundError:
        return [*found, _check("cmrkit", "note", "not installed as a package; run 'pip install .'")]
    for requirement in needed:
        name = requirement.split(";")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        try:
            found.append(_check(name, "ok", version(name)))
        except PackageNotFoundError:
            found.append(_check(name, "fault", "missing; run 'pip install .' again"))
    return found


def _cache() -> list[dict]:
    from cmrkit.api import open_store

    try:
        root = open_store().root
    except CmrkitError as error:
        return [_check("cache", "fault", str(error))]
    free = shutil.disk_usage(root).free
    return [_check("cache", "ok" if free > 1e9 else "note", f"{root}, {human_size(free)} free")]


def _mirror() -> list[dict]:
    folders = [p for p in os.environ.get("CMRKIT_MIRROR", "").split(os.pathsep) if p]
    if not folders:
        return [_check("mirror", "note", "CMRKIT_MIRROR is not set: files fetched by hand are not looked for")]
    return [_check("mirror", "ok" if Path(p).is_dir() else "fault", p) for p in folders]


def _recipes() -> list[dict]:
    from cmrkit.methods.inspect import find_method
    from cmrkit.recipe.library import dataset_keys, load_manifest, load_recipe, recipe_keys

    faults, runnable = [], 0
    for load, keys in ((load_recipe, recipe_keys()), (load_manifest, dataset_keys())):
        for key in keys:
            try:
                loaded = load(key)
                if getattr(loaded, "runnable", False):
                    runnable += 1
                    find_method(loaded.family, loaded.model["name"])
            except CmrkitError as error:
                faults.append(_check(key, "fault", str(error)))
    total = f"{len(recipe_keys())} recipes, {runnable} runnable; {len(dataset_keys())} datasets"
    return faults or [_check("recipes", "ok", total)]


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Check Python, packages, cache, mirror and every recipe; exit 1 where something is wrong."""
    found = checks()
    if as_json:
        print_json(found)
    else:
        for c in found:
            click.echo(f"{c['verdict']:6} {c['check']:18} {c['detail']}")
    faults = sum(c["verdict"] == "fault" for c in found)
    if faults:
        raise CmrkitError(f"{faults} faults found")
