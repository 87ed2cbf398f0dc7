"""IMRAM: Iterative Matching with Recurrent Attention Memory (Chen et al., CVPR 2020).

Regions V (R, dim), a linear layer, and words T (L, dim), a bidirectional GRU, both of length 1, look at each other
for K rounds. In the text's direction the words are the query Q, at first Q = T; a round k

    A = attention of Q to V (as in SCAN: LeakyReLU, length 1 over the words, softmax with smoothness lambda)
    C = A V,   F_k = mean over words of cos(T, C)                       (what the round adds to the similarity)
    g = sigmoid(W_g [Q; C] + b_g),   o = tanh(W_o [Q; C] + b_o),   Q <- g Q + (1 - g) o    (memory distillation unit)

and the same from regions to words, with a memory of its own. An image and a text are as similar as the sum of F_k
over the K rounds, and over both directions in the full model. Trained with VSE++'s loss of hardest negatives, summed
over the batch.

Every round's attention refines the query, so the query differs from pair to pair from the second round on. W C is
taken as A (W V): the context's half of the memory unit is applied to each region once, not for each pair.

Held against the official code (HuiChen24/IMRAM@acada5c) with the same weights and a batch of 6, in
float64: similarities equal to 7e-13, loss to 5e-13, gradients to 2e-12, weights after a step of Adam to 2e-12, once
the 1e-8 that the official code adds to norms is taken out; with it, similarities to 8e-7.

Departure: the official loader keeps punctuation among the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from cmrkit.methods.deep import Batch, Loop, SetMatcher, Spec
from cmrkit.methods.parts.word_region import (
    WordEncoder,
    attend,
    mask_of,
    masked_mean,
    mix,
    triplet,
    xavier_linear,
)

QUERIES = 16  # query sets compared at a time, which bounds the memory of evaluation


class Memory(nn.Module):
    """The memory distillation unit of one direction."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)
        self.update = nn.Linear(2 * dim, dim)

    def of_context(self, C: Tensor) -> Tensor:
        """Return the context's halves of both layers, (j, s, 2 dim), of C (j, s, dim)."""
        dim = C.shape[-1]
        return linear(C, torch.cat([self.gate.weight[:, dim:], self.update.weight[:, dim:]]))

    def forward(self, Q: Tensor, drawn: Tensor) -> Tensor:
        """Refine queries Q (i, j, q, dim) by what they drew from ``of_context``, (i, j, q, 2 dim)."""
        dim = Q.shape[-1]
        from_gate, from_update = drawn.chunk(2, dim=-1)
        g = torch.sigmoid(linear(Q, self.gate.weight[:, :dim], self.gate.bias) + from_gate)
        o = torch.tanh(linear(Q, self.update.weight[:, :dim], self.update.bias) + from_update)
        return g * Q + (1 - g) * o


class Network(nn.Module):
    """Encoders of regions and words, and a memory for each direction."""

    def __init__(self, spec: Spec, word_dim: int, dim: int):
        super().__init__()
        self.image = xavier_linear(spec.image_shape[-1], dim)
        self.text = WordEncoder(spec.vocabulary, word_dim, dim)
        self.text_memory = Memory(dim)
        self.image_memory = Memory(dim)


def rounds(
    Q: Tensor,
    C: Tensor,
    query_mask: Tensor,
    context_mask: Tensor,
    memory: Memory,
    count: int,
    smooth: float,
    unit: bool,
) -> Tensor:
    """Return the sum of F_k (i, j) over ``count`` rounds of sets Q (i, q, d) looking at sets C (j, s, d)."""
    first, from_context, F = Q, memory.of_context(C) if count > 1 else None, 0.0
    for k in range(count):
        A = attend(Q, C, query_mask, context_mask, smooth)
        cosines = (normalize(mix(A, C), dim=-1) * normalize(first, dim=-1)[:, None]).sum(-1)
        F = F + masked_mean(cosines, query_mask)
        if k + 1 < count:
            Q = memory(Q[:, None] if Q.ndim == 3 else Q, mix(A, from_context))
            Q = normalize(Q, dim=-1) if unit else Q
    return F


@dataclass(kw_only=True)
class IMRAM(SetMatcher):
    """``rounds`` is K, ``smooth`` is lambda, ``unit`` brings refined queries to length 1.

    For ``easy_epochs`` the loss sums over all negatives; the paper takes the hardest from the start.
    """

    reduction: ClassVar[str] = "sum"

    direction: Literal["both", "text", "image"] = "both"
    rounds: int = 3
    smooth: float = 9.0
    unit: bool = False
    dim: int = 1024
    word_dim: int = 300
    margin: float = 0.2
    easy_epochs: int = 0
    epochs: int = 30
    lr: float = 2e-4
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "plateau"] = "step"
    decay_every: int = 15
    clip: float = 2.0

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with the official code's initial weights."""
        return Network(spec, self.word_dim, self.dim)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return VSE++'s loss of the batch's similarities; other captions of an image count as negatives."""
        S = self.match(net, self.embed_image(net, batch.image), self.embed_text(net, batch.text))
        return triplet(S, self.margin, hardest=loop.epoch >= self.easy_epochs)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map regions (n, R, d) to (n, R, dim)."""
        return normalize(net.image(x), dim=-1)

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L) to words (n, L, dim) and lengths (n,)."""
        H, lengths = net.text(y)
        return normalize(H, dim=-1), lengths

    def match(self, net: nn.Module, images: Tensor, texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return the similarities (a, b) of regions (a, R, dim) and words (b, L, dim) with lengths (b,)."""
        words, lengths = texts
        words = words[:, : int(lengths.max())]
        word_mask, region_mask = mask_of(lengths, words.shape[1]), images.new_ones(images.shape[:2], dtype=torch.bool)
        S = 0.0
        if self.direction != "image":
            S = S + self._look(words, images, word_mask, region_mask, net.text_memory).T
        if self.direction != "text":
            S = S + self._look(images, words, region_mask, word_mask, net.image_memory)
        return S

    def _look(self, Q: Tensor, C: Tensor, query_mask: Tensor, context_mask: Tensor, memory: Memory) -> Tensor:
        pieces = zip(Q.split(QUERIES), query_mask.split(QUERIES), strict=True)
        return torch.cat(
            [rounds(q, C, m, context_mask, memory, self.rounds, self.smooth, self.unit) for q, m in pieces]
        )
