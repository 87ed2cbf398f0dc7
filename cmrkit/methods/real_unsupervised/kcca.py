"""KCCA: Framing Image Description as a Ranking Task (Hodosh, Young, Hockenmaier, JAIR 2013).

Kernel canonical correlation analysis after Hardoon, Szedmak and Shawe-Taylor (2004): with centred kernel matrices
K_x, K_y (n, n) find dual weights that maximise

    a'K_x K_y b / sqrt((a'K_x^2 a + n kappa a'K_x a) (b'K_y^2 b + n kappa b'K_y b)).

Each kernel is replaced by its incomplete Cholesky factor, K close to R R' with R (n, m): in R'a and R'b the problem
is linear CCA on R whose covariances carry the ridge kappa, so nothing of size n x n is formed.
X (n, d_image) and Y (n, d_text) map to (n, dim), compared by cosine.

The paper's kernels take image pyramids and word sequences; here each works on feature vectors. Histogram
intersection on a bag of visual words is its pyramid kernel with one level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.anchors import mean_squared_distance
from cmrkit.methods.parts.cca import cca
from cmrkit.methods.parts.kernels import cholesky_features, incomplete_cholesky


@dataclass(kw_only=True)
class KCCA(Embedder):
    """KCCA. ``kappa`` is the ridge on the covariances of kernel features, n kappa in the dual problem.

    ``rank`` and ``tolerance`` stop the incomplete Cholesky factor; an rbf kernel's width is ``width`` times the
    mean squared distance of training rows, a chi2 kernel's is ``width`` itself.
    """

    space: ClassVar[str] = "cosine"

    dim: int
    image_kernel: Literal["linear", "rbf", "chi2", "intersection"]
    text_kernel: Literal["linear", "rbf", "chi2", "intersection"]
    kappa: float
    rank: int = 500
    tolerance: float = 1e-3
    width: float = 1.0

    def fit(self, train: Pairs) -> KCCA:
        """Learn pivots and projections. Raises UsageError where kernels leave fewer than ``dim`` directions."""
        if self.kappa < 0 or self.width <= 0 or self.rank < 1:
            raise UsageError("KCCA needs kappa >= 0, width > 0 and rank >= 1")
        self.image_width_ = self._width(self.image_kernel, train.image)
        self.text_width_ = self._width(self.text_kernel, train.text)
        self.image_pivots_, self.image_factor_ = incomplete_cholesky(
            self.image_kernel, train.image, self.rank, self.tolerance, self.image_width_
        )
        self.text_pivots_, self.text_factor_ = incomplete_cholesky(
            self.text_kernel, train.text, self.rank, self.tolerance, self.text_width_
        )
        X, Y = self._image_features(train.image), self._text_features(train.text)
        self.image_mean_, self.text_mean_ = X.mean(axis=0), Y.mean(axis=0)
        found = cca(X, Y, self.dim, self.kappa)
        self.image_projection_, self.text_projection_ = found.image, found.text
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return the canonical projections (n, dim) of image features (n, d_image)."""
        return (self._image_features(x) - self.image_mean_) @ self.image_projection_

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return the canonical projections (n, dim) of text features (n, d_text)."""
        return (self._text_features(y) - self.text_mean_) @ self.text_projection_

    def _width(self, kernel: str, x: np.ndarray) -> float:
        return self.width * (mean_squared_distance(x) if kernel == "rbf" else 1.0)

    def _image_features(self, x: np.ndarray) -> np.ndarray:
        return cholesky_features(self.image_kernel, x, self.image_pivots_, self.image_factor_, self.image_width_)

    def _text_features(self, y: np.ndarray) -> np.ndarray:
        return cholesky_features(self.text_kernel, y, self.text_pivots_, self.text_factor_, self.text_width_)
