"""DECL: Deep Evidential Learning with Noisy Correspondence for Cross-modal Retrieval (Qin et al., ACM MM 2022).

Some training pairs do not belong together, and which is not known. The similarity s_ij of image i and text j is that of
SGR (Diao et al., AAAI 2021): regions v and words w, of length 1, are compared as vectors,

    n_0 = unit(W_g |v_I - w_T|^2)           of the whole image and text, each pooled by attention to its parts
    n_q = unit(W_l |a_q - w_q|^2)           of word q and the regions a_q that SCAN's attention draws for it
    N <- ReLU(W softmax((Q N) (K N)') N)    three times, over these nodes;    s = w'n_0

A batch of K pairs makes every item a classifier of its partner. With evidence e_ij = exp(tanh(s_ij) / tau), alpha = e
+ 1, A_i = sum_j alpha_ij, p_ij = alpha_ij / A_i and the target y_i (one-hot for a clean pair, 0 for a noisy one)

    L_edl = mean_i sum_j [(y_ij - p_ij)^2 + p_ij (1 - p_ij) / (A_i + 1)] + lambda2 KL(Dir(1 + e_i (1 - y_i)) || Dir(1))
    L_rdh = lambda1 sum over clean i of the mean of the h largest [margin + t_ij - t_ii]_+, j != i,     t = tanh(s)

each of images and of texts. h = max(K - eta * step, mu) falls as training goes on, from all negatives to the hardest
few. In ``warmup_epochs`` all pairs are clean; before every later epoch, pairs are drawn into batches and each is clean
where the evidence of both directions, e_ij + e_ji, is largest on its own partner.

Followed from the official code: steps count from 1 and through the warm-up; K in h is the batch size even of a smaller
batch, where h is then at most one less than it holds; L_edl is a mean over the batch and L_rdh a sum; the decay counts
epochs after the warm-up (epochs 45 and milestones 25 are its 5 + 40 and 20); batches of mu pairs or fewer are left out.

Held against it (QinYang79/DECL@1b0a775) with the same weights and batch (12 pairs of 36 regions and up to 9 words), in
float64 without dropout: similarities differ by at most 2e-6, and over three steps of Adam, one of them of the warm-up,
losses by 1e-6, clipped gradients by 9e-7, weights by 3e-8; all by less than 5e-12 once its 1e-8 under norms is left
out. The pairs taken for clean are the same.

Departures: ranked by s, of which the code takes the sigmoid, in the same order; SGR alone, not SAF, nor the mean of
two models' similarities that is the paper's headline; the epoch may be chosen among those of the warm-up, too; regions
may be brought to mean 0 and deviation 1 (``standardize``), as for SCAN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, SetMatcher, Spec
from cmrkit.methods.parts.word_region import Standard, WordEncoder, attend, mask_of, mix, xavier_linear

CAPTIONS = 8  # at a time: each is compared with every image, word by word


class AttentionPooling(nn.Module):
    """The vector of a set, by attention to its parts of which their mean asks; normalised where regions are given."""

    def __init__(self, dim: int, regions: int | None, dropout: float):
        super().__init__()
        norms = (nn.BatchNorm1d(regions), nn.BatchNorm1d(dim)) if regions else (nn.Identity(), nn.Identity())
        self.local, self.whole = (
            nn.Sequential(xavier_linear(dim, dim), norm, nn.Tanh(), nn.Dropout(dropout)) for norm in norms
        )
        self.score = xavier_linear(dim, 1)

    def forward(self, X: Tensor, mask: Tensor) -> Tensor:
        """Map sets (n, parts, dim), zero where mask (n, parts) has no part, to unit vectors (n, dim)."""
        mean = X.sum(1) / mask.sum(1, keepdim=True)
        scores = self.score(self.local(X) * self.whole(mean)[:, None])[:, :, 0]
        weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
        return normalize((weights[:, :, None] * X).sum(1), dim=1)


class Reasoning(nn.Module):
    """One step of SGR's graph reasoning."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.out = (xavier_linear(dim, dim) for _ in range(3))

    def forward(self, N: Tensor, mask: Tensor, wanted: int | None = None) -> Tensor:
        """Return the first ``wanted`` of nodes N (.., nodes, dim), or all, after they heard of those in the mask."""
        edges = self.query(N[..., :wanted, :]) @ self.key(N).mT
        return self.out(edges.masked_fill(~mask[..., None, :], -torch.inf).softmax(-1) @ N).relu()


