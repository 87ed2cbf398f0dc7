"""Linear regression with a ridge penalty, the hash function of half the field."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def ridge(X: np.ndarray, Y: np.ndarray, penalty: float) -> np.ndarray:
    """Return the W (d, r) that minimises ``||Y - X W||^2 + penalty ||W||^2`` for X (n, d), Y (n, r).

    ``penalty`` must be positive: it is what makes the solution unique where columns of X are constant or
    dependent.
    """
    gram = X.T @ X
    gram[np.diag_indices_from(gram)] += penalty
    return linalg.solve(gram, X.T @ Y, assume_a="pos")
