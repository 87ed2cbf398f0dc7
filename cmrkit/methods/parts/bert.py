"""BERT (Devlin et al., NAACL 2019) with cross-attention where a model wants it, under the names of its checkpoints.

A layer maps states X (b, n, dim) to X + attention, X + cross-attention (only in layers that look at a second
sequence, the *context*), X + feed-forward, each followed by LayerNorm; activations are exact GELUs. Parameters carry
the names of the published PyTorch checkpoints (``embeddings.word_embeddings.weight``,
``encoder.layer.0.attention.self.query.weight``, ``encoder.layer.6.crossattention.self.key.weight``), so that a
conversion renames nothing below these. Masks are added to attention logits: 0 where a token is, -10,000 elsewhere.

Held against transformers' BertModel and RobertaModel with the same random weights: states differ by at most 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

MASKED = -10_000.0


def additive_mask(present: Tensor) -> Tensor:
    """Return the mask (b, 1, 1, n) float32 of which tokens (b, n) bool there are."""
    return (~present[:, None, None, :]).float() * MASKED


def trimmed(states: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Cut states (b, n, dim) and present (b, n) bool to the longest row, as padding comes last."""
    length = int(present.sum(1).max())
    return states[:, :length], present[:, :length]


def initialize(module: nn.Module) -> None:
    """Draw weights as BERT does: N(0, 0.02^2), biases 0; for ``nn.Module.apply``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def rescale(module: nn.Module, initializer_range: float) -> None:
    """Bring initial matrices that were drawn with a deviation of 0.02 to another.

    0.02 hands signals on at BERT's width of 768; of those in a network of a tenth of it, next to nothing is left.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter *= initializer_range / 0.02


class SelfAttention(nn.Module):
    """Queries of one sequence over keys and values of itself, or of a context of another width."""

    def __init__(self, dim: int, heads: int, context_dim: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(context_dim, dim)
        self.value = nn.Linear(context_dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None, context: Tensor, which: Tensor | None = None) -> Tensor:
        """Attend from x (b, n, dim) to context (b, m, context_dim); mask (b, 1, 1, m).

        With ``which`` (b,) int64, context and mask hold a distinct rows, of which row i of x sees the one that
        ``which`` names; keys and values are computed once for each.
        """
        keys, values = self._split(self.key(context)), self._split(self.value(context))
        if which is not None:
            keys, values = keys[which], values[which]
            mask = mask if mask is None else mask[which]
        queries = self._split(self.query(x))
        mask = mask if mask is None else mask.to(queries.dtype)
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """LayerNorm(residual + dropout(W x + b))."""

    def __init__(self, inputs: int, dim: int, eps: float, dropout: float):
        super().__init__()
        self.dense = nn.Linear(inputs, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map x (b, n, inputs) and residual (b, n, dim) to (b, n, dim)."""
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class BertAttention(nn.Module):
    """Attention with its output layer; ``context_dim`` is the width of what it attends to."""

    def __init__(self, dim: int, heads: int, context_dim: int, eps: float, dropout: float):
        super().__init__()
        self.self = SelfAttention(dim, heads, context_dim, dropout)
        self.output = Residual(dim, dim, eps, dropout)

    def forward(self, x: Tensor, mask: Tensor | None, context: Tensor, which: Tensor | None = None) -> Tensor:
        """Map x (b, n, dim) to the same shape; see `SelfAttention`."""
        return self.output(self.self(x, mask, context, which), x)


class Intermediate(nn.Module):
    """GELU(W x + b)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.dense = nn.Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., dim) to (..., hidden)."""
        return gelu(self.dense(x))


class BertLayer(nn.Module):
    """Self-attention, cross-attention where ``context_dim`` is given, and a feed-forward network."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int | None = None,
        context_dim: int | None = None,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ):
        super().__init__()
        hidden = hidden or 4 * dim
        self.attention = BertAttention(dim, heads, dim, eps, dropout)
        self.crossattention = BertAttention(dim, heads, context_dim, eps, dropout) if context_dim else None
        self.intermediate = Intermediate(dim, hidden)
        self.output = Residual(hidden, dim, eps, dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Map x (b, n, dim) to the same shape; context (b, m, context_dim), or (a, m, ..) with ``which`` (b,)."""
        x = self.attention(x, mask, x)
        if self.crossattention is not None:
            x = self.crossattention(x, context_mask, context, which)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """``depth`` layers; those whose numbers are in ``cross`` also attend to a context ``context_dim`` wide."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
        cross: Collection[int] = (),
        context_dim: int | None = None,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ):
        super().__init__()
        widths = [(context_dim or dim) if i in cross else None for i in range(depth)]
        self.layer = nn.ModuleList(BertLayer(dim, heads, hidden, width, eps, dropout) for width in widths)
        self.apply(initialize)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Return the last layer's states (b, n, dim); see `BertLayer` for the arguments."""
        for layer in self.layer:
            x = layer(x, mask, context, context_mask, which)
        return x

    def states(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return x and the states after each layer, depth + 1 tensors (b, n, dim), of an encoder without context."""
        states = [x]
        for layer in self.layer:
            states.append(layer(states[-1], mask))
        return states


class BertEmbeddings(nn.Module):
    """Words + positions + token types, normalised. Positions count from ``first_position``, RoBERTa's from 2.

    ``types`` 0 leaves token types out. Padding comes last, so its positions do not matter.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        positions: int = 512,
        types: int = 2,
        first_position: int = 0,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.first_position = first_position
        self.word_embeddings = nn.Embedding(vocabulary, dim)
        self.position_embeddings = nn.Embedding(positions, dim)
        self.token_type_embeddings = nn.Embedding(types, dim) if types else None
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialize)

    def forward(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """Map token ids (b, n) int64, and their types (b, n), 0 by default, to (b, n, dim)."""
        x = self.word_embeddings(ids)
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(torch.zeros_like(ids) if types is None else types)
        places = torch.arange(self.first_position, self.first_position + ids.shape[1], device=ids.device)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(places)))


class Pooler(nn.Module):
    """tanh(W x_0 + b) of the first token's state."""

    def __init__(self, dim: int):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Map states (b, n, dim) to (b, dim)."""
        return self.dense(x[:, 0]).tanh()


class Bert(nn.Module):
    """Embeddings and layers; ``Bert(50265, positions=514, types=1, first_position=2, eps=1e-5)`` is RoBERTa-base."""

    def __init__(
        self,
        vocabulary: int,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        cross: Collection[int] = (),
        context_dim: int | None = None,
        positions: int = 512,
        types: int = 2,
        first_position: int = 0,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.embeddings = BertEmbeddings(vocabulary, dim, positions, types, first_position, eps, dropout)
        self.encoder = BertEncoder(dim, depth, heads, hidden, cross, context_dim, eps, dropout)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Map token ids (b, n) int64 to the last layer's states (b, n, dim); see `BertLayer` for the arguments."""
        return self.encoder(self.embeddings(ids), mask, context, context_mask, which)

    def states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the embeddings of ids (b, n) and the states after each layer, depth + 1 tensors (b, n, dim)."""
        return self.encoder.states(self.embeddings(ids), mask)
