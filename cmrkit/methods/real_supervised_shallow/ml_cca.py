"""ml-CCA: Multi-Label Cross-modal Retrieval (Ranjan, Rasiwasia, Jawahar, ICCV 2015).

CCA over more pairs than the given ones: image i and text j count with the similarity of their label vectors,

    w_ij = exp(-||z_i - z_j|| / sigma),
    Cxy = 1/N sum w_ij x_i y_j',   Cxx = 1/N sum w_ij x_i x_i',   Cyy = 1/N sum w_ij y_j y_j'.

``neighbours=None`` sums over all n^2 pairs (ml-CCA); a number keeps, for each image, that many texts with the
nearest labels (Fast ml-CCA). Both covariances carry a ridge of ``kappa`` times their mean variance. Work goes
by distinct label vector, never by pair. X (n, d_image) and Y (n, d_text), centred by the recipe, map to
(n, dim).

Followed from the authors' code: the unsquared distance, neighbours with equal labels taken in the order of the
training set, projections of unit length. It ships the fast form only, with neither ``neighbours`` nor ``sigma``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.cca import canonical_subspace, ridged


def pair_weights(Z: np.ndarray, L: np.ndarray, neighbours: int | None, sigma: float) -> np.ndarray:
    """Return the weight (u, n) of every training item for each distinct label vector in ``Z`` (u, c)."""
    distances = euclidean_distances(Z, L)
    weights = np.exp(-distances / sigma)
    if neighbours is not None:
        far = np.argsort(distances.round(9), axis=1, kind="stable")[:, neighbours:]
        np.put_along_axis(weights, far, 0, axis=1)
    return weights


def _unit_columns(A: np.ndarray) -> np.ndarray:
    return A / np.linalg.norm(A, axis=0)


@dataclass(kw_only=True)
class MLCCA(Embedder):
    """ml-CCA, or Fast ml-CCA where ``neighbours`` is a number."""

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True

    dim: int
    neighbours: int | None
    sigma: float
    kappa: float = 0.25

    def fit(self, train: Pairs) -> MLCCA:
        """Learn both projections. Raises UsageError without labels, or with fewer than ``dim`` directions."""
        L = self.require_labels(train)
        if self.sigma <= 0 or (self.neighbours is not None and not 1 <= self.neighbours <= len(train)):
            raise UsageError(f"ml-CCA needs sigma > 0 and from 1 to {len(train)} neighbours, or null for all")
        X, Y = train.image, train.text
        Z, kind, counts = np.unique(L, axis=0, return_inverse=True, return_counts=True)
        W = pair_weights(Z, L, self.neighbours, self.sigma)
        sums = np.stack([X[kind == u].sum(axis=0) for u in range(len(Z))])
        image_weight, text_weight = W.sum(axis=1)[kind], counts @ W
        N = len(X) * (self.neighbours or len(X))
        found = canonical_subspace(
            self._ridged((X.T * image_weight) @ X / N),
            self._ridged((Y.T * text_weight) @ Y / N),
            sums.T @ (W @ Y) / N,
            self.dim,
        )
        self.image_projection_, self.text_projection_ = _unit_columns(found.image), _unit_columns(found.text)
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of image features (n, d_image)."""
        return x @ self.image_projection_

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of text features (n, d_text)."""
        return y @ self.text_projection_

    def _ridged(self, C: np.ndarray) -> np.ndarray:
        return ridged(C, self.kappa * np.diag(C).mean())
