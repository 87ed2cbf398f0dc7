"""VSRN: Visual Semantic Reasoning for Image-Text Matching (Li et al., ICCV 2019).

Regions X (R, d_image) become V (R, dim) by a linear layer and reason about one another in four residual graph
convolutions, of which each is

    V <- V + BatchNorm(W (A g(V))),   A = theta(V) phi(V)' / R                      (region relationship reasoning)

with 1 x 1 convolutions W, g, theta, phi; a batch normalisation that starts at 0 makes each begin as the identity. A
GRU then reads the regions in order, and its last state, of length 1, is the image (global semantic reasoning). A text
is the last state of a GRU over its words, of length 1. The loss is

    sum_i max_j [m + s_ij - s_ii]_+ + sum_j max_i [m + s_ij - s_jj]_+  -  alpha sum_i log p(caption_i | regions_i) / b

over a batch of b pairs: hardest negatives in both directions (matching), and a captioner (generation) that reads the
reasoned regions by a GRU and writes the caption by another with attention over the first one's states.

Followed from the official code: its length normalisation of (n, R, dim) tensors runs over the regions, not over the
features; on Flickr30K alone the first normalisation is left out and the image passes a BatchNorm (``flickr30k_form``);
the captioner is also asked for one padding after <end>; both losses weigh 1.

Held against the official code (KunpengLi1994/VSRN@777ae74) with the same weights and a batch of 6,
in float64 and without dropout, in both forms: losses equal to 2e-14, weights after a step of Adam to 3e-9 (the
division by tiny second moments; 1e-12 in the form of Flickr30K), the embeddings they give to 3e-10.

Departures: the official code lists the captioner's parameters twice in its optimiser, which then steps them twice;
here once. It sums no R@10 when it picks the epoch; here that is rsum. Its headline numbers are of two
models whose similarities are averaged; here there is one model. Captions longer than ``max_words`` lose their end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.word_region import WordEncoder, triplet, xavier_linear


class RegionGraph(nn.Module):
    """One residual graph convolution over regions (n, R, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.g, self.theta, self.phi, self.W = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, V: Tensor) -> Tensor:
        """Return regions that know of the others."""
        A = self.theta(V) @ self.phi(V).transpose(1, 2) / V.shape[1]
        return V + self.norm(self.W(A @ self.g(V)).transpose(1, 2)).transpose(1, 2)


class ImageEncoder(nn.Module):
    """Regions to reasoned regions, and those to one vector."""

    def __init__(self, d_image: int, dim: int, flickr30k_form: bool):
        super().__init__()
        self.project = xavier_linear(d_image, dim)
        self.graphs = nn.Sequential(*(RegionGraph(dim) for _ in range(4)))
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.norm = nn.BatchNorm1d(dim) if flickr30k_form else None

    def regions(self, x: Tensor) -> Tensor:
        """Map regions (n, R, d_image) to reasoned regions (n, R, dim)."""
        V = self.project(x)
        return normalize(self.graphs(normalize(V, dim=1) if self.norm is None else V), dim=1)

    def whole(self, V: Tensor) -> Tensor:
        """Map reasoned regions (n, R, dim) to image vectors (n, dim)."""
        state = self.rnn(V)[1][0]
        return normalize(state if self.norm is None else self.norm(state), dim=1)


class Captioner(nn.Module):
    """A GRU over reasoned regions, and a GRU with attention to its states that writes the caption."""

    def __init__(self, vocabulary: int, dim: int, word_dim: int, hidden: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(dim, hidden)
        self.reader = nn.GRU(hidden, hidden, batch_first=True)
        self.embed = nn.Embedding(vocabulary, word_dim)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.writer = nn.GRU(hidden + word_dim, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocabulary)
        nn.init.xavier_normal_(self.project.weight)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, V: Tensor, y: Tensor) -> Tensor:
        """Return -log p of captions y (n, L) after their first word, given regions V (n, R, dim), summed, by n."""
        states, state = self.reader(self.dropout(self.project(V)))
        words, steps = self.embed(y), []
        for t in range(y.shape[1]):
            beside = state[0][:, None].expand_as(states)
            weights = self.attention(torch.cat([states, beside], dim=2)).softmax(dim=1)
            seen = torch.cat([words[:, t], (weights * states).sum(1)], dim=1)
            step, state = self.writer(self.dropout(seen)[:, None], state)
            steps.append(step)
        log_p = self.out(torch.cat(steps, dim=1)).log_softmax(dim=2)
        following = torch.cat([y[:, 1:], torch.zeros_like(y[:, :1])], dim=1)
        return -(log_p.gather(2, following[:, :, None])[:, :, 0] * (y != 0)).sum() / len(y)


class Network(nn.Module):
    """Encoders of images and texts, and the captioner, which only trains."""

    def __init__(self, spec: Spec, method: VSRN):
        super().__init__()
        dim, word_dim = method.dim, method.word_dim
        self.image = ImageEncoder(spec.image_shape[-1], dim, method.flickr30k_form)
        self.text = WordEncoder(spec.vocabulary, word_dim, dim, bidirectional=False)
        self.captioner = Captioner(spec.vocabulary, dim, word_dim, method.caption_hidden, method.caption_dropout)


@dataclass(kw_only=True)
class VSRN(DeepEmbedder):
    """``alpha`` weighs the captioner's loss; ``max_words`` bounds what it is asked to write.

    For ``easy_epochs`` the matching loss sums over all negatives; the paper takes the hardest from the start.
    """

    space: ClassVar[str] = "cosine"
    reduction: ClassVar[str] = "sum"

    dim: int = 2048
    word_dim: int = 300
    flickr30k_form: bool = False
    caption_hidden: int = 512
    caption_dropout: float = 0.2
    max_words: int = 59
    alpha: float = 1.0
    margin: float = 0.2
    easy_epochs: int = 0
    epochs: int = 30
    lr: float = 2e-4
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "plateau"] = "step"
    decay_every: int = 15
    clip: float = 2.0

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with the official code's initial weights."""
        return Network(spec, self)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the matching loss, summed over the batch, plus the captioner's, its mean over the batch."""
        V = net.image.regions(batch.image)
        u, v = net.image.whole(V), self.embed_text(net, batch.text)
        longest = int((batch.text != 0).sum(1).max().clamp(1, self.max_words))
        matching = triplet(u @ v.T, self.margin, hardest=loop.epoch >= self.easy_epochs)
        writing = net.captioner(V, batch.text[:, :longest])
        loop.log_value("matching", matching.detach())
        loop.log_value("caption", writing.detach())
        return matching + self.alpha * writing

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map regions (n, R, d_image) to (n, dim)."""
        return net.image.whole(net.image.regions(x))

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map token ids (n, L) to (n, dim): the GRU's state at the last word."""
        H, lengths = net.text(y)
        return normalize(H[torch.arange(len(H), device=H.device), lengths - 1], dim=1)
