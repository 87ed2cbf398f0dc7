"""Cosines of rows as similarities: what deep hashing without labels takes from features and asks of codes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def cosines(A: Tensor, B: Tensor) -> Tensor:
    """Return the cosine (n, m) of every row of ``A`` (n, d) with every row of ``B`` (m, d); 0 with zero rows."""
    return normalize(A, dim=1) @ normalize(B, dim=1).T


def affinity(X: Tensor) -> Tensor:
    """Return 2 cos - 1 (n, n) of the rows of ``X`` (n, d): within [-1, 1] where features are not negative."""
    return 2 * cosines(X, X) - 1
