"""Exact kernels, and the incomplete Cholesky factor that makes them affordable.

``incomplete_cholesky`` picks pivots greedily (the row worst explained so far), which is the partial
Gram-Schmidt orthogonalisation of Hardoon, Szedmak and Shawe-Taylor (Neural Computation 2004). ``K`` is then
``R R'`` up to the tolerance, with R = k(x, pivots) L^-T also for rows never seen: linear methods on R are
kernel methods on x.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.metrics.pairwise import chi2_kernel, manhattan_distances

from cmrkit.errors import UsageError
from cmrkit.methods.parts.anchors import rbf_features
from cmrkit.methods.parts.eigen import RANK_TOLERANCE

KERNELS = ("linear", "rbf", "chi2", "intersection")


def kernel(name: str, x: np.ndarray, y: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Return k(x, y) (n, m) for the rows of ``x`` (n, d) and ``y`` (m, d).

    ``rbf`` is exp(-||x - y||^2 / width), ``chi2`` exp(-sum (x - y)^2 / (x + y) / width), ``intersection``
    sum min(x, y). Raises UsageError for another name, or for histograms' kernels on negative features.
    """
    if name == "linear":
        return x @ y.T
    if name == "rbf":
        return rbf_features(x, y, width)
    if name not in KERNELS:
        raise UsageError(f"unknown kernel {name!r}: choose from {', '.join(KERNELS)}")
    if min(x.min(), y.min()) < 0:
        raise UsageError(f"the {name} kernel takes histograms, but these features have negative values: "
                         "leave out centring and z-scores, or choose rbf or linear")  # fmt: skip
    if name == "chi2":
        return chi2_kernel(x, y, gamma=1 / width)
    return (x.sum(axis=1)[:, None] + y.sum(axis=1) - manhattan_distances(x, y)) / 2


def _diagonal(name: str, x: np.ndarray) -> np.ndarray:
    if name == "linear":
        return np.square(x).sum(axis=1)
    return x.sum(axis=1) if name == "intersection" else np.ones(len(x))


def incomplete_cholesky(
    name: str, x: np.ndarray, rank: int, tolerance: float, width: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (pivots, factor): rows of ``x`` (m, d) and the lower-triangular L (m, m) of their kernel matrix.

    Rows are added until ``rank`` of them are in, until the trace left over is at most ``tolerance`` of the whole,
    or until no row stands out of rounding noise. Costs O(n rank^2) time and O(n rank) memory; the kernel matrix
    (n, n) is never formed.
    """
    residual = _diagonal(name, x)
    rank, stop, noise = min(rank, len(x)), tolerance * residual.sum(), RANK_TOLERANCE * residual.max()
    R = np.zeros((len(x), rank))
    pivots: list[int] = []
    while len(pivots) < rank and residual.sum() > stop:
        j, p = len(pivots), int(residual.argmax())
        if residual[p] <= noise:
            break
        column = kernel(name, x, x[p : p + 1], width)[:, 0] - R[:, :j] @ R[p, :j]
        R[:, j] = column / np.sqrt(residual[p])
        residual = np.maximum(residual - np.square(R[:, j]), 0)
        residual[p] = 0
        pivots.append(p)
    return x[pivots], np.tril(R[pivots, : len(pivots)])


def cholesky_features(
    name: str, x: np.ndarray, pivots: np.ndarray, factor: np.ndarray, width: float = 1.0
) -> np.ndarray:
    """Return the rows R (n, m) with R R' close to k(x, x), for the pivots and factor of training."""
    return solve_triangular(factor, kernel(name, x, pivots, width).T, lower=True).T
