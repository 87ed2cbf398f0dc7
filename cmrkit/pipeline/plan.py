"""From a run to its steps: what depends on what, and the content key of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features import source
from cmrkit.methods.inspect import MethodSource, find_method
from cmrkit.pipeline.digest import PACKAGE, digest_of, source_digest
from cmrkit.pipeline.resolve import Run
from cmrkit.recipe.library import load_all
from cmrkit.recipe.manifest import Manifest
from cmrkit.recipe.model import DataChoice, Recipe
from cmrkit.recipe.source import did_you_mean

STEPS = ("download", "prepare", "features", "train", "convert", "encode", "evaluate")


@dataclass(frozen=True)
class Step:
    """A pure function of its parameters and inputs; ``code`` is the digest of the source it runs."""

    name: str
    params: dict[str, Any]
    inputs: tuple[Step, ...] = ()
    code: str = ""
    label: str = field(default="", compare=False)

    @cached_property
    def key(self) -> str:
        """Content key: changes exactly when something that the result depends on does."""
        return digest_of([self.name, self.params, [i.key for i in self.inputs], self.code])

    def ancestry(self) -> list[Step]:
        """Return this step and everything it needs, inputs first, each once."""
        found: dict[str, Step] = {}
        for parent in self.inputs:
            found |= {s.key: s for s in parent.ancestry()}
        return list((found | {self.key: self}).values())


def feature_step(manifest: Manifest, choice: DataChoice, skip_bad: bool = False) -> Step:
    """Return the step that leaves the feature matrices of a dataset ready to train on.

    With ``skip_bad`` images that cannot be read, or one of whose captions is empty, are left out of all splits.
    Raises UsageError for an unknown feature or split, CmrkitError where the dataset has no reader yet.
    """
    split = _split(manifest, choice.split)
    for modality in ("image", "text"):
        known = getattr(manifest.features, modality)
        name = getattr(choice, modality)
        if name not in known:
            raise UsageError(f"dataset {manifest.key!r} has no {modality} feature {name!r}{did_you_mean(name, known)};"
                             f" it has {', '.join(known)}")  # fmt: skip
    reader = PACKAGE / "data" / "readers" / f"{manifest.reader}.py"
    if not reader.is_file():
        raise CmrkitError(f"dataset {manifest.key!r} is described, but nothing reads its files yet;"
                          f" see recipes/datasets/{manifest.key}.yaml for what is known")  # fmt: skip
    assets = {n: _identity(manifest, n) for n in needed_assets(manifest, choice)}
    download = Step("download", {"dataset": manifest.key, "assets": assets}, label=manifest.key)
    prepare = Step(
        "prepare",
        {"dataset": manifest.key, "image": choice.image, "text": choice.text, "split": split,
         "statistics": manifest.model_dump(mode="json", include={"statistics", "splits", "features"})},
        (download,),
        source_digest(reader),
        manifest.key,
    )  # fmt: skip
    declared = {m: getattr(manifest.features, m)[getattr(choice, m)] for m in ("image", "text")}
    extractors = [source_digest(source(f.extractor)) for f in declared.values() if f.extractor]
    code = digest_of([*extractors, source_digest(PACKAGE / "features" / "base.py")])
    params = {
        "image": choice.image,
        "text": choice.text,
        "extractors": {m: f.extractor for m, f in declared.items()},
        "options": {m: f.options for m, f in declared.items()},
        "widths": {m: f.dim for m, f in declared.items()},
    }
    if skip_bad:
        params["skip_bad"] = True
    return Step("features", params, (prepare, download), code, f"{choice.image} + {choice.text}")


def feature_inputs(features: Step) -> tuple[Step, ...]:
    """Return what a step needs that reads features: with photographs that is the files they lie in, too."""
    return (features, features.inputs[1]) if features.params["extractors"]["image"] == "photos" else (features,)


def weights_step(recipe: Recipe, name: str) -> Step:
    """Return the step that fetches the published weights ``name`` of a recipe."""
    files = recipe.checkpoints[name]
    assets = {role: [asset.path, *(asset.checksum or ("unverified", *asset.urls))] for role, asset in files.items()}
    return Step("download", {"recipe": recipe.key, "checkpoint": name, "assets": assets}, label=f"{recipe.key} weights")


def plan_run(run: Run, skip_bad: bool = False) -> Step:
    """Return the last step of a run, ``evaluate``, with everything it needs behind it.

    ``skip_bad`` is that of `feature_step`.
    """
    features = feature_step(run.manifest, run.choice, skip_bad)
    read = feature_inputs(features)
    model = convert_step(run) if run.origin == "checkpoint" else train_step(run, read)
    code = digest_of([source_digest(run.method.path), source_digest(PACKAGE / "pipeline" / "preprocess.py")])
    limit = {"limit": run.eval.limit} if run.eval.limit else {}
    encode = Step("encode", limit, (model, *read), code, run.label)
    evaluation = source_digest(PACKAGE / "evaluation" / "protocols.py")
    return Step("evaluate", run.eval.model_dump(mode="json", exclude={"limit"}), (encode,), evaluation, run.label)


def convert_step(run: Run) -> Step:
    """Return the step that makes a checkpoint of the published weights for the dataset of ``run``."""
    params = {
        "recipe": run.recipe.key, "family": run.recipe.family, "method": run.recipe.model["name"],
        "params": run.params, "dataset": run.dataset, "data": run.choice.model_dump(mode="json"),
    }  # fmt: skip
    code = digest_of([source_digest(run.method.path), source_digest(PACKAGE / "features" / "captions.py")])
    return Step("convert", params, (weights_step(run.recipe, run.published),), code, run.label)


def train_step(run: Run, read: tuple[Step, ...]) -> Step:
    """Return the step that trains the method of ``run`` on the features that the steps in ``read`` leave."""
    code = source_digest(run.method.path)
    preprocess = source_digest(PACKAGE / "pipeline" / "preprocess.py")
    params = {
        "recipe": run.recipe.key, "family": run.recipe.family, "method": run.recipe.model["name"],
        "params": run.params, "preprocess": run.preprocess.model_dump(mode="json"), "dataset": run.dataset,
        "data": run.choice.model_dump(mode="json"),
    }  # fmt: skip
    if (rule := selection_rule(run)) is not None:
        params["selection"] = rule
    trained_by = [code, preprocess]
    if run.setting.pair_noise and run.eval.database == "learned":
        raise UsageError(f"{run.label}: codes learned for mismatched pairs cannot serve as the database's;"
                         " set eval.database to hashed")  # fmt: skip
    if run.setting.chunk and not run.method.defines("fit_rounds"):
        able = ", ".join(r.key for r in load_all() if r.runnable and _method(r).defines("fit_rounds"))
        raise UsageError(f"{run.label}: the method learns from all its data at once, not in the rounds of"
                         f" setting.chunk; methods that learn in rounds: {able}")  # fmt: skip
    if run.setting.changes:
        params["setting"] = run.setting.changes
        trained_by.append(source_digest(PACKAGE / "data" / "settings.py"))
    started = (weights_step(run.recipe, run.published),) if run.origin == "pretrained" else ()
    return Step("train", params, (*read, *started), digest_of(trained_by), run.label)


def _method(recipe: Recipe) -> MethodSource:
    return find_method(recipe.family, recipe.model["name"])


def selection_rule(run: Run) -> dict[str, Any] | None:
    """Return by what the best epoch of a deep method is chosen, and on which split; None takes the last epoch.

    That is the metric in train.select, on the split "val" unless the recipe's eval.selection says the query set.
    """
    metric, split = run.params.get("select"), run.eval.selection
    if not run.method.deep:
        return None
    if not metric and split != "none":
        raise UsageError(f"{run.recipe.key}: eval.selection is {split!r}, but train.select names no metric to go by")
    if not metric:
        return None
    choice = run.eval.model_dump(mode="json", include={"protocol", "database", "items", "ties", "similarity"})
    return {"metric": metric, "split": "query" if split == "query" else "val", "eval": choice}


def needed_assets(manifest: Manifest, choice: DataChoice | None = None) -> list[str]:
    """Return the names of the assets that a choice of features and split needs, or of all."""
    if choice is None:
        return list(manifest.assets)
    wanted = [*manifest.features.image[choice.image].assets, *manifest.features.text[choice.text].assets]
    wanted += manifest.splits[_split(manifest, choice.split)].assets
    return [name for name in manifest.assets if name in wanted]


def _split(manifest: Manifest, name: str) -> str:
    name = manifest.default_split if name == "default" and "default" not in manifest.splits else name
    if name not in manifest.splits:
        raise UsageError(f"dataset {manifest.key!r} has no split {name!r}{did_you_mean(name, manifest.splits)};"
                         f" it has {', '.join(manifest.splits)}")  # fmt: skip
    return name


def _identity(manifest: Manifest, name: str) -> list[str]:
    asset = manifest.assets[name]
    return [asset.path, *(asset.checksum or ("unverified", *asset.urls))]
