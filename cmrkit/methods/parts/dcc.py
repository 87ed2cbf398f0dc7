"""Discrete cyclic coordinate descent: binary quadratic problems solved one column of bits at a time.

Source: Shen, Shen, Liu, Shen, Supervised Discrete Hashing, CVPR 2015, section 2.3.
"""

from __future__ import annotations

import numpy as np


def update_bit(B: np.ndarray, k: int, A: np.ndarray, Q: np.ndarray) -> None:
    """Set column ``k`` of ``B`` in place to its minimiser of tr(B A B') - 2 tr(B Q'), the others held.

    That minimiser is the sign of ``Q[:, k] - sum over j != k of B[:, j] A[j, k]``; where this is zero both
    signs serve equally, and the bit stays as it is.
    """
    z = Q[:, k] - B @ A[:, k] + B[:, k] * A[k, k]
    B[:, k] = np.where(z == 0, B[:, k], np.sign(z))


def cyclic_descent(B: np.ndarray, A: np.ndarray, Q: np.ndarray, sweeps: int = 10) -> np.ndarray:
    """Return codes that descend from ``B`` on tr(B A B') - 2 tr(B Q') over B in {-1, 1}.

    ``B`` and ``Q`` are (n, r), ``A`` is symmetric (r, r). Columns are visited in turn, at most ``sweeps``
    times or until none changes. The objective never increases; the result is a float array of -1 and +1.
    """
    B = np.array(B, dtype=np.float64)
    for _ in range(sweeps):
        before = B.copy()
        for k in range(B.shape[1]):
            update_bit(B, k, A, Q)
        if np.array_equal(B, before):
            break
    return B