class Network(nn.Module):
    """Encoders of regions and words, the similarity of a pair, and which training pairs count as clean."""

    def __init__(self, spec: Spec, method: DECL):
        super().__init__()
        dim, sim_dim, dropout = method.dim, method.sim_dim, method.dropout
        self.standard = Standard(spec.image_shape[1])
        self.image = xavier_linear(spec.image_shape[1], dim)
        self.text = WordEncoder(spec.vocabulary, method.word_dim, dim, dropout=dropout)
        self.pool_image = AttentionPooling(dim, spec.image_shape[0], dropout)
        self.pool_text = AttentionPooling(dim, None, dropout)
        self.local, self.whole = xavier_linear(dim, sim_dim), xavier_linear(dim, sim_dim)
        self.reasoning = nn.ModuleList(Reasoning(sim_dim) for _ in range(method.reasoning))
        self.score = xavier_linear(sim_dim, 1)
        self.register_buffer("clean", torch.ones(spec.n_texts, dtype=torch.bool))

    def similarity(self, V: Tensor, v: Tensor, E: Tensor, e: Tensor, mask: Tensor) -> Tensor:
        """Return s (texts, images) of regions V (images, k, dim) and words E (texts, L, dim); v, e are the wholes."""
        there = torch.ones(V.shape[:2], dtype=torch.bool, device=V.device)
        drawn = normalize(mix(attend(E, V, mask, there, 9.0), V), dim=3)
        words = normalize(self.local((drawn - E[:, None]).square()), dim=3)
        whole = normalize(self.whole((v[None] - e[:, None]).square()), dim=2)
        N = torch.cat([whole[:, :, None], words], dim=2)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)[:, None]
        for number, layer in enumerate(self.reasoning, start=1):
            N = layer(N, mask, wanted=1 if number == len(self.reasoning) else None)  # the last one serves n_0 alone
        return self.score(N[:, :, 0])[:, :, 0]


def evidential_loss(E: Tensor, clean: Tensor, lambda2: float) -> Tensor:
    """Return each row's part (K,) of L_edl from evidence E (K, K), partners on the diagonal, and clean (K,) bool."""
    Y = torch.diag(clean.to(E.dtype))
    alpha = E + 1
    A = alpha.sum(1, keepdim=True)
    p = alpha / A
    fit = (Y - p).square().sum(1) + (p * (1 - p) / (A + 1)).sum(1)
    return fit + lambda2 * divergence_from_uniform(E * (1 - Y) + 1)


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """Return KL(Dir(alpha) || Dir(1)) of each row (K,) of alpha (K, K)."""
    A = alpha.sum(1)
    logs = alpha.digamma() - A.digamma()[:, None]
    count = torch.tensor(float(alpha.shape[1]), dtype=alpha.dtype, device=alpha.device)
    return A.lgamma() - alpha.lgamma().sum(1) - count.lgamma() + ((alpha - 1) * logs).sum(1)


def hinge_loss(T: Tensor, h: int, margin: float) -> Tensor:
    """Return each row's mean (K,) of its h largest hinges over similarities T (K, K), partners on the diagonal."""
    hinges = (margin + T - T.diagonal()[:, None]).clamp(min=0)
    return hinges.masked_fill(torch.eye(len(T), dtype=torch.bool, device=T.device), 0).topk(h, dim=1).values.mean(1)


