"""The same counts and products on a torch device, for graphics cards.

Distances of codes are integers below 2**24 and come out of a matrix product of +1/-1 exactly, so the histograms
equal the compiled ones; everything that follows from them is the same code. Torch is imported when called.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.relevance import DENSE, EQUAL

PAIRS = 1 << 24  # of a query and an item held on the device at once


def find_device(name: str):
    """Return the torch device of this name. Raises UsageError where torch does not know it or it is not there."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def count_cells(query: np.ndarray, database: np.ndarray, levels: int, relevance: tuple, name: str) -> np.ndarray:
    """Count irrelevant and relevant items at each distance: int64 (queries, levels, 2).

    Arguments are those of the compiled loop: packed codes uint64 (words, q) and (words, n), and what
    ``Relevance.packed`` gives.
    """
    import torch

    device = find_device(name)
    mode, of_query, of_items = relevance
    queries, items = query.shape[1], database.shape[1]
    bits = levels - 1
    left, right = (torch.from_numpy(_signs(words, bits)).to(device) for words in (query, database))
    if mode == DENSE:
        relevant_rows = torch.from_numpy(np.array(of_query)).to(device)
    elif mode == EQUAL:
        own, other = (torch.from_numpy(ids[0].view(np.int64).copy()).to(device) for ids in (of_query, of_items))
    else:
        own, other = (torch.from_numpy(_bits(words)).to(device) for words in (of_query, of_items))
    counts = torch.zeros(queries, levels * 2, dtype=torch.int64, device=device)
    step = max(1, PAIRS // max(items, 1))
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        cells = (bits - left[rows] @ right.T).long()  # twice the distance: an even number
        if mode == DENSE:
            cells += relevant_rows[rows].long()
        elif mode == EQUAL:
            cells += (own[rows, None] == other[None]).long()
        else:
            cells += ((own[rows] @ other.T) > 0).long()
        counts[rows].scatter_add_(1, cells, torch.ones_like(cells))
    return counts.view(queries, levels, 2).cpu().numpy()


def product_rows(
    left: np.ndarray, right: np.ndarray, offset: np.ndarray | None, name: str
) -> Callable[[slice], np.ndarray]:
    """Return a function from a slice of rows of ``left`` (q, d) to ``left @ right.T + offset``: float (q, n)."""
    import torch

    device = find_device(name)
    dtype = np.float32 if device.type == "mps" else np.result_type(left, right)  # mps has no float64
    one, other = (torch.from_numpy(np.ascontiguousarray(x, dtype=dtype)).to(device) for x in (left, right))
    shift = 0 if offset is None else torch.from_numpy(offset.astype(dtype)).to(device)
    return lambda rows: (one[rows] @ other.T + shift).cpu().numpy()


def _bits(words: np.ndarray) -> np.ndarray:
    """Unpack uint64 (words, n) into float32 0/1 (n, 64 * words)."""
    return np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1).astype(np.float32)


def _signs(words: np.ndarray, bits: int) -> np.ndarray:
    return 2 * _bits(words)[:, :bits] - 1
