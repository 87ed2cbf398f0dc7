"""Precision and recall within a Hamming radius, and along the ranking."""

from __future__ import annotations

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.ranking import TieGroups

POINTS = 50  # of a curve by rank, evenly spaced on a logarithmic scale


def within_radius(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits and the retrieved items (queries, levels) within each Hamming radius 0..bits."""
    if block.levels is None:
        raise UsageError("a metric asks for a Hamming radius, but this space is real-valued")
    found = np.cumsum(block.histogram, axis=1)
    return found[:, :, 1], found.sum(2)


def rank_grid(items: int) -> np.ndarray:
    """Return the ranks at which a curve by rank is read: 1 to ``items``, denser at the top."""
    return np.unique(np.geomspace(1, items, POINTS).round().astype(np.int64))


def along_ranks(groups: TieGroups) -> np.ndarray:
    """Return the expected hits (queries, points) above each rank of ``rank_grid``."""
    from cmrkit.evaluation.kernels import hits_along

    ranks = rank_grid(groups.items)
    hits = np.empty((len(groups.total), len(ranks)))
    hits_along(hits, groups.first, groups.start, groups.size, groups.relevant, ranks)
    return hits
