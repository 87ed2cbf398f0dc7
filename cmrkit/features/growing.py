"""Runs an encoder over all items of a set into a file, in batches that fit the memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError
from cmrkit.features.base import Job
from cmrkit.features.loading import load_batches
from cmrkit.features.rows import RowFile


def batch_bounds(start: int, end: int, batch: int) -> list[tuple[int, int]]:
    """Return the (start, end) of each batch."""
    return [(first, min(first + batch, end)) for first in range(start, end, batch)]


class Halving:
    """An encoder that is given smaller and smaller batches whenever the memory does not suffice."""

    def __init__(self, encode: Callable[[Any], np.ndarray], limit: int):
        self.encode, self.limit = encode, limit

    def __call__(self, items: Any) -> np.ndarray:
        """Return the features of ``items``. Raises CmrkitError where even one item is too much."""
        while True:
            bounds = batch_bounds(0, len(items), self.limit)
            try:
                return np.concatenate([self.encode(items[start:end]) for start, end in bounds])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self.limit == 1:
                raise CmrkitError(f"the memory does not suffice for a single item: {reason}")
            self.limit = max(1, min(self.limit, len(items)) // 2)
            _free()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device's or the machine's memory was not enough."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in ("out of memory", "can't allocate memory"))


def _free() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def grow_from_images(
    images: Sequence[np.ndarray],
    prepare: Callable[[np.ndarray], np.ndarray],
    encode: Callable[[np.ndarray], np.ndarray],
    job: Job,
    *,
    size: int,
    dtype: str,
    about: dict[str, Any],
) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Return the array of all features, the rows left empty, and the largest batch that fitted.

    ``prepare`` makes uint8 (size, size, 3) of an image, ``encode`` features of a batch of those. Rows already
    in the job's folder are kept where ``about`` says that they are the same features.
    """
    run = Halving(encode, job.batch_size)
    sample = run(np.zeros((1, size, size, 3), np.uint8))
    shape = (len(images), *sample.shape[1:])
    about = {**about, "batch": job.batch_size, "skip_bad": job.skip_bad}
    file = RowFile(job.work, "image", shape, dtype, about)
    bounds = batch_bounds(file.done, len(images), job.batch_size)
    with _bar(len(images), file.done, job.progress) as bar:
        for loaded in load_batches(images, prepare, bounds, workers=job.workers, skip_bad=job.skip_bad):
            n = len(loaded.pixels) or len(loaded.bad)
            file.skipped += [file.done + place for place in loaded.bad]
            file.write(_encoded(run, loaded, n, sample.shape[1:], dtype, file.done))
            bar.update(n)
    return file.array, tuple(file.skipped), run.limit


def _encoded(run: Halving, loaded: Any, n: int, shape: tuple[int, ...], dtype: str, start: int) -> np.ndarray:
    if not len(loaded.pixels):
        return np.zeros((n, *shape), dtype)
    features = run(loaded.pixels)
    with np.errstate(over="ignore"):
        features = features.astype(dtype, copy=False)
    if features.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(features).reshape(n, -1).all(axis=1))
        if len(bad):
            raise CmrkitError(f"the encoder gives NaN or infinity as {dtype} for image row {start + bad[0]}")
    if loaded.bad:
        features = features.copy()
        features[list(loaded.bad)] = 0
    return features


def _bar(total: int, done: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="img", disable=not shown, leave=False)
