"""SePH: Semantics-Preserving Hashing for Cross-View Retrieval (Lin, Ding, Hu, Wang; CVPR 2015).

The cosine similarities of label vectors, off the diagonal and divided by their sum, are a distribution P over
pairs of training items. The codes H (n, r), relaxed to the reals, shall give nearly the same distribution,

    q_ij ~ 1 / (1 + ||h_i - h_j||^2 / 4),    min_H  KL(P || Q) + alpha / (n r) || |H| - 1 ||^2,

where ||h_i - h_j||^2 / 4 is the Hamming distance once H is binary. The gradient of the KL term is
sum_j (p_ij - q_ij) (h_i - h_j) / (1 + ||h_i - h_j||^2 / 4). It descends as t-SNE does: momentum, one gain per
entry, centred columns, and the iterate of least cost kept. The codes are its signs.

Kernel logistic regression on anchors (k-means centres: SePH-km; random rows: SePH-rnd) then predicts each bit
from each view: a query's bit is its view's, while a database pair's unified bit weighs both views' evidence,

    sign( p(+|x) p(+|y) / p(+)  -  p(-|x) p(-|y) / p(-) ),

with p(+) and p(-) the shares of the bit's values in training. The kernel is exp(-d^2 / s), s the mean squared
distance within the training set.

Followed from the published code: the cost by which iterates are compared takes its KL term before, and its
penalty after, the step. ``samples`` bounds the pairs that codes and classifiers are trained on, since time grows
with their square; no n x n matrix is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit

from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.methods.parts.anchors import kmeans_anchors, mean_squared_distance, random_anchors, rbf_features
from cmrkit.methods.parts.kernel_logistic import kernel_logistic

BLOCK = 128  # rows of the pairwise matrices at a time


def cross_entropy(H: np.ndarray, G: np.ndarray) -> tuple[float, np.ndarray]:
    """Return -sum p log q, which is KL(P || Q) but for P's entropy, and its gradient (n, r) at ``H`` (n, r).

    ``G`` (n, c) holds the label vectors, of unit length. With t_ij = 1 / (1 + d_ij^2 / 4) and T their sum,
    q = t / T: value and gradient split into sums of p t, t^2, t and p log t over blocks of rows, so that T need
    not be known beforehand and a block's matrices stay in the processor's cache.
    """
    n = len(H)
    mass = np.square(G.sum(axis=0)).sum() - np.square(G).sum()
    norms = np.square(H).sum(axis=1) / 4
    left, right = np.hstack([H / -2, 1 + norms[:, None]]), np.hstack([H, np.ones((n, 1))])
    attraction, repulsion = np.zeros_like(right), np.zeros_like(right)
    total = log_likelihood = 0.0
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        t = left[rows] @ right.T
        t += norms
        np.reciprocal(t, out=t)
        P = G[rows] @ G.T
        own = np.arange(len(t)), np.arange(start, rows.stop)
        t[own] = P[own] = 0
        similar = np.flatnonzero(P)
        log_likelihood += P.ravel()[similar] @ np.log(t.ravel()[similar])
        total += t.sum()
        P *= t
        attraction[rows] = P @ right
        t *= t
        repulsion[rows] = t @ right
    pull = attraction / mass - repulsion / total
    return np.log(total) - log_likelihood / mass, pull[:, -1:] * H - pull[:, :-1]


@dataclass(kw_only=True)
class Seph(Embedder):
    """SePH. ``step`` and ``momentum`` are the descent's, ``penalty`` weighs the kernel regression's norm."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    anchors: int = 500
    anchor_choice: Literal["kmeans", "random"] = "kmeans"
    samples: int | None = None
    iterations: int = 100
    alpha: float = 0.01
    step: float = 500.0
    momentum: float = 0.5
    penalty: float = 0.01

    def fit(self, train: Pairs) -> Seph:
        """Learn codes and classifiers. Leaves the learned codes (n, bits) unless ``samples`` left rows out."""
        L = self.require_labels(train)
        rng = np.random.default_rng(self.seed)
        chosen = np.arange(len(L))
        if self.samples is not None and self.samples < len(L):
            chosen = np.sort(rng.permutation(len(L))[: self.samples])
        codes = sign(self.learn_codes(L[chosen], rng))
        if len(chosen) == len(L):
            self.image_codes_ = self.text_codes_ = codes
        self.prior_ = (codes > 0).mean(axis=0)
        fit = self._fit_view
        self.image_anchors_, self.image_width_, self.image_hash_ = fit(train.image[chosen], codes, rng)
        self.text_anchors_, self.text_width_, self.text_hash_ = fit(train.text[chosen], codes, rng)
        return self

    def learn_codes(self, L: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the relaxed codes (n, bits) of items with labels ``L`` (n, c)."""
        G = L / np.maximum(np.sqrt(L.sum(axis=1, keepdims=True)), 1)
        alpha = self.alpha / (len(L) * self.bits)
        H = 1e-4 * rng.standard_normal((len(L), self.bits))
        move, gain = np.zeros_like(H), np.ones_like(H)
        best, best_cost = H, np.inf
        for _ in range(self.iterations):
            value, gradient = cross_entropy(H, G)
            gradient += 2 * alpha * (np.abs(H) - 1) * np.sign(H)
            gain = np.maximum(np.where(np.sign(gradient) != np.sign(move), gain + 0.2, gain * 0.8), 0.01)
            move = self.momentum * move - self.step * gain * gradient
            H = H + move
            H -= H.mean(axis=0)
            cost = value + alpha * np.square(np.abs(H) - 1).sum()
            if cost < best_cost:
                best, best_cost = H, cost
        return best

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(rbf_features(x, self.image_anchors_, self.image_width_) @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(rbf_features(y, self.text_anchors_, self.text_width_) @ self.text_hash_)

    def encode_pair(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Fuse image (n, d_image) and text features (n, d_text) of the same items into codes (n, bits)."""
        image = expit(rbf_features(x, self.image_anchors_, self.image_width_) @ self.image_hash_)
        text = expit(rbf_features(y, self.text_anchors_, self.text_width_) @ self.text_hash_)
        positive, negative = (np.where(p > 0, p, 1.0) for p in (self.prior_, 1 - self.prior_))
        return sign(image * text / positive - (1 - image) * (1 - text) / negative)

    def _fit_view(self, x: np.ndarray, codes: np.ndarray, rng: np.random.Generator):
        choose = kmeans_anchors if self.anchor_choice == "kmeans" else random_anchors
        anchors, width = choose(x, self.anchors, rng), mean_squared_distance(x)
        K, K0 = rbf_features(x, anchors, width), rbf_features(anchors, anchors, width)
        return anchors, width, kernel_logistic(K, K0, codes, self.penalty)
