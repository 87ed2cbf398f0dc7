"""Corr-AE: Cross-modal Retrieval with Correspondence Autoencoder (Feng, Wang and Li, ACM Multimedia 2014).

Images x (n, d_image) and texts y (n, d_text), as features, have an autoencoder each; their hidden representations
f(x) and g(y) (n, dim) are the common space. With L_I and L_T the errors of reconstructing image and text, the loss is

    (1 - alpha) (L_I + L_T) + alpha L_C,     L_C = mean |f(x_i) - g(y_i)|^2 / dim:

alpha balances what a representation keeps of its own modality against what both have in common. By ``variant``,

* "corr": each modality is reconstructed from its own representation, by one decoder per modality;
* "cross": each modality is reconstructed from the other's, L_I = |x - I(g(y))|^2 and L_T = |y - T(f(x))|^2;
* "full": both modalities are reconstructed from each representation, by four decoders, the sum of the two above.

Errors are means over items and dimensions. Encoders end in tanh, decoders mirror them and end linear; new items are
ranked by cosine.

The paper's text was not at hand beyond its abstract; losses, widths and alpha of "corr" follow a public TensorFlow 1
re-implementation (yolo2233/cross-modal-hasing-playground@ff54826, not the authors'), the other variants the abstract.
Held against a NumPy transcription of that code's loss in float64, with dropout off and batch normalisation as it starts
(128 pairs, 512 and 300 features): the loss is equal, representations differ by at most 4e-16.

Departures: the paper learns the first layers of each modality as restricted Boltzmann machines beforehand; here, as in
that code, everything is trained at once from random weights. Text decoders end linear, not in a sigmoid, since text
features are not bags of 0 and 1 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec

READS = {"corr": ("own",), "cross": ("other",), "full": ("own", "other")}


def layers(widths: tuple, dropout: float, last: type[nn.Module] | None = None) -> nn.Sequential:
    """Return linear layers from ``widths[0]`` to ``widths[-1]`` with batch norm, ReLU and dropout between them."""
    found: list[nn.Module] = []
    for width, units in pairwise(widths[:-1]):
        found += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*found, nn.Linear(*widths[-2:]), *([last()] if last else []))


class Network(nn.Module):
    """An encoder per modality, and a decoder of each modality from each representation that the variant reads."""

    def __init__(self, spec: Spec, method: CorrAE):
        super().__init__()
        image = (*spec.image_shape, *method.hidden_image, method.dim)
        text = (*spec.text_shape, *method.hidden_text, method.dim)
        self.image, self.text = layers(image, method.dropout, nn.Tanh), layers(text, method.dropout, nn.Tanh)
        for source in READS[method.variant]:
            self.add_module(f"image_from_{source}", layers(image[::-1], method.dropout))
            self.add_module(f"text_from_{source}", layers(text[::-1], method.dropout))

    def reconstruction_error(self, x: Tensor, y: Tensor, f: Tensor, g: Tensor, source: str) -> Tensor:
        """Return L_I + L_T of reconstructing ``x`` and ``y`` from their "own" representation or the "other"'s."""
        of_image, of_text = (f, g) if source == "own" else (g, f)
        x_again = self.get_submodule(f"image_from_{source}")(of_image)
        y_again = self.get_submodule(f"text_from_{source}")(of_text)
        return (x - x_again).square().mean() + (y - y_again).square().mean()


@dataclass(kw_only=True)
class CorrAE(DeepEmbedder):
    """``hidden_image`` and ``hidden_text`` are the widths between a modality's features and the common space."""

    space: ClassVar[str] = "cosine"

    variant: Literal["corr", "cross", "full"] = "corr"
    alpha: float = 0.2
    hidden_image: tuple = (2048, 1024)
    hidden_text: tuple = (1024, 1024)
    dim: int = 128
    dropout: float = 0.5
    epochs: int = 77
    batch_size: int = 128
    lr: float = 1e-4
    drop_last: bool = True

    def build(self, spec: Spec) -> nn.Module:
        """Return the network with PyTorch's initial weights."""
        return Network(spec, self)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return (1 - alpha) times the errors of reconstruction plus alpha times that of correspondence."""
        x, y = batch.image, batch.text
        f, g = net.image(x), net.text(y)
        errors = sum(net.reconstruction_error(x, y, f, g, source) for source in READS[self.variant])
        return (1 - self.alpha) * errors + self.alpha * (f - g).square().mean()

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, dim) within [-1, 1]."""
        return net.image(x)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map text features (n, d_text) to (n, dim) within [-1, 1]."""
        return net.text(y)
