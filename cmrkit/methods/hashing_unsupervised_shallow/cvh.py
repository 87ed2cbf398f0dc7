"""CVH: Learning Hash Functions for Cross-View Similarity Search (Kumar, Udupa; IJCAI 2011).

For paired data and two views the paper's eigenproblem is that of canonical correlation analysis. With features
X (n, d_image), Y (n, d_text) and Cxx = X'X + ridge I, Cyy = Y'Y + ridge I, Cxy = X'Y, the image directions W
are the ``bits`` leading solutions of

    Cxy M Cxy' w = s Cxx w,    w' Cxx w = 1,

the text directions are Cyy^-1 Cxy' w / sqrt(s), and a bit is 1 where the projection is positive. The paper has
M = Cyy^-1 (``text_metric="inverse"``). The public code has M = Cyy (``"plain"``), which favours directions of
large text variance; the published baseline numbers of the field come from that code.

Cxy has rank at most min(d_image, d_text), so further directions have s = 0 and no text counterpart. The public
code lets rounding errors decide them; here they are drawn from the seed, with the same distribution: an image
direction w in the null space of Cxy', a text direction Cyy^-1 g with a random g, unrelated to each other. Such
bits are noise, and cost accuracy wherever ``bits`` exceeds the rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg

from cmrkit.methods.base import Embedder, Pairs


def cross_view_directions(
    X: np.ndarray, Y: np.ndarray, ridge: float, text_metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all image directions (d_image, d_image), the text directions (d_text, rank) and Cyy^-1.

    Directions are ordered by falling s; those beyond the rank of X'Y span the null space of its transpose.
    """
    Cxx = X.T @ X + ridge * np.eye(X.shape[1])
    Cyy = Y.T @ Y + ridge * np.eye(Y.shape[1])
    Cxy = X.T @ Y
    Cyy_inverse = linalg.inv(Cyy)
    A = Cxy @ (Cyy_inverse if text_metric == "inverse" else Cyy) @ Cxy.T
    s, W = linalg.eigh((A + A.T) / 2, Cxx)
    s, W = s[::-1], W[:, ::-1]
    rank = min(np.linalg.matrix_rank(Cxy), int((s > 0).sum()))
    return W, Cyy_inverse @ Cxy.T @ W[:, :rank] / np.sqrt(s[:rank]), Cyy_inverse


@dataclass(kw_only=True)
class Cvh(Embedder):
    """CVH. ``text_metric`` chooses between the paper's eigenproblem and the public code's."""

    space: ClassVar[str] = "hamming"

    bits: int
    ridge: float = 1e-4
    text_metric: Literal["inverse", "plain"] = "inverse"

    def fit(self, train: Pairs) -> Cvh:
        """Learn the directions ``image_hash_`` (d_image, bits) and ``text_hash_`` (d_text, bits)."""
        rng = np.random.default_rng(self.seed)
        W, V, Cyy_inverse = cross_view_directions(train.image, train.text, self.ridge, self.text_metric)
        rank = min(V.shape[1], self.bits)
        missing = self.bits - rank
        null = W[:, V.shape[1] :]
        if null.shape[1] == 0:
            null = W
        noise = null @ rng.standard_normal((null.shape[1], missing))
        self.image_hash_ = np.hstack([W[:, :rank], noise])
        self.text_hash_ = np.hstack([V[:, :rank], Cyy_inverse @ rng.standard_normal((len(V), missing))])
        return self

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return np.where(x @ self.image_hash_ > 0, 1, -1).astype(np.int8)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return np.where(y @ self.text_hash_ > 0, 1, -1).astype(np.int8)
