"""Codes or embeddings as a FAISS index, for searching them outside this package.

=========  =======================  ==================================================================
space      index                    what a search returns
=========  =======================  ==================================================================
hamming    IndexBinaryFlat          Hamming distances, between rows packed as ``numpy.packbits`` does
cosine     IndexFlatIP              cosines, once the queries have unit length as the stored rows do
dot        IndexFlatIP              inner products
euclidean  IndexFlatL2              squared distances
=========  =======================  ==================================================================

All are exact, and number the items by row from 0. FAISS holds real vectors in single precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation.files import replacing
from cmrkit.evaluation.hamming import check_codes
from cmrkit.evaluation.similarity import check_embeddings


def export_index(path: str | Path, items: np.ndarray, space: str, name: str = "items") -> dict[str, Any]:
    """Write an index of ``items``, codes (n, bits) or embeddings (n, d), and say what was written.

    Returns ``path``, ``kind`` (the FAISS class), ``items``, ``width`` (bits or dimensions of the index) and
    ``padding``: FAISS holds whole bytes, so other codes get so many zero bits at their end, which change no
    distance where queries get them too. The file appears whole or not at all. Raises UsageError naming the
    array ``name`` and its row, and CmrkitError where FAISS is not installed or the disk refuses.
    """
    faiss = _faiss()
    if space == "hamming":
        index, write, padding = _binary(faiss, name, items), faiss.write_index_binary, -np.shape(items)[1] % 8
    else:
        index, write, padding = _flat(faiss, name, items, space), faiss.write_index, 0
    with replacing(path) as part:
        try:
            write(index, str(part))
        except RuntimeError as error:  # FAISS's own, for whatever the disk says
            raise CmrkitError(f"{path}: FAISS could not write the index: {str(error).splitlines()[0]}") from None
    return {
        "path": str(path),
        "kind": type(index).__name__,
        "items": index.ntotal,
        "width": index.d,
        "padding": padding,
    }


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise CmrkitError("writing an index needs FAISS: run pip install 'cmrkit[faiss]'") from None
    return faiss


def _binary(faiss: Any, name: str, codes: np.ndarray) -> Any:
    check_codes(name, codes)
    rows = np.packbits(np.asarray(codes) > 0, axis=1)
    index = faiss.IndexBinaryFlat(8 * rows.shape[1])
    index.add(rows)
    return index


def _flat(faiss: Any, name: str, embeddings: np.ndarray, space: str) -> Any:
    rows = check_embeddings(name, embeddings).astype(np.float64)
    if space == "cosine":
        rows = rows / np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float64).tiny)  # no square overflows
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(rows, dtype=np.float32)
    beyond = ~np.isfinite(single).all(1)
    if beyond.any():
        raise UsageError(f"{name} row {int(np.argmax(beyond))} is too large for single precision: scale it down")
    index = (faiss.IndexFlatL2 if space == "euclidean" else faiss.IndexFlatIP)(rows.shape[1])
    index.add(single)
    return index
