"""UGACH: Unsupervised Generative Adversarial Cross-modal Hashing (Zhang, Peng & Yuan, AAAI 2018).

Images x (n, d_image) and texts y (n, d_text), as features. A model of two networks maps either modality to
h = sigmoid(W2 tanh(W1 z + b1) + b2), (n, bits); d(a, b) = ||h(a) - h(b)||^2. There are two such models, the
discriminator D and the generator G, and a graph over the training pairs: the positives of a query are the
``neighbours`` pairs nearest by image features and as many nearest by text features (Euclidean, itself among them).
For a query q of one modality, positives p and negatives c of the other:

    D minimises       mean max(0, beta + d_D(q, p) - d_D(q, c)),
                      c drawn from G among the items that are no positives;
    G maximises       E_c [log p_G(c | q) r(c)],     r = sigmoid(max(0, beta + d_D(q, p) - d_D(q, c))),
                      p_G(c | q) = exp(-d_G(q, c)) / sum_c' exp(-d_G(q, c'))

by policy gradient over drawn c: G offers the items that D takes for more relevant than the positives. Images and texts
query in turn, on shared weights, and both models carry weight_decay / 2 times their squared weights. D is first
trained with each query's own pair as its positive and random negatives. Then each cycle has one epoch of D and
``generator_epochs`` of G. Codes are those of D, a bit being h >= 1/2.

Held against the official code's formulas (PKU-ICST-MIPL/UGACH_AAAI2018@98c163f, TensorFlow 1, written out in NumPy and
in float64) with the same weights and 20 triplets: D's hinges differ by 2e-7, its weights after one step by 8e-9.

Departures: p_G is normalised over the random candidates that c is drawn from, as in the paper's equation, where the
official code normalises over the items drawn; the candidates, 1 in ``sample_ratio``, are drawn once for a batch and
not for each query; batches hold more than one query; pretraining draws negatives anew for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import mlp

OTHER = {"image": "text", "text": "image"}


def neighbours_of(X: Tensor, count: int) -> Tensor:
    """Return the ``count`` rows nearest to every row of ``X`` (n, d) in Euclidean distance, (n, count) int64."""
    return torch.cat([torch.cdist(part, X).topk(count, largest=False).indices for part in X.split(512)])


def model(spec: Spec, hidden: int, bits: int) -> nn.ModuleDict:
    """Return the networks of a model, logits of its bits, with weights from N(0, 0.1^2) cut at 0.2 and no biases."""
    widths = {"image": spec.image_shape[0], "text": spec.text_shape[0]}
    net = nn.ModuleDict({name: mlp((width, hidden, bits), nn.Tanh) for name, width in widths.items()})
    for name, values in net.named_parameters():
        nn.init.zeros_(values) if name.endswith("bias") else nn.init.trunc_normal_(values, 0.0, 0.1, -0.2, 0.2)
    return net


@dataclass(kw_only=True)
class UGACH(DeepEmbedder):
    """``epochs`` counts the pretraining, the epochs of D and those of G; ``selected`` items are drawn a query.

    ``margin`` is beta per bit.
    """

    space: ClassVar[str] = "hamming"

    bits: int = 16
    hidden: int = 8192
    margin: float = 0.125
    neighbours: int = 5
    pretrain_epochs: int = 1000
    generator_epochs: int = 2
    selected: int = 2
    sample_ratio: int = 50
    epochs: int = 1090
    batch_size: int = 20
    optimizer: str = "SGD"
    pretrain_lr: float = 0.01
    lr: float = 0.001
    generator_lr: float = 0.01
    weight_decay: float = 0.01

    def build(self, spec: Spec) -> nn.Module:
        """Return both models, and the positives (n_texts, 2 neighbours) of the training pairs."""
        net = nn.Module()
        net.D, net.G = model(spec, self.hidden, self.bits), model(spec, self.hidden, self.bits)
        net.register_buffer("positives", torch.zeros(spec.n_texts, 2 * self.neighbours, dtype=torch.int64))
        return net

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser for D and one for G."""
        return {
            "D": self.make_optimizer(net.D.parameters(), lr=self.pretrain_lr),
            "G": self.make_optimizer(net.G.parameters(), lr=self.generator_lr),
        }

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Build the graph of the training pairs."""
        pairs = loop.batch(torch.arange(loop.spec.n_texts))
        found = [neighbours_of(pairs.image, self.neighbours), neighbours_of(pairs.text, self.neighbours)]
        net.positives.copy_(torch.cat(found, dim=1))

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Lower D's rate once it is pretrained."""
        loop.set_lr(self.pretrain_lr if loop.epoch < self.pretrain_epochs else self.lr, "D")

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        """Update D, or G in its epochs, with images as queries and then with texts."""
        cycle = (loop.epoch - self.pretrain_epochs) % (1 + self.generator_epochs)
        if loop.epoch < self.pretrain_epochs:
            turn, loss = "D", self.pretraining_loss
        else:
            turn, loss = ("G", self.generator_loss) if cycle else ("D", self.discriminator_loss)
        values = [loop.descend(batch, lambda part, m=m: loss(net, part, loop, m), turn) for m in ("image", "text")]
        return {"loss": sum(values), turn: sum(values)}

    def pretraining_loss(self, net: nn.Module, batch: Batch, loop: Loop, query: str) -> Tensor:
        """Return D's hinge with own pairs as positives and one random negative each."""
        drawn = loop.batch(torch.randint(loop.spec.n_texts, (len(batch),)))
        q, p, c = (torch.sigmoid(net.D[m](getattr(rows, m)))
                   for m, rows in ((query, batch), (OTHER[query], batch), (OTHER[query], drawn)))  # fmt: skip
        return self.hinge(distance(q, p), distance(q, c)).mean()

    def discriminator_loss(self, net: nn.Module, batch: Batch, loop: Loop, query: str) -> Tensor:
        """Return D's hinge with positives of the graph and negatives drawn from G."""
        with torch.no_grad():
            candidates = self.candidates(loop)
            chance = self.generated(net, batch, candidates, query)
            known = (net.positives[batch.rows][:, :, None] == candidates.rows).any(1)
            chance = chance.masked_fill(known, 0.0) + 1e-12
            negatives = torch.multinomial(chance, self.selected, replacement=True)
        return self.hinges(net, batch, candidates, negatives, query, loop).mean()

    def generator_loss(self, net: nn.Module, batch: Batch, loop: Loop, query: str) -> Tensor:
        """Return -E[log p_G r] over drawn candidates, whose gradient is the policy gradient."""
        candidates = self.candidates(loop)
        chance = self.generated(net, batch, candidates, query)
        drawn = torch.multinomial(chance.detach(), self.selected, replacement=True)
        with torch.no_grad():
            reward = torch.sigmoid(self.hinges(net, batch, candidates, drawn, query, loop))
        return -(torch.log(chance.gather(1, drawn) + 1e-20) * reward).mean()

    def candidates(self, loop: Loop) -> Batch:
        """Return a random part of the training pairs, 1 in ``sample_ratio``."""
        count = max(loop.spec.n_texts // self.sample_ratio, self.selected)
        return loop.batch(torch.randperm(loop.spec.n_texts)[:count])

    def generated(self, net: nn.Module, batch: Batch, candidates: Batch, query: str) -> Tensor:
        """Return p_G (b, candidates) of the other modality's items for each query."""
        q = torch.sigmoid(net.G[query](getattr(batch, query)))
        c = torch.sigmoid(net.G[OTHER[query]](getattr(candidates, OTHER[query])))
        return torch.softmax(-distance(q[:, None], c[None]), dim=1)

    def hinges(self, net: nn.Module, batch: Batch, candidates: Batch, drawn: Tensor, query: str, loop: Loop) -> Tensor:
        """Return D's hinges (b, selected) of ``drawn`` (b, selected) candidates against random positives."""
        columns = torch.rand(net.positives[batch.rows].shape, device=drawn.device).topk(self.selected).indices
        chosen = net.positives[batch.rows].gather(1, columns)
        positives = loop.batch(chosen.flatten().cpu())
        q = torch.sigmoid(net.D[query](getattr(batch, query)))[:, None]
        p = torch.sigmoid(net.D[OTHER[query]](getattr(positives, OTHER[query]))).view(*chosen.shape, -1)
        c = torch.sigmoid(net.D[OTHER[query]](getattr(candidates, OTHER[query])))[drawn]
        return self.hinge(distance(q, p), distance(q, c))

    def hinge(self, near: Tensor, far: Tensor) -> Tensor:
        """Return max(0, beta + near - far) of distances."""
        return torch.relu(self.margin * self.bits + near - far)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to D's logits (n, bits), whose signs are the codes."""
        return net.D["image"](x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to D's logits (n, bits), whose signs are the codes."""
        return net.D["text"](y)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distance of codes along the last axis."""
    return (a - b).square().sum(-1)
