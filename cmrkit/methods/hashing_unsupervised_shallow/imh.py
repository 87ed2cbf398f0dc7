"""IMH: Inter-Media Hashing for Large-scale Retrieval from Heterogeneous Data Sources (Song et al.; SIGMOD 2013).

An embedding Y_v (n, bits) of each modality is sought that keeps neighbours of that modality together, agrees
with the other modality on paired items, and can be predicted from the features X_v (n, d_v) by a ridge
regression. With L_v the Laplacian of the k-nearest-neighbour graph and the regression solved in closed form,

    min  sum_v tr( Y_v' (A_v + smoothness L_v) Y_v ) + w ||Y_image - Y_text||^2,    Y_image' Y_image = I
    A_v = I - X_v (X_v'X_v + ridge I)^-1 X_v',    W_v = (X_v'X_v + ridge I)^-1 X_v'Y_v.

The weight w stands for the constraint that pairs coincide (1e10 in the public code). Here it is infinite:
Y_image = Y_text = Y, the eigenvectors of the smallest eigenvalues of A_image + A_text + smoothness
(L_image + L_text), which the public code's matrix equals up to 1e-10. The constant eigenvector is not left out.

A bit is set where x W_v exceeds a threshold, with ``threshold="train"`` the median of the training set. The
public code takes the median of whatever batch is being encoded (``"batch"``): queries then see each other, and
a single one would always get zeros. Of two equal items that code makes the second its own nearest neighbour;
``exclude_self=False`` follows it.

Eigenvectors have no sign of their own. As the item at the median never gets its bit, whichever way the vector
points, the sign moves results by about 1e-3; the seed draws it, so that this freedom shows as spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg, sparse

from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.graph import knn_laplacian
from cmrkit.methods.parts.linear import ridge


def predictable_part(X: np.ndarray, penalty: float) -> np.ndarray:
    """Return the Z (n, d) with Z Z' = X (X'X + penalty I)^-1 X', the ridge regression's hat matrix."""
    factor = linalg.cholesky(X.T @ X + penalty * np.eye(X.shape[1]), lower=True)
    return linalg.solve_triangular(factor, X.T, lower=True).T


@dataclass(kw_only=True)
class Imh(Embedder):
    """IMH. ``sample`` caps the training pairs, drawn at random, as the eigenproblem is of their number's size."""

    space: ClassVar[str] = "hamming"
    transductive: ClassVar[bool] = True

    bits: int
    ridge: float = 1.0
    smoothness: float = 1.0
    neighbours: int = 1
    threshold: Literal["train", "batch"] = "train"
    exclude_self: bool = True
    sample: int = 3000

    def fit(self, train: Pairs) -> Imh:
        """Learn the projections (d_v, bits) and the training medians (bits,)."""
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(train))[: self.sample])
        views = train.image[chosen], train.text[chosen]
        Y = self.embed(*views) * rng.choice([-1, 1], self.bits)
        self.image_hash_, self.text_hash_ = (ridge(X, Y, self.ridge) for X in views)
        self.image_median_ = np.median(train.image @ self.image_hash_, axis=0)
        self.text_median_ = np.median(train.text @ self.text_hash_, axis=0)
        return self

    def embed(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Return the common embedding Y (n, bits) of paired features."""
        laplacian = sum(knn_laplacian(X, self.neighbours, self.exclude_self) for X in (image, text))
        D = (self.smoothness * laplacian + 2 * sparse.eye(len(image))).toarray()
        for X in (image, text):
            Z = predictable_part(X, self.ridge)
            D -= Z @ Z.T
        return linalg.eigh(D, subset_by_index=[0, self.bits - 1], overwrite_a=True)[1]

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return self._binarise(x @ self.image_hash_, self.image_median_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return self._binarise(y @ self.text_hash_, self.text_median_)

    def _binarise(self, projected: np.ndarray, train_median: np.ndarray) -> np.ndarray:
        median = train_median if self.threshold == "train" else np.median(projected, axis=0)
        return np.where(projected > median, 1, -1).astype(np.int8)
