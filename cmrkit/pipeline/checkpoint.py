"""Checkpoints: a directory of safetensors and JSON that loads on any machine, without pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit import __version__
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.inspect import find_method, load_method
from cmrkit.pipeline.digest import source_digest
from cmrkit.pipeline.preprocess import FITTED, apply_preprocess
from cmrkit.pipeline.reading import readable
from cmrkit.pipeline.store import write_json
from cmrkit.training.rows import Rows, Spec

FORMAT = 1
TOKENIZER = "tokenizer"  # the folder of the vocabulary's files
MODALITIES = ("image", "text")


@dataclass(frozen=True)
class Model:
    """A trained method together with the preprocessing it was trained behind, and its vocabulary's ``files``."""

    method: Any
    preprocess: dict[str, list[str]]
    states: dict[str, list[dict[str, np.ndarray]]]
    about: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def space(self) -> str:
        """The space that codes live in: hamming, cosine, dot or euclidean."""
        return self.method.space

    def encode_image(self, features: np.ndarray | Rows) -> np.ndarray:
        """Map raw image features (n, ...) to codes (n, bits) int8 or embeddings (n, dim) floats."""
        return self.method.encode_image(self._prepared("image", features))

    def encode_text(self, features: np.ndarray | Rows) -> np.ndarray:
        """Map raw text features (n, ...) to codes (n, bits) int8 or embeddings (n, dim) floats."""
        return self.method.encode_text(self._prepared("text", features))

    def similarity(self, image: np.ndarray | Rows, text: np.ndarray | Rows, **how: Any) -> Any:
        """Compare every image with every text, (n_images, n_texts), where the method compares sets or scores pairs.

        ``how`` are a pair scorer's ``resume``, ``key`` and ``progress``; with a shortlist it gives such a matrix for
        each direction, ``{"i2t": .., "t2i": ..}``.
        """
        return self.method.similarity(self._prepared("image", image), self._prepared("text", text), **how)

    def encode_pair(self, image: np.ndarray | Rows, text: np.ndarray | Rows) -> np.ndarray | None:
        """Map aligned pairs to unified codes (n, bits), or None where the method has no such notion."""
        if not hasattr(self.method, "encode_pair"):
            return None
        return self.method.encode_pair(self._prepared("image", image), self._prepared("text", text))

    @property
    def _deep(self) -> bool:
        return "spec" in self.about

    def _prepared(self, modality: str, features: np.ndarray | Rows) -> np.ndarray | Rows:
        rows = features if isinstance(features, Rows) else Rows(np.asarray(features))
        self._check(modality, rows)
        if self._deep:
            rows = readable(self.method, modality, rows, self.files)
        names, states = self.preprocess[modality], self.states[modality]
        if not self._deep:
            return apply_preprocess(names, states, rows[:])
        return np.float32(apply_preprocess(names, states, rows[:])) if names else rows

    def _check(self, modality: str, rows: Rows) -> None:
        width = self.about["widths"][modality]
        shape = (width,) if isinstance(width, int) else tuple(width)
        vocabulary = self.about["spec"]["vocabulary"] if self._deep and modality == "text" else None
        if vocabulary is not None and rows.ndim == 2:
            if len(rows) and (rows.dtype.kind not in "iu" or not 0 <= rows[:].min() <= rows[:].max() < vocabulary):
                raise UsageError(f"texts are not token ids from 0 to {vocabulary - 1}, which this checkpoint takes")
        elif rows.shape[1:] != shape:
            takes = ", ".join(map(str, ("n", *shape)))
            raise UsageError(f"{modality} features have shape {rows.shape}; this checkpoint takes ({takes})")


def save_checkpoint(directory: Path, model: Model) -> None:
    """Write ``model`` into ``directory`` as model.safetensors and checkpoint.json."""
    from safetensors.numpy import save_file

    tensors = {f"method.{k}": np.array(v, order="C") for k, v in model.method.state().items()}
    for modality in MODALITIES:
        for i, state in enumerate(model.states[modality]):
            tensors |= {f"preprocess.{modality}.{i}.{k}": np.array(v, order="C") for k, v in state.items()}
    save_file(tensors, directory / "model.safetensors")
    for name, content in model.files.items():
        (directory / TOKENIZER).mkdir(exist_ok=True)
        (directory / TOKENIZER / name).write_bytes(content)
    write_json(directory / "checkpoint.json", {"format": FORMAT, "cmrkit": __version__, **model.about})


def load_checkpoint(directory: Path, device: str = "cpu") -> Model:
    """Return the model in ``directory``, a network on ``device``.

    Raises UsageError where it is no checkpoint or one of another format, CmrkitError where it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    description = directory / "checkpoint.json"
    if not description.is_file():
        raise UsageError(f"{directory} is not a checkpoint: it has no checkpoint.json")
    try:
        about = json.loads(description.read_text(encoding="utf-8"))
        tensors = load_file(directory / "model.safetensors")
    except FileNotFoundError:
        raise CmrkitError(f"{directory}: model.safetensors is missing; copy the whole directory") from None
    except (ValueError, SafetensorError) as error:
        raise CmrkitError(f"{directory}: damaged checkpoint ({error}); train again or copy it anew") from None
    if about.get("format") != FORMAT:
        raise UsageError(f"{description}: format {about.get('format')!r} is not the one this version reads ({FORMAT});"
                         f" it was written by cmrkit {about.get('cmrkit', 'of unknown version')}")  # fmt: skip
    try:
        source = find_method(about["family"], about["method"])
        method = load_method(source)(**_as_arguments(about["params"]))
        about["same_code"] = about["code"] == source_digest(source.path)
        names = {m: list(about["preprocess"][m]) for m in MODALITIES}
    except (KeyError, TypeError) as error:
        raise CmrkitError(f"{description}: does not fit this version's method: {error}") from None
    learned = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    _restore(method, learned, about, description)
    if "spec" in about:
        method.to(device)
    states = {m: [_state(tensors, m, i, n) for i, n in enumerate(names[m])] for m in MODALITIES}
    files = {path.name: path.read_bytes() for path in sorted((directory / TOKENIZER).glob("*"))}
    return Model(method, names, states, about, files)


def _restore(method: Any, learned: dict[str, np.ndarray], about: dict[str, Any], description: Path) -> None:
    if "spec" not in about:
        method.load_state(learned)
        return
    try:
        method.load_state(learned, Spec.from_json(about["spec"]))
    except (RuntimeError, KeyError, TypeError) as error:  # torch says so where weights do not fit the network
        raise CmrkitError(f"{description}: does not fit this version's method: {error}") from None


def _state(tensors: dict[str, np.ndarray], modality: str, i: int, name: str) -> dict[str, np.ndarray]:
    return {k: tensors[f"preprocess.{modality}.{i}.{k}"] for k in FITTED.get(name, ())}


def _as_arguments(params: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
