"""Distances between quantised items: sums of codewords, compared through lookup tables.

An item is stored as M codeword numbers and stands for the sum of these codewords:

    y = sum_m C_m[b_m],    codebooks C (M, K, d),    codes b (n, M)

This is the additive form of CCQ (Long et al., SIGIR 2016), CMCQ (Zhang and Wang, CVPR 2016) and other
composite quantisers. A product quantiser (Jegou et al., TPAMI 2011), whose books (M, K, d/M) describe one
stretch of the vector each, is the special case of books that are zero elsewhere: ``widen`` brings it there.

* asymmetric distance (ADC): a real-valued query x against items y, from tables x . C_m[k] (q, M, K)
* symmetric distance (SDC): the query is quantised too, from tables sum_l C_l[a_l] . C_m[k] of codeword with
  codeword

Either way a pair costs M look-ups. Distances are smaller for nearer items:

=========  ========================================================================================
dot        -x . y
euclidean  |x - y|^2 = |x|^2 - 2 x . y + |y|^2, squared as the tables give it
=========  ========================================================================================

|y|^2 is the norm of the whole sum, with the cross terms 2 C_l[b_l] . C_m[b_m] between books, as in the linear
scan of CCQ's code. It costs one number per item. Dropping it is right only for codebooks that were trained
to keep it constant; nothing here assumes so.

Items with equal codes lie at exactly equal distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import row_blocks
from cmrkit.evaluation.similarity import check_embeddings

KINDS = ("euclidean", "dot")
EVERY_ROW = slice(None)


@dataclass(frozen=True)
class Quantised:
    """Items or queries as codeword numbers: ``codes`` int64 (n, M) of ``codebooks`` float64 (M, K, d)."""

    codes: np.ndarray
    codebooks: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def width(self) -> int:
        """The dimensions of the vectors that the codes stand for."""
        return self.codebooks.shape[2]

    def rows(self, rows: np.ndarray | slice) -> Quantised:
        """Return the codes of some items."""
        return Quantised(self.codes[rows], self.codebooks)


def distance_rows(query: np.ndarray | Quantised, database: Quantised, kind: str) -> Callable[[slice], np.ndarray]:
    """Return a function from a slice of queries to their distances (q, n): symmetric where they are codes, too."""
    norms = squared_norms(database.codes, database.codebooks) if kind == "euclidean" else None
    if isinstance(query, Quantised):
        return lambda rows: symmetric(query.codes, database.codes, database.codebooks, kind, rows, norms)
    return lambda rows: asymmetric(query, database.codes, database.codebooks, kind, rows, norms)


def asymmetric(
    query: np.ndarray,
    codes: np.ndarray,
    codebooks: np.ndarray,
    kind: str = "euclidean",
    rows: slice = EVERY_ROW,
    norms: np.ndarray | None = None,
) -> np.ndarray:
    """Return the distances of real-valued queries to quantised items: float64 (q, n).

    ``query`` (all queries, d) real, ``codes`` (n, M) integers, ``codebooks`` (M, K, d); ``rows`` are the
    queries wanted. ``norms`` (n,), from ``squared_norms``, saves their computation to a caller that goes
    block by block.

    Raises UsageError for an unknown kind, arrays that do not fit together, a code that names no codeword
    and values that are not finite (naming the array, row and column).
    """
    query, codebooks = check_embeddings("query", query), check_codebooks(codebooks)
    _check_kind(kind)
    if query.shape[1] != codebooks.shape[2]:
        wide = f"but codebooks {codebooks.shape} make vectors of {codebooks.shape[2]}; widen those of a product"
        raise UsageError(f"query has {query.shape[1]} dimensions, {wide} quantiser first")
    query = query[rows].astype(np.float64)
    tables = query @ codebooks.reshape(-1, query.shape[1]).T
    return _look_up(tables, np.einsum("ij,ij->i", query, query), codes, codebooks, kind, norms)


def symmetric(
    query_codes: np.ndarray,
    codes: np.ndarray,
    codebooks: np.ndarray,
    kind: str = "euclidean",
    rows: slice = EVERY_ROW,
    norms: np.ndarray | None = None,
) -> np.ndarray:
    """Return the distances of quantised queries to quantised items: float64 (q, n).

    ``query_codes`` (all queries, M) index the same ``codebooks`` as ``codes``; the rest is as in
    ``asymmetric``.
    """
    codebooks = check_codebooks(codebooks)
    _check_kind(kind)
    query_codes = check_code_indices("query_codes", query_codes, codebooks)[rows]
    words = codebooks.reshape(-1, codebooks.shape[2])
    tables = np.zeros((len(query_codes), len(words)))
    for book, numbers in zip(codebooks, query_codes.T, strict=True):
        tables += (book @ words.T)[numbers]
    query_norms = squared_norms(query_codes, codebooks) if kind == "euclidean" else None
    return _look_up(tables, query_norms, codes, codebooks, kind, norms)


def reconstruct(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Return the vectors that ``codes`` (n, M) stand for under ``codebooks`` (M, K, d): float64 (n, d)."""
    codebooks = check_codebooks(codebooks)
    return _sum_of_words(check_code_indices("codes", codes, codebooks), codebooks)


