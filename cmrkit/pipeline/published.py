"""Weights that a paper's authors published: read, renamed by the method, and held against its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.checkpoint import MODALITIES, Model, _as_arguments
from cmrkit.pipeline.digest import source_digest


def converted_model(params: dict[str, Any], files: Mapping[str, Path]) -> Model:
    """Return the method that a convert step's ``params`` describe, with the published weights in ``files``, by role.

    Raises CmrkitError naming the first weights that do not fit the network.
    """
    from cmrkit.methods.inspect import find_method, load_method
    from cmrkit.pipeline.reading import caption_reader, photo_reader
    from cmrkit.training.checkpoint import fill
    from cmrkit.training.rows import Spec

    source = find_method(params["family"], params["method"])
    method = load_method(source)(**_as_arguments(params["params"]))
    vocabulary = tokenizer_files(files)
    captions = caption_reader(method, vocabulary)
    spec = Spec(photo_reader(method, {}).shape, captions.shape, 0, 0, None, captions.vocabulary)
    net = _built(method, spec)
    fill(net, read_published(method, files), str(files["weights"]), may_lack=getattr(method, "training_only", ()))
    method.adopt(net.eval(), spec)
    about = {k: params[k] for k in ("recipe", "family", "method", "params", "dataset", "data")}
    about |= {"preprocess": {m: [] for m in MODALITIES}, "code": source_digest(source.path), "vocabulary": None,
              "widths": {m: [] for m in MODALITIES}, "space": method.space, "spec": spec.as_json()}  # fmt: skip
    return Model(method, about["preprocess"], {m: [] for m in MODALITIES}, about, vocabulary)


def tokenizer_files(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the content of the files of a tokenizer, by name."""
    return {path.name: path.read_bytes() for role, path in files.items() if role != "weights"}


def read_published(method: Any, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return published tensors under the names of ``method``'s network. Raises CmrkitError where they do not fit."""
    from cmrkit.features.weights import read_weights

    if not hasattr(method, "convert"):
        raise CmrkitError(f"{type(method).__name__} cannot read published weights: it has no 'convert'")
    weights = read_weights(files["weights"])
    try:
        return method.convert(weights)
    except (KeyError, RuntimeError, ValueError) as error:
        first = ", ".join(list(weights)[:3])
        raise CmrkitError(f"{files['weights']}: not the weights that {type(method).__name__} knows ({error});"
                          f" it begins with {first}") from None  # fmt: skip


def _built(method: Any, spec: Any) -> Any:
    import torch

    with torch.random.fork_rng([]):
        return method.build(spec)
