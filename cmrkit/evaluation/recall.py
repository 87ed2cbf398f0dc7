"""Recall at K and the rank of the first relevant item, by counting instead of sorting.

With five captions an image, an image query is answered by the best placed of its captions, and a caption
query by its one image. What counts for a query is therefore only its nearest relevant distance: how many
irrelevant items are nearer, and how many items share that distance.

Published code sorts, so that ties fall as the sort leaves them, or counts strictly nearer items, which is
``best`` and gives full marks to an encoder that maps everything to one point. The default here is
``expected``: over random orders of the tied items. Without ties all rules agree.

A query without relevant items is never answered: its rank is the size of the database plus one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from cmrkit.evaluation.ranking import TieGroups

FACTORS = 64  # relevant items at one distance up to which the chance is multiplied out


@dataclass(frozen=True)
class FirstHits:
    """Where each query's first relevant item stands: int64 (queries,) each.

    ``ahead`` items are nearer for certain; the first relevant item is then one of ``relevant`` among
    ``tied`` in random order. ``relevant`` is 0 for a query without relevant items.
    """

    ahead: np.ndarray
    tied: np.ndarray
    relevant: np.ndarray


def first_hits(groups: TieGroups) -> FirstHits:
    """Return the first group of each query, under whichever tie rule the groups are."""
    found = np.flatnonzero(np.diff(groups.first))
    at = groups.first[found]
    hits = FirstHits(*(np.zeros(len(groups.total), np.int64) for _ in range(3)))
    hits.ahead[:] = groups.items
    hits.ahead[found], hits.tied[found], hits.relevant[found] = groups.start[at], groups.size[at], groups.relevant[at]
    return hits


def recall(hits: FirstHits, k: int) -> np.ndarray:
    """Return the chance that a relevant item is among the first ``k``, per query: float64 in 0..1."""
    places = np.clip(k - hits.ahead, 0, hits.tied)
    # All relevant items fall below the cut: C(tied - places, relevant) / C(tied, relevant).
    below = hits.tied - places
    if hits.relevant.max(initial=0) > FACTORS:
        possible = below >= hits.relevant
        log = _log_falling(np.where(possible, below, hits.tied), hits.relevant) - _log_falling(hits.tied, hits.relevant)
        return 1 - np.where(possible, np.exp(log), 0)
    missed = np.ones(len(places))
    for i in range(int(hits.relevant.max(initial=0))):
        missed *= np.where(i < hits.relevant, np.maximum(below - i, 0) / np.maximum(hits.tied - i, 1), 1)
    return 1 - missed


def _log_falling(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return log(n (n-1) .. (n-k+1))."""
    return gammaln(n + 1.0) - gammaln(n - k + 1.0)


def rank(hits: FirstHits) -> np.ndarray:
    """Return the expected rank of the first relevant item, from 1, per query: float64.

    The median rank of a set of queries is the median of these.
    """
    return hits.ahead + (hits.tied + 1) / (hits.relevant + 1)
