"""MDBE: Multimodal Discriminative Binary Embedding for Large-Scale Cross-Modal Retrieval.

Di Wang, Xinbo Gao, Xiumei Wang, Lihuo He, Bo Yuan; IEEE TIP 25(10), 2016.

With features X_v (n, d_v) and labels L (n, c), minimise over the embeddings P_v (d_v, r), the classifiers
W_v (r, c) and the labels' dictionary D (c, r)

    sum_v weight_v ( ||L - X_v P_v W_v||^2 + beta ||X_v P_v - L D||^2 + gamma ||W_v||^2 ),

weight_image = balance, weight_text = 1 - balance. Codes are sign(x P_v) for a query and sign(l D) for a
database item, which therefore is encoded by its labels alone: items with the same labels share one code.

Followed from the authors' code: beta is always 100 (a guard tests the wrong variable, so no other value ever
reaches the solver); P_v takes a ridge of gamma on X_v'X_v, which the objective has not; the loop stops once the
sum of norms (not of squared norms) falls by less than 0.01; images are rotated to at most ``components``
principal components, which matters even at full rank because P_v starts uniform in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmrkit.methods.base import Embedder, Pairs, sign


def principal_axes(x: np.ndarray, components: int) -> np.ndarray:
    """Return the first principal axes (d, <= components) of centred ``x`` (n, d), those without variance left out."""
    variances, axes = np.linalg.eigh(x.T @ x)
    order = np.argsort(variances)[::-1][:components]
    return axes[:, order[variances[order] > 1e-10 * variances.max()]]


def objective(views, L, P, W, D, weights, beta, gamma, power: int = 2) -> float:
    """Return the weighted sum over views of the three norms, squared (as minimised) or not (``power`` 1)."""
    total = 0.0
    for X, p, w, weight in zip(views, P, W, weights, strict=True):
        Z = X @ p
        norms = np.linalg.norm(L - Z @ w), np.linalg.norm(Z - L @ D), np.linalg.norm(w)
        total += weight * (norms[0] ** power + beta * norms[1] ** power + gamma * norms[2] ** power)
    return total


@dataclass(kw_only=True)
class Mdbe(Embedder):
    """MDBE. ``balance`` weighs the image view, ``components`` caps its principal components."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int
    components: int = 128
    balance: float = 0.5
    beta: float = 100.0
    gamma: float = 0.001
    iterations: int = 20

    def fit(self, train: Pairs) -> Mdbe:
        """Learn embeddings and label codes (n, bits) from centred features."""
        L = self.require_labels(train)
        self.image_axes_ = principal_axes(train.image, self.components)
        P, D = self._solve((train.image @ self.image_axes_, train.text), L)
        self.image_embedding_, self.text_embedding_ = P
        self.image_codes_ = self.text_codes_ = sign(L @ D)
        return self

    def _solve(self, views: tuple[np.ndarray, np.ndarray], L: np.ndarray):
        rng = np.random.default_rng(self.seed)
        weights = self.balance, 1 - self.balance
        eye = np.eye(self.bits)
        P = [rng.random((X.shape[1], self.bits)) for X in views]
        scatters = [X.T @ X for X in views]
        XL = [X.T @ L for X in views]
        LL_inverse = np.linalg.pinv(L.T @ L)
        previous = np.inf
        for _ in range(self.iterations):
            D = LL_inverse @ sum(w * xl.T @ p for w, xl, p in zip(weights, XL, P, strict=True))
            W = [
                np.linalg.solve(p.T @ S @ p + self.gamma * eye, p.T @ xl)
                for p, S, xl in zip(P, scatters, XL, strict=True)
            ]
            P = [
                np.linalg.solve(S + self.gamma * np.eye(len(S)), xl @ (w.T + self.beta * D))
                @ np.linalg.inv(w @ w.T + self.beta * eye)
                for w, S, xl in zip(W, scatters, XL, strict=True)
            ]
            current = objective(views, L, P, W, D, weights, self.beta, self.gamma, power=1)
            if previous - current < 0.01:
                break
            previous = current
        return P, D

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Hash centred image features (n, d_image) into codes (n, bits)."""
        return sign(x @ self.image_axes_ @ self.image_embedding_)

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Hash centred text features (n, d_text) into codes (n, bits)."""
        return sign(y @ self.text_embedding_)
