"""Neighbourhood graphs: which training items lie close to each other within one modality."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.neighbors import kneighbors_graph

from cmrkit.errors import UsageError


def knn_laplacian(x: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """Return the Laplacian ``D - W`` (n, n), sparse, of the k-nearest-neighbour graph of the rows of ``x`` (n, d).

    The weight of an edge is 1 where both rows count each other among their ``neighbours`` nearest ones (itself
    never counted), 1/2 where only one does. Raises UsageError where ``x`` has no more rows than ``neighbours``.
    """
    if len(x) <= neighbours:
        raise UsageError(f"a graph of {neighbours} nearest neighbours needs more than {len(x)} training pairs")
    one_way = kneighbors_graph(x, neighbours, mode="connectivity", include_self=False)
    return sparse.csgraph.laplacian((one_way + one_way.T) / 2).tocsr()
