"""Graded relevance on multi-label data: an item's grade is the number of labels that it shares with the query.

* ``ndcg@k``: the gain 2**grade - 1 divided by log2(1 + rank), summed down to rank k, over the same sum of the best
  possible ranking of the whole database (Jarvelin & Kekalainen, TOIS 2002; this gain: Burges et al., ICML 2005).
  ``ndcg@k:linear`` takes the grade itself as gain.
* ``acg@k``: the mean grade of the first k, average cumulative gain.
* ``wmap@k``: the mean of acg@rank over the relevant items among the first k, weighted mean average precision (both
  as in Zhao et al., Deep Semantic Ranking Based Hashing, CVPR 2015); ``wmap@all`` over all relevant items.

Tied items are taken in expectation over their orders, as in ``ranking``: DCG and ACG are linear in the order, so
each place of a group holds the group's mean gain (McSherry & Najork, ECIR 2008); wmap@all has the closed form that
average precision has. wmap cut at k divides by the relevant items found, whose number varies with the order: under
``expected`` numerator and denominator are expected each on their own. ``worst`` and ``best`` order a group by grade.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.ranking import TieGroups, hits_at, place_sums


@dataclass(frozen=True)
class GradedGroups:
    """Tie groups with a relevant item, and the sums over each of the grades and of the two gains.

    ``grade`` and ``gain`` (2**grade - 1) are float64 (groups,); ``ideal`` int64 (queries, grades) counts each
    query's items by grade.
    """

    groups: TieGroups
    grade: np.ndarray
    gain: np.ndarray
    ideal: np.ndarray


def graded_groups(block: Block, ties: str) -> GradedGroups:
    """Group the items of a block by distance under a tie rule, with their grades."""
    if ties != "stable" and block.levels is not None:
        return _by_counting(block.grade_histogram, ties, block.total, block.items)
    return _by_sorting(block, ties)


def _by_counting(counts: np.ndarray, ties: str, total: np.ndarray, items: int) -> GradedGroups:
    ideal = counts.sum(1)
    grades = np.arange(counts.shape[2])
    if ties == "expected":
        size, relevant = counts.sum(2), counts[:, :, 1:].sum(2)
        grade, gain = counts @ grades, counts @ (np.exp2(grades) - 1)
    else:  # each grade of a level is a group of its own
        grades = np.tile(grades if ties == "worst" else grades[::-1], counts.shape[1])
        size = (counts if ties == "worst" else counts[:, :, ::-1]).reshape(len(counts), -1)
        relevant, grade, gain = size * (grades > 0), size * grades, size * (np.exp2(grades) - 1)
    start = np.cumsum(size, axis=1) - size
    at = np.nonzero(relevant)
    groups = TieGroups(at[0], start[at], size[at], relevant[at], total, items)
    return GradedGroups(groups, grade[at].astype(float), gain[at].astype(float), ideal)


def _by_sorting(block: Block, ties: str) -> GradedGroups:
    distances, grades = block.distances, block.relevance.grades(block.rows)
    queries, items = distances.shape
    row = np.arange(queries)[:, None]
    keys = {"worst": (grades,), "best": (-grades,)}.get(ties, ())
    order = np.lexsort((np.broadcast_to(np.arange(items), grades.shape), *keys, distances), axis=1)
    distances, grades = distances[row, order], grades[row, order]
    new = np.ones(grades.shape, dtype=bool)
    if ties == "expected":
        new[:, 1:] = distances[:, 1:] != distances[:, :-1]
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, grades.size))
    relevant, grade, gain = (np.add.reduceat(v.ravel(), first) for v in (grades > 0, grades, np.exp2(grades) - 1))
    query, start = np.divmod(first, items)
    kept = relevant > 0
    groups = TieGroups(query[kept], start[kept], size[kept], relevant[kept].astype(np.int64), block.total, items)
    ideal = np.stack([(grades == g).sum(1) for g in range(int(grades.max(initial=0)) + 1)], axis=1)
    return GradedGroups(groups, grade[kept].astype(float), gain[kept], ideal)


def dcg(graded: GradedGroups, k: int | None, linear: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the discounted cumulative gain at ``k`` and the ideal one, float64 (queries,) each."""
    groups = graded.groups
    k = min(k or groups.items, groups.items)
    discount = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, groups.items + 2)))))
    reach = discount[np.minimum(groups.start + groups.size, k)] - discount[np.minimum(groups.start, k)]
    gained = groups.sum((graded.grade if linear else graded.gain) / groups.size * reach)
    grades = np.arange(graded.ideal.shape[1])[::-1]
    ends = np.minimum(np.cumsum(graded.ideal[:, ::-1], axis=1), k)
    steps = np.diff(discount[ends], axis=1, prepend=0)
    return gained, steps @ (grades if linear else np.exp2(grades) - 1.0)


def cumulative_gain(graded: GradedGroups, k: int) -> np.ndarray:
    """Return the mean grade of the first ``k`` items: float64 (queries,)."""
    groups = graded.groups
    k = min(k, groups.items)
    return groups.sum(graded.grade * np.clip((k - groups.start) / groups.size, 0, 1)) / k


def weighted_precision(graded: GradedGroups, k: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected sum of acg@rank over the relevant items among the first ``k``, and their number.

    A place holds a relevant item with chance r/t, of the mean grade g/r; each place above it in its group then
    holds (g - g/r)/(t - 1) in expectation.
    """
    groups = graded.groups
    k = groups.items if k is None else k
    running = np.cumsum(graded.grade) - graded.grade
    above = running - running[groups.first[:-1][groups.query]] if len(running) else running
    own = graded.grade / groups.relevant
    slope = (graded.grade - own) / np.maximum(groups.size - 1, 1)
    sums = place_sums(groups, k, groups.relevant / groups.size, above + own, slope)
    return sums, groups.total.astype(float) if k >= groups.items else hits_at(groups, k)