@dataclass(kw_only=True)
class DECL(SetMatcher):
    """``reasoning`` counts SGR's steps, ``sim_dim`` is the width of its nodes; the rest are the paper's symbols."""

    reduction: ClassVar[str] = "sum"

    dim: int = 1024
    word_dim: int = 300
    sim_dim: int = 256
    reasoning: int = 3
    dropout: float = 0.4
    standardize: bool = False
    tau: float = 0.1
    lambda1: float = 0.8
    lambda2: float = 0.1
    margin: float = 0.2
    eta: float = 0.025
    mu: int = 5
    warmup_epochs: int = 5
    epochs: int = 45
    batch_size: int = 128
    lr: float = 2e-4
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "plateau"] = "multistep"
    milestones: tuple = (25,)
    clip: float = 2.0
    select: str = "rsum"

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with the official code's initial weights. Raises UsageError for other input."""
        if len(spec.image_shape) != 2 or spec.vocabulary is None:
            raise UsageError("DECL takes regions (regions, d) of images and tokens as text")
        return Network(spec, self)

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Take the statistics of the training regions, where they are standardised."""
        if self.standardize:
            net.standard.fit(loop.train.image)

    def order(self, loop: Loop) -> Tensor:
        """Return rows in random order, without a last batch of mu pairs or fewer."""
        rows = super().order(loop)
        rest = len(rows) % self.batch_size
        return rows[:-rest] if 0 < rest <= self.mu else rows

    @torch.no_grad()
    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Say which pairs count as clean in this epoch, once the warm-up is over."""
        if loop.epoch < self.warmup_epochs:
            return
        net.eval()
        for rows in torch.randperm(loop.spec.n_texts, generator=loop.generator).split(self.batch_size):
            batch = loop.batch(rows)
            with loop.autocast():
                E = self.evidence(self.similarities(net, batch))
            net.clean[batch.rows] = (E + E.T).argmax(1) == torch.arange(len(batch), device=E.device)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return L_edl + L_rdh of a batch."""
        S, clean = self.similarities(net, batch), net.clean[batch.rows]
        h = self.hardness(loop.step + 1, len(batch))
        T, E = S.tanh(), self.evidence(S)
        edl = evidential_loss(E, clean, self.lambda2) + evidential_loss(E.T, clean, self.lambda2)
        rdh = hinge_loss(T, h, self.margin) + hinge_loss(T.T, h, self.margin)
        loop.log_value("clean", clean.float().mean())
        return edl.mean() + self.lambda1 * rdh[clean].sum()

    def hardness(self, step: int, pairs: int) -> int:
        """Return h at a step, counted from 1, in a batch of so many pairs."""
        h = max(int(self.batch_size - self.eta * step), self.mu)
        return h if h <= pairs else pairs - 1

    def evidence(self, S: Tensor) -> Tensor:
        """Return e of similarities s."""
        return (S.tanh() / self.tau).exp()

    def similarities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return s (images, texts) of a batch."""
        return self.match(net, self.embed_image(net, batch.image), self.embed_text(net, batch.text))

    def embed_image(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map region features (n, k, d) to regions (n, k, dim) of length 1 and the whole image (n, dim)."""
        V = normalize(net.image(net.standard(x)), dim=2)
        return V, net.pool_image(V, torch.ones(V.shape[:2], dtype=torch.bool, device=V.device))

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map token ids (n, L) to words (n, L, dim) of length 1, the whole texts (n, dim) and lengths (n,)."""
        H, lengths = net.text(y)
        E = normalize(H, dim=2)
        return E, net.pool_text(E, mask_of(lengths, y.shape[1])), lengths

    def match(self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return s (a, b) of embedded images and texts."""
        rows = []
        for E, e, lengths in zip(*(column.split(CAPTIONS) for column in texts), strict=True):
            mask = mask_of(lengths, int(lengths.max()))
            rows.append(net.similarity(*images, E[:, : mask.shape[1]], e, mask))
        return torch.cat(rows).T
