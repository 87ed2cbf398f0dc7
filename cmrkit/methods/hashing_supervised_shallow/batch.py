"""BATCH: A Scalable Asymmetric Discrete Cross-Modal Hashing (Wang, Luo, Nie, Song, Zhang, Xu; TKDE 2020).

With kernel features X, Y (n, m), labels L (n, c), G = L with unit rows, a real latent V (n, r) and the
codes B, minimise

    ||r G G' - V B'||^2 + omega ||B - V||^2
        + eta_image ||X - V U_x||^2 + eta_text ||Y - V U_y||^2 + eta_label ||L - V U_l||^2
    subject to B in {-1, 1}, V'V = n I, V'1 = 0.

The asymmetric product V B' stands for the label similarity r G G', which is never formed: all work is linear
in n. Each of the three steps (U, V, B) has a closed form; the hash functions are ridge regressions from
kernel features to B. Both modalities share B, which is the database's code.

Followed from the authors' code: a ridge of 1e-3 in the U step (where V'V = n I would make the inverse 1/n);
G G' is not shifted to [-1, 1]; latent directions missing from Z are filled with random ones that are not made
orthogonal to the others. The kernel's width is twice the mean squared distance between training rows and
anchors, and its features are centred by their training mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import mean_squared_distance, random_anchors, rbf_features
from cmrkit.methods.parts.balanced import balanced_latent
from cmrkit.methods.parts.linear import ridge


@dataclass(kw_only=True)
class Batch(Embedder):
    """BATCH. ``anchors`` counts those of the image and the text kernel; ``ridge`` is the hash functions'."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    anchors: tuple[int, int] = (500, 1000)
    iterations: int = 6
    eta_image: float = 0.05
    eta_text: float = 0.05
    eta_label: float = 0.9
    omega: float = 0.01
    ridge: float = 0.01

    def fit(self, train: Pairs) -> Batch:
        """Learn codes (n, bits) shared by both modalities, then their hash functions."""
        L = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        self.image_anchors_ = random_anchors(train.image, self.anchors[0], rng)
        self.text_anchors_ = random_anchors(train.text, self.anchors[1], rng)
        self.image_width_ = 2 * mean_squared_distance(train.image, self.image_anchors_)
        self.text_width_ = 2 * mean_squared_distance(train.text, self.text_anchors_)
        X = rbf_features(train.image, self.image_anchors_, self.image_width_)
        Y = rbf_features(train.text, self.text_anchors_, self.text_width_)
        self.image_mean_, self.text_mean_ = X.mean(axis=0), Y.mean(axis=0)
        X -= self.image_mean_
        Y -= self.text_mean_

        B = self.learn_codes(X, Y, L, rng)
        self.image_codes_ = self.text_codes_ = sign(B)
        self.image_hash_ = ridge(X, B, self.ridge)
        self.text_hash_ = ridge(Y, B, self.ridge)
        return self

    def learn_codes(self, X: np.ndarray, Y: np.ndarray, L: np.ndarray, rng) -> np.ndarray:
        """Alternate the U, V and B steps from a random start; returns B (n, bits) of -1 and +1."""
        n, r = len(L), self.bits
        G = L / np.maximum(np.linalg.norm(L, axis=1, keepdims=True), 1e-7)
        weighted = ((X, self.eta_image), (Y, self.eta_text), (L, self.eta_label))
        B = np.where(rng.standard_normal((n, r)) > 0, 1.0, -1.0)
        V = rng.standard_normal((n, r))
        for _ in range(self.iterations):
            inverse = np.linalg.inv(V.T @ V + 1e-3 * np.eye(r))
            Z = r * G @ (G.T @ B) + self.omega * B
            for view, eta in weighted:
                U = inverse @ (V.T @ view)
                Z += eta * view @ U.T
            V = balanced_latent(Z, rng)
            B = np.where(r * G @ (G.T @ V) + self.omega * V > 0, 1.0, -1.0)
        return B

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        K = rbf_features(x, self.image_anchors_, self.image_width_) - self.image_mean_
        return sign(K @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        K = rbf_features(y, self.text_anchors_, self.text_width_) - self.text_mean_
        return sign(K @ self.text_hash_)
