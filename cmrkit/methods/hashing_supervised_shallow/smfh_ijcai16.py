"""SMFH: Supervised Matrix Factorization for Cross-Modality Hashing (Liu, Ji, Wu, Hua; IJCAI 2016).

Not to be confused with the SMFH of Tang et al., TIP 2016. Non-negative features X_v (n, d_v) of image and text share
one non-negative latent V (n, r) with unit columns, smooth on the graph of common labels, which each modality's
hash function P_v (d_v, r) predicts:

    min sum_v lambda_v ||X_v - V U_v'||^2 + alpha tr(V' L V) + mu sum_v ||V - X_v P_v||^2
        + orthogonality ||V'V - I||^2 + gamma sum_v ||P_v||^2,   lambda_text = 1 - lambda_image

U and V move by multiplicative updates, P by ridge regression with a manifold term. Every iteration sees the graph of
a random sample of items only. Codes are the signs of V (and of X_v P_v) about the mean of V.

Followed from the authors' code: the graph's weight and the manifold weight are scaled by samples^-0.1; the negative
part of X_v P_v is left in the numerator, so V can turn slightly negative; normalising V by columns rescales the
image factor only; training stops (after the fifth iteration) when its criterion, a sum of unsquared norms, falls by
less than ``tolerance``, when the graph term is below ``graph_floor`` or after ``iterations``, and keeps the iterate
before the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs, sign


def sampled_laplacian(X: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Return X' (I - D^-1/2 G G' D^-1/2) X (d, d), D the degrees of G G'; items of degree zero drop out."""
    degrees = G @ G.sum(axis=0)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0.0)
    kept, F = X[degrees > 0], (G * scale[:, None]).T @ X
    return kept.T @ kept - F.T @ F


def graph_term(V: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Return V' (D - G G') V (r, r) for the sampled rows of V (m, r) and G (m, c)."""
    F = G.T @ V
    return V.T @ ((G @ G.sum(axis=0))[:, None] * V) - F.T @ F


@dataclass(kw_only=True)
class SmfhIjcai16(Embedder):
    """SMFH. ``samples`` items make the graph of one iteration; ``manifold`` is its weight in the hash functions."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    lambda_image: float = 0.5
    mu: float = 40.0
    alpha: float = 2.0
    gamma: float = 1e-4
    orthogonality: float = 1e-4
    manifold: float = 1e-3
    samples: int = 1000
    iterations: int = 50
    tolerance: float = 0.1
    graph_floor: float = 100.0

    def fit(self, train: Pairs) -> SmfhIjcai16:
        """Learn codes (n, bits) shared by both modalities, and linear hash functions.

        Raises UsageError where a feature is negative: multiplicative updates cannot serve it.
        """
        L = self.require_labels(train)
        for name, x in (("image", train.image), ("text", train.text)):
            if x.min() < 0:
                raise UsageError(
                    f"SMFH (IJCAI 2016) needs non-negative features, but some {name} features are negative"
                )
        G = L / np.maximum(np.linalg.norm(L, axis=1, keepdims=True), 1e-8)
        V, P = self.factorise((train.image, train.text), G, np.random.default_rng(self.seed))
        self.offset_ = V.mean(axis=0)
        self.image_codes_ = self.text_codes_ = sign(V - self.offset_)
        self.image_hash_, self.text_hash_ = P
        return self

    def factorise(
        self, views: tuple[np.ndarray, np.ndarray], G: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Iterate from a random start over unit label rows G (n, c); returns V (n, r) and both P (d_v, r)."""
        n, r, weights = len(G), self.bits, (self.lambda_image, 1 - self.lambda_image)
        P = [rng.random((X.shape[1], r)) for X in views]
        U = [rng.random((X.shape[1], r)) for X in views]
        V = rng.random((n, r))
        U[0], V = unit_columns(U[0], V)
        grams = [X.T @ X + self.gamma * np.eye(X.shape[1]) for X in views]
        samples = min(self.samples, n)
        strength = samples**-0.1
        previous, iteration, kept = 1e8, 0, (V, P)
        while True:
            iteration += 1
            rows = rng.permutation(n)[:samples]
            V = self.update_latent(views, weights, U, V, P, G[rows], rows)
            VV = V.T @ V
            U = [u * (X.T @ V) / np.maximum(u @ VV, 1e-10) for X, u in zip(views, U, strict=True)]
            U[0], V = unit_columns(U[0], V)
            P = [
                np.linalg.solve(gram + self.manifold * strength * sampled_laplacian(X[rows], G[rows]), X.T @ V)
                for X, gram in zip(views, grams, strict=True)
            ]
            graph = np.linalg.norm(graph_term(V[rows], G[rows]))
            criterion = self.alpha * graph + sum(
                a * np.linalg.norm(X - V @ u.T) + self.mu * np.linalg.norm(V - X @ p) + self.gamma * np.linalg.norm(p)
                for X, a, u, p in zip(views, weights, U, P, strict=True)
            )
            done = previous - criterion < self.tolerance or iteration > self.iterations or graph < self.graph_floor
            if done and iteration > 5:
                return kept
            previous, kept = criterion, (V, P)

    def update_latent(
        self,
        views: tuple[np.ndarray, np.ndarray],
        weights: tuple[float, float],
        U: list[np.ndarray],
        V: np.ndarray,
        P: list[np.ndarray],
        G: np.ndarray,
        rows: np.ndarray,
    ) -> np.ndarray:
        """Return V (n, r) after one multiplicative update, with the graph of the sampled ``rows`` and labels G."""
        up = 4 * self.orthogonality * V
        down = 4 * self.orthogonality * V @ (V.T @ V) + 2 * self.mu * V
        for X, a, u, p in zip(views, weights, U, P, strict=True):
            up += X @ (a * u + self.mu * p)
            down += a * V @ (u.T @ u)
        strength = self.alpha * len(rows) ** -0.1
        up[rows] += strength * G @ (G.T @ V[rows])
        down[rows] += strength * (G @ G.sum(axis=0))[:, None] * V[rows]
        return V * up / np.maximum(down, 1e-10)

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_ - self.offset_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_ - self.offset_)


def unit_columns(U: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale the columns of V (n, r) to unit length and those of U (d, r) by what V lost."""
    norms = np.maximum(np.linalg.norm(V, axis=0), 1e-15)
    return U * norms, V / norms
