"""The train step: preprocessing fitted on the training split, then ``fit`` or the training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.settings import noisy_labels, noisy_pairs, rounds
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.pipeline.checkpoint import MODALITIES, Model, _as_arguments
from cmrkit.pipeline.digest import source_digest
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.preprocess import apply_preprocess, fit_preprocess
from cmrkit.pipeline.reading import readable, vocabulary_files


def trained_model(
    params: dict[str, Any], data: FeatureSet, label: str, options: Any, published: dict[str, Path] | None = None
) -> Model:
    """Train the method that a train step's ``params`` describe; ``options`` are those of the training loop.

    ``published`` are the files of a checkpoint that training starts from, by role. Raises UsageError where the data
    cannot serve, CmrkitError where training diverges.
    """
    from cmrkit.methods.inspect import find_method, load_method

    source = find_method(params["family"], params["method"])
    about = {k: params[k] for k in ("recipe", "family", "method", "params", "preprocess", "dataset", "data")}
    about |= {k: params[k] for k in ("setting",) if k in params}
    about |= {"code": source_digest(source.path), "widths": {m: _width(getattr(data, m)) for m in MODALITIES}}
    method = load_method(source)(**_as_arguments(params["params"]))
    about["space"] = method.space
    if source.deep:
        model = _train_deep(method, params, data, about, options, published)
    else:
        model = _train_shallow(method, params, data, about, options)
    _require_finite(method, label)
    return model


def _training_pairs(
    data: FeatureSet, setting: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return text rows (n_texts,), the image of each, as a row of image rows (n_images,), and those images' labels.

    They are the training split's, corrupted as ``setting`` says: only here, so that nothing else meets the noise.
    """
    images, texts = data.rows("train")
    distinct, pairs = np.unique(images, return_inverse=True)
    labels = None if data.labels is None else np.asarray(data.labels[distinct])
    if rate := setting.get("label_noise"):
        if labels is None:
            raise UsageError("setting.label_noise needs labels, and this dataset has none")
        labels = noisy_labels(labels, rate, setting["seed"])
    if rate := setting.get("pair_noise"):
        pairs = noisy_pairs(pairs, rate, setting["seed"], setting.get("pair_noise_unit", "text"))
    return texts, pairs, distinct, labels


def _train_shallow(method: Any, params: dict[str, Any], data: FeatureSet, about: dict[str, Any], options: Any) -> Model:
    from cmrkit.methods.base import Pairs

    setting = params.get("setting", {})
    texts, pairs, distinct, labels = _training_pairs(data, setting)
    arriving = rounds(pairs, setting["chunk"], setting["seed"]) if setting.get("chunk") else []
    images = distinct[pairs]
    raw = {"image": np.asarray(data.image[images]), "text": np.asarray(data.text[texts])}
    raw = {m: np.asarray(x, dtype=np.float64) for m, x in raw.items()}
    names = params["preprocess"]
    known = arriving[0] if arriving else slice(None)  # statistics of a stream are those of its first round
    states = {m: fit_preprocess(names[m], raw[m][known]) for m in raw}
    train = Pairs(
        *(apply_preprocess(names[m], states[m], raw[m]) for m in MODALITIES),
        None if labels is None else labels[pairs],
    )
    with np.errstate(all="ignore"):
        if arriving:
            _fit_rounds(method, train, arriving)
        else:
            method.fit(train)
    return Model(method, names, states, about)


def _fit_rounds(method: Any, train: Any, arriving: list[np.ndarray]) -> None:
    """Hand ``train`` over in rounds of rows, and put learned codes, which come as the rows did, in the old order."""
    method.fit_rounds(train.take(rows) for rows in arriving)
    for name in ("image_codes_", "text_codes_"):
        if hasattr(method, name):
            setattr(method, name, getattr(method, name)[np.argsort(np.concatenate(arriving))])


def _train_deep(
    method: Any, params: dict[str, Any], data: FeatureSet, about: dict[str, Any], options: Any,
    published: dict[str, Path] | None,
) -> Model:  # fmt: skip
    from cmrkit.pipeline.published import read_published, tokenizer_files
    from cmrkit.training.rows import Rows, TrainingSet

    texts, pairs, distinct, labels = _training_pairs(data, params.get("setting", {}))
    raw = {"image": Rows(data.image, distinct, data.roots), "text": Rows(data.text, texts)}
    files = tokenizer_files(published) if published else {}
    if data.meta["text"]["kind"] == "captions":
        files = files or vocabulary_files(method, raw["text"][:])
    names, states, rows = params["preprocess"], {}, {}
    for m in MODALITIES:
        if names[m] and (kind := data.meta[m]["kind"]) != "vectors":
            raise UsageError(f"preprocess.{m} is {'+'.join(names[m])}, but the features are {kind}, not vectors")
        # Statistics of a few large features; rows that nothing is done to stay on disk.
        array = np.asarray(raw[m][:], dtype=np.float64) if names[m] else None
        states[m] = fit_preprocess(names[m], array) if names[m] else []
        rows[m] = np.float32(apply_preprocess(names[m], states[m], array)) if names[m] else (
            readable(method, m, raw[m], files, training=True))  # fmt: skip
    words = data.vocabulary
    about["vocabulary"] = words
    size = len(words) if words else rows["text"].reader.vocabulary if files else None
    training = TrainingSet(rows["image"], rows["text"], pairs, labels, size, data.tables)
    about["spec"] = training.spec.as_json()
    model = Model(method, names, states, about, files)
    initial = read_published(method, published) if published else None
    method.fit_set(training, options, _selection(model, data, params.get("selection")), initial)
    return model


def _selection(model: Model, data: FeatureSet, rule: dict[str, Any] | None) -> Callable[[Any], float] | None:
    """Return what scores the model after an epoch under a declared rule, or None where there is no rule."""
    from cmrkit.pipeline.encoding import encode_arrays
    from cmrkit.pipeline.scoring import criterion

    if rule is None:
        return None
    data.rows(rule["split"])  # a split that is not there is named before the first epoch, not after it

    def value(_: Any) -> float:
        arrays = encode_arrays(model, data, learned=False, query=rule["split"])
        return criterion(arrays, model.space, rule["eval"], rule["metric"])

    return value


def _width(rows: np.ndarray) -> int | list[int]:
    return int(rows.shape[1]) if rows.ndim == 2 else [int(n) for n in rows.shape[1:]]


def _require_finite(method: Any, label: str) -> None:
    for name, value in method.state().items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise CmrkitError(f"training of {label} diverged: {name} holds NaN or infinity")
