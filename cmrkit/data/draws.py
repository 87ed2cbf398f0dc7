"""Random integers that are the same on every machine and with every version of NumPy.

NumPy guarantees the raw 64-bit stream of a bit generator for a seed, but not what ``Generator`` makes of it.
Whatever is embedded or split by a seed here therefore draws from the raw stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 4096
_HALF = np.uint64(32)


class Draws:
    """A stream of integers from one seed."""

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)
        self._left: list[int] = []

    def below(self, n: int) -> int:
        """Return an integer of 0 to ``n - 1``, for ``n`` up to 2**32."""
        if not self._left:
            self._left = (self._bits.random_raw(_BLOCK) >> _HALF).tolist()
        return (self._left.pop() * n) >> 32

    def between(self, low: int, high: int) -> int:
        """Return an integer of ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], n: int) -> list[T]:
        """Return ``n`` different ones of ``options``, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(n)]

    def array_below(self, n: int, size: int) -> np.ndarray:
        """Return ``size`` integers of 0 to ``n - 1`` as int64, for ``n`` up to 2**32."""
        raw = np.asarray(self._bits.random_raw(size), dtype=np.uint64) >> _HALF
        return ((raw * np.uint64(n)) >> _HALF).astype(np.int64)

    def permutation(self, n: int) -> np.ndarray:
        """Return the integers of 0 to ``n - 1`` in random order, as int64."""
        return np.argsort(self._bits.random_raw(n), kind="stable").astype(np.int64)

    def bytes(self, size: int) -> np.ndarray:
        """Return ``size`` integers of 0 to 255 as uint8."""
        raw = np.asarray(self._bits.random_raw(-(-size // 8)), dtype="<u8")
        return raw.view(np.uint8)[:size]
