"""Scatter matrices of discriminant analysis: class averages, and the graphs of marginal Fisher analysis."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import laplacian
from sklearn.neighbors import NearestNeighbors

from cmrkit.methods.parts.anchors import squared_distances

_BLOCK = 1000  # rows of the distance matrix held at once


def _shares(L: np.ndarray) -> np.ndarray:
    """Return multi-hot labels (n, c) with rows summing to 1: an item belongs in equal parts to its classes."""
    return L / L.sum(axis=1, keepdims=True)


def class_means(X: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Return the mean (c, d) of each class of the rows of X (n, d); every class of ``L`` (n, c) has an item."""
    share = _shares(L)
    return share.T @ X / share.sum(axis=0)[:, None]


def between_class_means(X: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Return X'WX (d, d), where W averages over a class: the between-class scatter of centred X (n, d)."""
    means = class_means(X, L)
    return (means.T * _shares(L).sum(axis=0)) @ means


def _graph_scatter(X: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return X'(D - S)X for the symmetric 0-1 graph S with these edges, each counted once."""
    n = len(X)
    S = csr_array(coo_array((np.ones(2 * len(rows)), (np.r_[rows, columns], np.r_[columns, rows])), shape=(n, n)))
    S.data[:] = 1
    S.setdiag(0)
    return X.T @ (laplacian(S) @ X)


def within_class_neighbours(X: np.ndarray, L: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the scatter (d, d) over each item's ``neighbours`` nearest items of its own class."""
    rows, columns = [], []
    for members in (np.flatnonzero(column) for column in L.T):
        k = min(neighbours + 1, len(members))  # an item is its own nearest neighbour
        found = (
            NearestNeighbors(n_neighbors=k, algorithm="brute")
            .fit(X[members])
            .kneighbors(X[members], return_distance=False)
        )
        rows.append(np.repeat(members, k))
        columns.append(members[found.ravel()])
    return _graph_scatter(X, np.concatenate(rows), np.concatenate(columns))


def between_class_pairs(X: np.ndarray, L: np.ndarray, pairs: int) -> np.ndarray:
    """Return the scatter (d, d) over the ``pairs`` closest pairs that share no class."""
    best, bound = np.empty((0, 3)), np.inf
    for start in range(0, len(X), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(X)))
        distances = squared_distances(X[rows], X)
        distances[(L[rows] @ L.T > 0) | (np.arange(len(X)) <= rows[:, None])] = np.inf
        nearest = np.flatnonzero(distances < bound)
        if len(nearest) > pairs:
            nearest = nearest[np.argpartition(distances.flat[nearest], pairs - 1)[:pairs]]
        i, j = np.unravel_index(nearest, distances.shape)
        best = np.vstack([best, np.column_stack([distances[i, j], rows[i], j])])
        best = best[np.argsort(best[:, 0], kind="stable")[:pairs]]
        bound = best[-1, 0] if len(best) == pairs else np.inf
    return _graph_scatter(X, best[:, 1].astype(int), best[:, 2].astype(int))
