"""Eigenproblems as subspace methods need them: largest first, and safe where a matrix is singular."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, block_diag, eigh

from cmrkit.errors import UsageError

RANK_TOLERANCE = 1e-10


def require_directions(dim: int, available: int, cause: str) -> None:
    """Raise UsageError unless 1 <= ``dim`` <= ``available``; ``cause`` says what limits the directions."""
    if not 1 <= dim <= available:
        raise UsageError(f"dim is {dim}, but {cause} leave {available} directions: choose dim from 1 to {available}")


def whitening(C: np.ndarray) -> np.ndarray:
    """Return W (d, rank) with W'CW = I for a symmetric positive semi-definite C (d, d).

    Eigenvalues below ``RANK_TOLERANCE`` of the largest count as zero, so that W spans the range of C only.
    """
    values, vectors = np.linalg.eigh(C)
    present = values > RANK_TOLERANCE * max(values[-1], 0)
    return vectors[:, present] / np.sqrt(values[present])


def top_eigenvectors(A: np.ndarray, B: np.ndarray | None, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``dim`` largest eigenvalues (dim,) of A v = lambda B v, and their vectors (d, dim), V'BV = I.

    A and B (d, d) are symmetric, B positive definite, or None for the identity. Raises UsageError where B is
    singular, or where fewer than ``dim`` eigenvalues are positive.
    """
    d = len(A)
    try:
        values, vectors = eigh(A, B, subset_by_index=[max(0, d - dim), d - 1])
    except LinAlgError:
        raise UsageError("the constraint matrix of the eigenproblem is singular: raise the method's ridge") from None
    positive = int((values > RANK_TOLERANCE * abs(values[-1])).sum())
    require_directions(dim, positive, f"{d} features with {positive} positive eigenvalues at the top")
    return values[::-1], vectors[:, ::-1]


def coupled(image: np.ndarray, cross: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return the symmetric block matrix [[image, cross], [cross', text]] of a two-view eigenproblem."""
    return np.block([[image, cross], [cross.T, text]])


def uncoupled(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return the block-diagonal matrix of a two-view constraint."""
    return block_diag(image, text)
