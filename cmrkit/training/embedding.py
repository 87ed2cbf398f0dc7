"""Embedding many rows in evaluation mode, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 256


@torch.no_grad()
def embed(
    net: nn.Module,
    function: Callable[[nn.Module, Tensor], Tensor | tuple[Tensor, ...]],
    read: Callable[[int, int], Tensor],
    count: int,
    size: int = SIZE,
    device: torch.device | None = None,
) -> Any:
    """Return ``function(net, rows)`` for rows 0 to ``count``, a tensor (count, ..) or a tuple of such.

    ``read(start, stop)`` gives the rows. Results move to ``device`` where one is given. Networks are left in the
    modes they were in.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        found = []
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


def _padded(rows: Tensor) -> Tensor:
    # A lone row would go through other kernels (matrix times vector) than the same row in company, and come out
    # different in its last bits; so the last row is repeated up to a power of two.
    target = max(8, 1 << (len(rows) - 1).bit_length())
    return torch.cat([rows, rows[-1:].expand(target - len(rows), *rows.shape[1:])]) if target > len(rows) else rows
