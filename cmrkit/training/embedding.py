"""Embedding many rows in evaluation mode, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 256
LIMIT = 1 << 24  # bytes of rows at once: what a network makes of images is a hundred times as large


@torch.no_grad()
def embed(
    net: nn.Module,
    function: Callable[[nn.Module, Tensor], Tensor | tuple[Tensor, ...]],
    read: Callable[[int, int], Tensor],
    count: int,
    size: int | None = None,
    device: torch.device | None = None,
) -> Any:
    """Return ``function(net, rows)`` for rows 0 to ``count``, a tensor (count, ..) or a tuple of such.

    ``read(start, stop)`` gives the rows, ``size`` of them at once: by default 256, fewer where rows are images.
    Results move to ``device`` where one is given. Networks are left in the modes they were in.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        found = []
        size = size or fitting(read(0, 1))
        for start in range(0, count, size):
            rows = read(start, min(start + size, count))
            out = function(net, _padded(rows))
            out = out if isinstance(out, tuple) else (out,)
            found.append(tuple(o[: len(rows)].to(device) if device else o[: len(rows)] for o in out))
    finally:
        for module, training in modes:
            module.training = training
    joined = tuple(torch.cat(column) for column in zip(*found, strict=True))
    return joined[0] if len(joined) == 1 else joined


def fitting(row: Tensor) -> int:
    """Return how many rows like ``row`` (1, ...) to embed at once: a power of two, of at most 16 MB in all."""
    return max(8, min(SIZE, 1 << max(0, (LIMIT // max(1, row[0].nbytes)).bit_length() - 1)))


def _padded(rows: Tensor) -> Tensor:
    # A lone row would go through other kernels (matrix times vector) than the same row in company, and come out
    # different in its last bits; so the last row is repeated up to a power of two.
    target = max(8, 1 << (len(rows) - 1).bit_length())
    return torch.cat([rows, rows[-1:].expand(target - len(rows), *rows.shape[1:])]) if target > len(rows) else rows