def squared_norms(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Return the squared norm of each reconstruction, cross terms included: float64 (n,)."""
    codebooks = check_codebooks(codebooks)
    codes = check_code_indices("codes", codes, codebooks)
    norms = np.empty(len(codes))
    for rows in row_blocks(len(codes), codebooks.shape[2]):
        vectors = _sum_of_words(codes[rows], codebooks)
        norms[rows] = (vectors * vectors).sum(1)
    return norms


def widen(codebooks: np.ndarray) -> np.ndarray:
    """Turn the books of a product quantiser (M, K, d/M) into additive ones (M, K, d), zero elsewhere."""
    codebooks = check_codebooks(codebooks)
    books, words, width = codebooks.shape
    wide = np.zeros((books, words, books, width))
    each = np.arange(books)
    wide[each, :, each] = codebooks
    return wide.reshape(books, words, books * width)


def check_codebooks(codebooks: np.ndarray) -> np.ndarray:
    """Check codebooks (M, K, d) and return them as float64.

    Raises UsageError naming the first book and codeword with a NaN or an infinity.
    """
    codebooks = np.asarray(codebooks)
    if codebooks.ndim != 3 or codebooks.dtype.kind not in "biuf" or codebooks.size == 0:
        shape = f"{codebooks.dtype} of shape {codebooks.shape}"
        raise UsageError(f"codebooks must be numeric (books, codewords, dimensions), not {shape}")
    finite = np.isfinite(codebooks)
    if not finite.all():
        book, word, column = np.argwhere(~finite)[0]
        value = codebooks[book, word, column]
        raise UsageError(f"codebooks book {book} row {word} holds {value} at column {column}")
    return codebooks.astype(np.float64)


def check_code_indices(name: str, codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Check codes (n, M), any integer dtype, against codebooks (M, K, d) and return them as int64.

    Raises UsageError naming the array and the first row and column that name no codeword.
    """
    codes = np.asarray(codes)
    books, words = codebooks.shape[:2]
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.size == 0:
        raise UsageError(f"{name} must be integers (n, books), not {codes.dtype} of shape {codes.shape}")
    if codes.shape[1] != books:
        raise UsageError(f"{name} has {codes.shape[1]} columns, but there are {books} codebooks")
    if codes.min() < 0 or codes.max() >= words:
        row, column = np.argwhere((codes < 0) | (codes >= words))[0]
        limit = f"codebook {column} has {words} codewords, counted from 0"
        raise UsageError(f"{name} row {row} holds {codes[row, column]} at column {column}: {limit}")
    return codes.astype(np.int64, copy=False)


def _look_up(
    tables: np.ndarray,
    query_norms: np.ndarray | None,
    codes: np.ndarray,
    codebooks: np.ndarray,
    kind: str,
    norms: np.ndarray | None,
) -> np.ndarray:
    """Sum ``tables`` (q, M * K) of inner products over the items' codewords, and make distances of them."""
    books, words, _ = codebooks.shape
    places = check_code_indices("codes", codes, codebooks) + words * np.arange(books)
    products = np.zeros((len(tables), len(places)))
    for book in places.T:
        products += tables[:, book]
    if kind == "dot":
        return np.negative(products, out=products)
    products *= -2
    products += query_norms[:, None]
    products += squared_norms(codes, codebooks) if norms is None else _check_norms(norms, len(places))
    return np.maximum(products, 0, out=products)  # rounding leaves tiny negative squares


def _sum_of_words(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    total = np.zeros((len(codes), codebooks.shape[2]))
    for book, numbers in zip(codebooks, codes.T, strict=True):
        total += book[numbers]
    return total


def _check_norms(norms: np.ndarray, items: int) -> np.ndarray:
    norms = np.asarray(norms)
    if norms.shape != (items,):
        raise UsageError(f"norms has shape {norms.shape}, but codes has {items} rows: one norm for each")
    return norms


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"unknown distance {kind!r}; there are {', '.join(KINDS)}")
