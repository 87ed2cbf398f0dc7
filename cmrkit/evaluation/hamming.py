"""Hamming space: packed codes, counted in one pass over the pairs of queries and items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block, row_blocks
from cmrkit.evaluation.ranking import TieGroups, single_groups
from cmrkit.evaluation.relevance import DENSE, EQUAL, SHARED, Relevance, pack

SLAB = 1 << 19  # items counted before the next ones, so that both cores read them from the shared cache
ROWS = 1 << 16  # codes checked at once


@dataclass(frozen=True)
class Codes:
    """Binary codes packed into columns of words, uint64 (words, n); the padding bits are zero in every code."""

    words: np.ndarray
    bits: int

    def __len__(self) -> int:
        return self.words.shape[1]

    def rows(self, rows: np.ndarray | slice) -> Codes:
        """Return the codes of some items."""
        return Codes(np.ascontiguousarray(self.words[:, rows]), self.bits)


def check_codes(name: str, codes: np.ndarray | Codes) -> Codes:
    """Check codes (n, bits) of -1/+1 or of 0/1, any numeric dtype, and pack them. Codes already packed pass.

    Raises UsageError naming the array and the first offending row.
    """
    if isinstance(codes, Codes):
        return codes
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "biuf":
        raise UsageError(f"{name} must be numeric codes (n, bits), not {codes.dtype} of shape {codes.shape}")
    if codes.size == 0:
        raise UsageError(f"{name} is empty: its shape is {codes.shape}")
    signed = any((codes[at : at + ROWS] == -1).any() for at in range(0, len(codes), ROWS))
    parts = [_pack_rows(name, codes[at : at + ROWS], signed, at) for at in range(0, len(codes), ROWS)]
    return Codes(np.concatenate(parts, axis=1), codes.shape[1])


def _pack_rows(name: str, codes: np.ndarray, signed: bool, offset: int) -> np.ndarray:
    ones = codes == 1
    good = ones | (codes == (-1 if signed else 0))
    if not good.all():
        row, bit = np.argwhere(~good)[0]
        raise UsageError(
            f"{name} row {row + offset} holds {codes[row, bit]} at bit {bit}, but codes are -1 and +1, or 0 and 1, "
            "throughout an array; real-valued embeddings need another space, such as 'cosine'"
        )
    return pack(ones)


def hamming_distances(query: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return the distances, int64 (q, n), between packed codes (words, q) and (words, n)."""
    total = np.zeros((query.shape[1], database.shape[1]), dtype=np.int64)
    for own, other in zip(query, database, strict=True):
        total += np.bitwise_count(own[:, None] ^ other[None])
    return total


class HammingBlock(Block):
    """Queries by how many relevant and irrelevant items lie at each Hamming distance."""

    def __init__(self, query: Codes, database: Codes, relevance: Relevance, rows: slice, device: str | None = None):
        self.query = np.ascontiguousarray(query.words[:, rows])
        self.database = database.words
        self.relevance, self.rows, self.device = relevance, rows, device
        self.items, self.levels = len(database), query.bits + 1

    @cached_property
    def histogram(self) -> np.ndarray:
        """Items by distance, irrelevant and relevant: int64 (q, levels, 2)."""
        if self.device is not None:
            from cmrkit.evaluation.torch_backend import count_cells

            return count_cells(self.query, self.database, self.levels, self.relevance.packed(self.rows), self.device)
        from cmrkit.evaluation import kernels

        counts = np.zeros((self.query.shape[1], self.levels, 2), np.int64)
        cells = (2 * self.levels) ** 2
        joint = cells <= min(self.items // 4, kernels.JOINT_CELLS)
        for begin in range(0, self.items, SLAB):
            end = min(begin + SLAB, self.items)
            kernels.count_cells(counts, self.query, self.database, *self._relevance, begin, end, joint)
        return counts

    @cached_property
    def _relevance(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        from cmrkit.evaluation import kernels

        mode, query, items = self.relevance.packed(self.rows)
        if mode == DENSE:
            return kernels.DENSE, np.empty((0, 0), np.uint64), items, query
        code = {SHARED: kernels.SHARED, EQUAL: kernels.EQUAL}[mode]
        return code, np.ascontiguousarray(query), np.ascontiguousarray(items), np.empty((0, 0), np.uint8)

    @cached_property
    def grade_histogram(self) -> np.ndarray:
        """Items by distance and by the number of labels shared: int64 (q, levels, grades)."""
        mode, query, items = self.relevance.packed(self.rows)
        if mode != SHARED:
            return self.histogram
        from cmrkit.evaluation.kernels import count_grades

        most = int(np.bitwise_count(query).sum(0).max()) + 1
        counts = np.zeros((self.query.shape[1], self.levels, most), np.int64)
        count_grades(counts, self.query, self.database, query, items)
        return counts

    @cached_property
    def total(self) -> np.ndarray:
        """Relevant items of each query: int64 (q,)."""
        inside = self.histogram[:, :, 1].sum(1)
        return inside if self.relevance.outside is None else inside + self.relevance.outside[self.rows]

    @cached_property
    def groups(self) -> TieGroups:
        """The tie groups, nearest first."""
        relevant = np.ascontiguousarray(self.histogram[:, :, 1])
        size = self.histogram[:, :, 0] + relevant
        start = np.cumsum(size, 1) - size
        at = np.nonzero(relevant)
        return TieGroups(at[0], start[at], size[at], relevant[at], self.total, self.items)

    @cached_property
    def stable(self) -> TieGroups:
        """The groups of one in the database's order."""
        from cmrkit.evaluation.kernels import stable_ranks

        relevant, size = self.histogram[:, :, 1], self.histogram.sum(2)
        start, before = (np.cumsum(counts, 1) - counts for counts in (size, relevant))
        found = relevant.sum(1)
        first = np.cumsum(found) - found
        ranks = np.empty(found.sum(), np.int64)
        stable_ranks(ranks, first, start, before, self.query, self.database, *self._relevance)
        return single_groups(np.repeat(np.arange(len(found)), found), ranks, self.total, self.items)

    @cached_property
    def distances(self) -> np.ndarray:
        """The distance of every pair, int64 (q, n): for what has to write them out or to sort them."""
        return hamming_distances(self.query, self.database)


def hamming_blocks(
    query: Codes, database: Codes, relevance: Relevance, bytes_per_pair: int = 0, memory: int | None = None,
    device: str | None = None,
) -> Iterator[HammingBlock]:  # fmt: skip
    """Yield blocks of queries. ``bytes_per_pair`` is what the metrics will hold for each pair; counting holds none.

    Raises UsageError where the codes differ in length.
    """
    if query.bits != database.bits:
        raise UsageError(f"the query codes have {query.bits} bits, the database codes {database.bits}")
    dense = relevance.packed(slice(0, 1))[0] == DENSE
    for rows in row_blocks(len(query), len(database), memory, bytes_per_pair + dense, 128 * (query.bits + 1)):
        yield HammingBlock(query, database, relevance, rows, device)
