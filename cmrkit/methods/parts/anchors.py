"""Kernel features: Gaussian (RBF) similarities to a few anchor points.

Everything is plain arrays, so that a method keeps anchors, width and mean as its own state. Papers differ
in how they choose anchors (``random_anchors``, ``kmeans_anchors``) and in the width ``s`` of
``exp(-||x - a||^2 / s)``; each method passes its own.
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances (n, m) between the rows of ``x`` (n, d) and ``y`` (m, d)."""
    return euclidean_distances(x, y, squared=True)


def random_anchors(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` different rows of ``x`` (n, d), drawn at random; all n of them where n is smaller."""
    return x[rng.permutation(len(x))[:count]]


def kmeans_anchors(x: np.ndarray, count: int, rng: np.random.Generator, iterations: int = 100) -> np.ndarray:
    """Return ``count`` k-means centres (count, d) of ``x``, from one random start; n where n is smaller."""
    start = random_anchors(x, count, rng)
    state = int(rng.integers(2**31))
    kmeans = KMeans(len(start), init=start, n_init=1, max_iter=iterations, random_state=state)
    return kmeans.fit(x).cluster_centers_


def mean_squared_distance(x: np.ndarray, y: np.ndarray | None = None) -> float:
    """Return the mean of all squared distances between the rows of ``x`` (n, d) and ``y`` (m, d), or ``x``.

    With ``c`` the mean of ``x``, it is the mean of ``||x - c||^2`` plus that of ``||y - c||^2``, so no matrix
    of distances is formed. Returns 1 where all rows coincide, so that it can always serve as a width.
    """
    y = x if y is None else y
    centre = x.mean(axis=0)
    spread = np.square(x - centre).sum(axis=1).mean() + np.square(y - centre).sum(axis=1).mean()
    return float(spread) or 1.0


def rbf_features(x: np.ndarray, anchors: np.ndarray, width: float) -> np.ndarray:
    """Return ``exp(-||x - a||^2 / width)`` (n, m) for the rows of ``x`` (n, d) and ``anchors`` (m, d)."""
    return np.exp(squared_distances(x, anchors) / -float(width))
