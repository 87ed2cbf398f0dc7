"""Blocks of queries: the one shape in which distances and relevance reach the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

ELEMENTS = 1 << 20  # query-item pairs held at once: a few temporaries of it stay within 100 MB


@dataclass(frozen=True)
class Block:
    """Some queries against the whole database.

    ``distances`` (q, n) is smaller for nearer items and finite; ``relevance`` (q, n) is bool. ``levels`` is
    the number of possible distances where these are the integers 0..levels-1 (Hamming), else None.
    """

    distances: np.ndarray
    relevance: np.ndarray
    levels: int | None = None

    @property
    def items(self) -> int:
        """The size of the database."""
        return self.distances.shape[1]

    @cached_property
    def histogram(self) -> np.ndarray:
        """Count items by distance: int64 (q, levels, 2), irrelevant and relevant. Integer distances only."""
        rows = len(self.distances)
        cells = self.distances.astype(np.int64)
        cells += (np.arange(rows) * self.levels)[:, None]
        cells *= 2
        cells += self.relevance
        counts = np.bincount(cells.ravel(), minlength=rows * self.levels * 2)
        return counts.reshape(rows, self.levels, 2)


def row_blocks(queries: int, items: int) -> Iterator[slice]:
    """Cut ``queries`` rows into slices of about ELEMENTS query-item pairs each."""
    step = max(1, ELEMENTS // max(items, 1))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def matrix_blocks(similarity: np.ndarray, relevance) -> Iterator[Block]:
    """Yield blocks of a similarity matrix (queries, items), larger for nearer items."""
    for rows in row_blocks(*similarity.shape):
        yield Block(-np.asarray(similarity[rows], dtype=np.float64), relevance.rows(rows))
