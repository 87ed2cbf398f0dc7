"""Cluster-CCA: Cluster Canonical Correlation Analysis (Rasiwasia, Mahajan, Mahadevan, Aggarwal, AISTATS 2014).

Ordinary CCA correlates an image with its own text; ``cluster`` correlates it with *every* text of its class.
With n_c images and m_c texts in class c, means x_c and y_c, and M = sum_c n_c m_c pairs,

    Cxx = 1/M sum_c m_c sum_i x_i x_i',    Cyy = 1/M sum_c n_c sum_j y_j y_j',
    Cxy = 1/M sum_c n_c m_c x_c y_c',

so no pair is ever formed. ``mean`` (mean-CCA, the paper's simpler alternative) correlates the class means only,
which leaves at most classes - 1 directions. X (n, d_image) and Y (n, d_text) map to (n, dim).

Views are centred by their means over all counted pairs, as CCA on these pairs would. An item with several
labels is paired once for each label it shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.cca import canonical_subspace, cca, ridged


@dataclass(kw_only=True)
class ClusterCCA(Embedder):
    """Cluster-CCA or mean-CCA. ``ridge`` is added to both covariances, in the features' own units."""

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True

    variant: Literal["cluster", "mean"]
    dim: int
    ridge: float

    def fit(self, train: Pairs) -> ClusterCCA:
        """Learn both projections. Raises UsageError without labels, or with fewer than ``dim`` directions."""
        L = self.require_labels(train)
        L = L[:, L.any(axis=0)]
        pairs = L @ L.sum(axis=0)  # how many items of the other modality each item meets
        self.image_mean_ = pairs @ train.image / pairs.sum()
        self.text_mean_ = pairs @ train.text / pairs.sum()
        X, Y = train.image - self.image_mean_, train.text - self.text_mean_
        if self.variant == "mean":
            sizes = L.sum(axis=0)[:, None]
            found = cca(L.T @ X / sizes, L.T @ Y / sizes, self.dim, self.ridge)
        else:
            M = pairs.sum()
            Cxx, Cyy = (X.T * pairs) @ X / M, (Y.T * pairs) @ Y / M
            Cxy = (L.T @ X).T @ (L.T @ Y) / M
            found = canonical_subspace(ridged(Cxx, self.ridge), ridged(Cyy, self.ridge), Cxy, self.dim)
        self.image_projection_, self.text_projection_ = found.image, found.text
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return the canonical projections (n, dim) of image features (n, d_image)."""
        return (x - self.image_mean_) @ self.image_projection_

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return the canonical projections (n, dim) of text features (n, d_text)."""
        return (y - self.text_mean_) @ self.text_projection_
