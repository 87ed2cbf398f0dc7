"""Words and regions as sets of vectors of one space, and attention from one set to another.

What SCAN (Lee et al., ECCV 2018) set up and many matching methods build on. A set is a tensor (n, parts, d) with a
mask (n, parts) bool of the parts that are there; padded words are zero vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cmrkit.training.rows import Rows


def xavier_linear(d_in: int, d_out: int) -> nn.Linear:
    """Return a linear layer with Xavier's uniform weights and no bias to begin with, as VSE++ and its heirs have it."""
    layer = nn.Linear(d_in, d_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Standard(nn.Module):
    """Region features at mean 0 and deviation 1 over all regions of the training images; as they are before ``fit``."""

    def __init__(self, d: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))

    def fit(self, images: Rows | np.ndarray) -> None:
        """Take mean and deviation of images (n, k, d), 256 at a time."""
        sums = np.zeros((2, images.shape[-1]))
        for start in range(0, len(images), 256):
            x = np.asarray(images[start : start + 256], np.float64)
            sums += x.sum((0, 1)), np.square(x).sum((0, 1))
        mean, square = sums / (len(images) * images.shape[1])
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise x (..., d)."""
        return (x - self.mean) / self.scale


class WordEncoder(nn.Module):
    """Word embeddings, uniform in +-0.1 at first, and a GRU over them, whose two directions are averaged."""

    def __init__(self, vocabulary: int, word_dim: int, dim: int, bidirectional: bool = True, dropout: float = 0.0):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, word_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.GRU(word_dim, dim, batch_first=True, bidirectional=bidirectional)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L), 0 = padding, to states (n, L, dim), zero where padded, and lengths (n,), at least 1."""
        lengths = (y != 0).sum(1).clamp(min=1)
        packed = pack_padded_sequence(
            self.dropout(self.embed(y)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        H = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=y.shape[1])[0]
        if self.rnn.bidirectional:
            H = sum(H.chunk(2, dim=2)) / 2
        return H, lengths


def mask_of(lengths: Tensor, size: int) -> Tensor:
    """Return the mask (n, size) of sequences of some lengths (n,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def attend(Q: Tensor, C: Tensor, query_mask: Tensor, context_mask: Tensor, smooth: float) -> Tensor:
    """Return SCAN's attention (i, j, q, s) of each part of each query set to the parts of each context set.

    Q (i, q, d), or (i, j, q, d) where it differs from context to context; C (j, s, d). Products pass LeakyReLU of
    slope 0.1, are brought to length 1 over the query's parts, and go, times ``smooth``, into a softmax over the
    context's parts. Masked parts take no part; what their rows hold means nothing.
    """
    A = torch.einsum("iqd,jsd->ijqs" if Q.ndim == 3 else "ijqd,jsd->ijqs", Q, C)
    A = leaky_relu(A, 0.1) * query_mask[:, None, :, None]
    A = A * (smooth * (A.square().sum(2, keepdim=True) + 1e-16).rsqrt())
    return A.masked_fill(~context_mask[None, :, None, :], -torch.inf).softmax(dim=3)


def mix(A: Tensor, C: Tensor) -> Tensor:
    """Return the context vectors (i, j, q, d) that attention A (i, j, q, s) draws from C (j, s, d)."""
    return torch.einsum("ijqs,jsd->ijqd", A, C)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (i, j) of x (i, j, q) over the parts that mask (i, q) has."""
    return (x * mask[:, None]).sum(2) / mask.sum(1)[:, None]


def triplet(S: Tensor, margin: float, hardest: bool = True) -> Tensor:
    """Return VSE++'s loss of similarities S (n, n), pairs on the diagonal: hinges over negatives, summed.

    sum_i max_j [margin + s_ij - s_ii]_+ + sum_j max_i [margin + s_ij - s_jj]_+, or sums in place of both maxima.
    """
    own = S.diagonal()
    same = torch.eye(len(S), dtype=torch.bool, device=S.device)
    texts = (margin + S - own[:, None]).clamp(min=0).masked_fill(same, 0)
    images = (margin + S - own[None, :]).clamp(min=0).masked_fill(same, 0)
    return (texts.amax(1) + images.amax(0)).sum() if hardest else texts.sum() + images.sum()
