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

from cmrkit.evaluation.blocks import Block


@dataclass(frozen=True)
class FirstHits:
    """Where each query's first relevant item stands: int64 (queries,) each.

    ``ahead`` items are nearer for certain; the first relevant item is then one of ``relevant`` among
    ``tied`` in random order. ``relevant`` is 0 for a query without relevant items.
    """

    ahead: np.ndarray
    tied: np.ndarray
    relevant: np.ndarray


def first_hits(block: Block, ties: str = "expected") -> FirstHits:
    """Locate the first relevant item of each query under one of the tie rules."""
    distances = block.distances
    reached = block.relevance.any(1)
    top = np.iinfo(distances.dtype).max if block.levels else np.inf
    nearest = np.where(block.relevance, distances, top).min(1)[:, None]
    level = (distances == nearest) & reached[:, None]
    hits = level & block.relevance
    ahead = np.where(reached, (distances < nearest).sum(1), block.items)
    tied, relevant = level.sum(1), hits.sum(1)
    if ties == "expected":
        return FirstHits(ahead, tied, relevant)
    if ties == "stable":
        position = np.where(reached, np.argmax(hits, axis=1), 0)[:, None]
        ahead = ahead + (level & (np.arange(block.items)[None] < position)).sum(1)
    elif ties == "worst":
        ahead = ahead + tied - relevant
    one = reached.astype(np.int64)
    return FirstHits(ahead, one, one)


def recall(hits: FirstHits, k: int) -> np.ndarray:
    """Return the chance that a relevant item is among the first ``k``, per query: float64 in 0..1."""
    places = np.clip(k - hits.ahead, 0, hits.tied)
    missed = np.ones(len(places))
    # All relevant items fall below the cut: C(tied - places, relevant) / C(tied, relevant), factor by factor.
    for i in range(int(hits.relevant.max(initial=0))):
        factor = np.maximum(hits.tied - places - i, 0) / np.maximum(hits.tied - i, 1)
        missed *= np.where(i < hits.relevant, factor, 1)
    return 1 - missed


def rank(hits: FirstHits) -> np.ndarray:
    """Return the expected rank of the first relevant item, from 1, per query: float64.

    The median rank of a set of queries is the median of these.
    """
    return hits.ahead + (hits.tied + 1) / (hits.relevant + 1)
