"""What each step does: read the artifacts it depends on, write its own files into a directory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.pipeline.plan import Step
from cmrkit.pipeline.store import Artifact, Store, write_json
from cmrkit.recipe.library import load_manifest

ROLES = ("train", "val", "query", "database")


@dataclass(frozen=True)
class Context:
    """What steps may use of the outside world; nothing in it changes a result."""

    store: Store
    mirror: tuple[Path, ...] = ()
    offline: bool = False
    progress: bool = False


def download(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Fetch and verify the files of a dataset; writes where each lies."""
    from cmrkit.pipeline.fetch import fetch_all

    assets = {name: load_manifest(step.params["dataset"]).assets[name] for name in step.params["assets"]}
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
    """Leave one matrix per modality, labels, pairs and splits, whatever the dataset looked like."""
    from cmrkit.data.paired import PairedData
    from cmrkit.features.classic import extract

    data = PairedData.load(inputs[0].path, _files(inputs[1]))
    for modality in ("image", "text"):
        name, extractor = step.params[modality], step.params["extractors"][modality]
        matrix = extract(extractor, data).matrix if extractor else data.matrix(modality, name)
        matrix = np.asarray(matrix, dtype=np.float64)
        width = step.params["widths"][modality]
        if width is not None and matrix.shape[1] != width:
            raise CmrkitError(f"{data.name}: {modality} feature {name!r} came out {matrix.shape[1]} wide, not {width}")
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(bad):
            raise UsageError(f"{data.name}: {modality} feature {name!r} has NaN or infinity in row {bad[0]}"
                             f" ({len(bad)} such rows)")  # fmt: skip
        np.save(out / f"{modality}.npy", matrix)
    np.save(out / "pairs.npy", data.pairs)
    if data.labels is not None:
        np.save(out / "labels.npy", data.labels)
    for role, rows in data.splits.items():
        np.save(out / f"split-{role}.npy", rows)


@dataclass(frozen=True)
class FeatureSet:
    """The matrices that the ``features`` step left."""

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray | None
    pairs: np.ndarray
    splits: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        """Return the feature set in ``path``, memory-mapped."""
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in path.glob("*.npy")}
        splits = {r: np.asarray(arrays[f"split-{r}"]) for r in ROLES if f"split-{r}" in arrays}
        return cls(arrays["image"], arrays["text"], arrays.get("labels"), np.asarray(arrays["pairs"]), splits)

    def rows(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned (image rows, text rows) of a split: one entry per text, its image beside it."""
        if role not in self.splits:
            raise UsageError(f"this split has no {role!r} part; it has {', '.join(self.splits)}")
        rank = np.full(len(self.image), -1)
        rank[self.splits[role]] = np.arange(len(self.splits[role]))
        texts = np.flatnonzero(rank[self.pairs] >= 0)
        texts = texts[np.argsort(rank[self.pairs[texts]], kind="stable")]
        return self.pairs[texts], texts


def train(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Fit the method on the training pairs; writes a checkpoint."""
    from cmrkit.methods.base import Pairs
    from cmrkit.methods.inspect import find_method, load_method
    from cmrkit.pipeline.checkpoint import Model, _as_arguments, save_checkpoint
    from cmrkit.pipeline.digest import source_digest
    from cmrkit.pipeline.preprocess import apply_preprocess, fit_preprocess

    params = step.params
    data = FeatureSet.load(inputs[0].path)
    images, texts = data.rows("train")
    raw = {"image": np.asarray(data.image[images]), "text": np.asarray(data.text[texts])}
    names = params["preprocess"]
    states = {m: fit_preprocess(names[m], raw[m]) for m in raw}
    pairs = Pairs(
        *(apply_preprocess(names[m], states[m], raw[m]) for m in ("image", "text")),
        None if data.labels is None else np.asarray(data.labels[images]),
    )
    source = find_method(params["family"], params["method"])
    with np.errstate(all="ignore"):
        method = load_method(source)(**_as_arguments(params["params"])).fit(pairs)
    _require_finite(method, step.label)
    about = {k: params[k] for k in ("recipe", "family", "method", "params", "preprocess", "dataset", "data")}
    about |= {
        "code": source_digest(source.path),
        "widths": {m: raw[m].shape[1] for m in raw},
        "space": method.space,
    }
    save_checkpoint(out, Model(method, names, states, about))


def _require_finite(method: Any, label: str) -> None:
    for name, value in method.state().items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise CmrkitError(f"training of {label} diverged: {name} holds NaN or infinity")


def encode(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Encode the query and database items with a trained method; writes one .npy per array."""
    from cmrkit.pipeline.checkpoint import load_checkpoint

    model = load_checkpoint(inputs[0].path)
    for name, array in encode_arrays(model, FeatureSet.load(inputs[1].path)).items():
        np.save(out / f"{name}.npy", array)
    write_json(out / "space.json", model.space)


def encode_arrays(model: Any, data: FeatureSet, learned: bool = True) -> dict[str, np.ndarray]:
    """Return query and database codes, labels and pairs, rows aligned as pairs (one row per text).

    Where the database is the training set and the method learned codes for it, those are included.
    """
    arrays: dict[str, np.ndarray] = {}
    for role in ("query", "database"):
        images, texts = data.rows(role)
        distinct, inverse = np.unique(images, return_inverse=True)
        x, y = np.asarray(data.image[distinct])[inverse], np.asarray(data.text[texts])
        arrays[f"{role}_image"] = model.encode_image(np.asarray(data.image[distinct]))[inverse]
        arrays[f"{role}_text"] = model.encode_text(y)
        arrays[f"{role}_items"] = images
        if data.labels is not None:
            arrays[f"{role}_labels"] = np.asarray(data.labels[images])
        if role == "database" and (unified := model.encode_pair(x, y)) is not None:
            arrays["unified"] = unified
    trained = data.rows("train")[0]
    if learned and hasattr(model.method, "image_codes_") and np.array_equal(trained, arrays["database_items"]):
        arrays["learned_image"] = model.method.image_codes_
        arrays["learned_text"] = model.method.text_codes_
    return arrays


def evaluate(step: Step, inputs: list[Artifact], out: Path, context: Context) -> None:
    """Score the codes under the recipe's protocol and under every other variant."""
    from cmrkit.pipeline.scoring import score

    codes = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in inputs[0].path.glob("*.npy")}
    write_json(out / "metrics.json", score(codes, inputs[0].json("space.json"), step.params))


FUNCTIONS: dict[str, Callable[[Step, list[Artifact], Path, Context], None]] = {
    "download": download,
    "prepare": prepare,
    "features": features,
    "train": train,
    "encode": encode,
    "evaluate": evaluate,
}
