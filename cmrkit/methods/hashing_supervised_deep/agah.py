"""AGAH: Adversary Guided Asymmetric Hashing for Cross-Modal Retrieval (Gu et al., ICMR 2019).

Towers give features f (b, feature) of images and texts. A map M (classes, feature), a row per label, corrects them,
f' = share f + (1 - share) a M / sum(a) with attention a = sigmoid(5 f M'), and heads give codes h in (-1, 1)^bits of
f'. With a map C of binary codes (classes, bits), labels L in {0, 1}, codes h_x of images and h_y of texts, minimise

    T(h_x, h_y) + T(h_y, h_x) + saturation sum 1 / (1 + exp cos(|h|, 1)) + code ||h C' - bits (2 L - 1)||^2
        + quantization ||h - sign(h)||^2 - adversarial [mean D_text(f_x) + mean D_image(f_y)],

each sum over both modalities, where T sums max(0, d_ap - d_an + margin), d = max(0, 1 - cos), over triplets (a, p, n)
in which p shares a label with a and n does not. The critic D_text is trained to score features of texts above those
of images, D_image the reverse (WGAN with a penalty on gradients). After every epoch, with the training pairs'
features F, G and codes U, V as their batches last gave them,

    C column k = sign(Q_k - 2 C_-k (U_-k' U_k + V_-k' V_k + C_-k' C_k)),   Q = 2 bits (L' (U + V) + (2 I - 1) C),
    M = rows of (L' F + L' G) / (2 L' 1), of length 1,

U and V being signs here.

Held against the authors' PyTorch code (WendellGul/AGAH@a4bde4f) with the same weights, batch and random numbers,
double precision and features scaled as theirs: after one update of critics and towers the weights differ by at most
3e-17 and the loss by 3e-13; C is equal and M differs by 1e-16 after an epoch.

Departures. The authors divide features by the norm of their whole batch, at test too, so that codes depend on their
company; here by sqrt(batch_size) times the feature's own norm, which is the same where all norms of a full batch are
equal. Images enter as given features: the tower is the two fully connected layers above CNN-F's pool5 and the feature
layer, without pretrained weights below. The classifier, whose weight is 0 in their code, is left out. They keep the
epoch that scores best on the test set; here it is the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.adversarial import gradient_penalty
from cmrkit.methods.parts.mlp import mlp
from cmrkit.methods.parts.triplets import cosine_triplets


class Network(nn.Module):
    """A tower, a head and a critic per modality; the maps, and features and codes of all training pairs."""

    def __init__(self, spec: Spec, image_hidden: tuple, text_hidden: tuple, feature: int, bits: int):
        super().__init__()
        self.image = mlp((spec.image_shape[0], *image_hidden, feature), last=True)
        self.text = mlp((spec.text_shape[0], *text_hidden, feature), last=True)
        self.image_hash = nn.Sequential(nn.Linear(feature, bits), nn.Tanh())
        self.text_hash = nn.Sequential(nn.Linear(feature, bits), nn.Tanh())
        self.image_critic = mlp((feature, feature, 256, 1))
        self.text_critic = mlp((feature, feature, 256, 1))
        self.register_buffer("M", torch.randn(spec.classes, feature))
        self.register_buffer("C", torch.randn(spec.classes, bits).sign())
        for name, width in (("F", feature), ("G", feature), ("U", bits), ("V", bits)):
            self.register_buffer(name, torch.randn(spec.n_texts, width))


def update_code_map(C: Tensor, U: Tensor, V: Tensor, L: Tensor) -> None:
    """Update the map ``C`` (classes, bits) column by column in place, from signs ``U``, ``V`` (n, bits)."""
    bits = C.shape[1]
    Q = 2 * bits * (L.T @ (U + V) + 2 * C - C.sum(dim=0))
    for k in range(bits):
        rest = torch.arange(bits, device=C.device) != k
        overlap = sum(Z[:, rest].T @ Z[:, k] for Z in (U, V, C))
        C[:, k] = torch.sign(Q[:, k] - 2 * C[:, rest] @ overlap)


@dataclass(kw_only=True)
class AGAH(DeepEmbedder):
    """``lr`` is that of the image tower, ``fast`` times as much is everything else's; both fall by ``gamma``."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True
    reduction: ClassVar[str] = "sum"

    bits: int = 64
    image_hidden: tuple = (4096, 4096)
    text_hidden: tuple = (8192, 4096)
    feature: int = 512
    share: float = 0.8
    margin: float = 0.3
    saturation: float = 1.0
    code: float = 1e-3
    quantization: float = 1.0
    adversarial: float = 1.0
    penalty: float = 10.0
    epochs: int = 300
    batch_size: int = 128
    optimizer: str = "Adamax"
    lr: float = 1e-4
    fast: float = 10.0
    weight_decay: float = 5e-4
    critic_decay: float = 1e-4
    gamma: float = 0.6
    decay_every: int = 100

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights and random maps, as in the authors' code."""
        return Network(spec, self.image_hidden, self.text_hidden, self.feature, self.bits)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return optimisers of the image tower, of the rest, and of each critic."""
        rate = self.lr * self.fast
        rest = nn.ModuleList([net.text, net.image_hash, net.text_hash]).parameters()
        groups = [{"params": net.image.parameters(), "lr": self.lr}, {"params": rest, "lr": rate}]
        critic = {"lr": rate, "betas": (0.5, 0.9), "weight_decay": self.critic_decay}
        return {
            "main": self.make_optimizer(groups),
            "image_critic": self.make_optimizer(net.image_critic.parameters(), **critic),
            "text_critic": self.make_optimizer(net.text_critic.parameters(), **critic),
        }

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Lower the rates of all but the critics after epochs 0, 100, ..., to no less than 1e-6."""
        fallen = self.gamma ** -(-loop.epoch // self.decay_every)
        for group, rate in zip(loop.optimizers["main"].param_groups, (self.lr, self.lr * self.fast), strict=True):
            group["initial_lr"] = max(rate * fallen, 1e-6)

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Train both critics on the batch, then the towers."""
        with torch.no_grad():
            f_x, f_y = self.features(net.image, batch.image), self.features(net.text, batch.text)
            net.F[batch.rows], net.G[batch.rows] = f_x, f_y
            net.U[batch.rows] = net.image_hash(self.attend(net.M, f_x))
            net.V[batch.rows] = net.text_hash(self.attend(net.M, f_y))
        text = loop.descend(batch, lambda part: self.critic_loss(net.text_critic, f_y, f_x), "text_critic")
        image = loop.descend(batch, lambda part: self.critic_loss(net.image_critic, f_x, f_y), "image_critic")
        loss = loop.descend(batch, lambda part: self.loss(net, part, loop))
        return {"loss": loss, "image_critic": image, "text_critic": text}

    def features(self, tower: nn.Module, x: Tensor) -> Tensor:
        """Return scaled features (n, feature); the scale is not trained."""
        f = tower(x)
        return f / (self.batch_size**0.5 * f.detach().norm(dim=1, keepdim=True)).clamp(min=1e-12)

    def attend(self, M: Tensor, f: Tensor) -> Tensor:
        """Mix features (n, feature) with the rows of ``M`` that they resemble."""
        attention = torch.sigmoid(5 * f @ M.T)
        return self.share * f + (1 - self.share) * attention @ M / attention.sum(dim=1, keepdim=True)

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss on detached features (b, feature)."""
        return critic(fake).mean() - critic(real).mean() + self.penalty * gradient_penalty(critic, real, fake)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return what towers and heads minimise over a batch."""
        f_x, f_y = self.features(net.image, batch.image), self.features(net.text, batch.text)
        h_x, h_y = net.image_hash(self.attend(net.M, f_x)), net.text_hash(self.attend(net.M, f_y))
        total = sum(cosine_triplets(a, b, batch.labels, self.margin) for a, b in ((h_x, h_y), (h_y, h_x)))
        for h in (h_x, h_y):
            flat = cosine_similarity(h.abs(), torch.ones_like(h))
            total = total + self.saturation * torch.sigmoid(-flat).sum()
            total = total + self.code * (h @ net.C.T - self.bits * (2 * batch.labels - 1)).square().sum()
            total = total + self.quantization * (h - torch.sign(h.detach())).square().sum()
        return total - self.adversarial * (net.text_critic(f_x).mean() + net.image_critic(f_y).mean())

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Update the maps."""
        L = loop.labels[loop.pairs]
        update_code_map(net.C, torch.sign(net.U), torch.sign(net.V), L)
        net.M.copy_(normalize(L.T @ (net.F + net.G) / (2 * L.sum(dim=0)).clamp(min=1)[:, None], dim=1))

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to codes in (-1, 1) (n, bits)."""
        return net.image_hash(self.attend(net.M, self.features(net.image, x)))

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to codes in (-1, 1) (n, bits)."""
        return net.text_hash(self.attend(net.M, self.features(net.text, y)))
