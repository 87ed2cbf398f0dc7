"""VSE++: Improving Visual-Semantic Embeddings with Hard Negatives (Faghri et al., BMVC 2018).

An image, as one feature x (d_image,), is projected to i = W x + b (dim,); a caption, as word ids (L,), is the last
state c (dim,) of a GRU over learned word vectors. Both are brought to length 1, and s(i, c) = i'c. Over a batch of
pairs, with h = [margin + s(i, c^) - s(i, c)]_+ for a negative caption and the like for a negative image,

    VSE0   sum over pairs of  sum_c^ [margin + s(i, c^) - s(i, c)]_+  +  sum_i^ [margin + s(i^, c) - s(i, c)]_+
    VSE++  sum over pairs of  max_c^ [margin + s(i, c^) - s(i, c)]_+  +  max_i^ [margin + s(i^, c) - s(i, c)]_+

so that VSE++ (``hardest``) looks at the hardest negative of the batch alone. Another caption of the same image that
falls into the batch counts as a negative, as in the authors' code. VSE0 there leaves the image vector unnormalised.

Held against the official code (fartashf/vsepp@abe382f) with the same weights and batch (16 pairs), VSE++ and VSE0:
embeddings, loss, gradients and the weights after one step of Adam differ by at most 2e-15 in float64 and by 5e-8 in
float32. Departures: ``easy_epochs`` may take all negatives in the first epochs, as from random weights the hardest
teach slowly; the Order variants of the code are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.word_region import WordEncoder, triplet, xavier_linear


@dataclass(kw_only=True)
class VSE(DeepEmbedder):
    """``dim`` is the width of the common space, ``word_dim`` that of the word vectors.

    ``normalize_features`` brings image features to length 1 first, as the authors' encoder does to what its CNN
    gives and as they take precomputed features to be already.
    """

    space: ClassVar[str] = "dot"
    reduction: ClassVar[str] = "sum"
    data_parallel: ClassVar[bool] = True

    dim: int = 1024
    word_dim: int = 300
    normalize_features: bool = True
    normalize_image: bool = True
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
        """Return a linear layer for images and a GRU for captions. Raises UsageError for other input."""
        if len(spec.image_shape) != 1 or spec.vocabulary is None:
            raise UsageError("VSE++ takes one feature vector an image (not regions or pixels) and tokens as text")
        return nn.ModuleDict(
            {
                "text": WordEncoder(spec.vocabulary, self.word_dim, self.dim, bidirectional=False),
                "image": xavier_linear(spec.image_shape[0], self.dim),
            }
        )

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the loss of VSE++, or of VSE0, summed over the batch."""
        X, C = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        return triplet(loop.gather(X) @ loop.gather(C).T, self.margin, self.hardest and loop.epoch >= self.easy_epochs)

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map image features (n, d_image) to (n, dim)."""
        projected = net["image"](normalize(x, dim=1) if self.normalize_features else x)
        return normalize(projected, dim=1) if self.normalize_image else projected

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map token ids (n, L) to (n, dim): the GRU's state after the last word, at length 1."""
        H, lengths = net["text"](y)
        return normalize(H[torch.arange(len(H), device=H.device), lengths - 1], dim=1)
