"""From a recipe and the user's choices to concrete runs: every parameter known and validated."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.inspect import MethodSource, find_method
from cmrkit.recipe.library import load_all, load_manifest, load_recipe, recipe_path
from cmrkit.recipe.manifest import Manifest
from cmrkit.recipe.model import DataChoice, EvalChoice, Preprocess, Recipe, Setting
from cmrkit.recipe.source import did_you_mean, line_of, validate


@dataclass(frozen=True)
class Run:
    """One training and evaluation: a method with all its parameters on one dataset.

    ``origin`` is where the weights come from: "checkpoint", those that the authors published for this dataset;
    "pretrained", training from those that they published to start from; or "scratch".
    """

    recipe: Recipe
    dataset: str
    choice: DataChoice
    preprocess: Preprocess
    params: dict[str, Any]
    eval: EvalChoice
    method: MethodSource
    manifest: Manifest
    setting: Setting
    origin: str = "scratch"

    @property
    def published(self) -> str | None:
        """The name of the recipe's checkpoint that this run evaluates or starts from, None where it has none."""
        return None if self.origin == "scratch" else checkpoint_name(self.recipe, self.dataset, self.origin)

    @property
    def label(self) -> str:
        """What tells this run from its siblings, for progress and messages."""
        names = [n for n in ("variant", "bits", "dim", "seed") if n in self.params]
        chosen = {n: self.params[n] for n in names} | {n: v for n, v in self.setting.changes.items() if n != "seed"}
        return " ".join([self.recipe.key, self.dataset, *(f"{n}={v}" for n, v in chosen.items())])


def runnable_recipe(key: str) -> Recipe:
    """Return a recipe that has a method. Raises CmrkitError naming runnable relatives where it has none."""
    recipe = load_recipe(key)
    if recipe.runnable:
        return recipe
    if recipe.family == "adjacent":
        raise CmrkitError(f"{key} ({recipe.paper.title}) is listed as adjacent work: it is no retrieval method")
    relatives = [r.key for r in load_all() if r.runnable and r.family == recipe.family]
    hint = f"runnable in {recipe.family}: {', '.join(relatives)}" if relatives else (
        f"nothing in {recipe.family} runs yet; see 'cmrkit list --status runnable'")  # fmt: skip
    raise CmrkitError(f"{key} ({recipe.paper.title}) is catalogued, but has no method here yet; {hint}")


def pick_dataset(recipe: Recipe, dataset: str | None) -> str:
    """Return the dataset to use: the one asked for, or the first that the recipe names."""
    if dataset is None:
        return next(iter(recipe.data))
    if dataset not in recipe.data:
        load_manifest(dataset)  # an unknown dataset is a different mistake, with a better message
        raise UsageError(f"{recipe.key} has no features declared for {dataset!r}; it knows {', '.join(recipe.data)}")
    return dataset


def resolve(
    key: str,
    dataset: str | None = None,
    *,
    bits: list[int] | None = None,
    seeds: list[int] | None = None,
    overrides: dict[str, Any] | None = None,
    origin: str | None = None,
) -> list[Run]:
    """Return the runs that reproduce ``key`` on ``dataset``: the recipe's sweep, narrowed by what is given.

    ``overrides`` maps dotted names (``train.iterations``) to values; ``origin`` is the one of `Run`, by default
    "checkpoint" where the recipe has one for the dataset. Raises UsageError for anything invalid.
    """
    recipe = runnable_recipe(key)
    dataset = pick_dataset(recipe, dataset)
    path = recipe_path(key)
    method = find_method(recipe.family, recipe.model["name"])
    settings, sweep = _settings(recipe, dataset)
    asked = dict(overrides or {})
    origin = pick_origin(recipe, dataset, origin)
    if origin == "checkpoint":
        sweep["seed"] = [0]  # nothing is drawn
    if bits:
        if "bits" not in method.fields:
            raise UsageError(f"{key} is not a hashing method: it has no 'bits' (see 'cmrkit show {key}')")
        sweep["model.bits"] = bits
    if seeds:
        sweep["seed"] = seeds
    for name, value in asked.items():
        sweep.pop(name, None)
        _assign(settings, name, value, method)
    where = f"--set for {key}" if asked or bits else f"{path}:{line_of(path, ['model'])}"
    runs = []
    for point in itertools.product(*sweep.values()):
        chosen = copy.deepcopy(settings)
        for name, value in zip(sweep, point, strict=True):
            _assign(chosen, name, value, method)
        runs.append(_run(recipe, dataset, chosen, method, path, where, origin))
    return runs


