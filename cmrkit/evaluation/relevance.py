"""Which database items are relevant to which query: a shared label, or membership of one pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.hamming import pack


@dataclass(frozen=True)
class LabelRelevance:
    """An item is relevant when it shares at least one label with the query.

    Both arrays are either packed multi-hot rows (n, words) or class ids (n,), as ``check_labels`` gives.
    """

    query: np.ndarray
    database: np.ndarray

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        if self.query.ndim == 1:
            return self.query[rows, None] == self.database[None]
        shared = np.zeros((len(self.query[rows]), len(self.database)), dtype=bool)
        for word in range(self.query.shape[1]):
            shared |= (self.query[rows, word, None] & self.database[None, :, word]) != 0
        return shared


@dataclass(frozen=True)
class PairRelevance:
    """An item is relevant when it carries the query's identity: int64 (queries,) and (items,)."""

    query: np.ndarray
    database: np.ndarray

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        return self.query[rows, None] == self.database[None]


@dataclass(frozen=True)
class Labels:
    """Checked labels: class ids (n,) int64, or multi-hot rows packed into words (n, words)."""

    data: np.ndarray
    width: int | None  # the number of classes of multi-hot labels; None for class ids

    def __len__(self) -> int:
        return len(self.data)


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


def relevance_by_label(query: Labels, database: Labels) -> LabelRelevance:
    """Relate two sets by their labels. Raises UsageError where the two kinds or widths differ."""
    if query.width != database.width:
        kinds = ["class ids" if w is None else f"{w} classes" for w in (query.width, database.width)]
        raise UsageError(f"query_labels are {kinds[0]}, but database_labels are {kinds[1]}: the two must agree")
    return LabelRelevance(query.data, database.data)


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
