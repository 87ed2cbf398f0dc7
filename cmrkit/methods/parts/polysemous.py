"""Embeddings from local features on top of a global one: the PIE-Net of PVSE (Song & Soleymani, CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from cmrkit.errors import UsageError
from cmrkit.methods.parts.word_region import mask_of, xavier_linear


class SelfAttention(nn.Module):
    """``heads`` weighted means of local features (Lin et al., ICLR 2017): softmax(W2 tanh(W1 x)) over their places."""

    def __init__(self, heads: int, d_in: int):
        super().__init__()
        self.first = nn.Linear(d_in, d_in // 2, bias=False)
        self.second = nn.Linear(d_in // 2, heads, bias=False)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.xavier_uniform_(self.second.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map x (n, places, d_in), of which mask (n, places) says which are there, to (n, heads, d_in)."""
        A = self.second(torch.tanh(self.first(x)))
        if mask is not None:
            A = A.masked_fill(~mask[:, :, None], -torch.inf)
        return A.softmax(dim=1).mT @ x


class PIENet(nn.Module):
    """``heads`` embeddings: LayerNorm(global + residual), residual = sigmoid(fc(attended local features))."""

    def __init__(self, heads: int, d_in: int, dim: int):
        super().__init__()
        self.attention = SelfAttention(heads, d_in)
        self.fc = xavier_linear(d_in, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, whole: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map global (n, dim) and local features (n, places, d_in) to embeddings and residuals (n, heads, dim)."""
        residual = torch.sigmoid(self.fc(self.attention(x, mask)))
        return self.norm(whole[:, None] + residual), residual


class Words(nn.Module):
    """Word vectors, which are also the local features of a caption, and a GRU of two directions over them."""

    def __init__(self, vocabulary: int, word_dim: int, dim: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, word_dim)
        self.rnn = nn.GRU(word_dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map token ids (n, L) to final states of both directions (n, dim), vectors (n, L, word_dim) and mask."""
        lengths = (y != 0).sum(1).clamp(min=1)
        x = self.embed(y)
        return final_states(self.rnn, x, lengths), x, mask_of(lengths, y.shape[1])

    @torch.no_grad()
    def take(self, table: dict[str, Tensor]) -> None:
        """Set the words that the table "embedding" has; the others keep what they were drawn with."""
        if "embedding" not in table:
            return
        vectors = torch.tensor(table["embedding"], dtype=torch.float32)
        if vectors.shape[1] != self.embed.embedding_dim:
            width = self.embed.embedding_dim
            raise UsageError(f"model.word_dim is {width}, but the vectors given have {vectors.shape[1]} numbers")
        known = vectors.any(dim=1)
        self.embed.weight[known] = vectors[known].to(self.embed.weight.device)


def final_states(rnn: nn.GRU, x: Tensor, lengths: Tensor) -> Tensor:
    """Return the last state of each direction of a GRU over x (n, L, d), side by side (n, 2 width)."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return rnn(packed)[1].transpose(0, 1).flatten(1)
