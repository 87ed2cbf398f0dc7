"""Which database items are relevant to which query: a shared label, or membership of one pair."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmrkit.errors import UsageError

SHARED, EQUAL, DENSE = "shared", "equal", "dense"


class Relevance:
    """Says of queries which items of one database are relevant to them."""

    outside: np.ndarray | None = None  # int64 (queries,): relevant items that the database does not hold

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        raise NotImplementedError

    def lists(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as lists: ``items[first[i] : first[i + 1]]`` are relevant to query i, ascending."""
        query, items = np.nonzero(relevant := self.rows(rows))
        return _starts(np.bincount(query, minlength=len(relevant))), items

    def grades(self, rows: slice) -> np.ndarray:
        """Return how relevant each item is to these queries, int64 (q, n): here 0 or 1."""
        return self.rows(rows).astype(np.int64)

    def packed(self, rows: slice) -> tuple[str, np.ndarray, np.ndarray]:
        """Return how a loop over pairs tells relevance, and what it reads of the queries and of the items.

        SHARED: packed labels uint64 (words, q) and (words, n) with a bit in common. EQUAL: ids (1, q) and
        (1, n), the same. DENSE: uint8 (q, n), and nothing of the items.
        """
        return DENSE, self.rows(rows).view(np.uint8), np.empty((0, 0), np.uint64)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))


class SameId(Relevance):
    """An item is relevant when it carries the query's id: int64 (queries,) and (items,)."""

    query: np.ndarray
    database: np.ndarray

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        return self.query[rows, None] == self.database[None]

    def lists(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as lists, by looking the ids up."""
        order, ids = self._sorted
        left, right = (ids.searchsorted(self.query[rows], side) for side in ("left", "right"))
        first = _starts(right - left)
        return first, order[np.repeat(left - first[:-1], right - left) + np.arange(first[-1])]

    def packed(self, rows: slice) -> tuple[str, np.ndarray, np.ndarray]:
        """Return the ids."""
        return EQUAL, self.query[None, rows].view(np.uint64), self.database[None].view(np.uint64)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.database, kind="stable")
        return order, self.database[order]


@dataclass(frozen=True)
class PairRelevance(SameId):
    """An item is relevant when it belongs to the same pair: the identities of queries and items."""

    query: np.ndarray
    database: np.ndarray


@dataclass(frozen=True)
class ClassRelevance(SameId):
    """An item is relevant when it has the query's one class."""

    query: np.ndarray
    database: np.ndarray


@dataclass(frozen=True)
class LabelRelevance(Relevance):
    """An item is relevant when it shares at least one label with the query: packed labels (words, n)."""

    query: np.ndarray
    database: np.ndarray

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        query = self.query[:, rows]
        shared = np.zeros((query.shape[1], self.database.shape[1]), dtype=bool)
        for own, other in zip(query, self.database, strict=True):
            shared |= (own[:, None] & other[None]) != 0
        return shared

    def grades(self, rows: slice) -> np.ndarray:
        """Return the number of labels that each item shares with these queries: int64 (q, n)."""
        query = self.query[:, rows]
        grades = np.zeros((query.shape[1], self.database.shape[1]), dtype=np.int64)
        for own, other in zip(query, self.database, strict=True):
            grades += np.bitwise_count(own[:, None] & other[None])
        return grades

    def packed(self, rows: slice) -> tuple[str, np.ndarray, np.ndarray]:
        """Return the packed labels."""
        return SHARED, np.ascontiguousarray(self.query[:, rows]), self.database


@dataclass(frozen=True)
class Labels:
    """Checked labels: class ids (n,) int64, or multi-hot rows packed into columns of words (words, n) uint64."""

    data: np.ndarray
    width: int | None  # the number of classes of multi-hot labels; None for class ids

    def __len__(self) -> int:
        return self.data.shape[-1]

    def rows(self, rows: np.ndarray | slice) -> Labels:
        """Return the labels of some items."""
        return Labels(np.ascontiguousarray(self.data[..., rows]), self.width)


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack bool (n, bits) into words, uint64 (words, n); the padding bits are zero in every row."""
    packed = np.packbits(bits, axis=1)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(np.ascontiguousarray(padded).view(np.uint64).T)


def check_labels(name: str, labels: np.ndarray) -> Labels:
    """Check labels, (n,) whole-number class ids or (n, c) multi-hot, and pack them.

    Raises UsageError naming the array and the first offending row.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf" or labels.ndim not in (1, 2) or labels.size == 0:
        raise UsageError(f"{name} must be multi-hot (n, classes) or class ids (n,), not {describe(labels)}")
    if labels.ndim == 1:
        _first_bad(name, labels, np.isfinite(labels) & (labels == np.floor(labels)), "a class id is a whole number")
        return Labels(labels.astype(np.int64), None)
    if labels.shape[1] == 1:
        raise UsageError(f"{name} has one column: give class ids as a 1-d array, or one column per class")
    _first_bad(name, labels, (labels == 0) | (labels == 1), "multi-hot labels are 0 or 1")
    return Labels(pack(labels != 0), labels.shape[1])


def relevance_by_label(query: Labels, database: Labels) -> Relevance:
    """Relate two sets by their labels. Raises UsageError where the two kinds or widths differ."""
    if query.width != database.width:
        kinds = ["class ids" if w is None else f"{w} classes" for w in (query.width, database.width)]
        raise UsageError(f"query_labels are {kinds[0]}, but database_labels are {kinds[1]}: the two must agree")
    kind = ClassRelevance if query.width is None else LabelRelevance
    return kind(query.data, database.data)


def check_pairs(pairs: np.ndarray, images: int | None = None, texts: int | None = None) -> np.ndarray:
    """Check ``pairs`` (n_text,), the image row that each text belongs to, and return it as int64.

    Raises UsageError where it has another length than there are texts, or names an image that is not there.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 1 or pairs.dtype.kind not in "iuf" or pairs.size == 0:
        raise UsageError(f"pairs must be 1-d, one image row per text, not {describe(pairs)}")
    if texts is not None and len(pairs) != texts:
        raise UsageError(f"pairs has {len(pairs)} entries for {texts} texts: it needs one image row per text")
    top = np.inf if images is None else images
    fits = (pairs == np.floor(pairs)) & (pairs >= 0) & (pairs < top)
    limit = "an image row counts from 0" if images is None else f"there are {images} images, counted from 0"
    _first_bad("pairs", pairs, fits, limit)
    return pairs.astype(np.int64)


def describe(array: np.ndarray) -> str:
    """Say what an array is, for an error: its dtype and shape."""
    return f"{array.dtype} of shape {array.shape}"


def _first_bad(name: str, array: np.ndarray, good: np.ndarray, rule: str) -> None:
    if not good.all():
        where = tuple(np.argwhere(~good)[0])
        raise UsageError(f"{name} row {where[0]} holds {array[where]}: {rule}")
