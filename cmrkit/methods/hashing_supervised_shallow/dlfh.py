"""DLFH: Discrete Latent Factor Model for Cross-Modal Hashing (Qing-Yuan Jiang, Wu-Jun Li; IEEE TIP 2019).

S_ij = 1 where image i and text j share a label is Bernoulli given the codes U (images) and V (texts), (n, r):

    p(S_ij = 1) = sigma(Theta_ij),    Theta = (scale / r) U V'.

The log-likelihood is maximised bit by bit. In one column of U it has the quadratic lower bound

    p'U_k + const,    p = (scale / r) sum_j (S_j - sigma(Theta_j)) V_jk + m scale^2 / (4 r^2) U_k,

whose maximiser over {-1, 1}^n is sign(p), so no step lowers the likelihood over the columns it sees. Each
round sees a fresh random subset of m training texts (then images), m = bits unless ``samples`` says otherwise.

Out of sample: ridge regression from features to codes (DLFH), or kernel logistic regression per bit on random
or k-means anchors (KDLFH, ``hash_function="kernel"``), whose kernel is exp(-d^2 / s) with s the mean squared
distance within the first 5,000 training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import kmeans_anchors, mean_squared_distance, random_anchors, rbf_features
from cmrkit.methods.parts.kernel_logistic import kernel_logistic
from cmrkit.methods.parts.linear import ridge


def update_codes(U: np.ndarray, V: np.ndarray, S: np.ndarray, scale: float) -> None:
    """Improve every bit of ``U`` (n, r) in place, given ``V`` (m, r) and their similarities ``S`` (n, m)."""
    step = scale / U.shape[1]
    theta = step * U @ V.T
    expected = expit(theta)
    observed = S @ V
    for k in range(U.shape[1]):
        p = step * (observed[:, k] - expected @ V[:, k]) + len(V) * step**2 / 4 * U[:, k]
        flipped = np.flatnonzero((p < 0) == (U[:, k] > 0))
        U[flipped, k] *= -1
        theta[flipped] += np.outer(2 * step * U[flipped, k], V[:, k])
        expected[flipped] = expit(theta[flipped])


@dataclass(kw_only=True)
class Dlfh(Embedder):
    """DLFH and KDLFH. ``scale`` is the paper's lambda; ``penalty`` and the anchors are KDLFH's alone."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    hash_function: Literal["linear", "kernel"] = "linear"
    iterations: int = 30
    scale: float = 8.0
    samples: int | None = None
    ridge: float = 1e-6
    anchors: int = 500
    anchor_choice: Literal["random", "kmeans"] = "random"
    penalty: float = 0.01

    def fit(self, train: Pairs) -> Dlfh:
        """Learn the codes (n, bits) of either modality from the labels, then a hash function for each."""
        L = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        U, V = self.learn_codes(L, rng)
        self.image_codes_, self.text_codes_ = sign(U), sign(V)
        if self.hash_function == "linear":
            self.image_hash_ = ridge(train.image, U, self.ridge)
            self.text_hash_ = ridge(train.text, V, self.ridge)
        else:
            self.image_anchors_, self.image_width_, self.image_hash_ = self._kernel_fit(train.image, U, rng)
            self.text_anchors_, self.text_width_, self.text_hash_ = self._kernel_fit(train.text, V, rng)
        return self

    def learn_codes(self, L: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and text codes (n, bits) as float64, from a random start."""
        n, m = len(L), min(self.samples or self.bits, len(L))
        U, V = np.where(rng.standard_normal((2, n, self.bits)) < 0, -1.0, 1.0)
        for _ in range(self.iterations):
            seen = rng.permutation(n)[:m]
            S = (L @ L[seen].T > 0).astype(np.float64)
            update_codes(U, V[seen], S, self.scale)
            update_codes(V, U[seen], S, self.scale)
        return U, V

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        if self.hash_function == "kernel":
            x = rbf_features(x, self.image_anchors_, self.image_width_)
        return sign(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        if self.hash_function == "kernel":
            y = rbf_features(y, self.text_anchors_, self.text_width_)
        return sign(y @ self.text_hash_)

    def _kernel_fit(self, x: np.ndarray, codes: np.ndarray, rng: np.random.Generator):
        choose = random_anchors if self.anchor_choice == "random" else kmeans_anchors
        anchors, width = choose(x, self.anchors, rng), mean_squared_distance(x[:5000])
        K, K0 = rbf_features(x, anchors, width), rbf_features(anchors, anchors, width)
        return anchors, width, kernel_logistic(K, K0, codes, self.penalty)
