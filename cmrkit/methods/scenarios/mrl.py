"""MRL: Learning Cross-Modal Retrieval with Noisy Labels (Hu et al., CVPR 2021).

Images x (n, d_image) and texts y (n, d_text), as features, pass two ReLU layers and a linear one of their own and are
scaled to the unit sphere: z (n, dim), eq. 1. Class centres C (dim, classes), scaled to unit columns before every
batch, cluster both modalities:

    p(k|z) = softmax_k(c_k'z / tau)                                                                       (eq. 2)
    L_r = sum over both modalities of mean_i log(1 - p(y_i|z_i))                                          (eq. 5)
    L_c = - sum over both modalities of mean_i log P(i|z_i),                                              (eq. 7)
          P(i|z_i) = exp(z_i'z'_i / tau) / sum over all other embeddings z of the batch of exp(z'z_i / tau) (eq. 6)

where z'_i is the other modality's embedding of the same pair, and the loss is L = beta L_r + (1 - beta) L_c (eq. 8).
L_r is cross-entropy turned over: its gradient is largest where the model already agrees with a label, so that labels
which it cannot learn, the noisy ones, weigh little; L_c uses no labels. An item with several labels has the sum of
their probabilities for p(y_i). New items are ranked by cosine.

Eq. 6 sums over l and t without leaving anything out; the official code leaves out z_i itself, as is done here.

Held against the official code (penghu-cs/MRL@e0f5c8f) with the same weights and batch (100 pairs, 4096 and 300
features, 10 classes): embeddings equal, loss within 2e-15 in float64; after one step of Adam the weights differ by at
most 4e-15 in float64, and by 8e-7 in float32 (gradients by 2e-9).

Departures: the paper and its code draw the noise of image and text labels apart, so that a pair may carry two labels;
here a pair has the labels of its image (setting.label_noise). The code chooses the epoch on a validation set cut from
the test set; here the last epoch is kept. The cosine schedule goes update by update, not epoch by epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import mlp

TINY = 1e-12  # under the logarithm: an item that has every label has no probability left over


class Network(nn.Module):
    """A network per modality, and the class centres that both share: orthogonal columns at first."""

    def __init__(self, spec: Spec, hidden: tuple, dim: int):
        super().__init__()
        self.image = mlp((*spec.image_shape, *hidden, dim))
        self.text = mlp((*spec.text_shape, *hidden, dim))
        self.centres = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim))[:, : spec.classes].clone())


def robust_clustering_loss(Z: Tensor, C: Tensor, L: Tensor, tau: float) -> Tensor:
    """Return mean log(1 - p_y) of embeddings ``Z`` (b, dim) under centres ``C`` (dim, classes) and labels ``L``."""
    P = torch.softmax(Z @ C / tau, dim=1)
    return ((1 - L) * P).sum(1).clamp(min=TINY).log().mean()


def multimodal_contrastive_loss(U: Tensor, V: Tensor, tau: float) -> Tensor:
    """Return L_c of paired unit rows ``U`` and ``V`` (b, dim): all 2b - 1 others are candidates for an item's pair."""
    Z = torch.cat([U, V])
    T = (Z @ Z.T / tau).fill_diagonal_(-torch.inf)
    pairs = (U * V).sum(1).repeat(2) / tau
    return 2 * (T.logsumexp(1) - pairs).mean()


@dataclass(kw_only=True)
class MRL(DeepEmbedder):
    """``hidden`` are the widths of each modality's ReLU layers, ``dim`` that of the common space."""

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True
    data_parallel: ClassVar[bool] = True

    hidden: tuple = (4096, 4096)
    dim: int = 512
    beta: float = 0.7
    tau: float = 1.0
    epochs: int = 100
    batch_size: int = 50
    lr: float = 1e-4
    betas: tuple = (0.5, 0.999)
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "plateau"] = "cosine"

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights, as in the official code."""
        if spec.classes > self.dim:
            raise UsageError(f"model.dim is {self.dim}, but {spec.classes} classes need as many orthogonal centres")
        return Network(spec, self.hidden, self.dim)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return beta L_r + (1 - beta) L_c over the whole batch."""
        with torch.no_grad():
            net.centres.copy_(normalize(net.centres, dim=0))
        U, V = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        return self.objective(net.centres, loop.gather(U), loop.gather(V), loop.gather(batch.labels))

    def objective(self, C: Tensor, U: Tensor, V: Tensor, L: Tensor) -> Tensor:
        """Return eq. 8 of unit embeddings ``U`` and ``V`` (b, dim) with labels ``L`` (b, classes)."""
        clustering = robust_clustering_loss(U, C, L, self.tau) + robust_clustering_loss(V, C, L, self.tau)
        return self.beta * clustering + (1 - self.beta) * multimodal_contrastive_loss(U, V, self.tau)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to unit vectors (n, dim)."""
        return normalize(net.image(x), dim=1)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to unit vectors (n, dim)."""
        return normalize(net.text(y), dim=1)
