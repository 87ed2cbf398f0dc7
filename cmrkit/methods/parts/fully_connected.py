"""Towers of fully connected layers, which stand on features of images or texts."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def fully_connected(*widths: int, batch_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Return layers from ``widths[0]`` to ``widths[-1]``, each linear, then batch norm if asked, ReLU and dropout."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Linear(before, after))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def draw_normal(net: nn.Module, std: float) -> None:
    """Draw weights and biases of all linear layers of ``net`` from N(0, std^2)."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            nn.init.normal_(layer.bias, 0.0, std)
