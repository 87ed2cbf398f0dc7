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
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import gammaln

TIES = ("expected", "worst", "best", "stable")
PLACES = 1 << 20  # of tied groups worked out at once
DENOMINATORS = ("retrieved", "min", "total", "first-relevant")


@dataclass(frozen=True)
class TieGroups:
    """The tie groups that hold a relevant item, of several queries, nearest first within a query.

    Four arrays are int64 (groups,): ``query`` the row it belongs to, ascending, ``start`` the items ranked before
    it, ``size`` its items, ``relevant`` (>= 1) its relevant items. ``total`` int64 (queries,) counts the relevant
    items of each query, which may be more than are ranked; ``items`` are ranked.
    """

    query: np.ndarray
    start: np.ndarray
    size: np.ndarray
    relevant: np.ndarray
    total: np.ndarray
    items: int

    @cached_property
    def first(self) -> np.ndarray:
        """Where each query's groups begin, int64 (queries + 1,)."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.query, minlength=len(self.total)))))

    @cached_property
    def before(self) -> np.ndarray:
        """The relevant items ranked before each group."""
        running = np.cumsum(self.relevant) - self.relevant
        return running - running[self.first[:-1][self.query]] if len(running) else running

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum one value per group over each query: float64 (queries,)."""
        return np.bincount(self.query, weights=values, minlength=len(self.total))

    def under(self, ties: str) -> TieGroups:
        """Return these groups, whose order is open, under ``expected``, ``worst`` or ``best``."""
        if ties == "expected":
            return self
        ahead = self.size - self.relevant if ties == "worst" else 0
        other = replace(self, start=self.start + ahead, size=self.relevant)
        other.__dict__.update(first=self.first, before=self.before)  # which the order within a group does not touch
        return other


def single_groups(query: np.ndarray, ranks: np.ndarray, total: np.ndarray, items: int) -> TieGroups:
    """Return groups of one item: the relevant items of each query at distinct ``ranks`` from 0, in any order."""
    order = np.lexsort((ranks, query)) if len(ranks) and (np.diff(query * items + ranks) < 0).any() else slice(None)
    one = np.ones(len(ranks), np.int64)
    return TieGroups(query[order], ranks[order], one, one, total, items)


def average_precision(groups: TieGroups) -> np.ndarray:
    """Return the average precision of each query over the whole ranking: float64 (queries,)."""
    return ratio(cut_sums(groups, groups.items), groups.total)


def average_precision_at(groups: TieGroups, k: int | np.ndarray, denominator: str = "retrieved") -> np.ndarray:
    """Return the average precision of each query cut at ``k`` (one, or one a query), with one of DENOMINATORS."""
    if denominator == "first-relevant":
        return _first_relevant(groups, k)
    if denominator == "retrieved":
        return _over_retrieved(_above(groups, k), k)
    return ratio(cut_sums(groups, k), groups.total if denominator == "total" else np.minimum(groups.total, k))


def interpolated_precision(groups: TieGroups, points: int = 11) -> np.ndarray:
    """Return the interpolated average precision of rankings without open ties: float64 (queries,).

    The mean, over ``points`` recalls evenly from 0 to 1, of the largest precision at that recall or beyond
    (Salton & McGill, 1983; the 11 points of TREC). ``groups`` must be ``worst``, ``best`` or ``stable``.
    """
    from cmrkit.evaluation.kernels import interpolated_sums

    sums = np.empty(len(groups.total))
    interpolated_sums(sums, groups.first, groups.start, groups.relevant, groups.total, points)
    return sums / points


def hits_at(groups: TieGroups, k: int | np.ndarray) -> np.ndarray:
    """Return the expected number of relevant items among the first ``k`` (one, or one a query) of each query."""
    from cmrkit.evaluation.kernels import hits_within

    hits = np.empty(len(groups.total))
    hits_within(hits, groups.first, groups.start, groups.size, groups.relevant, _cuts(groups, k))
    return hits


def precision_at(groups: TieGroups, k: int) -> np.ndarray:
    """Return the precision among the first ``k`` items; a ``k`` beyond the database means all of it."""
    k = min(k, groups.items)
    return hits_at(groups, k) / k


def recall_at(groups: TieGroups, k: int) -> np.ndarray:
    """Return the share of its relevant items that each query finds among the first ``k``."""
    return ratio(hits_at(groups, k), groups.total)


def cut_sums(groups: TieGroups, k: int | np.ndarray) -> np.ndarray:
    """Return the expected sum of the precisions at the relevant items among the first ``k``: float64 (queries,)."""
    from cmrkit.evaluation.kernels import cut_precision_sums

    sums = np.empty(len(groups.total))
    harmonic = _harmonic(groups.items)
    cut_precision_sums(sums, groups.first, groups.start, groups.size, groups.relevant, harmonic, _cuts(groups, k))
    return sums


