"""SCAN: Stacked Cross Attention for Image-Text Matching (Lee et al., ECCV 2018).

An image is a set of regions v_i = W x_i + b, i = 1..k, and a caption a set of words e_j, the mean of both directions
of a GRU over learned word vectors; all are brought to length 1 (dim,). With s_ij = v_i'e_j, of every image with every
caption:

    text-image  s~_ij = f(s_ij) / ||f(s_i.)|| over the caption's words,   a_ij = softmax over regions of lambda1 s~_ij,
                a_j = sum_i a_ij v_i,   R_j = cos(e_j, a_j)                                     (of each word)
    image-text  s~_ij = f(s_ij) / ||f(s_.j)|| over the image's regions,   a_ij = softmax over words of lambda1 s~_ij,
                a_i = sum_j a_ij e_j,   R_i = cos(v_i, a_i)                                     (of each region)

where f is LeakyReLU of slope 0.1 (the paper cuts at 0, the authors' code leaks), and the similarity of the pair is
log(sum exp(lambda2 R)) / lambda2 (LSE) or the mean of R (AVG). The loss is VSE++'s over the hardest negatives of
the batch. ``attention`` and ``pooling`` give the paper's four variants; its ensembles add two variants' similarities.

Attended vectors are never formed. As e_j'a_j = sum_i a_ij s_ij and ||a_j||^2 = a_.j' (V V') a_.j, products of dim
numbers are taken once, for s and for V V' (or E E'), and all captions' words are treated together, without padding.

Held against the official code (kuanghuei/SCAN@8063557) with the same weights and batch (16 pairs), for all four
variants in float64: similarities differ by at most 2e-7, the loss by 6e-7, gradients by 2e-6 and the weights after
one step of Adam by 6e-6, which comes from where the code adds 1e-8 to norms. Departures: ``easy_epochs`` may take all
negatives in the first epochs, as from random weights the hardest teach slowly, and ``standardize`` brings regions to
mean 0 and deviation 1, without which activations that are never negative all point one way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, SetMatcher, Spec
from cmrkit.methods.parts.word_region import Standard, WordEncoder, mask_of, triplet, xavier_linear

TINY = 1e-8
CHUNK = 16  # images at a time on a CPU, whose cache then holds what passes between the steps: twice as fast


def text_image(S: Tensor, V: Tensor, captions: Captions, smooth: float) -> Tensor:
    """Return R (words, images) of each word from S (words, images, regions) and V (images, regions, dim)."""
    A = leaky_relu(S, 0.1)
    A = A / captions.each_word(captions.total(A.square()).clamp(min=TINY**2).sqrt())
    A = (smooth * A).softmax(dim=2)
    squared = (torch.einsum("wir,irs->wis", A, V @ V.mT) * A).sum(2)
    return (A * S).sum(2) / squared.clamp(min=TINY**2).sqrt()


def image_text(S: Tensor, E: Tensor, captions: Captions, smooth: float) -> Tensor:
    """Return R (captions, images, regions) of each region from S (words, images, regions) and E (words, dim)."""
    A = normalize(leaky_relu(S, 0.1), dim=2, eps=TINY)
    A = (smooth * A).exp()  # at most e^smooth: lengths are 1
    A = A / captions.each_word(captions.total(A))
    B, E = captions.padded(A).flatten(2), captions.padded(E)
    squared = (B * ((E @ E.mT) @ B)).sum(1).view(-1, *S.shape[1:])
    return captions.total(A * S) / squared.clamp(min=TINY**2).sqrt()


class Captions:
    """The words of some captions one after another, and sums over those of each."""

    def __init__(self, lengths: Tensor):
        self.mask = mask_of(lengths, int(lengths.max()))
        self.lengths = lengths
        self.owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def total(self, x: Tensor) -> Tensor:
        """Sum x (words, ...) over the words of each caption: (captions, ...)."""
        return x.new_zeros(len(self.lengths), *x.shape[1:]).index_add(0, self.owner, x)

    def each_word(self, x: Tensor) -> Tensor:
        """Give each word its caption's row of x (captions, ...): (words, ...)."""
        return x.index_select(0, self.owner)

    def padded(self, x: Tensor) -> Tensor:
        """Spread x (words, ...) over (captions, longest, ...), with zeros where there is no word."""
        out = x.new_zeros(*self.mask.shape, *x.shape[1:])
        out[self.mask] = x
        return out


