"""DSAH: Deep Semantic-Alignment Hashing (Yang et al., ICMR 2020).

Images x (n, d_image) and texts y (n, d_text), as features, each pass a network to h (n, bits); with t = sqrt(epoch)
counted from 1, B = tanh(t h) are relaxed codes. In a batch, with the similarities S_I and S_T of the features
(2 cos - 1), S = k (alpha S_I + (1 - alpha) S_T), and || || for the mean of squares, the loss is the sum of

    semantic alignment   ||cos(B_I, B_I) - S|| + ||cos(B_I, B_T) - S|| + ||cos(B_T, B_T) - S||
                         + eta (||cos(B_I, B_I) - k S_I|| + ||cos(B_T, B_T) - k S_T||)
    pairs                ||cos(b_i^I, b_i^T) - k||, over pairs i alone
    symmetry             2 ||cos(B_I, B_T) - cos(B_T, B_I)||
    reconstruction       ||D_I sign(B_I) - f_T|| + ||D_T sign(B_T) - f_I||

where linear decoders D rebuild the other modality's features, rows f of length 1, from codes. As in the official code,
the sign passes no gradient: reconstruction trains the decoders and cannot move a code.

Held against the loss of the official code (idejie/DSAH@b231976) with the same weights and batch (32 pairs, float32):
losses differ by 2e-7, weights after one step of SGD by at most 1.5e-8.

Departure: the authors train AlexNet on images and take S_I and f_I from the last hidden layer of a frozen copy. Here
images are features, from which S_I and f_I come as they are given; one hidden layer stands for the trained AlexNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.cosines import affinity, cosines
from cmrkit.methods.parts.mlp import mlp


@dataclass(kw_only=True)
class DSAH(DeepEmbedder):
    """``k`` stretches similarities beyond what a cosine can reach; ``nesterov`` is the kind of momentum."""

    space: ClassVar[str] = "hamming"

    bits: int = 16
    hidden: int = 4096
    k: float = 1.5
    alpha: float = 0.9
    eta: float = 0.1
    epochs: int = 200
    batch_size: int = 32
    drop_last: bool = True
    optimizer: str = "SGD"
    lr: float = 0.005
    momentum: float = 0.7
    nesterov: bool = True
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return networks and decoders with PyTorch's initial weights, as in the official code."""
        widths = {"image": spec.image_shape[0], "text": spec.text_shape[0]}
        net = nn.ModuleDict({name: mlp((width, self.hidden, self.bits)) for name, width in widths.items()})
        net["text_of_image"] = nn.Linear(self.bits, widths["text"])
        net["image_of_text"] = nn.Linear(self.bits, widths["image"])
        return net

    def make_optimizer(self, parameters: Any, **changes: Any) -> torch.optim.Optimizer:
        """Return the optimiser, with Nesterov's momentum."""
        return super().make_optimizer(parameters, **{"nesterov": self.nesterov} | changes)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the sum of the four parts."""
        t = math.sqrt(loop.epoch + 1)
        B_I = torch.tanh(t * self.embed_image(net, batch.image))
        B_T = torch.tanh(t * self.embed_text(net, batch.text))
        return self.alignment(B_I, B_T, batch.image, batch.text) + self.reconstruction(net, B_I, B_T, batch)

    def alignment(self, B_I: Tensor, B_T: Tensor, X: Tensor, Y: Tensor) -> Tensor:
        """Return the first three parts for relaxed codes (m, bits) of pairs with features ``X`` and ``Y``."""
        S_I, S_T = self.k * affinity(X), self.k * affinity(Y)
        S = self.alpha * S_I + (1 - self.alpha) * S_T
        II, IT, TT = cosines(B_I, B_I), cosines(B_I, B_T), cosines(B_T, B_T)
        aligned = mse_loss(II, S) + mse_loss(IT, S) + mse_loss(TT, S)
        own = mse_loss(II, S_I) + mse_loss(TT, S_T)
        return aligned + self.eta * own + (IT.diagonal() - self.k).square().mean() + 2 * mse_loss(IT, IT.T)

    def reconstruction(self, net: nn.Module, B_I: Tensor, B_T: Tensor, batch: Batch) -> Tensor:
        """Return the error of each modality's features as decoded from the other modality's codes."""
        text, image = net["text_of_image"](torch.sign(B_I)), net["image_of_text"](torch.sign(B_T))
        return mse_loss(text, normalize(batch.text, dim=1)) + mse_loss(image, normalize(batch.image, dim=1))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, bits), whose signs are the codes."""
        return net["image"](x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, bits), whose signs are the codes."""
        return net["text"](y)
