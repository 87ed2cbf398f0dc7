"""SCM: Large-Scale Supervised Multimodal Hashing with Semantic Correlation Maximization (Zhang, Li; AAAI 2014).

Hash functions sign(X w) and sign(Y w) whose codes reproduce the label similarity S = 2 G G' - 1 1', where G
(n, c) holds the labels with unit rows:

    min || sign(X W_x) sign(Y W_y)' - r S ||^2

S enters only through C = X'S Y = 2 (X'G)(Y'G)' - (X'1)(Y'1)', so cost is linear in n. Two solutions:

* ``orthogonal``: drop the signs and ask W_x' X'X W_x = n I (likewise Y): canonical correlation with C in the place
  of X'Y, all bits at once.
* ``sequential``: bit t takes the leading pair of what the bits before it leave over,
  C <- C - X' sign(X w_x) sign(Y w_y)' Y.

Followed from the authors' code: when a bit's eigenvalue exceeds the one before, the remaining bits are plain CCA
directions, the strongest last; covariances carry a ridge of 1e-6. X, whose eigenproblem is solved, is the image
modality, which is normally the wider one: more bits than X has dimensions cannot be had from it. Past the rank of
C (at most the number of classes) eigenvectors are rounding noise of the general eigensolver, sometimes complex,
of which the real part is kept. They make poor bits: hence orthogonal codes that get worse as they get longer.
Rounding depends on the order of training rows, so the seed shuffles them: what seeds do not agree on is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eig, eigh

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs, sign


def similarity_covariance(X: np.ndarray, Y: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Return X'(2 G G' - 1 1')Y (d_x, d_y), with G the labels L (n, c) scaled to unit rows (zero rows stay)."""
    norms = np.linalg.norm(L, axis=1, keepdims=True)
    G = L / np.where(norms > 0, norms, 1.0)
    return 2 * (X.T @ G) @ (Y.T @ G).T - np.outer(X.sum(axis=0), Y.sum(axis=0))


def leading_pair(Cxx: np.ndarray, Cyy: np.ndarray, Cxy: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return w_x, w_y and the largest eigenvalue of Cxy Cyy^-1 Cxy' w_x = value Cxx w_x."""
    M = Cxy @ cho_solve(cho_factor(Cyy), Cxy.T)
    last = len(M) - 1
    values, vectors = eigh((M + M.T) / 2, Cxx, subset_by_index=[last, last])
    w = vectors[:, 0]
    return w, np.linalg.solve(Cyy, Cxy.T @ w) / np.sqrt(values[0]), float(values[0])


def canonical_directions(
    Cxx: np.ndarray, Cyy: np.ndarray, Cxy: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` leading W_x (d_x, count) and W_y (d_y, count) of the same eigenproblem.

    Raises UsageError where ``count`` exceeds d_x.
    """
    if count > len(Cxx):
        raise UsageError(
            f"SCM needs {count} image directions here, but the features have only {len(Cxx)}: ask for fewer bits"
        )
    values, vectors = eig(Cxy @ np.linalg.solve(Cyy, Cxy.T), Cxx)
    strength = values.real if np.isreal(values).all() else np.abs(values)
    chosen = np.argsort(-strength, kind="stable")[:count]
    values, Wx = values[chosen], vectors[:, chosen]
    Wy = np.linalg.solve(Cyy, Cxy.T @ Wx) / np.where(values == 0, np.inf, np.sqrt(values))
    return Wx.real, Wy.real


@dataclass(kw_only=True)
class Scm(Embedder):
    """SCM. ``ridge`` is added to the diagonal of both covariances."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    variant: Literal["sequential", "orthogonal"] = "sequential"
    ridge: float = 1e-6

    def fit(self, train: Pairs) -> Scm:
        """Learn one linear hash function for each modality; features should be centred.

        Raises UsageError where more bits are asked than the image features have directions to give.
        """
        order = np.random.default_rng(self.seed).permutation(len(train))
        L = (self.require_labels(train) > 0).astype(np.float64)[order]
        X, Y = train.image[order], train.text[order]
        Cxx = X.T @ X + self.ridge * np.eye(X.shape[1])
        Cyy = Y.T @ Y + self.ridge * np.eye(Y.shape[1])
        C = self.bits * similarity_covariance(X, Y, L)
        if self.variant == "orthogonal":
            self.image_hash_, self.text_hash_ = canonical_directions(Cxx, Cyy, C, self.bits)
        else:
            self.image_hash_, self.text_hash_ = self.sequential(X, Y, Cxx, Cyy, C)
        return self

    def sequential(
        self, X: np.ndarray, Y: np.ndarray, Cxx: np.ndarray, Cyy: np.ndarray, C: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return W_x (d_x, bits) and W_y (d_y, bits), learned bit by bit."""
        Wx, Wy, previous = [], [], np.inf
        for bit in range(self.bits):
            wx, wy, value = leading_pair(Cxx, Cyy, C)
            if value > previous:
                rest = canonical_directions(Cxx, Cyy, X.T @ Y, self.bits - bit)
                Wx.extend(rest[0].T[::-1])
                Wy.extend(rest[1].T[::-1])
                break
            Wx.append(wx)
            Wy.append(wy)
            C = C - np.outer(X.T @ np.sign(X @ wx), np.sign(Y @ wy) @ Y)
            previous = value
        return np.column_stack(Wx), np.column_stack(Wy)

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_hash_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_hash_)
