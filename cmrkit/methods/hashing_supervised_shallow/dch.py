"""DCH: Learning Discriminative Binary Codes for Large-scale Cross-modal Retrieval (Xu, Shen, Yang, Shen, Li; TIP 2017).

Codes B (n, r), shared by both modalities, should predict the labels Y (n, c) linearly, and be predicted
linearly by the image features X and the text features T:

    min ||Y - B W||^2 + label_ridge ||W||^2 + nu (||B - X P_x||^2 + ||B - T P_t||^2)
    subject to B in {-1, 1}; P_x and P_t are ridge regressions of B.

W, P_x and P_t have closed forms. The paper takes B bit by bit (``code_step="dcc"``: discrete cyclic coordinate
descent). The published code, whose numbers this follows, instead takes the sign of the unconstrained minimiser
(``code_step="relaxed"``, with a ridge on B) and has nu = 0: its B then depends on the labels alone, so that
items of equal labels get equal codes, and the hash functions are fitted to B but never shape it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.dcc import cyclic_descent
from cmrkit.methods.parts.linear import ridge


@dataclass(kw_only=True)
class Dch(Embedder):
    """DCH. ``ridge`` is that of the hash functions and, in the relaxed code step, of the codes."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    code_step: Literal["relaxed", "dcc"] = "relaxed"
    iterations: int = 5
    label_ridge: float = 1.0
    ridge: float = 0.01
    nu: float = 0.0

    def fit(self, train: Pairs) -> Dch:
        """Learn codes (n, bits) shared by both modalities, and one linear hash function for each."""
        Y = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        B = np.where(rng.standard_normal((len(train), self.bits)) > 0, 1.0, -1.0)
        for _ in range(self.iterations):
            W = ridge(B, Y, self.label_ridge)
            B = self.update_codes(B, W, Y, self._predicted_codes(train, B) if self.nu else 0.0)
        self.image_codes_ = self.text_codes_ = sign(B)
        self.image_hash_ = ridge(train.image, B, self.ridge)
        self.text_hash_ = ridge(train.text, B, self.ridge)
        return self

    def update_codes(self, B: np.ndarray, W: np.ndarray, Y: np.ndarray, F: np.ndarray | float) -> np.ndarray:
        """Return the next codes (n, r) from W (r, c), the labels (n, c) and F = X P_x + T P_t (n, r)."""
        A, Q = W @ W.T, Y @ W.T + self.nu * F
        if self.code_step == "dcc":
            return cyclic_descent(B, A, Q)
        A = A + (self.ridge + 2 * self.nu) * np.eye(self.bits)
        return np.where(np.linalg.solve(A, Q.T).T >= 0, 1.0, -1.0)

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_)

    def _predicted_codes(self, train: Pairs, B: np.ndarray) -> np.ndarray:
        return sum(x @ ridge(x, B, self.ridge) for x in (train.image, train.text))
