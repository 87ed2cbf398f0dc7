"""DGCPN: Deep Graph-neighbor Coherence Preserving Network (Yu et al., AAAI 2021).

Images x (n, d_image) and texts y (n, d_text), as features, each pass a network to B = tanh(h), (n, bits).

Similarity of training items i and j (graph-neighbour coherence): C = a1 cos(y, y) + (1 - a1) cos(x, x) fuses both
modalities over the whole training set. In each row of C the ``neighbours`` largest entries are kept, but for the
item itself, and divided by their sum: P, the probability that j is a neighbour of i. With

    N = scale P P',     S = 2 ((1 - a2) C + a2 N) - 1

two items are alike also where they probably share neighbours. In a batch, with cosines II, IT, TT of codes, || || for
the mean of squares, and diagonals of II, IT, TT and S set to 0 in the second part,

    loss = ||diag(IT) - k||                                                          (pairs)
           + dw (||II - S|| + ||IT - S|| + ||TT - S||)                               (coherence)
           + cw (||IT - II|| + ||IT - TT|| + ||II - TT|| + ||IT - IT'||).            (coexistence)

Half-real, half-binary updates: each batch takes one step of both networks on (B_I, B_T); one of the image network on
(B_I, sign B_T); and one of the text network on (sign B_I, B_T), these two with the codes that the first step leads to.

Held against the official code (Atmegal/DGCPN@9f62c56), without dropout, with the same weights and batch (32 of 96
pairs, float32): losses equal, weights after the three steps differ by at most 1.5e-8.

Departures: the network that codes images has an input of any width in place of VGG-19's 4096; rows of P are formed
batch by batch instead of storing S (n, n); each step draws dropout anew; and ``neighbours`` is the paper's number of
items kept, where the official code counts those set to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.cosines import cosines


def network(width: int, hidden: int, bits: int, dropout: float) -> nn.Sequential:
    """Return a network of one hidden layer, dropout before the codes."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, bits))


def neighbour_probabilities(C: Tensor, rows: Tensor, neighbours: int) -> Tensor:
    """Return rows of P (b, n) from rows ``C`` (b, n) of the fused cosines; ``rows`` (b,) are their own columns."""
    C = C.scatter(1, rows[:, None], -torch.inf)
    values, columns = C.topk(min(neighbours - 1, C.shape[1] - 1), dim=1)
    return torch.zeros_like(C).scatter(1, columns, values / values.sum(1, keepdim=True))


@dataclass(kw_only=True)
class DGCPN(DeepEmbedder):
    """``neighbours`` counts the item itself, which is then left out, as in the official code."""

    space: ClassVar[str] = "hamming"

    bits: int = 64
    hidden: int = 4096
    dropout: float = 0.5
    a1: float = 0.01
    a2: float = 0.3
    neighbours: int = 2000
    scale: float = 4000.0
    k: float = 1.5
    dw: float = 1.0
    cw: float = 1.0
    epochs: int = 100
    batch_size: int = 32
    optimizer: str = "SGD"
    lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return the networks; the text network's last weights are drawn from N(0, 0.3^2), as in the official code."""
        net = nn.Module()
        net.image = network(spec.image_shape[0], self.hidden, self.bits, self.dropout)
        net.text = network(spec.text_shape[0], self.hidden, self.bits, self.dropout)
        nn.init.normal_(net.text[-1].weight, 0.0, 0.3)
        for name in ("all_images", "all_texts"):  # of the training set, put there when first needed, and not saved
            net.register_buffer(name, torch.empty(0), persistent=False)
        return net

    def graph_similarity(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return S (b, b) of the pairs of a batch."""
        if not len(net.all_texts):
            everything = loop.batch(torch.arange(loop.spec.n_texts))
            net.all_images, net.all_texts = normalize(everything.image, dim=1), normalize(everything.text, dim=1)
        X, Y = net.all_images[batch.rows], net.all_texts[batch.rows]
        C = self.a1 * Y @ net.all_texts.T + (1 - self.a1) * X @ net.all_images.T
        P = neighbour_probabilities(C, batch.rows, self.neighbours)
        return 2 * ((1 - self.a2) * C[:, batch.rows] + self.a2 * self.scale * P @ P.T) - 1

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        """Update both networks on real codes, then each on the other's binary codes.

        A network whose codes enter as signs has no gradients, and its weights and momenta stay as they are.
        """

        def on_real_codes(part: Batch) -> Tensor:
            return self.objective(*self.relaxed(net, part), self.graph_similarity(net, part, loop))

        def on_binary_texts(part: Batch) -> Tensor:
            B_I, B_T = self.relaxed(net, part)
            return self.objective(B_I, torch.sign(B_T).detach(), self.graph_similarity(net, part, loop))

        def on_binary_images(part: Batch) -> Tensor:
            codes = image_codes[torch.isin(batch.rows, part.rows)]
            return self.objective(codes, self.relaxed(net, part)[1], self.graph_similarity(net, part, loop))

        loss = loop.descend(batch, on_real_codes)
        image_codes = torch.sign(self.embed_image(net, batch.image)).detach()
        loop.descend(batch, on_binary_texts)
        loop.descend(batch, on_binary_images)
        return {"loss": loss}

    def relaxed(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the relaxed codes of a batch, each (b, bits)."""
        return torch.tanh(self.embed_image(net, batch.image)), torch.tanh(self.embed_text(net, batch.text))

    def objective(self, B_I: Tensor, B_T: Tensor, S: Tensor) -> Tensor:
        """Return the loss of codes (b, bits) of pairs, real or binary, with similarities ``S`` (b, b)."""
        II, IT, TT = cosines(B_I, B_I), cosines(B_I, B_T), cosines(B_T, B_T)
        others = 1 - torch.eye(len(S), device=S.device)
        pairs = (IT.diagonal() - self.k).square().mean()
        coherence = sum(mse_loss(cosine * others, S * others) for cosine in (II, IT, TT))
        coexistence = mse_loss(IT, II) + mse_loss(IT, TT) + mse_loss(II, TT) + mse_loss(IT, IT.T)
        return pairs + self.dw * coherence + self.cw * coexistence

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, bits), whose signs are the codes."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, bits), whose signs are the codes."""
        return net.text(y)
