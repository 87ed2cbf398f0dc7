"""CMFH: Collective Matrix Factorization Hashing for Multimodal Data (Ding, Guo, Zhou; CVPR 2014).

With features X_v (n, d_v) of the two modalities, weights a_v, one latent Y (n, bits) shared by both, bases
U_v (bits, d_v) and projections W_v (d_v, bits), minimise by turns, each step in closed form,

    sum_v a_v ( ||X_v - Y U_v||^2 + mu ||Y - X_v W_v||^2 + gamma (||U_v||^2 + ||W_v||^2 + ||Y||^2) ).

A new item of one modality gets the signs of x W_v. A training pair, of which both modalities are known, gets
the signs of its Y less the training mean. Features are to be centred.

``projection`` says how W_v is computed. ``"ridge"`` is the minimiser, mu (mu X'X + gamma I)^-1 X'Y. The public
code's operator precedence makes it (mu (mu X'X + gamma I))^-1 X'Y instead, smaller by the factor mu^2
(``"shipped"``): its sign is the same, but in the Y step the projections then hardly count, so that
Y is in effect a factorisation of the features under a heavy penalty on its norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg

from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.linear import ridge


@dataclass(kw_only=True)
class Cmfh(Embedder):
    """CMFH. ``weights`` are a_image and a_text."""

    space: ClassVar[str] = "hamming"

    bits: int
    weights: tuple[float, float] = (0.5, 0.5)
    mu: float = 100.0
    gamma: float = 0.01
    iterations: int = 25
    projection: Literal["ridge", "shipped"] = "ridge"

    def fit(self, train: Pairs) -> Cmfh:
        """Alternate the three steps; leaves the pairs' codes and the projections (d_v, bits)."""
        rng = np.random.default_rng(self.seed)
        views = (train.image, train.text)
        Y = rng.random((len(train), self.bits))
        W = [rng.random((X.shape[1], self.bits)) for X in views]
        for _ in range(self.iterations):
            U = [ridge(Y, X, self.gamma) for X in views]
            Y = self.shared_latent(views, U, W)
            W = [self.project(X, Y) for X in views]
        self.image_hash_, self.text_hash_ = W
        self.image_codes_ = self.text_codes_ = _codes(self.shared_latent(views, U, W) - Y.mean(axis=0))
        return self

    def shared_latent(self, views: tuple, U: list[np.ndarray], W: list[np.ndarray]) -> np.ndarray:
        """Return the Y (n, bits) that minimises the objective for given bases and projections."""
        target = sum(a * X @ (u.T + self.mu * w) for a, X, u, w in zip(self.weights, views, U, W, strict=True))
        identity = (self.mu + self.gamma) * np.eye(self.bits)
        gram = sum(a * (u @ u.T + identity) for a, u in zip(self.weights, U, strict=True))
        return linalg.solve(gram, target.T, assume_a="pos").T

    def project(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Return the projection (d, bits) of X onto Y."""
        W = ridge(X, Y, self.gamma / self.mu)
        return W / self.mu**2 if self.projection == "shipped" else W

    def objective(self, views: tuple, Y: np.ndarray, U: list[np.ndarray], W: list[np.ndarray]) -> float:
        """Return what the three steps minimise."""
        total = 0.0
        for a, X, u, w in zip(self.weights, views, U, W, strict=True):
            fit = np.square(X - Y @ u).sum() + self.mu * np.square(Y - X @ w).sum()
            total += a * (fit + self.gamma * sum(np.square(m).sum() for m in (u, w, Y)))
        return total

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return _codes(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return _codes(y @ self.text_hash_)


def _codes(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 1, -1).astype(np.int8)
