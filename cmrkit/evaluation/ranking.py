"""Average precision and precision over a ranking with ties, in closed form.

A ranking reaches this file as tie groups: runs of items at one distance. A tie rule says how a group is
ordered, and each rule is the first one applied to other groups:

* ``expected``: uniformly at random. Every metric is its exact expectation over all orders
  (McSherry & Najork, Computing information retrieval performance measures efficiently in the presence
  of tied scores, ECIR 2008, for average precision over the whole ranking; derived here for the rest).
* ``worst``: relevant items last in each group, so each group splits into two of one kind.
* ``best``: relevant items first in each group. With ``retrieved`` as denominator, worst and best are
  these orders, not strict bounds: a hit more in the top k can lower the quotient.
* ``stable``: the database's own order, so every group holds one item.

Average precision cut at k has four denominators in published code (R: the query's relevant items):

* ``retrieved``: the relevant items found in the top k; what official hashing scripts mean by mAP@50.
* ``min``: min(k, R).  ``total``: R.
* ``first-relevant``: no list is cut; the mean precision at the first min(k, R) relevant items.

A query without any hit scores 0 under every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import gammaln

from cmrkit.evaluation.blocks import Block

TIES = ("expected", "worst", "best", "stable")
DENOMINATORS = ("retrieved", "min", "total", "first-relevant")


@dataclass(frozen=True)
class TieGroups:
    """The tie groups that hold a relevant item, of several queries, nearest first within a query.

    All five arrays are int64 (groups,): ``query`` the row it belongs to, ``start`` the items ranked before
    it, ``size`` its items, ``relevant`` (>= 1) its relevant items, ``before`` the relevant ones ranked
    before it. ``total`` (queries,) counts the relevant items of each query among ``items``.
    """

    query: np.ndarray
    start: np.ndarray
    size: np.ndarray
    relevant: np.ndarray
    before: np.ndarray
    total: np.ndarray
    items: int

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum one value per group over each query: float64 (queries,)."""
        return np.bincount(self.query, weights=values, minlength=len(self.total))

    def where(self, chosen: np.ndarray) -> TieGroups:
        """Keep the chosen groups; ``total`` stays."""
        names = ("query", "start", "size", "relevant", "before")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def tie_groups(block: Block) -> TieGroups:
    """Group a block's items by distance, with the order inside a group left open (``expected``)."""
    if block.levels is None:
        return _groups_by_sorting(block)
    relevant, size = block.histogram[:, :, 1], block.histogram.sum(2)
    start, before = np.cumsum(size, 1) - size, np.cumsum(relevant, 1) - relevant
    at = np.nonzero(relevant)
    return TieGroups(at[0], start[at], size[at], relevant[at], before[at], relevant.sum(1), block.items)


def break_ties(groups: TieGroups, block: Block, ties: str) -> TieGroups:
    """Return a block's groups, as ``tie_groups`` gives them, under one of the rules TIES."""
    if ties == "worst":
        return replace(groups, start=groups.start + groups.size - groups.relevant, size=groups.relevant)
    if ties == "best":
        return replace(groups, size=groups.relevant)
    if ties == "expected" or (groups.size == 1).all():
        return groups
    order = np.argsort(block.distances, axis=1, kind="stable")
    query, start = np.nonzero(np.take_along_axis(block.relevance, order, 1))
    one = np.ones_like(start)
    return TieGroups(query, start, one, one, _running(one, query, groups.total), groups.total, block.items)


def _groups_by_sorting(block: Block) -> TieGroups:
    # Only where the relevant items stand matters, so values are sorted and looked up: faster than an argsort.
    query, item = np.nonzero(block.relevance)
    total = np.bincount(query, minlength=len(block.relevance))
    near = np.split(block.distances[query, item], np.cumsum(total)[:-1])
    ranked = np.sort(block.distances, axis=1)
    start = np.concatenate([row.searchsorted(own, "left") for row, own in zip(ranked, near, strict=True)])
    end = np.concatenate([row.searchsorted(own, "right") for row, own in zip(ranked, near, strict=True)])
    _, first, relevant = np.unique(query * block.items + start, return_index=True, return_counts=True)
    query, start, size = query[first], start[first], (end - start)[first]
    return TieGroups(query, start, size, relevant, _running(relevant, query, total), total, block.items)


