"""DSCMR: Deep Supervised Cross-Modal Retrieval (Zhen et al., CVPR 2019).

Images x (n, d_image) and texts y (n, d_text), as features, pass one layer of their own, h = ReLU(W_m x + b_m), and
then two layers that both modalities share: u = P h + b, the common space (n, dim), and a linear classifier
p = C u + b (n, classes). With labels L (n, classes), image embeddings U and text embeddings V,

    J1 = mean_i ||p(u_i) - l_i|| + mean_i ||p(v_i) - l_i||                          (label space)
    J2 = sum over (A, B) of (U, U), (U, V), (V, V) of mean_ij [log(1 + exp t_ij) - s_ij t_ij],
         t_ij = cos(a_i, b_j) / 2,  S = L L'                                        (common space)
    J3 = mean_i ||u_i - v_i||                                                       (modality invariance)

and the loss is J1 + alpha J2 + beta J3; norms are Euclidean and not squared, as in the official code, where the
paper writes Frobenius norms of the whole batch. New items are ranked by the cosine of their embeddings.

Held against the official code (penghu-cs/DSCMR@0e110b9) with the same weights and batch (100 pairs, 4096 and 300
features, 20 classes): embeddings and loss equal; after one step of Adam the weights differ by at most 4e-15 in
float64, and by 2e-6 in float32 (gradients by 3e-8), the division by tiny second moments.

Departure: the official code takes the training pairs in their stored order and keeps the epoch that scores best on
the test set; here they are shuffled, and the last epoch is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec


class Network(nn.Module):
    """One layer per modality, then a common space and a classifier that both share."""

    def __init__(self, spec: Spec, hidden: int, dim: int):
        super().__init__()
        self.image = nn.Linear(spec.image_shape[0], hidden)
        self.text = nn.Linear(spec.text_shape[0], hidden)
        self.common = nn.Linear(hidden, dim)
        self.classifier = nn.Linear(dim, spec.classes)


def pair_likelihood(A: Tensor, B: Tensor, S: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of similarities ``S`` (n, n) under half cosines of rows: part of J2."""
    T = normalize(A, dim=1) @ normalize(B, dim=1).T / 2
    return (softplus(T) - S * T).mean()


@dataclass(kw_only=True)
class DSCMR(DeepEmbedder):
    """``hidden`` is the width of each modality's own layer, ``dim`` that of the common space."""

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True
    data_parallel: ClassVar[bool] = True

    hidden: int = 2048
    dim: int = 1024
    alpha: float = 1e-3
    beta: float = 1e-1
    epochs: int = 500
    batch_size: int = 100
    lr: float = 1e-4
    betas: tuple = (0.5, 0.999)

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights, as in the official code."""
        return Network(spec, self.hidden, self.dim)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return J1 + alpha J2 + beta J3 over the whole batch."""
        U, V = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        return self.objective(net, loop.gather(U), loop.gather(V), loop.gather(batch.labels))

    def objective(self, net: nn.Module, U: Tensor, V: Tensor, L: Tensor) -> Tensor:
        """Return J1 + alpha J2 + beta J3 of embeddings (b, dim) with labels (b, classes)."""
        J1 = sum((net.classifier(Z) - L).norm(dim=1).mean() for Z in (U, V))
        S = L @ L.T
        J2 = pair_likelihood(U, U, S) + pair_likelihood(U, V, S) + pair_likelihood(V, V, S)
        J3 = (U - V).norm(dim=1).mean()
        return J1 + self.alpha * J2 + self.beta * J3

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, dim)."""
        return net.common(torch.relu(net.image(x)))

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, dim)."""
        return net.common(torch.relu(net.text(y)))
