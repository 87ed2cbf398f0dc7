"""DCHUC: Deep Cross-Modal Hashing with Hashing Functions and Unified Hash Codes Jointly Learning.

Tu et al., TKDE 2020.

One binary code per pair of the training set, V (n, bits), is learned beside the two networks, whose outputs in
(-1, 1)^bits fit it on a fresh sample of pairs in every round. With outputs U of the sample's images and G of its
texts (m, bits), labels L (n, classes) in {0, 1}, W (bits, classes), and S_ij = 1 where pairs i and j share a label
and -r elsewhere, r the ratio of similar to dissimilar pairs of the sample with the database, minimise in turn

    ||U V' - bits S||^2 + ||G V' - bits S||^2 + mu ||U G' - bits S_m||^2                  similarities
        + alpha (||U W - L_m||^2 + ||G W - L_m||^2) + beta ||V W - L||^2 + eta ||W||^2    labels
        + quantization ||V_m - (U + G) / 2||^2

over the image network, the text network (``passes`` passes over the sample, the images' first in each), then, column
by column, over the codes,

    V_k = -sign(Q_k + 2 V_-k (U_-k' U_k + G_-k' G_k + beta W_-k W_k')),
    Q = -2 bits S' (U + G) - quantization (U + G on the sample's rows) - 2 beta L W',

and W in closed form. The database is ranked by V (``image_codes`` and ``text_codes`` are both V), for which its
labels were used; a new item's code is the sign of what its modality's network gives.

Held against the authors' PyTorch code (rongchengtu1/DCHUC@2cf46ed) with the same weights and batch, and both
slips below put right: losses agree to 2e-7 in float32, and after one update of both networks all weights are equal;
V after a round is equal, and W differs by 2e-7.

Departures. In the authors' code S_m is cut out of S by positions in the sample instead of rows of the database, and
the terms of G and W in the update of V count twice by a slip of brackets; both are put right here. Images enter
as given features: the tower is full7 (4096 ReLU) of AlexNet and the hash layer, without pretrained weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import mlp


class Network(nn.Module):
    """A network per modality; V, W, and the outputs for the sample of this round."""

    def __init__(self, spec: Spec, image_hidden: int, text_hidden: int, dropout: float, bits: int):
        super().__init__()
        for name, shape, hidden in (("image", spec.image_shape, image_hidden), ("text", spec.text_shape, text_hidden)):
            setattr(self, name, mlp((shape[0], hidden, bits), dropout=dropout).append(nn.Tanh()))
        for layer in self.text:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.constant_(layer.bias, 0.01)
        self.register_buffer("image_codes", torch.zeros(spec.n_texts, bits))
        self.register_buffer("text_codes", torch.zeros(spec.n_texts, bits))
        self.register_buffer("W", 0.01 * torch.randn(bits, spec.classes))
        self.register_buffer("U", torch.zeros(spec.n_texts, bits))  # zero off the sample
        self.register_buffer("G", torch.zeros(spec.n_texts, bits))


def update_codes(V: Tensor, U: Tensor, G: Tensor, W: Tensor, S: Tensor, rows: Tensor, L: Tensor,
                 beta: float, quantization: float) -> None:  # fmt: skip
    """Minimise over the codes ``V`` (n, bits) column by column in place, given the sample's ``U``, ``G`` (m, bits).

    ``S`` (m, n) are similarities of the sample, whose rows of the database are ``rows``; ``W`` (bits, classes).
    """
    bits = V.shape[1]
    Q = -2 * bits * S.T @ (U + G) - 2 * beta * L @ W.T
    Q[rows] -= quantization * (U + G)
    for k in range(bits):
        rest = torch.arange(bits, device=V.device) != k
        overlap = U[:, rest].T @ U[:, k] + G[:, rest].T @ G[:, k] + beta * W[rest] @ W[k]
        V[:, k] = torch.where(Q[:, k] + 2 * V[:, rest] @ overlap > 0, -1.0, 1.0)


@dataclass(kw_only=True)
class DCHUC(DeepEmbedder):
    """An epoch is one pass over the sample; both rates are multiplied by ``gamma`` after the rounds ``milestones``."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True

    bits: int = 64
    image_hidden: int = 4096
    text_hidden: int = 10240
    dropout: float = 0.5
    samples: int = 2000
    passes: int = 3
    alpha: float = 50.0
    beta: float = 1.0
    eta: float = 50.0
    mu: float = 50.0
    quantization: float = 200.0
    epochs: int = 90
    batch_size: int = 64
    optimizer: str = "SGD"
    lr: float = 1e-4
    lr_text: float = 4e-3
    weight_decay: float = 5e-4
    milestones: tuple = (10, 20, 36)
    gamma: float = 0.6666666667

    def build(self, spec: Spec) -> nn.Module:
        """Return the network; V starts at zero, as in the authors' code."""
        return Network(spec, self.image_hidden, self.text_hidden, self.dropout, self.bits)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return an optimiser per modality."""
        text = self.make_optimizer(net.text.parameters(), lr=self.lr_text)
        return {"image": self.make_optimizer(net.image.parameters()), "text": text}

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Draw the sample where a round begins, and set the round's learning rates."""
        round_, first = loop.epoch // self.passes, loop.epoch % self.passes == 0
        if first:
            rows = torch.randperm(loop.spec.n_texts, generator=loop.generator)[: self.samples]
            labels = loop.labels[loop.pairs]
            similar = (labels[rows] @ labels.T > 0).float().mean()
            loop.state.update(rows=rows, ratio=similar / (1 - similar).clamp(min=1e-12))
            net.U.zero_()
            net.G.zero_()
        lowered = self.gamma ** sum(round_ > m for m in self.milestones)
        loop.set_lr(self.lr * lowered, "image")
        loop.set_lr(self.lr_text * lowered, "text")

    def order(self, loop: Loop) -> Tensor:
        """Return the rows of the sample, in the same order in all passes of a round."""
        return loop.state["rows"].cpu()

    def targets(self, labels: Tensor, others: Tensor, loop: Loop) -> Tensor:
        """Return S (a, b) of multi-hot labels (a, classes) and (b, classes)."""
        ratio = loop.state["ratio"].to(labels.device)
        return torch.where(labels @ others.T > 0, torch.ones_like(ratio), -ratio)

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Train the image network on the batch, then the text network, each towards the other's last outputs."""
        losses = {
            "image": loop.descend(
                batch, lambda b: self.fit_codes(net, net.image(b.image), net.U, net.G, b, loop), "image"
            ),
            "text": loop.descend(batch, lambda b: self.fit_codes(net, net.text(b.text), net.G, net.U, b, loop), "text"),
        }
        return {"loss": losses["image"] + losses["text"], **losses}

    def fit_codes(self, net: nn.Module, u: Tensor, own: Tensor, other: Tensor, batch: Batch, loop: Loop) -> Tensor:
        """Return the loss of a network's outputs ``u`` (b, bits), over b n, having put them into ``own``."""
        own[batch.rows] = u.detach()
        g, V, labels = other[batch.rows], net.image_codes, loop.labels[loop.pairs]
        total = (u @ V.T - self.bits * self.targets(batch.labels, labels, loop)).square().sum()
        pairs = self.bits * self.targets(batch.labels, batch.labels, loop)
        total = total + self.mu * (u @ g.T - pairs).square().sum()
        total = total + self.alpha * (u @ net.W - batch.labels).square().sum()
        total = total + self.quantization * (V[batch.rows] - (u + g) / 2).square().sum()
        return total / (len(u) * len(V))

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Update V and W at the end of a round."""
        rows = loop.state["rows"].to(net.U.device)
        if (loop.epoch + 1) % self.passes:
            return
        L, V = loop.labels[loop.pairs], net.image_codes
        S = self.targets(L[rows], L, loop)
        update_codes(V, net.U[rows], net.G[rows], net.W, S, rows, L, self.beta, self.quantization)
        net.text_codes.copy_(V)
        gram = self.alpha * (net.U.T @ net.U + net.G.T @ net.G) + self.beta * V.T @ V
        gram.diagonal().add_(self.eta)
        net.W.copy_(torch.linalg.solve(gram, (self.alpha * (net.U + net.G) + self.beta * V).T @ L))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to outputs in (-1, 1) (n, bits)."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to outputs in (-1, 1) (n, bits)."""
        return net.text(y)
