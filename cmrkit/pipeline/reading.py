"""Between stored photographs and captions and a method: the readers that its fields ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.training.rows import ReadRows, Rows


def readable(method: Any, modality: str, rows: Rows, files: Mapping[str, bytes], training: bool = False) -> Rows:
    """Return ``rows`` as ``method`` takes them: photographs as pixels, captions as token ids, others as they are.

    The fields ``size``, ``framing``, ``interpolation`` and, while ``training``, ``augment`` say how photographs are
    brought to size; ``tokenizer``, ``max_length``, ``cleaning`` and ``prompt`` how captions become ids, with the
    vocabulary in ``files``. Raises UsageError where the method does not take such rows.
    """
    if rows.dtype.kind == "S":
        reader = photo_reader(method, rows.roots, training) if modality == "image" else caption_reader(method, files)
        return ReadRows(rows.array, rows.index, rows.roots, reader)
    size = getattr(method, "size", None)
    if modality == "image" and rows.ndim == 4 and size and rows.shape[1:3] != (size, size):
        height, width = rows.shape[1:3]
        raise UsageError(f"images are {height} x {width} pixels, but model.size is {size}: set model.size, or use"
                         " the image feature 'photos', which is read at any size")  # fmt: skip
    return rows


def photo_reader(method: Any, roots: Any, training: bool = False) -> Any:
    """Return the reader of photographs that ``method`` declares."""
    from cmrkit.features.photos import PhotoReader

    if not hasattr(method, "size"):
        raise UsageError(f"{type(method).__name__} takes features, not photographs: use another image feature")
    options = {n: getattr(method, n) for n in ("framing", "interpolation") if hasattr(method, n)}
    augment = getattr(method, "augment", "") if training else ""
    return PhotoReader(method.size, **options, augment=augment, seed=method.seed, roots=roots)


def caption_reader(method: Any, files: Mapping[str, bytes]) -> Any:
    """Return the reader of captions that ``method`` declares, with the vocabulary in ``files``."""
    from cmrkit.features.captions import CaptionReader, require_tokenizer

    if not hasattr(method, "tokenizer"):
        raise UsageError(f"{type(method).__name__} takes features or tokens, not captions: use another text feature")
    options = {n: getattr(method, n) for n in ("cleaning", "prompt") if hasattr(method, n)}
    return CaptionReader(require_tokenizer(method.tokenizer), method.max_length, files, **options)


def vocabulary_files(method: Any, captions: np.ndarray) -> dict[str, bytes]:
    """Return the vocabulary that training from scratch builds of its captions (n,), byte strings, as a file."""
    from cmrkit.features.captions import WORDS, training_words

    return {WORDS: training_words(captions, getattr(method, "cleaning", "none"))}
