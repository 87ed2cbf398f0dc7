"""FSH: Cross-Modality Binary Code Learning via Fusion Similarity Hashing (Liu, Ji, Wu, Huang, Zhang; CVPR 2017).

Item i and anchor j are similar across modalities where the neighbours of i in one modality resemble the
neighbours of j in the other. With P_v (n, m) and Q_v (m, m) the 0/1 matrices of the k nearest anchors of items
and of anchors in modality v, and K_v = exp(-distance / 2) between anchors (distance not squared),

    S_image = P_image K_image Q_text' / k^2,    S_text = P_text K_text Q_image' / k^2,
    S = eta S_image + (1 - eta) S_text.

Codes of items B (n, bits) and of anchors C (m, bits) are alternated, from random projections W_v, as
B = sign(S C + 2 lambda sum_v X_v W_v), C = sign(S'B), W_v = least squares of B on X_v, and then
eta = (p_image / (p_image + p_text))^gamma with p_v = tr(K_v - C'B S_v) and gamma = 1 / (1 - balance). New items
get sign(x W_v). The lambda of the public demo (300) makes the agreement with W_v all but fix B from the start.

Followed from the authors' re-implementation (the original was not released): eta is not normalised, so the two
weights come from p_image alone; anchors are random training pairs. Where X_v is rank deficient the
least-squares W_v of least norm is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import squared_distances


def nearest(distances: np.ndarray, count: int) -> np.ndarray:
    """Return a 0/1 matrix (n, m) that marks the ``count`` smallest entries of each row of ``distances``."""
    marks = np.zeros_like(distances)
    np.put_along_axis(marks, np.argsort(distances, axis=1, kind="stable")[:, :count], 1, axis=1)
    return marks


def fusion_similarities(
    views: tuple[np.ndarray, np.ndarray], anchors: tuple[np.ndarray, np.ndarray], neighbours: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return S_image, S_text (n, m) and K_image, K_text (m, m) for items and anchors of both modalities."""
    P = [nearest(squared_distances(X, A), neighbours) for X, A in zip(views, anchors, strict=True)]
    between = [np.sqrt(squared_distances(A, A)) for A in anchors]
    Q = [nearest(d, neighbours) for d in between]
    K = [np.exp(-d / 2) for d in between]
    return [P[0] @ K[0] @ Q[1].T / neighbours**2, P[1] @ K[1] @ Q[0].T / neighbours**2], K


@dataclass(kw_only=True)
class Fsh(Embedder):
    """FSH. ``agreement`` is the paper's lambda, ``balance`` the code's lam that sets gamma."""

    space: ClassVar[str] = "hamming"

    bits: int
    anchors: int = 50
    neighbours: int = 10
    iterations: int = 100
    agreement: float = 300.0
    balance: float = 0.5

    def fit(self, train: Pairs) -> Fsh:
        """Learn the projections ``image_hash_`` and ``text_hash_`` (d_v, bits)."""
        if not self.neighbours <= self.anchors <= len(train):
            raise UsageError(
                f"FSH needs neighbours <= anchors <= training pairs: {self.neighbours}, {self.anchors}, {len(train)}"
            )
        rng = np.random.default_rng(self.seed)
        views = (train.image, train.text)
        chosen = rng.permutation(len(train))[: self.anchors]
        S, K = fusion_similarities(views, (train.image[chosen], train.text[chosen]), self.neighbours)
        regression = [np.linalg.pinv(X) for X in views]
        W = [rng.standard_normal((X.shape[1], self.bits)) for X in views]
        C = train.text[chosen] @ W[1]
        eta, gamma = 0.5, 1 / (1 - self.balance)
        for _ in range(self.iterations):
            fused = eta * S[0] + (1 - eta) * S[1]
            predicted = sum(X @ w for X, w in zip(views, W, strict=True))
            B = np.sign(fused @ C + 2 * self.agreement * predicted)
            C = np.sign(fused.T @ B)
            W = [inverse @ B for inverse in regression]
            p = [np.trace(k) - np.einsum("ij,ij->", s @ C, B) for k, s in zip(K, S, strict=True)]
            eta = p[0] ** gamma / (p[0] + p[1]) ** gamma
        self.image_hash_, self.text_hash_ = W
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_)
