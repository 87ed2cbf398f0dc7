"""ACMR: Adversarial Cross-Modal Retrieval (Wang et al., ACM Multimedia 2017).

Images x (n, d_image) and texts y (n, d_text), as features, pass tanh networks of their own to a common space,
V and W (n, dim). Over a batch of b pairs with labels L (b, classes), the feature projectors minimise

    weight * label + structure - lambda * domain

* label: cross-entropy of one linear softmax classifier that both modalities share, mean over the batch of its value
  at v_i plus its value at w_i;
* structure, by ``structure``:
  "triplet"      [m + a sum_i |v_i - w_i|^2 / 2 - sum_i |v_i - w_j(i)|^2 / 2]_+ and the same with the modalities
                 exchanged, where j(i) is the pair of the batch without a common label whose image (or text) features
                 are closest to those of i by cosine; m is ``margin``, a is ``positive``;
  "contrastive"  |V - W|_F + c mean_ij max(0, m - e_ij [i and j share no label]), e_ij = sum_k v_ik + sum_k w_jk
                 - v_i'w_j, as the official code has it (a distance would have squares in the sums); c is ``negative``;
* domain: cross-entropy of a classifier that tells images from texts, which minimises it while the projectors, behind
  a gradient reversal layer, maximise it; lambda = 2 / (1 + exp(-10 t)) - 1, t the share of epochs done.

New items are ranked by the Euclidean distance of their embeddings.

``updates`` says what is trained. "adversarial" takes one step on everything, which is the paper's minimax game by
gradient reversal (the official code defines that step too, but does not call it). "separate" is what the official code
(sunpeng981712364/ACMR_demo@14b277f) runs: the projectors descend label and structure alone, the domain classifier
descends its own loss, and no gradient passes between them; the label classifier stays as it was drawn.

Held against a NumPy transcription of the official TensorFlow 1 losses, in float64 with the same weights and batch (64
pairs, 4096 and 5000 features, 10 classes), for both structures: embeddings and losses differ by at most 5e-15, and the
projectors' gradients from finite differences of the transcription by at most 8e-7.

Departures: batches are shuffled, where the official code takes the stored order; where features have negative cosines
a triplet's negative is still of another class, while the official mask could choose one of the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import mlp


class Network(nn.Module):
    """Two projectors, the label classifier that both share, and the domain classifier, which is linear throughout."""

    def __init__(self, spec: Spec, hidden_image: tuple, hidden_text: tuple, dim: int):
        super().__init__()
        self.image = mlp((*spec.image_shape, *hidden_image, dim), nn.Tanh, last=True)
        self.text = mlp((*spec.text_shape, *hidden_text, dim), nn.Tanh, last=True)
        self.classifier = nn.Linear(dim, spec.classes)
        self.domain = mlp((dim, dim // 2, dim // 4, 2), nn.Identity)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def reverse_gradient(Z: Tensor, factor: float) -> Tensor:
    """Return ``Z`` itself, whose gradient is multiplied by ``-factor``."""
    return Z.detach() + factor * (Z.detach() - Z)


def closest_strangers(X: Tensor, L: Tensor) -> Tensor:
    """Return (b,) for each row of ``X`` (b, d) the row closest by cosine that shares no label of ``L`` (b, classes)."""
    cosines = normalize(X, dim=1) @ normalize(X, dim=1).T
    return cosines.masked_fill(L @ L.T > 0, -torch.inf).argmax(dim=1)


def triplet_loss(V: Tensor, W: Tensor, strangers: Tensor, margin: float, positive: float) -> Tensor:
    """Return the hinge of all triplets (v_i, w_i, w_strangers[i]) of the batch together."""
    return torch.relu(margin + positive * (V - W).square().sum() / 2 - (V - W[strangers]).square().sum() / 2)


def contrastive_loss(V: Tensor, W: Tensor, L: Tensor, margin: float, negative: float) -> Tensor:
    """Return the distance of the pairs and the hinges of all cross-modal couples that share no label."""
    E = V.sum(1)[:, None] - V @ W.T + W.sum(1)[None, :]
    return (V - W).norm() + negative * torch.relu(margin - E * (L @ L.T == 0)).mean()


def domain_loss(net: nn.Module, V: Tensor, W: Tensor) -> Tensor:
    """Return the cross-entropy of taking images ``V`` for domain 1 and texts ``W`` for domain 0, a sum of two means."""
    ones = torch.ones(len(V), dtype=torch.long, device=V.device)
    return cross_entropy(net.domain(V), ones) + cross_entropy(net.domain(W), 0 * ones)


@dataclass(kw_only=True)
class ACMR(DeepEmbedder):
    """``hidden_image`` and ``hidden_text`` are the widths of the projectors' layers before the common space."""

    space: ClassVar[str] = "euclidean"
    supervised: ClassVar[bool] = True

    structure: Literal["triplet", "contrastive"] = "triplet"
    updates: Literal["adversarial", "separate"] = "adversarial"
    hidden_image: tuple = (512, 100)
    hidden_text: tuple = (40, 100)
    dim: int = 40
    weight: float = 100.0
    margin: float = 0.1
    positive: float = 5.0
    negative: float = 0.02
    epochs: int = 50
    batch_size: int = 64
    lr: float = 1e-4
    betas: tuple = (0.5, 0.999)
    drop_last: bool = True

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with Glorot-uniform weights and no biases, as TensorFlow's slim draws them."""
        return Network(spec, self.hidden_image, self.hidden_text, self.dim)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser over everything, or one for the projectors and one for the domain classifier."""
        if self.updates == "adversarial":
            return super().optimizers(net)
        projectors = [*net.image.parameters(), *net.text.parameters()]
        return {"main": self.make_optimizer(projectors), "domain": self.make_optimizer(net.domain.parameters())}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the projectors' loss of label and structure, plus the domain's where the game is adversarial."""
        V, W = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        shares = batch.labels / batch.labels.sum(1, keepdim=True).clamp(min=1)
        label = cross_entropy(net.classifier(V), shares) + cross_entropy(net.classifier(W), shares)
        loss = self.weight * label + self.structure_loss(batch, V, W)
        if self.updates == "separate":
            return loss
        factor = 2 / (1 + math.exp(-10 * loop.epoch / self.epochs)) - 1
        return loss + domain_loss(net, reverse_gradient(V, factor), reverse_gradient(W, factor))

    def structure_loss(self, batch: Batch, V: Tensor, W: Tensor) -> Tensor:
        """Return the term that draws pairs together and holds strangers apart."""
        L = batch.labels
        if self.structure == "contrastive":
            return contrastive_loss(V, W, L, self.margin, self.negative)
        by_image, by_text = closest_strangers(batch.image, L), closest_strangers(batch.text, L)
        return triplet_loss(V, W, by_image, self.margin, self.positive) + triplet_loss(
            W, V, by_text, self.margin, self.positive
        )

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Take the adversarial step, or the projectors' and then the domain classifier's."""
        loss = loop.descend(batch, lambda part: self.loss(net, part, loop))
        if self.updates == "adversarial":
            return {"loss": loss}
        return {"loss": loss, "domain": loop.descend(batch, lambda part: self._domain(net, part), "domain")}

    def _domain(self, net: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            V, W = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        return domain_loss(net, V, W)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, dim) within [-1, 1]."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, dim) within [-1, 1]."""
        return net.text(y)
