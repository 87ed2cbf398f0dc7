"""RFDH: Robust and Flexible Discrete Hashing for Cross-Modal Similarity Search (Wang, Wang, Gao; TCSVT 2018).

Both modalities X_v (n, d_v) are rebuilt from one binary B (n, bits) in {0, 1} through bases F_v (bits, d_v),
under a row-wise l2,1 loss that outliers cannot dominate and with learned weights of the modalities:

    min  sum_v l_v^exponent sum_i ||x_i - b_i F_v||_2 + gamma ||F_v||^2,    l_1 + l_2 = 1,

every bit being set for half of the items. By iterative reweighting with D_v = diag(1 / ||x_i - b_i F_v||), B is
found bit by bit (the n/2 items of least cost get the bit) and F_v in closed form. Then ("RFDH-Linear") a
rotation R, a latent T, projections P_v and offsets u_v for new items are fitted by turns to

    sum_v ||P_v x - u_v - T||^2 + eta ||B - R T||^2,    a bit being set where R (P_v x - u_v) > 0.

Followed from the authors' code: R is the regression of T on B where the objective above asks for that of B
on T; and l_v ~ E_v^(1/(exponent-1)), so that the modality with the larger error E_v weighs more. The
minimiser has E_v^(1/(1-exponent)): ``weight_by="fit"``. Features are used as they are, neither centred nor scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg

from cmrkit.methods.base import Embedder, Pairs
from cmrkit.methods.parts.linear import ridge

Views = tuple[np.ndarray, np.ndarray]


def reweighting(X: np.ndarray, B: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Return D (n,), one over the length of each row's residual."""
    return 1 / np.sqrt(np.square(X - B @ F).sum(axis=1) + np.finfo(float).eps)


def set_bits(B: np.ndarray, views: Views, F: list[np.ndarray], D: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Return B (n, bits) after one sweep: each bit in turn goes to the half of the items where it costs least."""
    n, bits = B.shape
    codes = np.ascontiguousarray(B.T)
    scales = [w * d for w, d in zip(weights, D, strict=True)]
    grams = [f @ f.T for f in F]
    alone = sum((0.5 * np.diag(g)[:, None] - f @ X.T) * w for w, g, f, X in zip(scales, grams, F, views, strict=True))
    for k in range(bits):
        codes[k] = 0
        cost = alone[k] + sum(w * (g[k] @ codes) for w, g in zip(scales, grams, strict=True))
        codes[k, np.argpartition(cost, _half(n) - 1)[: _half(n)]] = 1
    return codes.T


@dataclass(kw_only=True)
class Rfdh(Embedder):
    """RFDH-Linear. ``exponent`` is the paper's lambda, ``sweeps`` and ``hash_iterations`` those of B and R, T, P."""

    space: ClassVar[str] = "hamming"

    bits: int
    exponent: float = 3.0
    gamma: float = 1e-4
    iterations: int = 20
    sweeps: int = 5
    eta: float = 10.0
    hash_iterations: int = 5
    weight_by: Literal["error", "fit"] = "error"

    def fit(self, train: Pairs) -> Rfdh:
        """Learn the pairs' codes, then projections ``*_hash_`` (d_v, bits) and ``*_offset_`` (bits,)."""
        rng = np.random.default_rng(self.seed)
        views = (train.image, train.text)
        B = 2 * self.learn_codes(views, rng) - 1
        self.image_codes_ = self.text_codes_ = B.astype(np.int8)
        P, u, R = self.learn_projections(views, B, rng)
        self.image_hash_, self.text_hash_ = (p @ R for p in P)
        self.image_offset_, self.text_offset_ = (offset @ R for offset in u)
        return self

    def learn_codes(self, views: Views, rng: np.random.Generator) -> np.ndarray:
        """Alternate weights, codes, bases and reweighting from random codes; returns B (n, bits) in {0, 1}."""
        B = (rng.random((len(views[0]), self.bits)) > 0.5).astype(float)
        F = [ridge(B, X, self.gamma) for X in views]
        D = [reweighting(X, B, f) for X, f in zip(views, F, strict=True)]
        for _ in range(self.iterations):
            errors = [d @ np.square(X - B @ f).sum(axis=1) for d, X, f in zip(D, views, F, strict=True)]
            weights = self.view_weights(errors)
            for _ in range(self.sweeps):
                before, B = B, set_bits(B, views, F, D, weights)
                if np.array_equal(B, before):
                    break
            roots = [np.sqrt(d)[:, None] for d in D]
            F = [ridge(r * B, r * X, self.gamma / w) for r, X, w in zip(roots, views, weights, strict=True)]
            D = [reweighting(X, B, f) for X, f in zip(views, F, strict=True)]
        return B

    def view_weights(self, errors: list[float]) -> list[float]:
        """Return l_v^exponent for the reconstruction errors of the modalities."""
        power = (1 if self.weight_by == "error" else -1) / (self.exponent - 1)
        H = [(self.exponent * e) ** power for e in errors]
        return [(h / sum(H)) ** self.exponent for h in H]

    def learn_projections(
        self, views: Views, B: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Return P_v (d_v, bits), u_v (bits,) and R (bits, bits), all for rows as items."""
        R, T = rng.standard_normal((self.bits, self.bits)), rng.standard_normal(B.shape)
        u = [rng.standard_normal(self.bits) for _ in views]
        for _ in range(self.hash_iterations):
            P = [ridge(X, T + offset, self.gamma) for X, offset in zip(views, u, strict=True)]
            projected = [X @ p for X, p in zip(views, P, strict=True)]
            target = sum(x - offset for x, offset in zip(projected, u, strict=True)) + self.eta * B @ R.T
            T = linalg.solve(self.eta * R @ R.T + 2 * np.eye(self.bits), target.T, assume_a="pos").T
            R = ridge(B, T, self.gamma)
            u = [(x - T).mean(axis=0) for x in projected]
        return P, u, R

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash image features (n, d_image) into codes (n, bits)."""
        return np.where(x @ self.image_hash_ > self.image_offset_, 1, -1).astype(np.int8)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash text features (n, d_text) into codes (n, bits)."""
        return np.where(y @ self.text_hash_ > self.text_offset_, 1, -1).astype(np.int8)


def _half(n: int) -> int:
    return (n + 1) // 2
