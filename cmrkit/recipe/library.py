"""Finding recipes: the file stem is the key, the folder is the family, and there is no list to keep."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from cmrkit.errors import UsageError
from cmrkit.recipe.manifest import Manifest
from cmrkit.recipe.model import FAMILIES, Recipe
from cmrkit.recipe.source import did_you_mean, read_yaml, validate

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Root:
    """One tree of papers: ``recipes/<family>/<key>.yaml`` beside ``methods/<family>/<key>.py``."""

    recipes: Path
    methods: Path


def home() -> Root:
    """Return cmrkit's own tree, in a checkout or installed."""
    checkout = PACKAGE.parent / "recipes"
    return Root(checkout if checkout.is_dir() else PACKAGE / "_recipes", PACKAGE / "methods")


@lru_cache(maxsize=1)
def roots() -> tuple[Root, ...]:
    """Return cmrkit's tree, those of CMRKIT_PATH, and those of packages in the group ``cmrkit.recipes``."""
    outside = [Path(p) for p in os.environ.get("CMRKIT_PATH", "").split(os.pathsep) if p]
    for entry in entry_points(group="cmrkit.recipes"):
        spec = find_spec(entry.value)
        outside += [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return (home(), *(Root(p / "recipes", p / "methods") for p in outside))


@lru_cache(maxsize=1)
def _recipe_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for root in roots():
        for path in sorted(p for family in FAMILIES for p in (root.recipes / family).glob("*.yaml")):
            if path.stem in files:
                raise UsageError(f"{path}: the key {path.stem!r} is taken by {files[path.stem]}")
            files[path.stem] = path
    return files


def recipe_keys() -> list[str]:
    """Return every recipe's key, sorted by family and then by name."""
    return list(_recipe_files())


def recipe_path(key: str) -> Path:
    """Return the file of ``key``. Raises UsageError offering the nearest key."""
    files = _recipe_files()
    if key not in files:
        raise UsageError(f"no recipe {key!r}{did_you_mean(key.lower(), files)}; see 'cmrkit list'")
    return files[key]


def load_recipe(key: str) -> Recipe:
    """Return the recipe ``key``. Raises UsageError with file:line for every fault in it."""
    return read_recipe(recipe_path(key))


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in ``path``, its key and family taken from where the file lies."""
    data = read_yaml(path)
    for name in ("key", "family"):
        if name in data:
            raise UsageError(f"{path}: {name!r} comes from the file's place, not from inside it: remove it")
    return validate(Recipe, {"key": path.stem, "family": path.parent.name, **data}, path)


def load_all() -> list[Recipe]:
    """Return every recipe."""
    return [load_recipe(key) for key in recipe_keys()]


def dataset_keys() -> list[str]:
    """Return the name of every dataset that has a manifest."""
    return sorted({p.stem for root in roots() for p in (root.recipes / "datasets").glob("*.yaml")})


def load_manifest(key: str) -> Manifest:
    """Return the manifest of dataset ``key``. Raises UsageError offering the nearest name."""
    for root in roots():
        path = root.recipes / "datasets" / f"{key}.yaml"
        if path.is_file():
            return validate(Manifest, {"key": key, **read_yaml(path)}, path)
    known = dataset_keys()
    raise UsageError(f"no dataset {key!r}{did_you_mean(key, known)}; known: {', '.join(known)}")
