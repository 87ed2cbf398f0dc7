"""deep-SM: Cross-Modal Retrieval With CNN Visual Features: A New Baseline (Wei et al., IEEE Trans. Cybernetics 2017).

Deep semantic matching: each modality has a network of its own that predicts the classes, and the predicted class
probabilities are the common space. Images x (n, d_image) and texts y (n, d_text), as features, pass ReLU layers and a
softmax to p(x) and q(y) (n, classes); with labels scaled to sum 1, t_i,

    loss = - mean_i t_i'log p(x_i) - mean_i t_i'log q(y_i),

which are two separate problems, since nothing is shared. New items are ranked by the cosine of their probabilities.

The paper's text was not at hand beyond its abstract, and the only public code (zh-plus/CMR-CNN-New-Baseline, not the
authors') ends after a classifier of images, which it trains by squared error; there is nothing to hold this against.

Departures: the paper fine-tunes an ImageNet network on each dataset's images. Here images are features like texts,
and the image network stands on them: with features of such a network it trains the layers on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec


def classifier(width: int, hidden: tuple, classes: int, dropout: float) -> nn.Sequential:
    """Return ReLU layers of ``hidden`` units with dropout, and a linear one to the logits of ``classes``."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


@dataclass(kw_only=True)
class DeepSM(DeepEmbedder):
    """``hidden_image`` and ``hidden_text`` are the widths of each modality's ReLU layers."""

    space: ClassVar[str] = "cosine"
    supervised: ClassVar[bool] = True

    hidden_image: tuple = (1024,)
    hidden_text: tuple = (1024,)
    dropout: float = 0.5
    epochs: int = 60
    batch_size: int = 128
    optimizer: str = "SGD"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def build(self, spec: Spec) -> nn.Module:
        """Return the two classifiers with PyTorch's initial weights."""
        return nn.ModuleDict(
            {
                "image": classifier(spec.image_shape[0], self.hidden_image, spec.classes, self.dropout),
                "text": classifier(spec.text_shape[0], self.hidden_text, spec.classes, self.dropout),
            }
        )

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the cross-entropies of both modalities."""
        t = batch.labels / batch.labels.sum(1, keepdim=True).clamp(min=1)
        return cross_entropy(net["image"](batch.image), t) + cross_entropy(net["text"](batch.text), t)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to class probabilities (n, classes)."""
        return torch.softmax(net["image"](x), dim=1)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to class probabilities (n, classes)."""
        return torch.softmax(net["text"](y), dim=1)
