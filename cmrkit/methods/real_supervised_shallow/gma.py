"""GMA: Generalized Multiview Analysis (Sharma, Kumar, Daume III, Jacobs, CVPR 2012).

One generalised eigenproblem covers many subspace methods (equation 7): with per-view matrices A_i to keep and
B_i to suppress, and Z_i whose columns are to be aligned across views,

    max  v_x'A_x v_x + v_y'A_y v_y + 2 alpha v_x'Z_x Z_y'v_y   subject to  v_x'B_x v_x + gamma v_y'B_y v_y = 1.

=========  ======================  =======================  ==================
variant    A                       B                        Z
=========  ======================  =======================  ==================
``blm``    X'X                     I                        all pairs
``cca``    X'X                     X'X + ridge              all pairs
``lda``    X'WX (between classes)  X'(I - W)X (within)      class means (GMLDA)
``mfa``    X'L_between X           X'L_within X             class means (GMMFA)
``pls``    no eigenproblem: PLS regression of the image on the text
=========  ======================  =======================  ==================

W averages over a class; L_within and L_between are the Laplacians of marginal Fisher analysis: near neighbours
of one class, and the closest pairs of different ones. X (n, d_image), Y (n, d_text) map to (n, dim).

The unsupervised variants follow the authors' code as its baseline driver calls it: features neither centred nor
scaled; alpha of 500 for ``blm`` and 10 else; the ridge of ``cca`` added twice; ``pls`` learns on centred columns
divided by the root of their standard deviation, and is applied to the raw ones. ``lda`` and ``mfa`` follow its
read-me: centred, PCA to 95% of the energy, gamma = tr(B_x) / tr(B_y). An item with several labels belongs in
equal parts to each of its classes; items that share any label are no between-class pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.cross_decomposition import PLSRegression

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.cca import ridged
from cmrkit.methods.parts.eigen import coupled, require_directions, top_eigenvectors, uncoupled
from cmrkit.methods.parts.fisher import between_class_scatter, class_averaging, within_class_scatter

_DRIVER_DIM = 15
_DRIVER_ALPHA = {"blm": 500.0}


def principal_axes(X: np.ndarray, energy: float) -> np.ndarray:
    """Return the fewest principal axes (d, r) that hold a fraction ``energy`` of the variance of centred X."""
    _, singular, axes = np.linalg.svd(X, full_matrices=False)
    held = np.cumsum(np.square(singular))
    return axes[: np.searchsorted(held, energy * held[-1]) + 1].T


def pls_bases(X: np.ndarray, Y: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bases (d_x, dim), (d_y, dim) of PLS regression from X to Y: unit-norm rotations and Y's loadings."""
    X, Y = (V - V.mean(axis=0) for V in (X, Y))
    X, Y = (V / np.sqrt(np.where(V.std(axis=0) > 0, V.std(axis=0), 1)) for V in (X, Y))
    rank = int(np.linalg.matrix_rank(X, rtol=1e-8))
    require_directions(dim, rank, f"the text's rank {rank}")
    R = PLSRegression(n_components=dim, scale=False, tol=1e-12, max_iter=5000).fit(X, Y).x_rotations_
    R = R / np.linalg.norm(R, axis=0)
    T = X @ R
    return R, (Y.T @ T) / np.square(T).sum(axis=0)


@dataclass(kw_only=True)
class GMA(Embedder):
    """GMA and its special cases. ``dim`` and ``alpha`` of None are the authors' driver's, by variant.

    ``dim`` is then 15, cut to the smaller view's features (classes - 1 for ``lda`` and ``mfa``). ``neighbours``
    and ``margin_pairs`` shape the graphs of ``mfa``; ``energy`` is what PCA keeps for it and ``lda``.
    """

    space: ClassVar[str] = "cosine"

    variant: Literal["blm", "cca", "pls", "lda", "mfa"]
    dim: int | None = None
    alpha: float | None = None
    ridge: float = 0.01
    energy: float = 0.95
    neighbours: int = 50
    margin_pairs: int = 200

    def fit(self, train: Pairs) -> GMA:
        """Learn both projections. Raises UsageError where labels, or ``dim`` directions, are missing."""
        X, Y = train.image, train.text
        self.image_mean_, self.text_mean_ = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
        if self.variant == "pls":
            # The authors' driver puts the text first, as the regression's input.
            self.text_projection_, self.image_projection_ = pls_bases(Y, X, self._dim(X, Y))
        elif self.variant in ("blm", "cca"):
            keep, suppress = (X.T @ X, Y.T @ Y), (None if self.variant == "blm" else (X.T @ X, Y.T @ Y))
            V = self._solve(keep, suppress, X.T @ Y, 2 * self.ridge, self._dim(X, Y))
            self.image_projection_, self.text_projection_ = V[: X.shape[1]], V[X.shape[1] :]
        else:
            self._fit_supervised(X, Y, self.require_labels(train))
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of image features (n, d_image)."""
        return (x - self.image_mean_) @ self.image_projection_

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of text features (n, d_text)."""
        return (y - self.text_mean_) @ self.text_projection_

    def _dim(self, X: np.ndarray, Y: np.ndarray) -> int:
        if self.dim is not None:
            return self.dim
        return _DRIVER_DIM if self.variant == "blm" else min(_DRIVER_DIM, X.shape[1], Y.shape[1])

    def _fit_supervised(self, X: np.ndarray, Y: np.ndarray, L: np.ndarray) -> None:
        L = L[:, L.any(axis=0)]
        if not L.any(axis=1).all():
            raise UsageError(f"GMA {self.variant} needs a label on every training item")
        self.image_mean_, self.text_mean_ = X.mean(axis=0), Y.mean(axis=0)
        X, Y = X - self.image_mean_, Y - self.text_mean_
        P, Q = principal_axes(X, self.energy), principal_axes(Y, self.energy)
        X, Y = X @ P, Y @ Q
        (Ax, Bx), (Ay, By) = self._scatters(X, L), self._scatters(Y, L)
        gamma = np.trace(Bx) / np.trace(By)
        share = L / L.sum(axis=1, keepdims=True)
        Zx, Zy = (share.T @ V / share.sum(axis=0)[:, None] for V in (X, Y))
        dim = self.dim if self.dim is not None else min(L.shape[1] - 1, X.shape[1], Y.shape[1])
        V = self._solve((Ax, Ay), (Bx, gamma * By), Zx.T @ Zy, self.ridge, dim)
        self.image_projection_, self.text_projection_ = P @ V[: P.shape[1]], Q @ V[P.shape[1] :]

    def _scatters(self, X: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.variant == "lda":
            kept = class_averaging(X, L)
            return kept, X.T @ X - kept
        return between_class_scatter(X, L, self.margin_pairs), within_class_scatter(X, L, self.neighbours)

    def _solve(self, keep: tuple, suppress: tuple | None, aligned: np.ndarray, ridge: float, dim: int) -> np.ndarray:
        """Return the ``dim`` leading eigenvectors (d_image + d_text, dim) of equation 7."""
        alpha = self.alpha if self.alpha is not None else _DRIVER_ALPHA.get(self.variant, 10.0)
        B = None if suppress is None else ridged(uncoupled(*suppress), ridge)
        return top_eigenvectors(coupled(keep[0], alpha * aligned, keep[1]), B, dim)[1]
