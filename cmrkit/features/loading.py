"""Images decoded ahead of the encoder, in threads: Pillow works outside the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cmrkit.errors import CmrkitError

AHEAD = 4  # batches


@dataclass(frozen=True)
class Loaded:
    """Prepared images uint8 (k, height, width, 3), and the places in the batch that could not be read."""

    pixels: np.ndarray
    bad: tuple[int, ...] = ()
    why: str = ""


def load_batches(
    images: Sequence[np.ndarray],
    prepare: Callable[[np.ndarray], np.ndarray],
    bounds: Sequence[tuple[int, int]],
    *,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Iterator[Loaded]:
    """Yield the images of each (start, end) in order, prepared by ``prepare``, some batches ahead of their use.

    Raises CmrkitError naming an image that cannot be read; with ``skip_bad`` its place is black and listed.
    """

    def one(row: int) -> np.ndarray | CmrkitError:
        try:
            return prepare(images[row])
        except CmrkitError as error:
            if not skip_bad:
                raise
            return error

    with ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="decode") as pool:
        waiting: deque[list[Future]] = deque()
        pending = iter(bounds)
        try:
            while True:
                while len(waiting) < AHEAD and (bound := next(pending, None)) is not None:
                    waiting.append([pool.submit(one, row) for row in range(*bound)])
                if not waiting:
                    return
                yield _gathered([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """Return the number of decoding threads: one less than the processors this process may use, at least one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable - 1))


def _gathered(results: list[np.ndarray | CmrkitError]) -> Loaded:
    bad = tuple(place for place, result in enumerate(results) if isinstance(result, CmrkitError))
    good = [result for result in results if not isinstance(result, CmrkitError)]
    if not good:
        return Loaded(np.zeros((0, 0, 0, 3), np.uint8), bad, str(results[0]))
    black = np.zeros_like(good[0])
    pixels = np.stack([black if isinstance(result, CmrkitError) else result for result in results])
    return Loaded(pixels, bad, str(results[bad[0]]) if bad else "")
