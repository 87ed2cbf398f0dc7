"""SCRATCH: A Scalable Discrete Matrix Factorization Hashing for Cross-Modal Retrieval (Li et al.; ACM MM 2018).

Kernel features K_v (n, m) of image and text and the labels L (n, c) share one real latent V (n, r), and the
codes B are a rotation of it:

    min sum_v lambda_v ||K_v - V U_v||^2 + alpha ||L - V G||^2 + mu sum_v ||V - K_v W_v||^2
        + ||B - V R||^2 + gamma (||U||^2 + ||G||^2 + ||W||^2 + ||V||^2)
    subject to B in {-1, 1}, R orthogonal (r, r); lambda_text = 1 - lambda_image.

All steps (B, then U and G, W, V, R) have closed forms, and cost is linear in n. An item is hashed by
sign(k(x) W R). Followed from the authors' code: 500 random anchors per modality, a kernel width of twice the
mean squared distance, 20 iterations (the paper: 15); training ends with V and R renewed after B and W, so that
the learned codes are those of the previous V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import mean_squared_distance, random_anchors, rbf_features


def factor(V: np.ndarray, X: np.ndarray, weight: float, gamma: float) -> np.ndarray:
    """Return the U (r, d) that minimises weight ||X - V U||^2 + gamma ||U||^2."""
    return np.linalg.solve(weight * V.T @ V + gamma * np.eye(V.shape[1]), weight * V.T @ X)


@dataclass(kw_only=True)
class Scratch(Embedder):
    """SCRATCH. ``lambda_image`` weighs the two factorisations, ``alpha`` the labels, ``mu`` the hash functions."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    anchors: int = 500
    iterations: int = 20
    lambda_image: float = 0.5
    alpha: float = 500.0
    mu: float = 1000.0
    gamma: float = 5.0

    def fit(self, train: Pairs) -> Scratch:
        """Learn codes (n, bits) shared by both modalities, and kernel hash functions."""
        L = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        self.image_anchors_ = random_anchors(train.image, self.anchors, rng)
        self.text_anchors_ = random_anchors(train.text, self.anchors, rng)
        self.image_width_ = 2 * mean_squared_distance(train.image, self.image_anchors_)
        self.text_width_ = 2 * mean_squared_distance(train.text, self.text_anchors_)
        X = rbf_features(train.image, self.image_anchors_, self.image_width_)
        Y = rbf_features(train.text, self.text_anchors_, self.text_width_)
        self.image_mean_, self.text_mean_ = X.mean(axis=0), Y.mean(axis=0)
        X -= self.image_mean_
        Y -= self.text_mean_

        B, (W_x, W_y), R = self.learn_codes(X, Y, L, rng)
        self.image_codes_ = self.text_codes_ = sign(B)
        self.image_hash_, self.text_hash_ = W_x @ R, W_y @ R
        return self

    def learn_codes(
        self, X: np.ndarray, Y: np.ndarray, L: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Alternate all steps from a random start; returns B (n, r), both W (m, r) and R (r, r)."""
        r, views = self.bits, (X, Y)
        grams = [cho_factor(self.mu * K.T @ K + self.gamma * np.eye(K.shape[1])) for K in views]
        terms = ((X, self.lambda_image), (Y, 1 - self.lambda_image), (L, self.alpha))
        V = rng.standard_normal((len(L), r))
        R = np.linalg.svd(rng.standard_normal((r, r)))[0].T
        for _ in range(self.iterations):
            B = np.where(V @ R >= 0, 1.0, -1.0)
            Ws = [cho_solve(gram, self.mu * K.T @ V) for K, gram in zip(views, grams, strict=True)]
            Z = B @ R.T + self.mu * (X @ Ws[0] + Y @ Ws[1])
            A = (1 + 2 * self.mu + self.gamma) * np.eye(r)
            for view, weight in terms:
                U = factor(V, view, weight, self.gamma)
                A += weight * U @ U.T
                Z += weight * view @ U.T
            V = np.linalg.solve(A, Z.T).T
            S1, _, S2 = np.linalg.svd(B.T @ V)
            R = (S1 @ S2).T
        return B, Ws, R

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        K = rbf_features(x, self.image_anchors_, self.image_width_) - self.image_mean_
        return sign(K @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        K = rbf_features(y, self.text_anchors_, self.text_width_) - self.text_mean_
        return sign(K @ self.text_hash_)
