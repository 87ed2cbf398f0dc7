"""SSAH: Self-Supervised Adversarial Hashing Networks for Cross-Modal Retrieval (Li et al., CVPR 2018).

Three networks give a feature (n, feature), a code h in (-1, 1)^bits and labels p in (0, 1)^classes: one of the labels
L (n, classes) themselves, which is learned first, and one of each modality, which are then taught by it. With Z the
label network's features and H its codes of all n training pairs, S_ij = 0.999 where pairs i and j share a label and
0 elsewhere, the label network, and likewise those of images and texts, minimise over a batch, with its own f, h, p,

    alpha P(Z f' / 2) + pair_weight P(H h' / 2) + beta ||sign(h) - h||^2 / 2 + eta ||L - p||^2 / 2
    + delta mean[-log D(f)]                                    for images and texts only

where P(T) = ||S * T - log(1 + exp T)||_F^2 / 2 as in the authors' code (``pair_loss: squared``), or the negative log
likelihood sum[log(1 + exp T) - S * T] that the paper states (``likelihood``). D is one discriminator per modality
that learns to tell label features (1) from the modality's (0).

Training goes in rounds of passes over the data: ``label_passes`` of the label network and half as many at a lower
rate, two of the discriminators, then ``passes`` of the image and text networks, a half and a third as many at lower
rates. The rate of every network falls by 10^-0.5 from round to round; ``epochs`` counts passes.

Held against the authors' losses and networks (lelan-li/SSAH@8780b20: SSAH.py, tnet.py, ops.py, TensorFlow 1, read on
paper and written out in NumPy) with the same weights and 16 of 40 pairs: the outputs and losses of all three
networks agree to 1e-13 relative in double precision.

Departures. The authors' discriminators read stored features, so that no gradient of delta's term reaches the image
and text networks; here it does, as in the paper. Their early end of a stage where the loss grows is left out. Images
enter as given features: the tower is full7 (4096 ReLU) and the layers above it, drawn like the others, because there
is no pretrained CNN-F below it. Windows of the text network that are wider than the text are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, binary_cross_entropy_with_logits, local_response_norm, softplus

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.mlp import draw_normal, mlp


class Response(nn.Module):
    """Local response normalisation over 5 neighbouring units, x / (2 + 1e-4 sum x^2)^0.75."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows (n, width)."""
        return local_response_norm(x[:, :, None], size=5, alpha=5e-4, beta=0.75, k=2.0)[:, :, 0]  # torch divides alpha


class Scales(nn.Module):
    """A text (n, d) beside its means over windows of 50 to 5 entries, weighted, rectified and stretched to d."""

    def __init__(self, width: int):
        super().__init__()
        self.windows = [w for w in (5, 10, 15, 30, 50) if w <= width]
        self.weights = nn.Parameter(0.01 * torch.randn(len(self.windows)))
        self.out = width * (1 + len(self.windows))

    def forward(self, y: Tensor) -> Tensor:
        """Return (n, d (1 + windows))."""
        scales = [y]
        for window, weight in zip(self.windows, self.weights, strict=True):
            pooled = torch.relu(weight * avg_pool1d(y[:, None], window))
            scales.append(stretch(pooled, y.shape[1])[:, 0])
        return torch.cat(scales, dim=1)


def stretch(x: Tensor, width: int) -> Tensor:
    """Interpolate (n, 1, m) linearly to (n, 1, width) with corners as TensorFlow 1 has them: i at i m / width."""
    source = torch.arange(width, device=x.device, dtype=x.dtype) * (x.shape[2] / width)
    low = source.floor().long()
    high = (low + 1).clamp(max=x.shape[2] - 1)
    return x[:, :, low] + (source - low) * (x[:, :, high] - x[:, :, low])


