"""DCMH: Deep Cross-Modal Hashing (Jiang and Li, CVPR 2017).

A network per modality gives real codes F (n, bits) of the training images and G (n, bits) of their texts. With
S_ij = 1 where pairs i and j share a label and 0 elsewhere, theta_ij = f_i . g_j / 2 and binary codes B (n, bits),

    J = sum_ij [log(1 + exp theta_ij) - S_ij theta_ij]      likelihood of the similarities
        + quantization (||B - F||^2 + ||B - G||^2)
        + balance (||F' 1||^2 + ||G' 1||^2)                 as many 1 as -1 in every bit

is minimised in turn over the text network, the image network and B, which has the closed form sign(F + G). F and G
are buffers over the training set: an update refreshes the rows of its batch and descends the part of J that these
rows touch, over ``batch n``; all other rows enter as they last were. A new item's code is the sign of what its
modality's network gives.

Held against the authors' MATLAB updates (jiangqy/DCMH-CVPR2017@67d0e84, process_DCMH.m and update_net.m, written
out in NumPy) with the same weights and a batch of 32 of 150 pairs, double precision: after one update of either
network the weights differ by at most 4e-18.

Departures. Images enter as given features: the tower is full7 (4096 ReLU) and the hash layer of CNN-F, drawn from
N(0, 0.01^2) like the text tower, because there is no pretrained CNN-F below it. The authors update the text network
for a whole epoch and then the image network, on batches drawn afresh at every step; here an epoch is a pass over
shuffled pairs and each batch updates first the text, then the image network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import draw_normal, mlp


class Network(nn.Module):
    """A tower per modality; F, G and B over the training pairs."""

    def __init__(self, spec: Spec, image_hidden: int, text_hidden: int, bits: int, std: float):
        super().__init__()
        self.image = mlp((spec.image_shape[0], image_hidden, bits))
        self.text = mlp((spec.text_shape[0], text_hidden, bits))
        draw_normal(self, std)
        for name in ("F", "G", "B"):
            self.register_buffer(name, torch.zeros(spec.n_texts, bits))


@dataclass(kw_only=True)
class DCMH(DeepEmbedder):
    """``lr`` falls geometrically to ``final_lr`` in the last epoch; weights start from N(0, ``init_std``^2)."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int = 16
    image_hidden: int = 4096
    text_hidden: int = 8192
    init_std: float = 0.01
    quantization: float = 1.0
    balance: float = 1.0
    epochs: int = 500
    batch_size: int = 128
    optimizer: str = "SGD"
    lr: float = 0.0316227766
    final_lr: float = 1e-3
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return the network; F, G and B start at zero, as in the authors' code."""
        return Network(spec, self.image_hidden, self.text_hidden, self.bits, self.init_std)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return an optimiser per modality."""
        return {
            "image": self.make_optimizer(net.image.parameters()),
            "text": self.make_optimizer(net.text.parameters()),
        }

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Minimise J over B, and set the epoch's learning rate."""
        net.B.copy_(torch.sign(net.F + net.G))
        rate = self.lr * (self.final_lr / self.lr) ** (loop.epoch / max(self.epochs - 1, 1))
        for name in loop.optimizers:
            loop.set_lr(rate, name)

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Descend J over the text network with F fixed, then over the image network with G fixed."""
        labels = loop.labels[loop.pairs]

        def text(part: Batch) -> Tensor:
            return self.objective(net.text(part.text), net.G, net.F, net.B, part.rows, labels)

        def image(part: Batch) -> Tensor:
            return self.objective(net.image(part.image), net.F, net.G, net.B, part.rows, labels)

        losses = {"text": loop.descend(batch, text, "text"), "image": loop.descend(batch, image, "image")}
        return {"loss": losses["text"] + losses["image"], **losses}

    def objective(self, codes: Tensor, own: Tensor, other: Tensor, B: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the part of J that ``codes`` (b, bits) of ``rows`` touch, over b n, having put them into ``own``."""
        own[rows] = codes.detach()
        theta = codes @ other.T / 2
        S = (labels[rows] @ labels.T > 0).to(theta.dtype)
        likelihood = (softplus(theta) - S * theta).sum()
        quantization = (B[rows] - codes).square().sum()
        total = own.sum(dim=0) + (codes - codes.detach()).sum(dim=0)  # the other rows of ``own`` are constants
        J = likelihood + self.quantization * quantization + self.balance * total.square().sum()
        return J / (len(rows) * len(labels))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to real codes (n, bits)."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to real codes (n, bits)."""
        return net.text(y)
