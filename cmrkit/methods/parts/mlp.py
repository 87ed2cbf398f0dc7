"""Fully connected networks of the real-valued methods: as many layers as there are widths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.ReLU, last: bool = False) -> nn.Sequential:
    """Return a network of linear layers from ``widths[0]`` features to ``widths[-1]``, ``activation`` between them.

    ``last`` puts an activation behind the last layer too.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), activation()]
    return nn.Sequential(*(layers if last else layers[:-1]))
