"""LEMON: Label Embedding Online Hashing for Cross-Modal Retrieval (Wang, Luo, Xu; ACM MM 2020).

Training pairs arrive in rounds (setting.chunk). With labels L (n, c), G = L with unit rows, and S = 2 G G' - 1, a round
learns a label embedding V (n, r), V'V = n I, V'1 = 0, and codes B of its pairs, in {-1, 1}, by five alternations of

    P = (V_all' V_all + gamma I)^-1 V_all' L_all                                        (labels from their embedding)
    V = sqrt(n) times the polar factor of the centred  B R' + beta L P' + alpha r S_all B_all
    R = the rotation nearest to B_all' V_all                                            (quantisation)
    B = sign(alpha r S_all V_all + V R)                                                 (similarity, kept in codes)

where S_all is the similarity of the round's pairs to all pairs so far, the round's own included, and "all" sums run
over them too. Codes of earlier rounds stay as they are and enter through sums of products only, V'V, V'L, G'B, 1'B,
B'V, G'V and 1'V, so that a round costs as much as its chunk. The hash functions are ridge regressions of all codes so
far on the features, again from sums, X'X and X'B; an item is hashed by sign(x W).

Followed from the authors' code: features are as they come, with neither kernel nor centring; V and B of a round
start at random, and so does R, which therefore is not the previous round's; the published theta plays no part. Its
pairs arrive in another order with every seed; here the order belongs to the setting, and all seeds meet the same.

Held against the official code (yxinwang/LEMON-MM2020@80989e4) under GNU Octave 7.3 on Wikipedia: two rounds from
the same starts (6 bits, alpha = beta = 1) give the same codes and hash functions equal to 2e-14; with its own
settings, whose random starts cannot be the same, mAP of 5 seeds agrees within the spread of seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.balanced import balanced_latent


@dataclass
class Sums:
    """What a stream of pairs leaves behind: products summed over all pairs so far, of the sizes named."""

    VV: np.ndarray | float = 0.0  # (r, r)
    VL: np.ndarray | float = 0.0  # (r, c)
    GB: np.ndarray | float = 0.0  # (c, r)
    B1: np.ndarray | float = 0.0  # (r,)
    BV: np.ndarray | float = 0.0  # (r, r)
    GV: np.ndarray | float = 0.0  # (c, r)
    V1: np.ndarray | float = 0.0  # (r,)

    @classmethod
    def of(cls, V: np.ndarray, B: np.ndarray, L: np.ndarray, G: np.ndarray) -> Sums:
        """Return the sums over some pairs: V and B (n, r), L and G (n, c)."""
        return cls(V.T @ V, V.T @ L, G.T @ B, B.sum(0), B.T @ V, G.T @ V, V.sum(0))

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Sums)))


@dataclass(kw_only=True)
class Lemon(Embedder):
    """LEMON. ``xi`` is the hash functions' ridge."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    iterations: int = 5
    alpha: float = 10000.0
    beta: float = 10000.0
    gamma: float = 0.1
    xi: float = 1.0

    def fit(self, train: Pairs) -> Lemon:
        """Learn from all pairs in a single round."""
        return self.fit_rounds([train])

    def fit_rounds(self, rounds: Iterable[Pairs]) -> Lemon:
        """Learn codes (n, bits) shared by both modalities, round by round, and linear hash functions."""
        rng = np.random.default_rng(self.seed)
        codes, past, grams, products = [], Sums(), [0.0, 0.0], [0.0, 0.0]
        for train in rounds:
            L = self.require_labels(train)
            G = L / np.maximum(np.linalg.norm(L, axis=1, keepdims=True), 1e-7)
            V, B = self.learn_round(L, G, past, rng)
            past += Sums.of(V, B, L, G)
            codes.append(B)
            for k, X in enumerate((train.image, train.text)):
                grams[k] = grams[k] + X.T @ X
                products[k] = products[k] + X.T @ B
        self.image_codes_ = self.text_codes_ = sign(np.concatenate(codes))
        self.image_hash_, self.text_hash_ = (
            np.linalg.solve(gram + self.xi * np.eye(len(gram)), product)
            for gram, product in zip(grams, products, strict=True)
        )
        return self

    def learn_round(
        self, L: np.ndarray, G: np.ndarray, past: Sums, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Alternate P, V, R and B on the pairs of one round; returns V and B (n, r)."""
        n, r = len(L), self.bits
        B = np.where(rng.standard_normal((n, r)) >= 0, 1.0, -1.0)
        V = rng.standard_normal((n, r))
        R = np.linalg.svd(rng.standard_normal((r, r)))[0]
        for _ in range(self.iterations):
            seen = past + Sums.of(V, B, L, G)
            P = np.linalg.solve(seen.VV + self.gamma * np.eye(r), seen.VL)
            V = balanced_latent(B @ R.T + self.beta * L @ P.T + self.alpha * r * (2 * G @ seen.GB - seen.B1), rng)
            seen = past + Sums.of(V, B, L, G)
            left, _, right = np.linalg.svd(seen.BV)
            R = (left @ right).T
            B = np.where(self.alpha * r * (2 * G @ seen.GV - seen.V1) + V @ R >= 0, 1.0, -1.0)
        return V, B

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_)
