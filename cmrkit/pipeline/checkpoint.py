"""Checkpoints: a directory of safetensors and JSON that loads on any machine, without pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit import __version__
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.inspect import find_method, load_method
from cmrkit.pipeline.digest import source_digest
from cmrkit.pipeline.preprocess import FITTED, apply_preprocess
from cmrkit.pipeline.store import write_json

FORMAT = 1
MODALITIES = ("image", "text")


@dataclass(frozen=True)
class Model:
    """A trained method together with the preprocessing it was trained behind."""

    method: Any
    preprocess: dict[str, list[str]]
    states: dict[str, list[dict[str, np.ndarray]]]
    about: dict[str, Any]

    @property
    def space(self) -> str:
        """The space that codes live in: hamming, cosine, dot or euclidean."""
        return self.method.space

    def encode_image(self, features: np.ndarray) -> np.ndarray:
        """Map raw image features (n, d) to codes (n, bits) int8 or embeddings (n, dim) float64."""
        return self.method.encode_image(self._prepared("image", features))

    def encode_text(self, features: np.ndarray) -> np.ndarray:
        """Map raw text features (n, d) to codes (n, bits) int8 or embeddings (n, dim) float64."""
        return self.method.encode_text(self._prepared("text", features))

    def encode_pair(self, image: np.ndarray, text: np.ndarray) -> np.ndarray | None:
        """Map aligned pairs to unified codes (n, bits), or None where the method has no such notion."""
        if not hasattr(self.method, "encode_pair"):
            return None
        return self.method.encode_pair(self._prepared("image", image), self._prepared("text", text))

    def _prepared(self, modality: str, features: np.ndarray) -> np.ndarray:
        features = np.asarray(features)
        width = self.about["widths"][modality]
        if features.ndim != 2 or features.shape[1] != width:
            raise UsageError(f"{modality} features have shape {features.shape}; this checkpoint takes (n, {width})")
        return apply_preprocess(self.preprocess[modality], self.states[modality], features)


def save_checkpoint(directory: Path, model: Model) -> None:
    """Write ``model`` into ``directory`` as model.safetensors and checkpoint.json."""
    from safetensors.numpy import save_file

    tensors = {f"method.{k}": np.array(v, order="C") for k, v in model.method.state().items()}
    for modality in MODALITIES:
        for i, state in enumerate(model.states[modality]):
            tensors |= {f"preprocess.{modality}.{i}.{k}": np.array(v, order="C") for k, v in state.items()}
    save_file(tensors, directory / "model.safetensors")
    write_json(directory / "checkpoint.json", {"format": FORMAT, "cmrkit": __version__, **model.about})


def load_checkpoint(directory: Path) -> Model:
    """Return the model in ``directory``.

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
    method.load_state({k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")})
    states = {m: [_state(tensors, m, i, n) for i, n in enumerate(names[m])] for m in MODALITIES}
    return Model(method, names, states, about)


def _state(tensors: dict[str, np.ndarray], modality: str, i: int, name: str) -> dict[str, np.ndarray]:
    return {k: tensors[f"preprocess.{modality}.{i}.{k}"] for k in FITTED.get(name, ())}


def _as_arguments(params: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
