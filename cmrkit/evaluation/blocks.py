"""Blocks of queries against a whole database: the one shape in which rankings reach the metrics.

Every space makes its own kind of block: ``hamming.HammingBlock`` counts, ``MatrixBlock`` here holds distances.
A metric asks a block for its tie groups and never sees a code or an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from cmrkit.evaluation.ranking import TieGroups, single_groups
from cmrkit.evaluation.relevance import Relevance

MEMORY = 256_000_000  # bytes that one block's arrays may take unless the caller says otherwise
FEW = 16  # relevant items a query up to which counting beats sorting


class Block:
    """Some queries, ranked against ``items`` database items.

    ``levels`` is the number of possible distances where these are the integers 0..levels-1, else None.
    ``total`` int64 (q,) is the number of each query's relevant items, also those that the database lacks.
    ``distances`` (q, n), smaller for nearer, is for what has to sort or to write them: counting does not read it.
    ``rows`` says which of the ``relevance``'s queries these are.
    """

    items: int
    levels: int | None = None
    total: np.ndarray
    distances: np.ndarray
    relevance: Relevance
    rows: slice

    @property
    def groups(self) -> TieGroups:
        """The tie groups, with the order within a group left open."""
        raise NotImplementedError

    @property
    def stable(self) -> TieGroups:
        """The groups of one that arise where tied items keep the database's order."""
        raise NotImplementedError


class MatrixBlock(Block):
    """Queries by their distances to every item: float (q, n), smaller is nearer, all finite."""

    def __init__(self, distances: np.ndarray, relevance: Relevance, rows: slice):
        self.distances, self.relevance, self.rows = distances, relevance, rows
        self.items = distances.shape[1]

    @cached_property
    def _lists(self) -> tuple[np.ndarray, np.ndarray]:
        return self.relevance.lists(self.rows)

    @cached_property
    def total(self) -> np.ndarray:
        """Relevant items of each query: int64 (q,)."""
        inside = np.diff(self._lists[0])
        return inside if self.relevance.outside is None else inside + self.relevance.outside[self.rows]

    @cached_property
    def _query(self) -> np.ndarray:
        first = self._lists[0]
        return np.repeat(np.arange(len(first) - 1), np.diff(first))

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Where each relevant item stands: items nearer, items nearer or tied, and tied ones ahead in the database."""
        first, items = self._lists
        if len(items) <= FEW * (len(first) - 1):
            return tuple(self._count(first, items))
        near = np.split(self.distances[self._query, items], first[1:-1])
        ranked = np.sort(self.distances, axis=1)
        pairs = list(zip(ranked, near, strict=True))
        start, end = (np.concatenate([row.searchsorted(own, s) for row, own in pairs]) for s in ("left", "right"))
        return start, end, None

    def _count(self, first: np.ndarray, items: np.ndarray) -> np.ndarray:
        from cmrkit.evaluation.kernels import count_ranks

        places = np.empty((3, len(items)), np.int64)
        count_ranks(self.distances, first, items, *places)
        return places

    @cached_property
    def groups(self) -> TieGroups:
        """The tie groups, nearest first."""
        start, end, _ = self._places
        _, at, relevant = np.unique(self._query * self.items + start, return_index=True, return_counts=True)
        return TieGroups(self._query[at], start[at], (end - start)[at], relevant, self.total, self.items)

    @cached_property
    def stable(self) -> TieGroups:
        """The groups of one in the database's order."""
        start, end, ahead = self._places
        if (end - start == 1).all():
            return self.groups
        if ahead is None:
            order = np.argsort(self.distances, axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.arange(self.items)[None], axis=1)
            ranks = rank[self._query, self._lists[1]]
        else:
            ranks = start + ahead
        return single_groups(self._query, ranks, self.total, self.items)


class ColumnBlock(MatrixBlock):
    """Queries whose distances are columns of a matrix (items, all queries) in C order."""

    def __init__(self, matrix: np.ndarray, relevance: Relevance, rows: slice):
        self.matrix, self.relevance, self.rows = matrix, relevance, rows
        self.items = len(matrix)

    @cached_property
    def distances(self) -> np.ndarray:
        """The distances as rows, for what has to sort them: (q, n)."""
        return np.ascontiguousarray(self.matrix[:, self.rows].T)

    def _count(self, first: np.ndarray, items: np.ndarray) -> np.ndarray:
        from cmrkit.evaluation.kernels import count_ranks_by_column

        places = np.empty((3, len(items)), np.int64)
        count_ranks_by_column(self.matrix, self.rows.start, first, items, *places)
        return places


def row_blocks(
    queries: int, items: int, memory: int | None = None, bytes_per_pair: int = 32, bytes_per_query: int = 0
) -> Iterator[slice]:
    """Cut the rows of ``queries`` into slices whose arrays need about ``memory`` bytes (MEMORY) each."""
    step = max(1, (memory or MEMORY) // max(bytes_per_pair * items + bytes_per_query, 1))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def matrix_blocks(similarity: np.ndarray, relevance: Relevance, memory: int | None = None) -> Iterator[MatrixBlock]:
    """Yield blocks of a similarity matrix (queries, items), larger for nearer items."""
    for rows in row_blocks(*similarity.shape, memory, 4 * similarity.dtype.itemsize):
        yield MatrixBlock(np.negative(similarity[rows], order="C"), relevance, rows)


def both_ways(
    distances: np.ndarray, relevance: dict[str, Relevance], memory: int | None = None
) -> dict[str, Iterator[MatrixBlock]]:
    """Return the blocks of both directions of one matrix of distances (images, texts) in C order."""
    size = 4 * distances.dtype.itemsize
    forward, backward = (row_blocks(*shape, memory, size) for shape in (distances.shape, distances.shape[::-1]))
    return {
        "i2t": (MatrixBlock(distances[rows], relevance["i2t"], rows) for rows in forward),
        "t2i": (ColumnBlock(distances, relevance["t2i"], rows) for rows in backward),
    }
