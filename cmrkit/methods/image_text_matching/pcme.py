"""PCME: Probabilistic Embeddings for Cross-Modal Retrieval (Chun et al., CVPR 2021).

An item is a Gaussian with mean mu (dim,), the embedding of a PIE-Net of one head (see PVSE) at length 1, and a
diagonal deviation exp(s) with s = W a + h: a the attended local features of a head of its own, h a projection of the
pooled regions, or the states of a GRU of its own, both directions, at a caption's last word. With J samples z of each
item and learned a, b,

    p(match | x, y) = mean over J x J pairs of samples of sigmoid(2 (b - a ||z_x - z_y||))
    L = 2 sum over all pairs of the batch of -log p, or -log(1 - p) where the pair does not match
        + beta sum over items of both modalities of -(1 + s - z~^2 - exp(s)) / 2,  z~ the mean of its samples.

The 2 in the sum stands for both directions, whose sums are equal. The last term, the variational bottleneck, is
written as in the authors' code, whose s is a log deviation when it samples and a log variance here.

Departures: the authors rank by the sum of dot products of seven samples, drawn when items are encoded; their
expectation goes with mu_x'mu_y, which is what items are ranked by here. They use AdamP, which PyTorch does not have,
put the heads on a CNN that a second stage fine-tunes, and erase parts of images and words of captions in training;
here it is Adam on regions extracted before, the first stage alone.

Held against the official code (naver-ai/pcme@4947684) with the same weights, batch (8 pairs) and noise: means and loss
are equal, gradients and the weights after one step of Adam differ by at most 2e-16 in float64, 3e-7 in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.polysemous import PIENet, SelfAttention, Words
from cmrkit.methods.parts.word_region import mask_of, xavier_linear


class Network(nn.Module):
    """Heads for mean and deviation of both modalities, and the scale and shift of the matching probability."""

    def __init__(self, spec: Spec, word_dim: int, dim: int, scale: float, shift: float):
        super().__init__()
        d = spec.image_shape[1]
        self.words = Words(spec.vocabulary, word_dim, dim)
        self.text, self.text_attention = PIENet(1, word_dim, dim), SelfAttention(1, word_dim)
        self.text_fc = xavier_linear(word_dim, dim)
        self.text_rnn = nn.GRU(word_dim, dim // 2, batch_first=True, bidirectional=True)
        self.fc, self.image, self.image_attention = nn.Linear(d, dim), PIENet(1, d, dim), SelfAttention(1, d)
        self.image_fc, self.image_pooled = xavier_linear(d, dim), nn.Linear(d, dim)
        self.scale, self.shift = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(shift))

    def gaussian_of_images(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map regions (n, k, d) to means and log deviations (n, dim)."""
        pooled = x.mean(dim=1)
        mean = self.image(self.fc(pooled), x)[0].squeeze(1)
        return normalize(mean, dim=1), self.image_fc(self.image_attention(x).squeeze(1)) + self.image_pooled(pooled)

    def gaussian_of_texts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L) to means and log deviations (n, dim)."""
        lengths = (y != 0).sum(1).clamp(min=1)
        x, mask = self.words.embed(y), mask_of(lengths, y.shape[1])
        mean = self.text(state_at_last(self.words.rnn, x, lengths), x, mask)[0].squeeze(1)
        s = self.text_fc(self.text_attention(x, mask).squeeze(1)) + state_at_last(self.text_rnn, x, lengths)
        return normalize(mean, dim=1), s


def state_at_last(rnn: nn.GRU, x: Tensor, lengths: Tensor) -> Tensor:
    """Return a GRU's states of both directions at the last word of x (n, L, d): (n, 2 width)."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    H = pad_packed_sequence(rnn(packed)[0], batch_first=True)[0]
    return H[torch.arange(len(H), device=H.device), lengths - 1]


def matching_loss(X: Tensor, Y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the sum of -log p over all pairs of samples X, Y (n, J, dim); those on the diagonal match."""
    n, J, _ = X.shape
    products = X.flatten(0, 1) @ Y.flatten(0, 1).T
    squared = X.square().sum(2).view(-1, 1) + Y.square().sum(2).view(1, -1) - 2 * products
    logits = shift - scale * (squared.clamp(min=0) + 1e-6).sqrt()
    logits = logits.view(n, J, n, J).transpose(1, 2).flatten(2)  # (n, n, J J)
    matched = 2 * torch.eye(n, device=X.device)[:, :, None] - 1
    log_p = logsigmoid(2 * matched * logits).logsumexp(dim=2) - 2 * math.log(J)
    return -log_p.sum()


def bottleneck(Z: Tensor, s: Tensor) -> Tensor:
    """Return the divergence from the unit Gaussian, summed, of samples Z (n, J, dim) and log deviations s (n, dim)."""
    return -(1 + s - Z.mean(dim=1).square() - s.exp()).sum() / 2


@dataclass(kw_only=True)
class PCME(DeepEmbedder):
    """``samples`` is J, ``scale`` and ``shift`` are what a and b begin with, ``beta`` weighs the bottleneck."""

    space: ClassVar[str] = "dot"
    reduction: ClassVar[str] = "sum"
    data_parallel: ClassVar[bool] = True

    dim: int = 1024
    word_dim: int = 300
    samples: int = 7
    scale: float = 15.0
    shift: float = 15.0
    beta: float = 1e-5
    epochs: int = 30
    batch_size: int = 128
    lr: float = 2e-4
    schedule: str = "cosine"
    clip: float = 2.0
    frozen: tuple = ("words.embed",)
    select: str = "rsum"

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError where images are no regions or texts no tokens."""
        if len(spec.image_shape) != 2 or spec.vocabulary is None:
            raise UsageError("PCME takes regions (regions, d) of images and tokens as text")
        return Network(spec, self.word_dim, self.dim, self.scale, self.shift)

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Give words the vectors that came with the features. Raises UsageError where these have another width."""
        net.words.take(loop.train.tables)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return L of a batch, a sum."""
        (X, s), (Y, t) = (
            [loop.gather(part) for part in self._sampled(*gaussian)]
            for gaussian in (net.gaussian_of_images(batch.image), net.gaussian_of_texts(batch.text))
        )
        divergence = bottleneck(X, s) + bottleneck(Y, t)
        return 2 * matching_loss(X, Y, net.scale, net.shift) + self.beta * divergence

    def _sampled(self, mean: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(mean), self.samples, mean.shape[1], device=mean.device)
        return mean[:, None] + noise * s.exp()[:, None], s

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map regions (n, k, d) to means (n, dim)."""
        return net.gaussian_of_images(x)[0]

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map token ids (n, L) to means (n, dim)."""
        return net.gaussian_of_texts(y)[0]