def place_sums(groups: TieGroups, k: int | np.ndarray, density, first, slope) -> np.ndarray:
    """Sum density * (first + slope (i - 1)) / (start + i) over the places i of each group down to rank ``k``.

    With a place relevant by the chance ``density``, and ``first + slope (i - 1)`` what is then expected at and above
    it, that is the expected sum of the precisions at the relevant places. All three are (groups,).
    """
    from cmrkit.evaluation.kernels import precision_sums

    sums, k = np.empty(len(groups.total)), _cuts(groups, k)
    precision_sums(sums, groups.first, groups.start, groups.size, first, density, slope, _harmonic(groups.items), k)
    return sums


def _cuts(groups: TieGroups, k: int | np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(k, np.int64), groups.total.shape))


def _above(groups: TieGroups, k: int) -> TieGroups:
    return _where(groups, groups.start < k)


def _where(groups: TieGroups, chosen: np.ndarray) -> TieGroups:
    kept = replace(groups, **{name: getattr(groups, name)[chosen] for name in ("query", "start", "size", "relevant")})
    kept.__dict__["before"] = groups.before[chosen]  # counts the groups left out, too
    return kept


def _over_retrieved(groups: TieGroups, k: int) -> np.ndarray:
    # The quotient is not linear in the order, but given the number of hits h in the part of the boundary
    # group above k, its denominator is fixed and its numerator is in closed form. h is hypergeometric.
    length = np.minimum(k - groups.start, groups.size)
    open_ = (length < groups.size) & (groups.relevant < groups.size)
    fixed, fixed_length = _where(groups, ~open_), length[~open_]
    fixed_hits = np.minimum(fixed.relevant, fixed_length)
    hits = groups.sum(np.where(open_, 0, np.minimum(groups.relevant, length)))
    total = fixed.sum(_placed_sums(fixed, fixed_length, fixed_hits))
    result = ratio(total, hits)
    edge, length = _where(groups, open_), length[open_, None]
    if not len(edge.query):
        return result
    h = np.arange(min(length.max(), edge.relevant.max()) + 1)[None]
    chance = _hypergeometric(h, edge.size[:, None], edge.relevant[:, None], length)
    numerator = total[edge.query, None] + _placed_sums(edge, length, h)
    result[edge.query] = (chance * ratio(numerator, hits[edge.query, None] + h)).sum(1)
    return result


def _first_relevant(groups: TieGroups, k: int) -> np.ndarray:
    wanted = np.minimum(k, groups.total)
    groups = _where(groups, groups.before < wanted[groups.query])
    hits = np.minimum(wanted[groups.query] - groups.before, groups.relevant)
    open_ = (hits < groups.relevant) & (groups.relevant < groups.size)
    length = np.where(groups.relevant < groups.size, groups.size, hits)
    sums = np.empty(len(hits))
    sums[~open_] = _placed_sums(_where(groups, ~open_), length[~open_], hits[~open_])
    sums[open_] = _first_hits_sums(_where(groups, open_), hits[open_])
    return ratio(groups.sum(sums), wanted)


def _placed_sums(groups: TieGroups, length: np.ndarray, hits: np.ndarray) -> np.ndarray:
    # ``hits`` relevant items at random places among exactly ``length`` places. May be (groups, 1 or h).
    column = (slice(None),) + (None,) * (np.ndim(length) - 1)
    slope = (hits - 1) / np.maximum(length - 1, 1)
    return _precision_sums(groups.start[column], groups.before[column], length, hits / length, slope, groups.items)


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
    sums = np.empty(len(hits))
    order = np.argsort(groups.size)  # groups of like size together: each is padded to the largest beside it
    step = max(1, PLACES // int(groups.size.max(initial=1)))
    for at in (order[i : i + step] for i in range(0, len(order), step)):
        t, r, s = groups.size[at, None], groups.relevant[at, None], hits[at, None]
        x = np.arange(1, t.max() + 1)[None]
        fewer = _chance_fewer(s, t - 1, r - 1, x - 1)
        much_fewer = _chance_fewer(s - 1, t - 2, r - 2, x - 2)
        count = (groups.before[at, None] + 1) * fewer + (x - 1) * (r - 1) / (t - 1) * much_fewer
        terms = np.where(x <= t, count / (groups.start[at, None] + x), 0)
        sums[at] = (r / t)[:, 0] * terms.sum(1)
    return sums


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


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, and 0 where the denominator is."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


@lru_cache(maxsize=8)
def _harmonic(n: int) -> np.ndarray:
    return np.concatenate(([0.0], np.cumsum(1 / np.arange(1, n + 1))))


@lru_cache(maxsize=32)
def _log_factorial(bits: int) -> np.ndarray:
    return gammaln(np.arange(1 << bits) + 1.0)  # a power of two, so that few tables serve every size
