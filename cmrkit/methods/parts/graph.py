"""Neighbourhood graphs: which training items lie close to each other within one modality."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist

from cmrkit.errors import UsageError


def knn_laplacian(x: np.ndarray, neighbours: int, exclude_self: bool = True) -> sparse.csr_array:
    """Return the Laplacian ``D - W`` (n, n), sparse, of the k-nearest-neighbour graph of the rows of ``x`` (n, d).

    The weight of an edge is 1 where both rows count each other among their ``neighbours`` nearest ones, 1/2
    where only one does. Of equal distances the lower row counts as nearer. ``exclude_self=False`` takes each
    row's nearest but the first, as much public code does: of two equal rows the second is then its own neighbour.
    Raises UsageError where ``x`` has no more rows than ``neighbours``. Memory is n x n.
    """
    n = len(x)
    if n <= neighbours:
        raise UsageError(f"a graph of {neighbours} nearest neighbours needs more than {n} training pairs")
    distances = cdist(x, x, "sqeuclidean")
    if exclude_self:
        np.fill_diagonal(distances, -1.0)
    columns = np.argsort(distances, axis=1, kind="stable")[:, 1 : neighbours + 1].ravel()
    rows = np.repeat(np.arange(n), neighbours)
    one_way = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    return sparse.csgraph.laplacian((one_way + one_way.T) / 2).tocsr()
