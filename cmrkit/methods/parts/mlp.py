"""Fully connected networks: as many layers as there are widths, less one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    widths: Sequence[int],
    activation: type[nn.Module] = nn.ReLU,
    last: bool = False,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return linear layers from ``widths[0]`` features to ``widths[-1]``, and what follows each of them but the last.

    That is batch norm if asked, ``activation`` and dropout; with ``last`` it follows the last layer, too.
    """
    layers: list[nn.Module] = []
    for number, (width, following) in enumerate(pairwise(widths), start=2):
        layers.append(nn.Linear(width, following))
        if last or number < len(widths):
            layers += [nn.BatchNorm1d(following)] if batch_norm else []
            layers += [activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


def draw_normal(net: nn.Module, std: float) -> None:
    """Draw weights and biases of all linear layers of ``net`` from N(0, std^2)."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            nn.init.normal_(layer.bias, 0.0, std)
