"""Kernel logistic regression on anchors, one independent classifier per bit."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


def kernel_logistic(K: np.ndarray, K0: np.ndarray, codes: np.ndarray, penalty: float) -> np.ndarray:
    """Return W (m, bits) that minimises, for each column b of ``codes`` and w of W alike,

        sum_i log(1 + exp(-b_i K_i w)) + penalty w' K0 w

    with ``K`` (n, m) the kernel between rows and anchors, ``K0`` (m, m) that among anchors, and ``codes``
    (n, bits) of -1 and +1. Unique up to the null space of K0.

    The problem is convex but K0 is nearly singular, so it is solved in coordinates where the loss's curvature
    bound, K'K / 4 + 2 penalty K0, is the identity; there L-BFGS needs tens of steps, for all bits together.
    """
    values, vectors = np.linalg.eigh(K0)
    kept = values > 1e-10 * values.max()
    basis = vectors[:, kept] / np.sqrt(values[kept])
    features = K @ basis
    curvature, rotation = np.linalg.eigh(features.T @ features)
    scale = 1 / np.sqrt(np.maximum(curvature, 0) / 4 + 2 * penalty)
    basis, features = basis @ (rotation * scale), features @ (rotation * scale)
    weight = penalty * scale[:, None] ** 2
    signs = codes.astype(np.float64)
    shape = features.shape[1], signs.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = flat.reshape(shape)
        margin = signs * (features @ z)
        value = np.logaddexp(0, -margin).sum() + (weight * z**2).sum()
        return value, (2 * weight * z - features.T @ (signs * expit(-margin))).ravel()

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": 500, "maxcor": 20, "gtol": 1e-4, "ftol": 1e-9}
    return basis @ minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
