"""What methods share that train a critic against a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (||gradient of critic|| - 1)^2 at random points between rows of ``real`` and ``fake`` (b, d).

    As in WGAN-GP (Gulrajani et al., NeurIPS 2017), but that every entry, not every row, is drawn between the two,
    as cross-modal hashing codes do.
    """
    share = torch.rand_like(real)
    between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()
