"""Canonical correlation, from second moments, and its partial-least-squares sibling.

All CCAs here are one singular value decomposition of the whitened cross-covariance
``Cxx^-1/2 Cxy Cyy^-1/2``; what differs between papers is which pairs the covariances count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.cross_decomposition import PLSCanonical

from cmrkit.methods.parts.eigen import RANK_TOLERANCE, require_directions, whitening


class Subspace(NamedTuple):
    """Projections ``image`` (d_image, dim) and ``text`` (d_text, dim), with their ``strength`` (dim,)."""

    image: np.ndarray
    text: np.ndarray
    strength: np.ndarray


def ridged(C: np.ndarray, ridge: float) -> np.ndarray:
    """Return ``C + ridge I`` for a square C (d, d)."""
    return C + ridge * np.eye(len(C))


def centred_rank(X: np.ndarray) -> int:
    """Return the rank of X (n, d) less its column means, counting as whitening does."""
    X = X - X.mean(axis=0)
    values = np.linalg.eigvalsh(X.T @ X)
    return int((values > RANK_TOLERANCE * max(values[-1], 0)).sum())


def canonical_subspace(Cxx: np.ndarray, Cyy: np.ndarray, Cxy: np.ndarray, dim: int) -> Subspace:
    """Return the ``dim`` leading canonical directions, largest correlation first, with A'Cxx A = B'Cyy B = I.

    ``Cxx`` (dx, dx) and ``Cyy`` (dy, dy) carry their ridge already; where they are singular their null space
    is left out. Raises UsageError where fewer than ``dim`` correlations are positive.
    """
    Wx, Wy = whitening(Cxx), whitening(Cyy)
    U, correlations, Vt = np.linalg.svd(Wx.T @ Cxy @ Wy, full_matrices=False)
    available = int((correlations > RANK_TOLERANCE * max(correlations, default=0)).sum())
    require_directions(dim, available, "the image and text features' shared ranks")
    return Subspace(Wx @ U[:, :dim], Wy @ Vt[:dim].T, correlations[:dim])


def cca(X: np.ndarray, Y: np.ndarray, dim: int, ridge: float) -> Subspace:
    """Return regularised CCA of the paired rows of X (n, dx) and Y (n, dy); ``ridge`` is added to covariances."""
    X, Y, n = X - X.mean(axis=0), Y - Y.mean(axis=0), len(X)
    return canonical_subspace(ridged(X.T @ X / n, ridge), ridged(Y.T @ Y / n, ridge), X.T @ Y / n, dim)


def pls_canonical(X: np.ndarray, Y: np.ndarray, dim: int) -> Subspace:
    """Return canonical-mode partial least squares of the paired rows of X (n, dx) and Y (n, dy).

    Each direction maximises the covariance of what the earlier ones, deflated from both views, left over.
    Raises UsageError where the views' ranks do not leave ``dim`` directions.
    """
    ranks = centred_rank(X), centred_rank(Y)
    require_directions(dim, min(ranks), f"the image and text features' ranks {ranks[0]} and {ranks[1]}")
    model = PLSCanonical(n_components=dim, scale=False, algorithm="svd").fit(X, Y)
    strength = np.sqrt(np.square(model._x_scores).sum(0) * np.square(model._y_scores).sum(0)) / len(X)
    return Subspace(model.x_rotations_, model.y_rotations_, strength)
