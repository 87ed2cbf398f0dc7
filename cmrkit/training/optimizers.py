"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from cmrkit.errors import UsageError


class Settings(Protocol):
    """The fields of a deep method that a schedule reads."""

    schedule: str
    warmup: float
    decay_every: int
    milestones: tuple
    gamma: float
    final_lr: float
    lr: float


def make_optimizer(name: str, parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Return ``torch.optim.<name>`` over parameters or groups; of ``options`` it is given those that it takes.

    Raises UsageError naming the optimisers there are.
    """
    known = {n: c for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)}
    kind = known.get(name)
    if kind is None or kind is torch.optim.Optimizer:
        raise UsageError(f"unknown optimizer {name!r}; torch.optim has {', '.join(sorted(set(known) - {'Optimizer'}))}")
    taken = inspect.signature(kind).parameters
    return kind(parameters, **{k: v for k, v in options.items() if k in taken})


def schedule_factor(settings: Settings, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return what the learning rate is multiplied by in update ``step`` (from 0) of ``steps``.

    step: gamma at every ``decay_every`` epochs; multistep: at each epoch of ``milestones``; cosine and linear: down
    to ``final_lr`` at the last update. ``warmup`` epochs rise linearly first, and the rest follows after them.
    plateau is 1 here: the loop multiplies by gamma where validation stands still.
    """
    warm = round(settings.warmup * steps_per_epoch)
    if step < warm:
        return (step + 1) / (warm + 1)
    epoch = step // steps_per_epoch
    if settings.schedule == "step":
        return settings.gamma ** (epoch // max(settings.decay_every, 1))
    if settings.schedule == "multistep":
        return settings.gamma ** sum(epoch >= m for m in settings.milestones)
    if settings.schedule in ("cosine", "linear"):
        done = min((step - warm) / max(steps - warm - 1, 1), 1.0)
        left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        floor = settings.final_lr / settings.lr
        return floor + (1 - floor) * left
    return 1.0


def frozen_modules(net: nn.Module, frozen: tuple, epoch: int) -> list[nn.Module]:
    """Return the submodules that do not train in ``epoch`` (from 0).

    Each entry of ``frozen`` names a submodule, with the epoch that releases it after a colon: ``image.trunk:5``;
    without one it never trains. Raises UsageError where there is no such submodule.
    """
    held = []
    for entry in frozen:
        name, _, until = str(entry).partition(":")
        try:
            module = net.get_submodule(name)
        except AttributeError:
            parts = ", ".join(n for n, _ in net.named_children())
            raise UsageError(f"train.frozen names {name!r}, which this network does not have; it has {parts}") from None
        if not until or epoch < int(until):
            held.append(module)
    return held
