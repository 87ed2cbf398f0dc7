"""Precision and recall within a Hamming radius, and along the ranking."""

from __future__ import annotations

import numpy as np

from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.ranking import TieGroups, hits_at

POINTS = 50  # of a curve by rank, evenly spaced on a logarithmic scale


def within_radius(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (queries, levels) within each Hamming radius 0..bits.

    A query that finds nothing within the radius has precision 0 there, and one without relevant items
    recall 0: both stay in the mean.
    """
    found = np.cumsum(block.histogram, axis=1)
    retrieved, hits = found.sum(2), found[:, :, 1]
    return hits / np.maximum(retrieved, 1), hits / np.maximum(hits[:, -1:], 1)


def rank_grid(items: int) -> np.ndarray:
    """Return the ranks at which a curve by rank is read: 1 to ``items``, denser at the top."""
    return np.unique(np.geomspace(1, items, POINTS).round().astype(np.int64))


def along_ranks(groups: TieGroups) -> tuple[np.ndarray, np.ndarray]:
    """Return expected precision and recall (queries, points) at each rank of ``rank_grid``."""
    ranks = rank_grid(groups.items)
    hits = np.stack([hits_at(groups, int(k)) for k in ranks], axis=1)
    return hits / ranks, hits / np.maximum(groups.total, 1)[:, None]
