"""Real-valued spaces: the similarities by which published code ranks embeddings, block by block.

======================= ================================================================================
cosine                  x.y / (|x||y|), the CCA papers' normalised correlation (Rasiwasia et al., MM 2010);
                        a zero vector has cosine 0 with everything
correlation             the same after each vector loses its own mean: Pearson's, as in MATLAB and SciPy
dot                     x.y
euclidean               ranks by -|x - y|
l1                      ranks by -sum |x - y|
kl                      ranks by -KL(x || y) of rows scaled to sum 1; needs x >= 0 and y > 0
inner-over-sum-of-norms x.y / (|x| + |y|), what public code of the CCA paper calls normalised correlation
======================= ================================================================================

Two items tie where their similarities are equal floating-point numbers; there is no tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import MatrixBlock, row_blocks
from cmrkit.evaluation.relevance import Relevance

SIMILARITIES = ("cosine", "correlation", "dot", "euclidean", "l1", "kl", "inner-over-sum-of-norms")


def check_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
    """Check embeddings (n, d), any numeric dtype, and return them as float64, or float32 where they are no finer.

    Raises UsageError naming the array and the first row with a NaN or an infinity.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "biuf":
        shape = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise UsageError(f"{name} must be numeric embeddings (n, dimensions), not {shape}")
    if embeddings.size == 0:
        raise UsageError(f"{name} is empty: its shape is {embeddings.shape}")
    finite = np.isfinite(embeddings)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise UsageError(f"{name} row {row} holds {embeddings[row, column]} at column {column}")
    single = embeddings.dtype.kind == "f" and embeddings.dtype.itemsize <= 4
    return embeddings.astype(np.float32 if single else np.float64)


def similarity_blocks(
    query: np.ndarray, database: np.ndarray, kind: str, relevance: Relevance, memory: int | None = None,
    device: str | None = None,
) -> Iterator[MatrixBlock]:  # fmt: skip
    """Yield blocks of distances (the similarity negated, up to a constant per query) and relevance.

    ``query`` (q, d) and ``database`` (n, d) are checked embeddings. ``device`` names a torch device to multiply on.
    Raises UsageError for an unknown kind, for different widths, and for values that the kind cannot take.
    """
    distances_of = distance_rows(query, database, kind, device)
    for rows in row_blocks(len(query), len(database), memory, 32):
        yield MatrixBlock(distances_of(rows), relevance, rows)


def distance_rows(
    query: np.ndarray, database: np.ndarray, kind: str, device: str | None = None
) -> Callable[[slice], np.ndarray]:
    """Return a function from a slice of queries to their distances, float (q, n), as ``similarity_blocks`` has them."""
    if not isinstance(database, np.ndarray):
        from cmrkit.evaluation import quantised

        return quantised.distance_rows(query, database, kind)
    if kind not in SIMILARITIES:
        raise UsageError(f"unknown similarity {kind!r}; there are {', '.join(SIMILARITIES)}")
    if query.shape[1] != database.shape[1]:
        raise UsageError(f"the queries have {query.shape[1]} dimensions, the database {database.shape[1]}")
    with np.errstate(over="ignore"):
        distances_of = _distances(query, database, kind, device)

    def checked(rows: slice) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            distances = distances_of(rows)
        if not np.isfinite(distances).all():
            raise UsageError(f"the {kind} similarities of these embeddings overflow: scale the embeddings down")
        return distances

    return distances_of if _cannot_overflow(query, database) else checked


def _cannot_overflow(query: np.ndarray, database: np.ndarray) -> bool:
    largest = max(float(np.abs(query).max()), float(np.abs(database).max()), 1.0)
    return 8 * query.shape[1] * largest**2 < np.finfo(np.result_type(query, database)).max if largest < 1e150 else False


def _distances(query: np.ndarray, database: np.ndarray, kind: str, device: str | None) -> Callable[[slice], np.ndarray]:
    if kind == "l1":
        from scipy.spatial.distance import cdist  # slow to import, and few papers rank by l1

        return lambda rows: cdist(query[rows], database, "cityblock")
    if kind == "inner-over-sum-of-norms":
        norm, item_norm = np.linalg.norm(query, axis=1)[:, None], np.linalg.norm(database, axis=1)
        tiny = np.finfo(np.float64).tiny  # two zero vectors have similarity 0
        return lambda rows: -(query[rows] @ database.T) / np.maximum(norm[rows] + item_norm, tiny)
    left, right, offset = _as_inner_product(query, database, kind)
    left = -left  # of the smaller side: a distance falls as the product rises
    if device is not None:
        from cmrkit.evaluation.torch_backend import product_rows

        return product_rows(left, right, offset, device)
    return lambda rows: left[rows] @ right.T if offset is None else left[rows] @ right.T + offset


def _as_inner_product(x: np.ndarray, y: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    # Every other kind orders the database by (offset of the item) - (inner product).
    if kind == "dot":
        return x, y, None
    if kind == "cosine":
        return _unit(x), _unit(y), None
    if kind == "correlation":
        return _unit(x - x.mean(1, keepdims=True)), _unit(y - y.mean(1, keepdims=True)), None
    if kind == "euclidean":
        return 2 * x, y, np.einsum("ij,ij->i", y, y)
    return _distributions("query", x, 0.0), np.log(_distributions("database", y, np.nextafter(0, 1))), None


def _unit(x: np.ndarray) -> np.ndarray:
    largest = np.abs(x).max(1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)  # so that no square overflows or vanishes
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def _distributions(side: str, x: np.ndarray, least: float) -> np.ndarray:
    bad = (x.min(1) < least) | (x.sum(1) <= 0)
    if bad.any():
        rule = "positive values" if least else "non-negative values that are not all zero"
        raise UsageError(f"similarity 'kl' needs {rule}: {side} row {int(np.argmax(bad))} has others; smooth them")
    return x / x.sum(1, keepdims=True)
