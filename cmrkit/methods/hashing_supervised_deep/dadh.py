"""DADH: Deep Adversarial Discrete Hashing for Cross-Modal Retrieval (Bai et al., ICMR 2020).

Towers map features of images and texts to f (b, hidden / 4) and heads to codes h in (-1, 1)^bits. With binary codes
B (n, bits) shared by both modalities, a batch's h_i of images and h_t of texts minimise

    10 alpha [T(h_i, h_t) + T(h_t, h_i)] + beta (||B - h_i||^2 + ||B - h_t||^2)
        - adversarial (mean log D_f(f_t) + mean log D_h(h_t))

where T sums, over triplets (a, p, n) in which p shares a label with a and n does not, w_apn max(0, d_ap - d_an +
margin), d = max(0, 1 - cos), with gains w_apn = g_ap - g_an, g_ij = (2^(labels shared) - 1) / Z_i, and Z_i the
largest discounted cumulative gain that item i can have in the batch. D_f and D_h tell images' features and codes (1)
from those of texts (0), by cross entropy weighted with ``adversarial`` and ``penalty`` times a gradient penalty; the
codes by which D_h teaches come from detached features. After every epoch

    B = sign(L (L' L + ridge I)^-1 L' B + mu (H_i + H_t) / 2),

H being the codes of all training pairs as their batches last gave them, L (n, classes) the labels.

Held against the authors' PyTorch code (Zjut-MultimediaPlus/DADH@5869b81) with the same weights, batch and random
numbers, double precision: after one update of discriminators and towers the weights differ by at most 2e-12, and the
loss by 2e-8 of it, the authors' mask of triplets being single precision; B after an epoch is equal.

Departures. The authors' factors 1.1 on gains and on triplets, which are made of beta and gamma in their code, are
``triplet_scale`` = 1.21 here, and their beta of 1, to which 0.1 is added, is 1.1. Batch norm's running statistics see
each batch twice for both modalities, in their code for texts only. An incomplete last batch is left out. They keep
the epoch that scores best on the test set; here it is the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.adversarial import gradient_penalty
from cmrkit.methods.parts.mlp import mlp
from cmrkit.methods.parts.triplets import cosine_triplets


class Network(nn.Module):
    """A tower and a head per modality, two discriminators, and B with both modalities' codes of all pairs."""

    def __init__(self, spec: Spec, hidden: int, dropout: float, bits: int):
        super().__init__()
        f = hidden // 4
        for name, shape in (("image", spec.image_shape), ("text", spec.text_shape)):
            tower = mlp((shape[0], hidden, hidden // 2, f), last=True, batch_norm=True, dropout=dropout)
            setattr(self, name, tower)
            setattr(self, f"{name}_hash", nn.Sequential(nn.Linear(f, bits), nn.Tanh()))
        self.feature_critic = mlp((f, f // 2, f // 4, 1))
        self.code_critic = mlp((bits, 512, 1))
        for layer in (*self.feature_critic, *self.code_critic):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("B", torch.randn(spec.n_texts, bits).sign())
        self.register_buffer("image_outputs", torch.zeros(spec.n_texts, bits))
        self.register_buffer("text_outputs", torch.zeros(spec.n_texts, bits))


def gain_weights(labels: Tensor) -> Tensor:
    """Return g_ap - g_an (b, b, b) from multi-hot ``labels`` (b, classes); 0 for rows without labels."""
    shared = labels @ labels.T
    ideal = 2 ** shared.sort(dim=1, descending=True).values - 1
    ranks = torch.arange(2, len(labels) + 2, device=labels.device, dtype=labels.dtype)
    best = (ideal / torch.log2(ranks)).sum(dim=1, keepdim=True)
    gain = (2**shared - 1) / best.clamp(min=1e-12)
    return gain[:, :, None] - gain[:, None, :]


@dataclass(kw_only=True)
class DADH(DeepEmbedder):
    """``alpha`` to ``mu`` are the paper's weights; every ``decay_every`` epochs, 0 included, lr falls by ``gamma``."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True
    reduction: ClassVar[str] = "sum"

    bits: int = 64
    hidden: int = 8192
    dropout: float = 0.0
    alpha: float = 10.0
    triplet_scale: float = 1.21
    beta: float = 1.1
    adversarial: float = 1.0
    penalty: float = 10.0
    mu: float = 1e-5
    ridge: float = 1.0
    margin: float = 0.4
    epochs: int = 300
    batch_size: int = 128
    lr: float = 5e-5
    weight_decay: float = 5e-4
    critic_decay: float = 1e-4
    gamma: float = 0.8
    decay_every: int = 100
    drop_last: bool = True

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights, Kaiming's in the discriminators, and random B."""
        return Network(spec, self.hidden, self.dropout, self.bits)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return optimisers of the towers and heads, and of both discriminators."""
        towers = nn.ModuleList([net.image, net.text, net.image_hash, net.text_hash]).parameters()
        critic = {"betas": (0.5, 0.9), "weight_decay": self.critic_decay}
        return {
            "main": self.make_optimizer(towers),
            "feature": self.make_optimizer(net.feature_critic.parameters(), **critic),
            "code": self.make_optimizer(net.code_critic.parameters(), **critic),
        }

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Lower the towers' rate after epochs 0, 100, ..., to no less than 1e-6."""
        falls = -(-loop.epoch // self.decay_every)
        loop.set_lr(max(self.lr * self.gamma**falls, 1e-6), "main")

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Train the discriminators on the batch, then the towers."""
        outputs = self.outputs(net, batch)
        (f_i, h_i), (f_t, h_t) = ([z.detach() for z in pair] for pair in outputs)
        net.image_outputs[batch.rows], net.text_outputs[batch.rows] = h_i, h_t
        feature = loop.descend(batch, lambda part: self.critic_loss(net.feature_critic, f_i, f_t), "feature")
        code = loop.descend(batch, lambda part: self.critic_loss(net.code_critic, h_i, h_t), "code")
        loss = loop.descend(batch, lambda part: self.loss(net, part, loop))
        return {"loss": loss, "feature_critic": feature, "code_critic": code}

    def outputs(self, net: nn.Module, batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return features and codes of images and of texts."""
        f_i, f_t = net.image(batch.image), net.text(batch.text)
        return (f_i, net.image_hash(f_i)), (f_t, net.text_hash(f_t))

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Return what a discriminator minimises, given detached features or codes (b, d) of images and texts."""
        entropy = softplus(-critic(real)).mean() + softplus(critic(fake)).mean()
        return self.adversarial * entropy + self.penalty * gradient_penalty(critic, real, fake)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return what towers and heads minimise over a batch."""
        (_, h_i), (f_t, h_t) = self.outputs(net, batch)
        weights = gain_weights(batch.labels)
        triplets = sum(cosine_triplets(a, b, batch.labels, self.margin, weights) for a, b in ((h_i, h_t), (h_t, h_i)))
        quantization = sum((net.B[batch.rows] - h).square().sum() for h in (h_i, h_t))
        verdicts = net.feature_critic(f_t), net.code_critic(net.text_hash(f_t.detach()))
        fooled = sum(softplus(-verdict).mean() for verdict in verdicts)
        scale = 10 * self.alpha * self.triplet_scale
        return scale * triplets + self.beta * quantization + self.adversarial * fooled

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Update B."""
        L = loop.labels[loop.pairs]
        gram = L.T @ L + self.ridge * torch.eye(L.shape[1], device=L.device)
        fitted = L @ torch.linalg.solve(gram, L.T @ net.B)
        net.B.copy_(torch.sign(fitted + self.mu * (net.image_outputs + net.text_outputs) / 2))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to codes in (-1, 1) (n, bits)."""
        return net.image_hash(net.image(x))

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to codes in (-1, 1) (n, bits)."""
        return net.text_hash(net.text(y))