def _running(relevant: np.ndarray, query: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Count the relevant items in the groups before each, within its query."""
    return np.cumsum(relevant) - relevant - (np.cumsum(total) - total)[query]


def average_precision(groups: TieGroups) -> np.ndarray:
    """Return the average precision of each query over the whole ranking: float64 (queries,)."""
    return _ratio(groups.sum(_cut_sums(groups, groups.size)), groups.total)


def average_precision_at(groups: TieGroups, k: int, denominator: str = "retrieved") -> np.ndarray:
    """Return the average precision of each query cut at ``k``, with one of DENOMINATORS."""
    if denominator == "first-relevant":
        return _first_relevant(groups, k)
    groups = groups.where(groups.start < k)
    if denominator == "retrieved":
        return _over_retrieved(groups, k)
    length = np.minimum(k - groups.start, groups.size)
    divisor = groups.total if denominator == "total" else np.minimum(groups.total, k)
    return _ratio(groups.sum(_cut_sums(groups, length)), divisor)


def hits_at(groups: TieGroups, k: int) -> np.ndarray:
    """Return the expected number of relevant items among the first ``k`` of each query."""
    share = np.clip((k - groups.start) / groups.size, 0, 1)
    return groups.sum(groups.relevant * share)


def precision_at(groups: TieGroups, k: int) -> np.ndarray:
    """Return the precision among the first ``k`` items; a ``k`` beyond the database means all of it."""
    k = min(k, groups.items)
    return hits_at(groups, k) / k


def recall_at(groups: TieGroups, k: int) -> np.ndarray:
    """Return the share of its relevant items that each query finds among the first ``k``."""
    return _ratio(hits_at(groups, k), groups.total)


def _over_retrieved(groups: TieGroups, k: int) -> np.ndarray:
    # The quotient is not linear in the order, but given the number of hits h in the part of the boundary
    # group above k, its denominator is fixed and its numerator is in closed form. h is hypergeometric.
    length = np.minimum(k - groups.start, groups.size)
    open_ = (length < groups.size) & (groups.relevant < groups.size)
    fixed, fixed_length = groups.where(~open_), length[~open_]
    fixed_hits = np.minimum(fixed.relevant, fixed_length)
    hits = groups.sum(np.where(open_, 0, np.minimum(groups.relevant, length)))
    total = fixed.sum(_placed_sums(fixed, fixed_length, fixed_hits))
    result = _ratio(total, hits)
    edge, length = groups.where(open_), length[open_, None]
    if not len(edge.query):
        return result
    h = np.arange(min(length.max(), edge.relevant.max()) + 1)[None]
    chance = _hypergeometric(h, edge.size[:, None], edge.relevant[:, None], length)
    numerator = total[edge.query, None] + _placed_sums(edge, length, h)
    result[edge.query] = (chance * _ratio(numerator, hits[edge.query, None] + h)).sum(1)
    return result


def _first_relevant(groups: TieGroups, k: int) -> np.ndarray:
    wanted = np.minimum(k, groups.total)
    groups = groups.where(groups.before < wanted[groups.query])
    hits = np.minimum(wanted[groups.query] - groups.before, groups.relevant)
    open_ = (hits < groups.relevant) & (groups.relevant < groups.size)
    length = np.where(groups.relevant < groups.size, groups.size, hits)
    sums = np.empty(len(hits))
    sums[~open_] = _placed_sums(groups.where(~open_), length[~open_], hits[~open_])
    sums[open_] = _first_hits_sums(groups.where(open_), hits[open_])
    return _ratio(groups.sum(sums), wanted)


def _placed_sums(groups: TieGroups, length: np.ndarray, hits: np.ndarray) -> np.ndarray:
    # ``hits`` relevant items at random places among exactly ``length`` places. May be (groups, 1 or h).
    column = (slice(None),) + (None,) * (np.ndim(length) - 1)
    slope = (hits - 1) / np.maximum(length - 1, 1)
    return _precision_sums(groups.start[column], groups.before[column], length, hits / length, slope, groups.items)


def _cut_sums(groups: TieGroups, length: np.ndarray) -> np.ndarray:
    # The first ``length`` places of each group, whatever number of hits falls there.
    density = groups.relevant / groups.size
    slope = (groups.relevant - 1) / np.maximum(groups.size - 1, 1)
    return _precision_sums(groups.start, groups.before, length, density, slope, groups.items)


def _precision_sums(start, before, length, density, slope, items: int) -> np.ndarray:
    """Sum density * (before + 1 + slope (i - 1)) / (start + i) over i = 1..length.

    That is the expected sum of the precisions at the relevant items among these places: place i is
    relevant with chance ``density``, and then each place above it in the group with chance ``slope``.
    """
    harmonic = _harmonic(items)
    reach = np.where(length == 1, 1 / (start + 1), harmonic[start + length] - harmonic[start])
    return density * (slope * length + (before + 1 - slope * (start + 1)) * reach)


def _first_hits_sums(groups: TieGroups, hits: np.ndarray) -> np.ndarray:
    """Expect the sum of the precisions at the first ``hits`` of each group's relevant items.

    Place x holds a relevant item with chance r/t; it counts where fewer than ``hits`` of the other r-1 fall
    on the x-1 places above it, and its precision then needs the mean of that truncated count: with N the
    hypergeometric count, E[N; N < s] = (x-1)(r-1)/(t-1) P(N' < s-1), N' with one item and one place fewer.
    """
    if not len(hits):
        return np.zeros(0)
    t, r, s = groups.size[:, None], groups.relevant[:, None], hits[:, None]
    x = np.arange(1, t.max() + 1)[None]
    fewer = _chance_fewer(s, t - 1, r - 1, x - 1)
    much_fewer = _chance_fewer(s - 1, t - 2, r - 2, x - 2)
    count = (groups.before[:, None] + 1) * fewer + (x - 1) * (r - 1) / (t - 1) * much_fewer
    terms = np.where(x <= t, count / (groups.start[:, None] + x), 0)
    return (r / t)[:, 0] * terms.sum(1)


def _chance_fewer(s, size, relevant, places) -> np.ndarray:
    """Return P(fewer than s relevant items on the first ``places`` places) for places = p, p+1, .. in a row.

    The s-th relevant item sits at place y with C(y-1, s-1) C(size-y, relevant-s) / C(size, relevant), the
    negative hypergeometric law; the answer is one minus its sum up to ``places``.
    """
    y = places
    valid = (s >= 1) & (y >= s) & (y <= size - relevant + s)
    log = (
        _log_binomial(np.where(valid, y - 1, 0), np.where(valid, s - 1, 0))
        + _log_binomial(np.where(valid, size - y, 0), np.where(valid, relevant - s, 0))
        - _log_binomial(size, relevant)
    )
    reached = np.cumsum(np.where(valid, np.exp(log), 0), axis=1)
    return np.where(s >= 1, np.clip(1 - reached, 0, 1), 0)


def _hypergeometric(h, size, relevant, drawn) -> np.ndarray:
    valid = (h <= relevant) & (h <= drawn) & (drawn - h <= size - relevant)
    hit = np.where(valid, h, 0)
    missed = np.where(valid, drawn - h, 0)
    log = _log_binomial(relevant, hit) + _log_binomial(size - relevant, missed) - _log_binomial(size, drawn)
    chance = np.where(valid, np.exp(log), 0)
    return chance / chance.sum(1, keepdims=True)


def _log_binomial(n, k) -> np.ndarray:
    table = _log_factorial(int(np.max(n)).bit_length())
    return table[n] - table[k] - table[n - k]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


@lru_cache(maxsize=8)
def _harmonic(n: int) -> np.ndarray:
    return np.concatenate(([0.0], np.cumsum(1 / np.arange(1, n + 1))))


@lru_cache(maxsize=32)
def _log_factorial(bits: int) -> np.ndarray:
    return gammaln(np.arange(1 << bits) + 1.0)  # a power of two, so that few tables serve every size