def pick_origin(recipe: Recipe, dataset: str, origin: str | None) -> str:
    """Return where the weights come from. Raises UsageError where the recipe has none of the kind asked for."""
    if origin is None:
        if dataset in recipe.checkpoints:
            return "checkpoint"
        return "pretrained" if f"pretrained-{dataset}" in recipe.checkpoints else "scratch"
    name = checkpoint_name(recipe, dataset, origin)
    if origin != "scratch" and name not in recipe.checkpoints:
        known = ", ".join(recipe.checkpoints) or "none"
        raise UsageError(f"{recipe.key}: no published weights {name!r} are known; there are {known}."
                         " --from scratch trains without")  # fmt: skip
    return origin


def checkpoint_name(recipe: Recipe, dataset: str, origin: str) -> str:
    """Return under which name a recipe has the weights that ``origin`` asks for."""
    if origin == "checkpoint":
        return dataset
    return f"pretrained-{dataset}" if f"pretrained-{dataset}" in recipe.checkpoints else "pretrained"


def _settings(recipe: Recipe, dataset: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    base = recipe.model_dump(mode="json", include={"model", "train", "setting", "preprocess", "eval"})
    sweep = dict(recipe.sweep)
    if dataset in recipe.on:
        override = recipe.on[dataset].model_dump(mode="json", exclude_unset=True)
        override.pop("sweep", None)
        for section, values in override.items():
            base[section] = {**base[section], **values}
        for name in [f"{s}.{k}" for s in ("model", "train") for k in override.get(s, {})]:
            sweep.pop(name, None)
        sweep |= recipe.on[dataset].sweep
    return {**base, "seed": 0}, sweep


def _assign(settings: dict[str, Any], name: str, value: Any, method: MethodSource) -> None:
    section, _, key = name.partition(".")
    if name == "seed":
        settings["seed"] = value
    elif section in ("model", "train"):
        if key not in method.fields or key in ("name", "seed"):
            raise UsageError(f"unknown parameter {name!r}{did_you_mean(key, method.fields)}")
        owner = next((s for s in ("model", "train") if key in settings[s]), section)
        settings[owner][key] = value
    elif section in ("eval", "preprocess", "setting") and key:
        settings[section] = {**settings[section], key: value}
    else:
        raise UsageError(f"unknown setting {name!r}: settings are model.X, train.X, eval.X, preprocess.X,"
                         " setting.X and seed")  # fmt: skip


def _run(recipe: Recipe, dataset: str, settings: dict[str, Any], method: MethodSource, path: Path, where: str,
         origin: str) -> Run:  # fmt: skip
    params = {k: v for k, v in {**settings["model"], **settings["train"]}.items() if k != "name"}
    return Run(
        recipe=recipe,
        dataset=dataset,
        choice=recipe.data[dataset],
        preprocess=validate(Preprocess, settings["preprocess"], path),
        params=method.validate({**params, "seed": settings["seed"]}, where),
        eval=validate(EvalChoice, settings["eval"], path),
        method=method,
        manifest=load_manifest(dataset),
        setting=validate(Setting, settings["setting"], path),
        origin=origin,
    )


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Return ``a.b=c`` strings as a mapping, values read as YAML. Raises UsageError where there is no '='."""
    out = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, such as train.iterations=10, not {pair!r}")
        try:
            out[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {pair!r}: the value is not readable as YAML") from None
    return out


def parse_integers(text: str | None, option: str) -> list[int] | None:
    """Return ``"16,32"`` as [16, 32]. Raises UsageError naming the option."""
    if text is None:
        return None
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes integers separated by commas, such as 16,32, not {text!r}") from None
    if option == "--bits" and min(values) < 1:
        raise UsageError(f"--bits takes positive integers, not {text!r}")
    if min(values) < 0:
        raise UsageError(f"{option} takes integers of at least 0, not {text!r}")
    return list(dict.fromkeys(values))
