"""Hubness corrections: rescale a similarity by how near each item is to a bank of other queries.

A hub is an item that lies near many queries. All corrections read its popularity from a bank of queries,
usually those of the training set, so that no test query sees another. With s(q, j) the similarity of a
query and an item, B the bank, and top-k means over the k largest:

======  ======================================================================  =============================
is      s(q, j) - h(j),  h(j) = 1/beta log sum_b exp(beta s(b, j)), b in B      inverted softmax: Smith et
                                                                                al., ICLR 2017
dis     the same for a query whose nearest item is among the k nearest of some  dynamic inverted softmax:
        bank query; s(q, j) unchanged for any other query                       Bogolin et al., CVPR 2022
csls    2 s(q, j) - r(q) - r(j),  r(q) = mean of the top-k s(q, i) over items,  Conneau et al., ICLR 2018
        r(j) = mean of the top-k s(b, j) over B
gc      s(q, j) - rank of q in B + {q} by similarity to j, counted from 1       globally corrected: Dinu et
                                                                                al., ICLR workshop 2015
======  ======================================================================  =============================

The inverted softmax is printed as exp(beta s(q, j)) / (alpha sum_b exp(beta s(b, j))), alpha free of j; here
it is its logarithm over beta: the same order of items for each query, no overflow at any scale, and still
in the unit of s, so that the corrected and the unchanged rows of ``dis`` can be read side by side. The
query's own part of CSLS needs no second bank: r(q) is a mean over the items themselves. It moves a row as a
whole, so it matters only where rows are compared. ``gc`` is what Bogolin et al. compare with under that name;
ranks are whole numbers, s breaks their ties, and the published form means a cosine.

Defaults: beta 20 and k 1 (dis) are those of QB-Norm's code @76d4d90; k 10 (csls) that of MUSE's. MUSE's code
runs the inverted softmax with beta 30; Smith et al. fit beta on the training pairs.
"""

from __future__ import annotations

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import row_blocks
from cmrkit.evaluation.reranking import check_similarity, shortlist

BETA = 20.0
K = {"dis": 1, "csls": 10}
KINDS = ("is", "dis", "csls", "gc")


def normalise(
    similarity: np.ndarray,
    kind: str,
    *,
    bank: np.ndarray,
    beta: float | None = None,
    k: int | None = None,
) -> np.ndarray:
    """Correct ``similarity`` (queries, items), larger for nearer, by one of KINDS.

    ``bank`` (bank queries, items) holds the bank's similarities to the same items, on the same scale.
    ``beta`` is the inverse temperature of is and dis, ``k`` the neighbourhood of dis and csls.

    Returns an array like ``similarity``, float32 where that is float32 and otherwise float64; gc always
    gives float64, where a rank leaves the similarity its digits. Sums are taken in float64.

    Raises UsageError for an unknown kind, an option that the kind does not have or cannot take, matrices
    that do not fit together, and values that are not finite (naming the array and the row).
    """
    if kind not in KINDS:
        raise UsageError(f"unknown normalisation {kind!r}; there are {', '.join(KINDS)}")
    similarity, bank = check_similarity("similarity", similarity), check_similarity("bank", bank)
    if similarity.shape[1] != bank.shape[1]:
        raise UsageError(f"similarity has {similarity.shape[1]} items, but bank has {bank.shape[1]}")
    beta, k = _beta(kind, beta), _k(kind, k, *bank.shape)
    if kind == "csls":
        return _csls(similarity, bank, k)
    if kind == "gc":
        return _globally_corrected(similarity, bank)
    active = shortlist(bank, k).any(0) if kind == "dis" else np.ones(bank.shape[1], dtype=bool)
    return _inverted_softmax(similarity, _hubness(bank, beta), active)


def _inverted_softmax(similarity: np.ndarray, hubness: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Take ``hubness`` (items,) off the rows whose nearest item is ``active`` (items,)."""
    corrected = similarity.copy()
    for rows in row_blocks(*similarity.shape):
        chosen = rows.start + np.flatnonzero(active[similarity[rows].argmax(1)])
        corrected[chosen] = similarity[chosen] - hubness
    return corrected


def _hubness(bank: np.ndarray, beta: float) -> np.ndarray:
    """Return h (items,) of the table above, float64."""
    largest = bank.max(0).astype(np.float64)
    total = np.zeros(bank.shape[1])
    for rows in row_blocks(*bank.shape):
        total += np.exp(beta * (bank[rows] - largest)).sum(0)
    return largest + np.log(total) / beta


def _csls(similarity: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    of_items = _mean_of_largest(bank.T, k)
    of_queries = _mean_of_largest(similarity, k)
    corrected = np.empty_like(similarity)
    for rows in row_blocks(*similarity.shape):
        corrected[rows] = 2 * similarity[rows].astype(np.float64) - of_queries[rows, None] - of_items
    return corrected


def _mean_of_largest(matrix: np.ndarray, k: int) -> np.ndarray:
    """Return the mean of each row's ``k`` largest: float64 (rows,)."""
    means = np.empty(len(matrix))
    for rows in row_blocks(*matrix.shape):
        means[rows] = np.partition(matrix[rows], -k, axis=1)[:, -k:].mean(1, dtype=np.float64)
    return means


def _globally_corrected(similarity: np.ndarray, bank: np.ndarray) -> np.ndarray:
    corrected = similarity.astype(np.float64)
    for item, column in enumerate(similarity.T):
        nearer = len(bank) - np.searchsorted(np.sort(bank[:, item]), column, side="right")
        corrected[:, item] -= 1 + nearer
    return corrected


def _beta(kind: str, beta: float | None) -> float | None:
    if kind not in ("is", "dis"):
        if beta is not None:
            raise UsageError(f"beta does not apply to {kind}: it belongs to is and dis")
        return None
    beta = BETA if beta is None else beta
    if not 0 < beta < np.inf:
        raise UsageError(f"beta must be a positive number, not {beta!r}")
    return float(beta)


def _k(kind: str, k: int | None, bank_queries: int, items: int) -> int | None:
    if kind not in K:
        if k is not None:
            raise UsageError(f"k does not apply to {kind}: it belongs to {' and '.join(K)}")
        return None
    k = K[kind] if k is None else k
    most = min(bank_queries, items) if kind == "csls" else items
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
        limit = f"bank is {bank_queries} x {items}"
        raise UsageError(f"k of {kind} must be a whole number from 1 to {most}, not {k!r}: {limit}")
    return int(k)
