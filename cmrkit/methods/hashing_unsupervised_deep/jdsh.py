"""JDSH: Joint-modal Distribution-based Similarity Hashing (Liu et al., SIGIR 2020).

Image features x (n, d_image) pass one linear layer to h (n, bits), text features y (n, d_text) a network with one
hidden layer. In a batch, with the similarities S_I and S_T of the features (2 cos - 1),

    S' = alpha S_I + beta S_T + gamma (H + H') / 2,    H = rows of S_I, rows of S_T, both of length 1, multiplied

and pairs in either tail of the distribution of S' are pushed further out (distribution-based similarity decision
and weighting):

    S = mu w S',   w = 1 + L1 exp(-(S' - low))   where S' < left  = left_location - left_scales * left_scale
                   w = 1 + L2 exp(S' - high)     where S' > right = right_location + right_scales * right_scale
                   w = 1                         between.

The locations and scales are those of distributions fitted to either flank of S', and low and high its extremes;
the authors ship numbers for two datasets. With 'fit' they are taken from the training set at the start, see
``thresholds``. The cosines of B = tanh(a h), a = sqrt(epoch) counted from 1, regress S (means of squares):

    loss = intra (||cos(B_I, B_I) - S||^2 + ||cos(B_T, B_T) - S||^2)
           + ||cos(B_I, B_T) - S||^2 + ||cos(B_T, B_I) - S||^2 - mean_i cos(b_i^I, b_i^T).

The image layer is single because the authors train only this layer, on a frozen AlexNet's fc7; features take its
place. Held against the official code's similarity and loss (KaiserLew/JDSH@caa8224) with the same weights and batch
(32 pairs, float32): S differs by 6e-7, the loss by 3e-7, weights after one step of SGD by at most 3e-8.

Departures: their fc7 passes dropout, which makes S_I noisy; here S_I is that of the features as given.
Fitting the thresholds ('fit') is not in their code, which ships the results of a fit; ``thresholds`` says how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.cosines import affinity, cosines
from cmrkit.methods.parts.mlp import mlp


@dataclass(kw_only=True)
class JDSH(DeepEmbedder):
    """``decide``: thresholds as 'given' by the fields left, right, low and high, or 'fit' to the training set."""

    space: ClassVar[str] = "hamming"

    bits: int = 64
    hidden: int = 4096
    alpha: float = 0.5
    beta: float = 0.1
    gamma_joint: float = 0.4
    mu: float = 1.4
    intra: float = 0.1
    decide: Literal["given", "fit"] = "given"
    left: float = -0.528
    right: float = -0.138
    low: float = -0.52
    high: float = 0.68
    L1: float = 0.1
    L2: float = 0.2
    epochs: int = 300
    batch_size: int = 32
    drop_last: bool = True
    optimizer: str = "SGD"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return the two networks with PyTorch's initial weights, and the thresholds (left, right, low, high)."""
        net = nn.Module()
        net.image = nn.Linear(spec.image_shape[0], self.bits)
        net.text = mlp((spec.text_shape[0], self.hidden, self.bits))
        net.register_buffer("thresholds", torch.tensor([self.left, self.right, self.low, self.high]))
        return net

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Fit the thresholds to the joint similarities of 1,024 training pairs at most, where they are not given."""
        if self.decide == "fit":
            batch = loop.batch(torch.randperm(loop.spec.n_texts, generator=loop.generator)[:1024])
            net.thresholds.copy_(thresholds(self.joint_similarity(batch.image, batch.text)))

    def joint_similarity(self, X: Tensor, Y: Tensor) -> Tensor:
        """Return S' (m, m) of the features of m pairs."""
        S_I, S_T = affinity(X), affinity(Y)
        H = normalize(S_I, dim=1) @ normalize(S_T, dim=1).T
        return self.alpha * S_I + self.beta * S_T + self.gamma_joint * (H + H.T) / 2

    def weigh(self, joint: Tensor, limits: Tensor) -> Tensor:
        """Return mu w S' for similarities S'; ``limits`` are left, right, low and high."""
        left, right, low, high = limits
        weight = torch.where(joint < left, 1 + self.L1 * torch.exp(-(joint - low)), 1.0)
        return self.mu * torch.where(joint > right, 1 + self.L2 * torch.exp(joint - high), weight) * joint

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the error of regressing the weighted joint similarities by cosines of relaxed codes."""
        a = math.sqrt(loop.epoch + 1)
        B_I = torch.tanh(a * self.embed_image(net, batch.image))
        B_T = torch.tanh(a * self.embed_text(net, batch.text))
        S = self.weigh(self.joint_similarity(batch.image, batch.text), net.thresholds)
        across = cosines(B_I, B_T)
        within = mse_loss(cosines(B_I, B_I), S) + mse_loss(cosines(B_T, B_T), S)
        return self.intra * within + mse_loss(across, S) + mse_loss(across.T, S) - across.diagonal().mean()

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, bits), whose signs are the codes."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, bits), whose signs are the codes."""
        return net.text(y)


def thresholds(S: Tensor) -> Tensor:
    """Return left, right, low and high (4,) of the joint similarities ``S`` (n, n), diagonal left out.

    Both flanks are fitted around the mode m (of a histogram of 100 cells): scale_left is the standard deviation of
    the values below m about m, scale_right of those above; left = m - 2 scale_left, right = m + 4 scale_right; low
    and high are the smallest and largest value.
    """
    values = S[~torch.eye(len(S), dtype=torch.bool, device=S.device)]
    low, high = values.min(), values.max()
    counts = torch.histc(values, 100, low.item(), high.item())
    mode = low + (counts.argmax() + 0.5) / 100 * (high - low)
    below, above = values[values <= mode], values[values >= mode]
    left, right = ((flank - mode).square().mean().sqrt() for flank in (below, above))
    return torch.stack([mode - 2 * left, mode + 4 * right, low, high])
