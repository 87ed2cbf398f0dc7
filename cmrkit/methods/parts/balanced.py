"""Latent codes whose bits are uncorrelated and balanced."""

from __future__ import annotations

import numpy as np


def balanced_latent(Z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the V (n, r) with V'V = n I, V'1 = 0 maximising tr(V'Z): centred Z's polar factor, scaled."""
    n, bits = Z.shape
    JZ = Z - Z.mean(axis=0)
    eigenvalues, Q = np.linalg.eigh(JZ.T @ JZ)
    present = eigenvalues > 1e-6
    P = np.empty((n, bits))
    P[:, present] = JZ @ (Q[:, present] / np.sqrt(eigenvalues[present]))
    P[:, ~present] = np.linalg.qr(rng.standard_normal((n, bits - present.sum())))[0]
    return np.sqrt(n) * P @ Q.T
