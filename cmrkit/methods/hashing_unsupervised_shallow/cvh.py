"""CVH: Learning Hash Functions for Cross-View Similarity Search (Kumar, Udupa; IJCAI 2011).

For paired data and two views the paper's eigenproblem is that of canonical correlation analysis. With features
X (n, d_image), Y (n, d_text) and Cxx = X'X + ridge I, Cyy = Y'Y + ridge I, Cxy = X'Y, the image directions W
are the ``bits`` solutions with the largest s of

    Cxy M Cxy' w = s Cxx w,

the text directions are Cyy^-1 Cxy' w, and a bit is set where the projection is positive (nothing is centred).
The paper has M = Cyy^-1 (``text_metric="inverse"``). The public code, from which the field took its numbers,
has M = Cyy (``"plain"``), which favours directions of large text variance.

Cxy has rank at most min(d_image, d_text). Beyond it s = 0, and in the public code rounding errors decide the
remaining bits: the computed matrix is not quite symmetric, its spurious eigenvectors come in complex pairs
of which the real part is kept, so that most such bits occur twice. They are noise and cost accuracy, but the
published numbers contain them. Here that rounding is explicit and seeded: each entry of the matrix is
perturbed by the relative ``jitter``, small enough to leave the true directions alone, large enough
for the outcome not to depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs


@dataclass(kw_only=True)
class Cvh(Embedder):
    """CVH. ``text_metric`` chooses between the paper's eigenproblem and the public code's."""

    space: ClassVar[str] = "hamming"

    bits: int
    ridge: float = 1e-4
    text_metric: Literal["inverse", "plain"] = "inverse"
    jitter: float = 1e-12

    def fit(self, train: Pairs) -> Cvh:
        """Learn the directions ``image_hash_`` (d_image, bits) and ``text_hash_`` (d_text, bits).

        Raises UsageError where ``bits`` exceeds the image features, of which the eigenvectors are combinations.
        """
        X, Y = train.image, train.text
        if self.bits > X.shape[1]:
            raise UsageError(f"CVH finds at most one bit per image feature: {self.bits} bits, {X.shape[1]} features")
        Cxx = X.T @ X + self.ridge * np.eye(X.shape[1])
        Cyy = Y.T @ Y + self.ridge * np.eye(Y.shape[1])
        Cxy = X.T @ Y
        A = Cxy @ (linalg.inv(Cyy) if self.text_metric == "inverse" else Cyy) @ Cxy.T
        A *= 1 + self.jitter * np.random.default_rng(self.seed).standard_normal(A.shape)
        s, W = linalg.eig(A, Cxx)
        self.image_hash_ = W[:, np.argsort(-s.real, kind="stable")[: self.bits]].real
        self.text_hash_ = linalg.solve(Cyy, Cxy.T @ self.image_hash_, assume_a="pos")
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return np.where(x @ self.image_hash_ > 0, 1, -1).astype(np.int8)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return np.where(y @ self.text_hash_ > 0, 1, -1).astype(np.int8)
