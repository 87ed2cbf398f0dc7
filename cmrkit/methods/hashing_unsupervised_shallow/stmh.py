"""STMH: Semantic Topic Multimodal Hashing for Cross-Media Retrieval (Wang, Gao, Wang, He; IJCAI 2015).

Each text t_i belongs to exactly m of the ``bits`` topics f_j; its indicator row in G (n, bits) is its code. Images
x_i are factorised robustly into H (n, bits) and a basis F (d_image, bits), and R (bits, bits) maps H to G:

    min  a sum_i ||x_i - F h_i||_2 + (1 - a) sum_i sum_{j: G_ij = 1} ||t_i - f_j||^2
         + mu ||G - H R||^2 + gamma (||R||^2 + ||H||^2 + ||F||^2 + ||topics||^2),    m = round(bits / 2),

by turns and with D = diag(a / (2 ||x_i - F h_i||)) for the robust term. A new text gets the bits of its m nearest
topics, a new image those where its mapped factor h R is no less than the median of the bits. Every text code
has m bits set, so Hamming distances are heavily tied.

Followed from the authors' code: the topics are the least-squares factors of the texts, T ~ topics G', with the
penalty gamma / a, although the objective above asks for the mean of each topic's texts; the image factor of a
new item ignores R and the robust weights; training stops early once the objective changes by less than
``tolerance``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import linalg

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import squared_distances
from cmrkit.methods.parts.linear import ridge


def mark_smallest(cost: np.ndarray, count: int) -> np.ndarray:
    """Return a 0/1 matrix (n, bits) that marks the ``count`` smallest entries of each row of ``cost``."""
    marks = np.zeros_like(cost)
    np.put_along_axis(marks, np.argsort(cost, axis=1, kind="stable")[:, :count], 1, axis=1)
    return marks


def solve_weighted(left: np.ndarray, weights: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return rows ``left_i (weights_i A + B)^-1`` (n, r) for symmetric A (r, r) and positive definite B (r, r)."""
    values, V = linalg.eigh(A, B)
    return (left @ V) / (weights[:, None] * values + 1) @ V.T


@dataclass(kw_only=True)
class Stmh(Embedder):
    """STMH. ``image_weight`` is a above, ``mu`` couples the modalities."""

    space: ClassVar[str] = "hamming"

    bits: int
    image_weight: float = 0.5
    mu: float = 1e-6
    gamma: float = 1e-6
    iterations: int = 5
    tolerance: float = 0.01

    def fit(self, train: Pairs) -> Stmh:
        """Learn topics and image factors; the training pairs' codes are the texts' topic indicators."""
        X, T, r = train.image, train.text, self.bits
        rng = np.random.default_rng(self.seed)
        H = rng.standard_normal((len(X), r))
        G = mark_smallest(rng.random((len(X), r)), self._active)
        D = np.ones(len(X))
        a, previous = self.image_weight, np.inf
        for _ in range(self.iterations):
            root = np.sqrt(D)[:, None]
            F = ridge(root * H, root * X, self.gamma / a)
            topics = ridge(G, T, self.gamma / a)
            R = ridge(H, G, self.gamma / self.mu)
            left = a * D[:, None] * (X @ F.T) + self.mu * G @ R.T
            H = solve_weighted(left, D, a * F @ F.T, self.mu * R @ R.T + self.gamma * np.eye(r))
            distances = squared_distances(T, topics)
            G = mark_smallest((1 - a) * distances - 2 * self.mu * H @ R, self._active)
            error = np.sqrt(np.square(X - H @ F).sum(axis=1) + np.finfo(float).eps)
            D = a / (2 * error)
            objective = a * error.sum() + (1 - a) * (G * distances).sum() + self.mu * np.square(G - H @ R).sum()
            objective += self.gamma * sum(np.square(m).sum() for m in (R, H, F, topics))
            if abs(previous - objective) < self.tolerance:
                break
            previous = objective
        self.image_codes_ = self.text_codes_ = (2 * G - 1).astype(np.int8)
        self.topics_ = topics
        self.image_hash_ = linalg.solve(F @ F.T + self.gamma / a * np.eye(r), F, assume_a="pos").T @ R
        return self

    @property
    def _active(self) -> int:
        return (self.bits + 1) // 2

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        mapped = x @ self.image_hash_
        return sign(mapped - np.median(mapped, axis=1, keepdims=True))

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return (2 * mark_smallest(squared_distances(y, self.topics_), self._active) - 1).astype(np.int8)
