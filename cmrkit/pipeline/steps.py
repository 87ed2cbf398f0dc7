"""What each step does: read the artifacts it depends on, write its own files into a directory."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.encoding import encode_arrays
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import Step
from cmrkit.pipeline.store import Artifact, Store, write_json
from cmrkit.recipe.library import load_manifest, load_recipe
from cmrkit.training.options import Options, process_rank


@dataclass(frozen=True)
class Context:
    """What steps may use of the outside world; nothing in it changes a result."""

    store: Store
    mirror: tuple[Path, ...] = ()
    offline: bool = False
    progress: bool = False
    training: Options = field(default_factory=Options.from_environment)


def download(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Fetch and verify the files of a dataset, or of published weights; writes where each lies."""
    from cmrkit.pipeline.fetch import fetch_all

    if "checkpoint" in step.params:
        known = load_recipe(step.params["recipe"]).checkpoints[step.params["checkpoint"]]
    else:
        known = load_manifest(step.params["dataset"]).assets
    assets = {name: known[name] for name in step.params["assets"]}
    paths = fetch_all(
        assets,
        destination=context.store.root / "downloads",
        mirror=context.mirror,
        offline=context.offline,
        progress=context.progress,
    )
    found = {name: str(path.resolve()) for name, path in paths.items()}
    write_json(out / "files.json", found)


def _files(downloaded: Artifact) -> dict[str, Path]:
    return {name: Path(path) for name, path in downloaded.json("files.json").items()}


def _input(step: Step, inputs: list[Artifact], name: str, of: str = "") -> Artifact | None:
    """Return the artifact of the input step ``name`` whose parameters have a field ``of``, or None."""
    steps = zip(step.inputs, inputs, strict=True)
    return next((artifact for s, artifact in steps if s.name == name and (not of or of in s.params)), None)


def feature_set(step: Step, inputs: list[Artifact]) -> FeatureSet:
    """Return the features among the inputs of ``step``, with the files of photographs where those are inputs, too."""
    dataset = _input(step, inputs, "download", of="dataset")
    return FeatureSet.load(_input(step, inputs, "features").path, _files(dataset) if dataset else None)


def prepare(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Read a dataset's own files into the common form, and check its statistics against the manifest."""
    from cmrkit.data.statistics import check_statistics

    params = step.params
    manifest = load_manifest(params["dataset"])
    reader = importlib.import_module(f"cmrkit.data.readers.{manifest.reader}")
    data = reader.read(_files(inputs[0]), split=params["split"], image=params["image"], text=params["text"])
    data.validate()
    check_statistics(data, manifest, params["split"])
    data.save(out)


def features(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Leave one array of rows per modality, labels, pairs and splits, whatever the dataset looked like."""
    from cmrkit.data.paired import PairedData
    from cmrkit.features import extract
    from cmrkit.features.base import Extracted, Job, require_finite

    assets = _files(inputs[1])
    data = PairedData.load(inputs[0].path, assets)
    work = context.store.root / "partial" / step.key
    meta: dict[str, Any] = {}
    skipped: set[int] = set()
    for modality in ("image", "text"):
        name, extractor = step.params[modality], step.params["extractors"][modality]
        if extractor:
            options = step.params["options"][modality]
            job = Job(options, assets, work / modality, context.training.device, context.progress,
                      skip_bad=step.params.get("skip_bad", False))  # fmt: skip
            found = extract(extractor, data, job)
        else:
            found = Extracted(modality, data.matrix(modality, name))
        _check_feature(found.matrix, f"{data.name}: {modality} feature {name!r}", step.params["widths"][modality])
        require_finite(found.matrix, f"{data.name}: {modality} feature {name!r}")
        meta[modality] = {"feature": name, "extractor": extractor, **found.save(out)}
        skipped |= set(found.skipped)
    write_json(out / "meta.json", {**meta, "skipped": sorted(skipped)})
    np.save(out / "pairs.npy", data.pairs)
    if data.labels is not None:
        np.save(out / "labels.npy", data.labels)
    for role, rows in data.splits.items():
        np.save(out / f"split-{role}.npy", rows[~np.isin(rows, list(skipped))])
    shutil.rmtree(work, ignore_errors=True)


def _check_feature(matrix: np.ndarray, what: str, width: int | None) -> None:
    if width is not None and matrix.shape[-1] != width:
        raise CmrkitError(f"{what} came out {matrix.shape[-1]} wide, not {width}")


def obtain_features(runner: Any, features: Step) -> FeatureSet:
    """Return what a ``features`` step leaves, done by ``runner`` where it is not in the store."""
    from cmrkit.pipeline.plan import feature_inputs

    steps = feature_inputs(features)
    reading = Step("read", {}, steps)  # stands for whoever reads them
    return feature_set(reading, [runner.obtain(step) for step in steps])


def train(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Fit the method on the training pairs; writes a checkpoint.

    A deep method keeps a working checkpoint in the store, from which a killed training continues. Of several
    processes that train together only the first one writes.
    """
    from cmrkit.pipeline.checkpoint import save_checkpoint
    from cmrkit.pipeline.training import trained_model

    work = context.store.root / "partial" / step.key
    options = replace(context.training, directory=work, progress=context.progress, label=step.label)
    published = _input(step, inputs, "download", of="checkpoint")
    model = trained_model(
        step.params, feature_set(step, inputs), step.label, options, _files(published) if published else None
    )
    if process_rank() > 0:
        return
    save_checkpoint(out, model)
    if work.is_dir():
        shutil.copyfile(work / "history.jsonl", out / "history.jsonl")
        shutil.rmtree(work)


def convert(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Bring published weights into the form of a checkpoint, held against the method's network."""
    from cmrkit.pipeline.checkpoint import save_checkpoint
    from cmrkit.pipeline.published import converted_model

    save_checkpoint(out, converted_model(step.params, _files(inputs[0])))


def encode(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Encode the query and database items with a trained method; writes one .npy per array.

    The scores of pairs are kept in the store as they come, so that a killed run goes on from there.
    """
    from cmrkit.pipeline.checkpoint import load_checkpoint

    model = load_checkpoint(inputs[0].path, context.training.device)
    data = feature_set(step, inputs)
    if limit := step.params.get("limit"):
        data = data.limited(limit)
    work = context.store.root / "partial" / step.key
    arrays = encode_arrays(model, data, resume=work, key=step.key, progress=context.progress)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)
    write_json(out / "space.json", model.space)
    shutil.rmtree(work, ignore_errors=True)


def evaluate(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Score the codes under the recipe's protocol and under every other variant; keeps what each query came to."""
    from cmrkit.pipeline.scoring import score

    codes = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in inputs[0].path.glob("*.npy")}
    scores = score(codes, inputs[0].json("space.json"), step.params)
    queries = {f"{metric}/{d}": v for metric, each in scores.pop("per_query").items() for d, v in each.items()}
    np.savez(out / "per_query.npz", **queries)
    write_json(out / "metrics.json", scores)


FUNCTIONS: dict[str, Callable[[Step, list[Artifact], Path, Context], None]] = {
    "download": download,
    "prepare": prepare,
    "features": features,
    "train": train,
    "convert": convert,
    "encode": encode,
    "evaluate": evaluate,
}
