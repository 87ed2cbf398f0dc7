"""Relevance that is listed pair by pair, and relevance by how far two sets of labels lie apart.

``Positives`` serves the benchmarks that name the right answers of each query: CxC (Parekh et al., EACL 2021) and
ECCV Caption (Chun et al., ECCV 2022). They annotate some of the queries only; the others have no positives and
are left out of the mean (``without_relevant="skip"``).

``LabelDistance`` is the plausible match of PCME (Chun et al., CVPR 2021): an item is relevant when its multi-hot
labels differ from the query's in at most ``radius`` classes. The query's own pair, at distance 0, counts. The
measure of that paper is R-Precision, averaged over queries and over the radii of PLAUSIBLE_RADII alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.relevance import Labels, Relevance, describe

PLAUSIBLE_RADII = (0, 1, 2)


@dataclass(frozen=True)
class Positives(Relevance):
    """The relevant items of each query, as ``check_positives`` gives them.

    Those of query q are ``items[indptr[q] : indptr[q + 1]]``, ascending rows of a database of ``size`` items;
    ``indptr`` is int64 (queries + 1,). ``outside`` int64 (queries,) counts relevant items that the database does
    not hold: they are never found, but belong to a query's number of relevant items.
    """

    indptr: np.ndarray
    items: np.ndarray
    size: int
    outside: np.ndarray

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        start, stop, _ = rows.indices(len(self.outside))
        counts = np.diff(self.indptr[start : stop + 1])
        relevance = np.zeros((len(counts), self.size), dtype=bool)
        items = self.items[self.indptr[start] : self.indptr[stop]]
        relevance[np.repeat(np.arange(len(counts)), counts), items] = True
        return relevance

    def lists(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as lists."""
        start, stop, _ = rows.indices(len(self.outside))
        first = self.indptr[start : stop + 1]
        return first - first[0], self.items[first[0] : first[-1]]

    @property
    def total(self) -> np.ndarray:
        """The number of relevant items of each query, R, inside the database and outside: int64 (queries,)."""
        return np.diff(self.indptr) + self.outside


def check_positives(
    name: str, array: np.ndarray, queries: int, items: int, outside: np.ndarray | None = None
) -> Positives:
    """Check pairs of a query row and a relevant item row, whole numbers (m, 2) in any order, and sort them.

    ``outside`` (queries,) counts each query's relevant items that are not among the ``items``; none by default.
    Queries may be without positives. Raises UsageError naming the array and the first row that is not whole,
    out of range or there before, and where there is no pair at all.
    """
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iuf":
        raise UsageError(f"{name} must be pairs (m, 2) of a query row and an item row, not {describe(array)}")
    if len(array) == 0:
        raise UsageError(f"{name} is empty: no query has a relevant item")
    good = (array == np.floor(array)) & (array >= 0) & (array < [queries, items])
    if not good.all():
        row, column = np.argwhere(~good)[0]
        kind, count = (("query", queries), ("item", items))[column]
        raise UsageError(
            f"{name} row {row} holds {kind} {array[row, column]}: there are {count}, in whole numbers from 0"
        )
    array = array.astype(np.int64)
    order = np.lexsort((array[:, 1], array[:, 0]))
    ordered = array[order]
    again = order[1:][(np.diff(ordered, axis=0) == 0).all(1)]
    if len(again):
        row = again.min()
        query, item = array[row]
        raise UsageError(f"{name} row {row} repeats query {query} with item {item}: give each pair once")
    indptr = np.concatenate(([0], np.cumsum(np.bincount(ordered[:, 0], minlength=queries))))
    return Positives(indptr, np.ascontiguousarray(ordered[:, 1]), items, _check_outside(name, outside, queries))


def _check_outside(name: str, outside: np.ndarray | None, queries: int) -> np.ndarray:
    if outside is None:
        return np.zeros(queries, dtype=np.int64)
    outside = np.asarray(outside)
    if outside.shape != (queries,) or outside.dtype.kind not in "iuf":
        raise UsageError(f"outside of {name} must be one count for each of {queries} queries, not {describe(outside)}")
    good = (outside == np.floor(outside)) & (outside >= 0) & np.isfinite(outside)
    if not good.all():
        row = int(np.argmin(good))
        raise UsageError(f"outside of {name} row {row} holds {outside[row]}: a count is a whole number from 0")
    return outside.astype(np.int64)


@dataclass(frozen=True)
class LabelDistance(Relevance):
    """An item is relevant when its labels differ from the query's in at most ``radius`` classes.

    Both arrays are packed multi-hot labels (words, n), as ``check_labels`` gives.
    """

    query: np.ndarray
    database: np.ndarray
    radius: int

    def rows(self, rows: slice) -> np.ndarray:
        """Return the relevance of these queries: bool (q, n)."""
        query = self.query[:, rows]
        distance = np.zeros((query.shape[1], self.database.shape[1]), dtype=np.int64)
        for own, other in zip(query, self.database, strict=True):
            distance += np.bitwise_count(own[:, None] ^ other[None])
        return distance <= self.radius


def relevance_by_distance(query: Labels, database: Labels, radius: int) -> LabelDistance:
    """Relate two sets by the distance of their labels. Raises UsageError unless both are multi-hot, equally wide."""
    if query.width is None or database.width is None:
        raise UsageError("the distance of labels needs multi-hot labels (n, classes), not class ids")
    if query.width != database.width:
        raise UsageError(
            f"query_labels are {query.width} classes, but database_labels are {database.width}: the two must agree"
        )
    if radius < 0 or radius != int(radius):
        raise UsageError(f"the radius of a label distance is {radius}: it is a whole number of classes, from 0")
    return LabelDistance(query.data, database.data, int(radius))
