"""Slowly moving copies of a network: momentum encoders, and averages of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def momentum_copy(module: nn.Module) -> nn.Module:
    """Return a copy that no optimiser trains; keep it as a submodule of the network, so that it is saved with it."""
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


@torch.no_grad()
def momentum_update(twin: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move ``twin`` towards ``module``: w <- momentum w + (1 - momentum) w_module; buffers are copied."""
    for slow, fast in zip(twin.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)
    for slow, fast in zip(twin.buffers(), module.buffers(), strict=True):
        slow.copy_(fast)
