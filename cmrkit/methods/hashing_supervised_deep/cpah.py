"""CPAH: Multi-Task Consistency-Preserving Adversarial Hashing (Xie et al., TIP 2020).

A tower per modality gives features (b, hidden), and a mask in (0, 1)^hidden made from them splits these into a common
part c, the features times the mask, and a private part q, the rest. Heads make codes h in (-1, 1)^bits and labels p
in (0, 1)^classes of c. With labels L, S_ij = 1 where pairs i and j share a label and 0 elsewhere, binary codes
B (n, bits) of the training pairs, i for images and t for texts, a batch minimises (equation numbers of the paper)

    100 mean[-log D(c_t)]                                                       (6)  texts pass for images
    + alpha (sum of cross entropy of K(c_i), K(c_t), K(q_i), K(q_t))            (7)  common, common, image's, text's
    + alpha (sum of binary cross entropy of p_i and p_t with L)                 (8)
    + sum_ij [log(1 + exp theta_ij) - S_ij theta_ij],  theta = h_i h_t' / 2     (10)
    + beta (||B - h_i||^2 + ||B - h_t||^2)                                      (11)

where K classifies a part as private to images, common, or private to texts, and the discriminator D tells common
parts of images (1) from those of texts (0) by cross entropy and ``penalty`` times a gradient penalty (5). After every
epoch B = sign(H_i + H_t), the codes of all pairs as their batches last gave them.

The authors' code is not public, and their paper was not at hand: objective, widths and settings are those of a
third-party implementation on features (comrados/cpah@1470738), which names the equations. Held against it with the
same weights, batch and random numbers, its (7) put right as below,
double precision: after one update of discriminator and network the weights differ by at most 2e-13 (gradients by
4e-15), and the losses are equal.

Departures. That code computes (7) from the common and private features themselves as if they were class scores, and
leaves its classifier K unused; here K is used. It makes codes of new items without the mask that it trains with; here
with it. It duplicates images of several captions; here the loop pairs them. Images enter as given features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, softplus

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.adversarial import gradient_penalty
from cmrkit.methods.parts.mlp import mlp


class Modality(nn.Module):
    """A tower, a mask, and heads for codes and labels."""

    def __init__(self, width: int, hidden: int, bits: int, classes: int):
        super().__init__()
        self.tower = mlp((width, hidden, hidden), last=True, batch_norm=True)
        self.mask = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid())
        self.hash = nn.Sequential(nn.Linear(hidden, bits), nn.Tanh())
        self.label = nn.Sequential(nn.Linear(hidden, classes), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the common and the private part of the features of ``x`` (n, width), each (n, hidden)."""
        f = self.tower(x)
        mask = self.mask(f)
        return f * mask, f * (1 - mask)


class Network(nn.Module):
    """Both modalities, the discriminator D and classifier K of parts, and the codes of all training pairs."""

    def __init__(self, spec: Spec, hidden: int, bits: int):
        super().__init__()
        self.image = Modality(spec.image_shape[0], hidden, bits, spec.classes)
        self.text = Modality(spec.text_shape[0], hidden, bits, spec.classes)
        self.kind = mlp((hidden, hidden // 8, 3))
        self.critic = mlp((hidden, hidden // 8, 1))
        self.register_buffer("B", torch.randn(spec.n_texts, bits).sign())
        self.register_buffer("H", torch.zeros(spec.n_texts, bits))  # sum over both modalities


@dataclass(kw_only=True)
class CPAH(DeepEmbedder):
    """``adversarial`` to ``beta`` weigh (6), (7) and (8), and (11); lr falls by ``gamma`` every ``decay_every``."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True
    reduction: ClassVar[str] = "sum"

    bits: int = 64
    hidden: int = 512
    adversarial: float = 100.0
    alpha: float = 0.1
    beta: float = 1.0
    penalty: float = 10.0
    epochs: int = 80
    batch_size: int = 64
    lr: float = 1e-4
    weight_decay: float = 5e-4
    critic_decay: float = 1e-4
    gamma: float = 0.2
    decay_every: int = 30
    drop_last: bool = True

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights and random B."""
        return Network(spec, self.hidden, self.bits)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return optimisers of the discriminator and of all else."""
        rest = nn.ModuleList([net.image, net.text, net.kind]).parameters()
        critic = self.make_optimizer(net.critic.parameters(), betas=(0.5, 0.9), weight_decay=self.critic_decay)
        return {"main": self.make_optimizer(rest), "critic": critic}

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Lower the rate of all but the discriminator after epochs 0, 30, ..., to no less than 1e-6."""
        loop.set_lr(max(self.lr * self.gamma ** -(-loop.epoch // self.decay_every), 1e-6), "main")

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Train the discriminator on the batch, then all else."""
        with torch.no_grad():
            common_i, common_t = net.image(batch.image)[0], net.text(batch.text)[0]
            net.H[batch.rows] = net.image.hash(common_i) + net.text.hash(common_t)
        critic = loop.descend(batch, lambda part: self.critic_loss(net.critic, common_i, common_t), "critic")
        return {"loss": loop.descend(batch, lambda part: self.loss(net, part, loop)), "critic": critic}

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Return (5) of detached common parts (b, hidden) of images and texts."""
        entropy = softplus(-critic(real)).mean() + softplus(critic(fake)).mean()
        return entropy + self.penalty * gradient_penalty(critic, real, fake)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the sum of (6), (7), (8), (10) and (11) over a batch."""
        (common_i, private_i), (common_t, private_t) = net.image(batch.image), net.text(batch.text)
        h_i, h_t = net.image.hash(common_i), net.text.hash(common_t)
        fooled = softplus(-net.critic(common_t)).mean()
        kinds = net.kind(torch.cat([private_i, common_i, common_t, private_t]))
        truth = torch.tensor([0, 1, 1, 2], device=kinds.device).repeat_interleave(len(h_i))
        consistency = cross_entropy(kinds, truth, reduction="sum")
        predicted = net.image.label(common_i), net.text.label(common_t)
        labels = sum(binary_cross_entropy(p, batch.labels, reduction="sum") for p in predicted)
        theta = h_i @ h_t.T / 2
        S = (batch.labels @ batch.labels.T > 0).to(theta.dtype)
        likelihood = (softplus(theta) - S * theta).sum()
        quantization = sum((net.B[batch.rows] - h).square().sum() for h in (h_i, h_t))
        total = self.adversarial * fooled + self.alpha * (consistency + labels)
        return total + likelihood + self.beta * quantization

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Update B."""
        net.B.copy_(torch.sign(net.H))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to codes in (-1, 1) (n, bits)."""
        return net.image.hash(net.image(x)[0])

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to codes in (-1, 1) (n, bits)."""
        return net.text.hash(net.text(y)[0])
