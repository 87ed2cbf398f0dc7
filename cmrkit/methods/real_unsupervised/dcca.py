"""DCCA: Deep Canonical Correlation Analysis (Andrew et al., ICML 2013).

Images x (n, d_image) and texts y (n, d_text), as features, pass networks of their own to outputs H and G (n, dim),
whose total correlation is maximised over large batches of m pairs. With centred outputs,

    S11 = H'H / (m - 1) + r I,   S22 = G'G / (m - 1) + r I,   S12 = H'G / (m - 1),
    T = S11^-1/2 S12 S22^-1/2 = U D V',     corr(H, G) = trace D,

and the gradient is the closed form of the paper, with no derivative of an eigenvector in it:

    d corr / d H = (2 H N11 + G N12') / (m - 1),   N12 = S11^-1/2 U V' S22^-1/2,   N11 = - S11^-1/2 U D U' S11^-1/2 / 2,

and the same for G with the modalities exchanged. The networks' outputs are determined up to a linear map each, so
after training a linear CCA of the outputs of the training set, with the same r, gives the common space, in which new
items are ranked by cosine. Each layer is linear, then a sigmoid, then batch normalisation without scale and shift;
the last one is linear, as in the public code.

Held against the public PyTorch code (Michaelvll/DeepCCA@63186ba, not the authors') in float64 on the same batch of 800
pairs and 10 outputs: that code takes singular values as sqrt(eigenvalues of T'T + 1e-3), a regulariser the paper does
not have, which makes 6.711 of a correlation of 6.692; without it values agree to 3e-10 and gradients to 3e-13. The
value is that of closed-form CCA to 4e-15.

Departures: the paper trains full batches by L-BFGS after pretraining each layer as a denoising autoencoder, with a
cubic-root sigmoid; here, as in the public code, large batches by RMSprop without pretraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.cca import cca


def sigmoid_network(width: int, hidden: tuple, dim: int) -> nn.Sequential:
    """Return layers of ``hidden`` sigmoids, each followed by batch normalisation, and a linear one to ``dim``."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.Sigmoid(), nn.BatchNorm1d(units, affine=False)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, dim))


class Network(nn.Module):
    """A network per modality, and the linear CCA of their outputs as buffers."""

    def __init__(self, spec: Spec, hidden: tuple, dim: int):
        super().__init__()
        self.image = sigmoid_network(spec.image_shape[0], hidden, dim)
        self.text = sigmoid_network(spec.text_shape[0], hidden, dim)
        for modality in ("image", "text"):
            self.register_buffer(f"{modality}_mean", torch.zeros(dim))
            self.register_buffer(f"{modality}_projection", torch.eye(dim))


def inverse_root(S: Tensor) -> Tensor:
    """Return S^-1/2 of a symmetric positive definite matrix (d, d)."""
    values, vectors = torch.linalg.eigh(S)
    return vectors / values.sqrt() @ vectors.T


class TotalCorrelation(torch.autograd.Function):
    """corr(H, G) of ``H`` and ``G`` (m, dim), with ridge ``r``; computed in float64, differentiated in closed form."""

    @staticmethod
    def forward(ctx: Any, H: Tensor, G: Tensor, r: float) -> Tensor:
        """Return the sum of the singular values of T."""
        H_, G_ = (Z.double() - Z.double().mean(0) for Z in (H, G))
        ridge = r * torch.eye(H.shape[1], dtype=torch.float64, device=H.device)
        A, B = (inverse_root(Z.T @ Z / (len(Z) - 1) + ridge) for Z in (H_, G_))
        U, D, Vt = torch.linalg.svd(A @ (H_.T @ G_ / (len(H_) - 1)) @ B)
        N12 = A @ U @ Vt @ B
        N11, N22 = -A @ (U * D) @ U.T @ A / 2, -B @ (Vt.T * D) @ Vt @ B / 2
        by_H, by_G = 2 * H_ @ N11 + G_ @ N12.T, 2 * G_ @ N22 + H_ @ N12
        ctx.save_for_backward((by_H / (len(H) - 1)).to(H), (by_G / (len(G) - 1)).to(G))
        return D.sum().to(H)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients by ``H`` and ``G``."""
        by_H, by_G = ctx.saved_tensors
        return gradient * by_H, gradient * by_G, None


@dataclass(kw_only=True)
class DCCA(DeepEmbedder):
    """``hidden`` are the widths of each modality's sigmoid layers, ``dim`` the outputs', ``r`` the ridge."""

    space: ClassVar[str] = "cosine"
    data_parallel: ClassVar[bool] = True

    hidden: tuple = (1024, 1024, 1024)
    dim: int = 10
    r: float = 1e-3
    epochs: int = 100
    batch_size: int = 800
    optimizer: str = "RMSprop"
    lr: float = 1e-3
    weight_decay: float = 1e-5
    drop_last: bool = True

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights, as in the public code."""
        return Network(spec, self.hidden, self.dim)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return minus the total correlation of the whole batch. Raises UsageError where it has too few pairs."""
        H, G = loop.gather(net.image(batch.image)), loop.gather(net.text(batch.text))
        if len(H) <= self.dim:
            raise UsageError(f"a batch of {len(H)} pairs cannot tell {self.dim} correlations: raise train.batch_size")
        return -TotalCorrelation.apply(H, G, self.r)

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Project the networks' outputs on the canonical directions of the training set."""
        outputs = {}
        for modality in ("image", "text"):
            getattr(net, f"{modality}_mean").zero_()
            getattr(net, f"{modality}_projection").copy_(torch.eye(self.dim))
            outputs[modality] = loop.encode(modality).double().cpu().numpy()
        outputs["image"] = outputs["image"][loop.pairs.cpu().numpy()]
        found = cca(outputs["image"], outputs["text"], self.dim, self.r)
        for modality, Z in outputs.items():
            getattr(net, f"{modality}_mean").copy_(torch.from_numpy(Z.mean(0)))
            getattr(net, f"{modality}_projection").copy_(torch.from_numpy(getattr(found, modality)))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to canonical variates (n, dim)."""
        return (net.image(x) - net.image_mean) @ net.image_projection

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to canonical variates (n, dim)."""
        return (net.text(y) - net.text_mean) @ net.text_projection