class Tower(nn.Module):
    """A trunk to a feature, and two heads on it (``before`` comes between): a code and labels."""

    def __init__(self, trunk: nn.Sequential, feature: int, bits: int, classes: int, before: nn.Module | None = None):
        super().__init__()
        self.trunk, self.before = trunk, before or nn.Identity()
        self.hash = nn.Linear(feature, bits)
        self.label = nn.Linear(feature, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (n, feature), codes (n, bits) and labels (n, classes)."""
        f = self.trunk(x)
        z = self.before(f)
        return f, torch.tanh(self.hash(z)), torch.sigmoid(self.label(z))


class Network(nn.Module):
    """The three towers, a discriminator per modality, and the label network's features and codes of all pairs."""

    def __init__(self, spec: Spec, hidden: int, feature: int, bits: int, std: float):
        super().__init__()
        heads = (feature, bits, spec.classes)
        scales = Scales(spec.text_shape[0])
        text = [scales, *mlp((scales.out, hidden), last=True), Response(), *mlp((hidden, feature), last=True)]
        label = [*mlp((spec.classes, hidden), last=True), Response(), *mlp((hidden, feature), last=True)]
        self.label = Tower(nn.Sequential(*label), *heads)
        self.image = Tower(mlp((spec.image_shape[0], hidden, feature), last=True), *heads)
        self.text = Tower(nn.Sequential(*text), *heads, before=Response())
        self.critics = nn.ModuleDict({m: mlp((feature, 512, 256, 1))
                                      for m in ("image", "text")})  # fmt: skip
        draw_normal(self, std)
        self.register_buffer("features", torch.randn(spec.n_texts, feature))
        self.register_buffer("codes", torch.randn(spec.n_texts, bits))


@dataclass(kw_only=True)
class SSAH(DeepEmbedder):
    """Each network has its rate of the first round, ``lr_label`` to ``lr_critic``; ``lr`` is that of images."""

    space: ClassVar[str] = "hamming"
    supervised: ClassVar[bool] = True
    reduction: ClassVar[str] = "sum"

    bits: int = 16
    hidden: int = 4096
    feature: int = 512
    init_std: float = 0.01
    alpha: float = 1.0
    beta: float = 1.0
    eta: float = 1.0
    pair_weight: float = 1.0
    delta: float = 1.0
    pair_loss: Literal["squared", "likelihood"] = "squared"
    label_passes: int = 10
    passes: int = 15
    lr_label: float = 1e-2
    lr: float = 3.16227766e-05
    lr_text: float = 3.16227766e-04
    lr_critic: float = 1e-3
    epochs: int = 440
    batch_size: int = 128

    def build(self, spec: Spec) -> nn.Module:
        """Return the network, everything drawn from N(0, init_std^2), and the label network's memory from N(0, 1)."""
        return Network(spec, self.hidden, self.feature, self.bits, self.init_std)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return an optimiser per tower and one for both discriminators."""
        parts = {"label": net.label, "image": net.image, "text": net.text, "critic": net.critics}
        return {name: self.make_optimizer(part.parameters()) for name, part in parts.items()}

    def stages(self) -> list[tuple[str, int]]:
        """Return the passes of a round in order: what is trained, and how many rounds ahead its rate is."""
        label = [("label", ahead) for ahead in (0, 1) for _ in range(self.label_passes // (ahead + 1))]
        rest = [("towers", ahead) for ahead in (0, 1, 2) for _ in range(self.passes // (ahead + 1))]
        return [*label, ("critic", 0), ("critic", 1), *rest]

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Set the rates of this pass."""
        stages = self.stages()
        ahead = loop.epoch // len(stages) + stages[loop.epoch % len(stages)][1]
        for name, rate in (("label", self.lr_label), ("image", self.lr), ("text", self.lr_text),
                           ("critic", self.lr_critic)):  # fmt: skip
            loop.set_lr(rate * 10 ** (-0.5 * ahead), name)

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Train what this pass is for."""
        stage = self.stages()[loop.epoch % len(self.stages())][0]
        labels = loop.labels[loop.pairs]
        if stage == "critic":
            return {"loss": loop.descend(batch, lambda part: self.critic_loss(net, part), "critic")}
        if stage == "label":
            with torch.no_grad():
                net.features[batch.rows], net.codes[batch.rows], _ = net.label(batch.labels)
            return {"loss": loop.descend(batch, lambda part: self.tower_loss(net, "label", part, labels), "label")}
        losses = {name: loop.descend(batch, lambda part, name=name: self.tower_loss(net, name, part, labels), name)
                  for name in ("image", "text")}  # fmt: skip
        return {"loss": losses["image"] + losses["text"], **losses}

    def tower_loss(self, net: nn.Module, name: str, batch: Batch, labels: Tensor) -> Tensor:
        """Return what the tower ``name`` minimises over a batch; ``labels`` (n, classes) are of all pairs."""
        f, h, p = getattr(net, name)(batch.labels if name == "label" else getattr(batch, name))
        S = 0.999 * (labels @ batch.labels.T > 0).to(f.dtype)
        total = self.alpha * self.pairwise(net.features @ f.T / 2, S)
        total = total + self.pair_weight * self.pairwise(net.codes @ h.T / 2, S)
        total = total + self.beta * (torch.sign(h.detach()) - h).square().sum() / 2
        total = total + self.eta * (batch.labels - p).square().sum() / 2
        if name == "label":
            return total
        verdict = net.critics[name](f)
        return total + self.delta * binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))

    def pairwise(self, T: Tensor, S: Tensor) -> Tensor:
        """Return P(T) for similarities ``S`` (n, b)."""
        if self.pair_loss == "squared":
            return (S * T - softplus(T)).square().sum() / 2
        return (softplus(T) - S * T).sum()

    def critic_loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the discriminators' mean cross entropy: label features are 1, those of a modality 0."""
        with torch.no_grad():
            real = net.label(batch.labels)[0]
            fake = {"image": net.image(batch.image)[0], "text": net.text(batch.text)[0]}
        total = torch.zeros((), device=real.device)
        for name, critic in net.critics.items():
            for features, target in ((fake[name], 0.0), (real, 1.0)):
                verdict = critic(features)
                total = total + binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, target)) / 4
        return total

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to codes in (-1, 1) (n, bits)."""
        return net.image(x)[1]

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to codes in (-1, 1) (n, bits)."""
        return net.text(y)[1]
