"""DJSRH: Deep Joint-Semantics Reconstructing Hashing (Su, Zhong & Zhang, ICCV 2019).

Images x (n, d_image) and texts y (n, d_text), as features, each pass a network to h (n, bits). In a batch of m pairs,
with the similarities S_I and S_T that the features have in each modality (2 cos - 1),

    S' = beta S_I + (1 - beta) S_T,     S = mu [(1 - eta) S' + eta S' S'' / m]         (joint semantics)

where S'' is S' transposed, so that two items are also alike where they are alike to the same others. The cosines of
the relaxed codes B = tanh(alpha h), alpha = sqrt(epoch) counted from 1, reconstruct this one matrix within each
modality and across them; with means of squares over all pairs of the batch,

    loss = ||cos(B_I, B_T) - S||^2 + lambda_1 ||cos(B_I, B_I) - S||^2 + lambda_2 ||cos(B_T, B_T) - S||^2.

A new item's code is the sign of h.

Held against the loss of the official code (zs-zhong/DJSRH@6041c2d) with the same weights and batch (32 pairs, float32):
losses equal, weights after one step of SGD differ by at most 1.5e-8.

Departure: the authors train AlexNet on images and take S_I from a frozen copy's last hidden layer. Here images are
features; S_I comes from them as they are given, and the layers of AlexNet that they train on Wikipedia, those after
the convolutions, shrink to one hidden layer as in the text network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.cosines import affinity, cosines
from cmrkit.methods.parts.mlp import mlp


@dataclass(kw_only=True)
class DJSRH(DeepEmbedder):
    """``lambda_image`` and ``lambda_text`` are the paper's lambda_1 and lambda_2."""

    space: ClassVar[str] = "hamming"

    bits: int = 64
    hidden: int = 4096
    beta: float = 0.3
    eta: float = 0.4
    mu: float = 1.5
    lambda_image: float = 0.3
    lambda_text: float = 0.3
    epochs: int = 200
    batch_size: int = 32
    drop_last: bool = True
    optimizer: str = "SGD"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return the two networks with PyTorch's initial weights, as in the official code."""
        widths = {"image": spec.image_shape[0], "text": spec.text_shape[0]}
        return nn.ModuleDict({name: mlp((width, self.hidden, self.bits)) for name, width in widths.items()})

    def joint_semantics(self, X: Tensor, Y: Tensor) -> Tensor:
        """Return S (m, m) of the features of m pairs."""
        fused = self.beta * affinity(X) + (1 - self.beta) * affinity(Y)
        return self.mu * ((1 - self.eta) * fused + self.eta * fused @ fused.T / len(fused))

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the error of reconstructing S by cosines of relaxed codes."""
        alpha = math.sqrt(loop.epoch + 1)
        B_I = torch.tanh(alpha * self.embed_image(net, batch.image))
        B_T = torch.tanh(alpha * self.embed_text(net, batch.text))
        S = self.joint_semantics(batch.image, batch.text)
        within = self.lambda_image * mse_loss(cosines(B_I, B_I), S) + self.lambda_text * mse_loss(cosines(B_T, B_T), S)
        return mse_loss(cosines(B_I, B_T), S) + within

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, bits), whose signs are the codes."""
        return net["image"](x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, bits), whose signs are the codes."""
        return net["text"](y)