@dataclass(kw_only=True)
class SCAN(SetMatcher):
    """``smooth`` is the paper's lambda1, ``sharpness`` its lambda2, which AVG does not use.

    None stands for the authors' choice on Flickr30K: 9 and 6 for text-image attention, 4 and 5 for image-text.
    """

    reduction: ClassVar[str] = "sum"
    data_parallel: ClassVar[bool] = True

    attention: Literal["t2i", "i2t"] = "t2i"
    pooling: Literal["lse", "avg"] = "lse"
    smooth: float | None = None
    sharpness: float | None = None
    dim: int = 1024
    word_dim: int = 300
    standardize: bool = False
    margin: float = 0.2
    hardest: bool = True
    easy_epochs: int = 0
    epochs: int = 30
    batch_size: int = 128
    lr: float = 2e-4
    schedule: str = "step"
    decay_every: int = 15
    clip: float = 2.0
    select: str = "rsum"

    def build(self, spec: Spec) -> nn.Module:
        """Return a linear layer for regions and a GRU of two directions. Raises UsageError for other input."""
        if len(spec.image_shape) != 2 or spec.vocabulary is None:
            raise UsageError("SCAN takes regions (regions, d) of images and tokens as text")
        return nn.ModuleDict(
            {
                "text": WordEncoder(spec.vocabulary, self.word_dim, self.dim),
                "image": xavier_linear(spec.image_shape[1], self.dim),
                "standard": Standard(spec.image_shape[1]),
            }
        )

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Take the statistics of the training regions, where they are standardised."""
        if self.standardize:
            net["standard"].fit(loop.train.image)

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return VSE++'s loss of the similarities of all images with all captions, summed over the batch."""
        V = loop.gather(self.embed_image(net, batch.image))
        texts = [loop.gather(part) for part in self.embed_text(net, batch.text)]
        return triplet(self.match(net, V, texts), self.margin, self.hardest and loop.epoch >= self.easy_epochs)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map region features (n, k, d) to regions (n, k, dim) of length 1."""
        return normalize(net["image"](net["standard"](x)), dim=2, eps=TINY)

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L) to words (n, L, dim) of length 1, and how many each caption has (n,)."""
        H, lengths = net["text"](y)
        return normalize(H, dim=2, eps=TINY), lengths

    def match(self, net: nn.Module, images: Tensor, texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return similarities (a, b) of regions (a, k, dim) and words (b, L, dim) with lengths (b,)."""
        E, lengths = texts
        captions = Captions(lengths)
        E = E[:, : captions.mask.shape[1]][captions.mask]
        chunk = CHUNK if images.device.type == "cpu" else len(images)
        return torch.cat([self._match(part, E, captions) for part in images.split(chunk)])

    def _match(self, images: Tensor, E: Tensor, captions: Captions) -> Tensor:
        S = (E @ images.flatten(0, 1).T).view(len(E), *images.shape[:2])
        smooth, sharpness = self._temperatures()
        if self.attention == "t2i":
            R = text_image(S, images, captions, smooth)
            total, count = captions.total, captions.lengths[:, None]
        else:
            R = image_text(S, E, captions, smooth)
            total, count = (lambda x: x.sum(2)), R.shape[2]
        return (total((sharpness * R).exp()).log() / sharpness if self.pooling == "lse" else total(R) / count).T

    def _temperatures(self) -> tuple[float, float]:
        smooth, sharpness = (9.0, 6.0) if self.attention == "t2i" else (4.0, 5.0)
        return self.smooth or smooth, self.sharpness or sharpness
