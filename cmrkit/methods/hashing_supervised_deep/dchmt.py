"""DCHMT: Differentiable Cross-modal Hashing via Multimodal Transformers (Tu et al., MM 2022).

Images x (n, d_image) and texts y (n, d_text), as features, each pass a hash layer of their own: ReLU units, then for
each of ``bits`` bits a choice between its two values, a softmax over two logits. The choices of all bits, side by side,
are the relaxed code c (n, 2 bits); there is no sign to differentiate and no quantisation term. A new item's bit is the
value chosen with the larger probability.

With S the label overlap of two pairs of a batch (0 or 1), d = ||c_a - c_b|| the Euclidean distance of their codes, and
M = sqrt(2 bits vartheta) the distance from which two codes are far enough apart, over all pairs (a, b) of the batch

    l(A, B) = mean (S d)^2 + mean ((1 - S) max(0, M - d))^2,       loss = l(I, T) + l(I, I) + l(T, T).

Held against the official code's hash layers and loss (kalenforn/DCHMT@79bd5e6) with the same weights and batch (32
pairs, float32): losses equal, weights after one step of plain gradient descent differ by at most 6e-8.

Departure, and a large one: the paper's images and texts are pixels and words, and CLIP (ViT-B/32), trained along, maps
them to the 512 features that its hash layers start from. Without CLIP's weights there is nothing of it to reproduce:
features as given take the place of its output, so that the hash layers and the loss are the paper's and the
transformers are not there. The authors' BertAdam clips the gradient of every parameter by itself and does not correct
its moments' bias; AdamW does, and clips them together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec


class HashLayer(nn.Module):
    """Choices of all bits: features (n, width) to probabilities (n, bits, 2)."""

    def __init__(self, width: int, hidden: int, bits: int):
        super().__init__()
        self.hidden, self.choice = nn.Linear(width, hidden), nn.Linear(hidden, 2 * bits)
        nn.init.kaiming_uniform_(self.hidden.weight, mode="fan_out")
        nn.init.uniform_(self.choice.weight, -math.sqrt(3), math.sqrt(3))  # Kaiming's, of a layer of two units a bit
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.choice.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the probabilities of each bit's two values."""
        return self.choice(torch.relu(self.hidden(x))).unflatten(1, (-1, 2)).softmax(-1)


def similarity_loss(A: Tensor, B: Tensor, S: Tensor, far: float) -> Tensor:
    """Return l(A, B) of codes (n, 2 bits) with label overlaps ``S`` (n, n) and distance ``far`` M."""
    d = torch.cdist(A, B)
    return (S * d).square().mean() + ((1 - S) * torch.relu(far - d)).square().mean()


@dataclass(kw_only=True)
class DCHMT(DeepEmbedder):
    """``hidden`` is the width of the hash layers, ``vartheta`` the share of differing bits that is far enough."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True
    data_parallel: ClassVar[bool] = True

    bits: int = 64
    hidden: int = 128
    vartheta: float = 0.5
    epochs: int = 100
    batch_size: int = 64
    optimizer: str = "AdamW"
    lr: float = 1e-3
    betas: tuple = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    schedule: str = "cosine"
    warmup: float = 10.0
    clip: float = 1.0

    def build(self, spec: Spec) -> nn.Module:
        """Return the two hash layers, weights as in the official code."""
        widths = {"image": spec.image_shape[0], "text": spec.text_shape[0]}
        return nn.ModuleDict({name: HashLayer(width, self.hidden, self.bits) for name, width in widths.items()})

    def make_optimizer(self, parameters: Any, **changes: Any) -> torch.optim.Optimizer:
        """Return the optimiser with the paper's epsilon."""
        return super().make_optimizer(parameters, **{"eps": self.eps} | changes)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the loss across and within modalities."""
        A, B = (loop.gather(net[m](getattr(batch, m)).flatten(1)) for m in ("image", "text"))
        labels = loop.gather(batch.labels)
        S, far = (labels @ labels.T > 0).float(), math.sqrt(2 * self.bits * self.vartheta)
        return sum(similarity_loss(C, D, S, far) for C, D in ((A, B), (A, A), (B, B)))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, bits): by how much 1 is more probable than -1."""
        return chosen(net["image"](x))

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, bits): by how much 1 is more probable than -1."""
        return chosen(net["text"](y))


def chosen(choices: Tensor) -> Tensor:
    """Return the second value's probability minus the first's, (n, bits); even ones count as the first."""
    difference = choices[..., 1] - choices[..., 0]
    return torch.where(difference > 0, difference, difference - torch.finfo(difference.dtype).tiny)
