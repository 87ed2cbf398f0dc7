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
scaled; the ridge of ``cca`` added twice; ``pls`` learns on centred columns divided by the root of their standard
deviation, and is applied to the raw ones. ``lda`` and ``mfa`` follow its read-me: centred, PCA to 95% of the
energy, gamma = tr(B_text) / tr(B_image), the ridge added after gamma. An item with several labels belongs in equal
parts to each of its classes; items that share any label are no between-class pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.cca import centred_rank, ridged
from cmrkit.methods.parts.eigen import coupled, require_directions, top_eigenvectors, uncoupled
from cmrkit.methods.parts.fisher import (
    between_class_means,
    between_class_pairs,
    class_means,
    within_class_neighbours,
)

FACTORS = 15  # of the authors' baseline driver
ALPHA = {"blm": 500.0, "cca": 10.0, "lda": 1e4, "mfa": 100.0}  # the driver's; lda and mfa by held-out training pairs


def principal_axes(X: np.ndarray, energy: float) -> np.ndarray:
    """Return the fewest principal axes (d, r) that hold a fraction ``energy`` of the variance of centred X."""
    _, singular, axes = np.linalg.svd(X, full_matrices=False)
    held = np.cumsum(np.square(singular))
    return axes[: np.searchsorted(held, energy * held[-1]) + 1].T


def pls_bases(X: np.ndarray, Y: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bases (d_x, dim), (d_y, dim) of PLS regression from X to Y: unit-norm rotations and Y's loadings.

    Works on the moments X'X and X'Y alone, whose cost does not grow with n; ``dim`` is at most the views' rank.
    """
    X, Y = (V - V.mean(axis=0) for V in (X, Y))
    X, Y = (V / np.sqrt(np.where(V.std(axis=0) > 0, V.std(axis=0), 1)) for V in (X, Y))
    S, C = X.T @ X, X.T @ Y
    R, P, Q = np.zeros((len(S), dim)), np.zeros((len(S), dim)), np.zeros((C.shape[1], dim))
    for k in range(dim):
        w = np.linalg.svd(C, full_matrices=False)[0][:, 0]
        r = w - R @ (P.T @ w)
        R[:, k] = r / np.linalg.norm(r)
        energy = R[:, k] @ S @ R[:, k]
        P[:, k], Q[:, k] = S @ R[:, k] / energy, C.T @ R[:, k] / energy
        C = C - energy * np.outer(P[:, k], Q[:, k])
    return R, Q


@dataclass(kw_only=True)
class GMA(Embedder):
    """GMA and its special cases. ``dim`` and ``alpha`` of None stand for the variant's own.

    For ``dim`` that is 15 cut to the smaller view's features for ``cca`` and to the views' ranks for ``pls``, and
    classes - 1 cut to the principal axes for ``lda`` and ``mfa``; for ``alpha`` see ``ALPHA``. ``neighbours`` and
    ``margin_pairs`` shape the graphs of ``mfa``; ``energy`` is what PCA keeps for it and ``lda``.
    """

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True  # in its own variants, lda and mfa

    variant: Literal["lda", "mfa", "blm", "cca", "pls"]
    dim: int | None = None
    alpha: float | None = None
    ridge: float = 0.01
    energy: float = 0.95
    neighbours: int = 50
    margin_pairs: int = 200

    def fit(self, train: Pairs) -> GMA:
        """Learn both projections. Raises UsageError where labels, or ``dim`` directions, are missing."""
        X, Y = train.image, train.text
        if self.variant in ("lda", "mfa"):
            self._fit_supervised(X, Y, self.require_labels(train))
            return self
        self.image_mean_, self.text_mean_ = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
        if self.variant == "pls":
            self._fit_pls(X, Y)
        else:
            moments = X.T @ X, Y.T @ Y
            suppress = None if self.variant == "blm" else ridged(uncoupled(*moments), 2 * self.ridge)
            dim = FACTORS if self.variant == "blm" else min(FACTORS, X.shape[1], Y.shape[1])
            V = self._solve(moments, suppress, X.T @ Y, dim)
            self.image_projection_, self.text_projection_ = V[: X.shape[1]], V[X.shape[1] :]
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of image features (n, d_image)."""
        return (x - self.image_mean_) @ self.image_projection_

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Return the projections (n, dim) of text features (n, d_text)."""
        return (y - self.text_mean_) @ self.text_projection_

    def _fit_pls(self, X: np.ndarray, Y: np.ndarray) -> None:
        rank = min(centred_rank(X), centred_rank(Y))
        dim = self.dim if self.dim is not None else min(FACTORS, rank)
        require_directions(dim, rank, "the image and text features' ranks")
        # The authors' driver puts the text first, as the regression's input.
        self.text_projection_, self.image_projection_ = pls_bases(Y, X, dim)

    def _fit_supervised(self, X: np.ndarray, Y: np.ndarray, L: np.ndarray) -> None:
        L = L[:, L.any(axis=0)]
        if not L.any(axis=1).all():
            raise UsageError(f"GMA {self.variant} needs a label on every training item")
        self.image_mean_, self.text_mean_ = X.mean(axis=0), Y.mean(axis=0)
        X, Y = X - self.image_mean_, Y - self.text_mean_
        P, Q = principal_axes(X, self.energy), principal_axes(Y, self.energy)
        X, Y = X @ P, Y @ Q
        (Ax, Bx), (Ay, By) = self._scatters(X, L), self._scatters(Y, L)
        Bx = Bx * (np.trace(By) / np.trace(Bx))
        Zx, Zy = class_means(X, L), class_means(Y, L)
        dim = min(L.shape[1] - 1, X.shape[1], Y.shape[1])
        V = self._solve((Ax, Ay), ridged(uncoupled(Bx, By), self.ridge), Zx.T @ Zy, dim)
        self.image_projection_, self.text_projection_ = P @ V[: P.shape[1]], Q @ V[P.shape[1] :]

    def _scatters(self, X: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the variant keeps and what it suppresses, both (d, d)."""
        if self.variant == "lda":
            kept = between_class_means(X, L)
            return kept, X.T @ X - kept
        return between_class_pairs(X, L, self.margin_pairs), within_class_neighbours(X, L, self.neighbours)

    def _solve(
        self, keep: tuple[np.ndarray, np.ndarray], suppress: np.ndarray | None, aligned: np.ndarray, dim: int
    ) -> np.ndarray:
        """Return the leading eigenvectors (d_image + d_text, dim) of equation 7; ``dim`` where none is set."""
        alpha = self.alpha if self.alpha is not None else ALPHA[self.variant]
        dim = self.dim if self.dim is not None else dim
        return top_eigenvectors(coupled(keep[0], alpha * aligned, keep[1]), suppress, dim)[1]
