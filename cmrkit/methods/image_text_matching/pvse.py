"""PVSE: Polysemous Visual-Semantic Embedding for Cross-Modal Retrieval (Song & Soleymani, CVPR 2019).

An item has one global feature g and local features x: an image the mean of its regions, projected, and the regions;
a caption the last states of a GRU of two directions, and its word vectors. K attention heads over the local features
give residuals r_k = sigmoid(W x_k), and the item's K embeddings are LayerNorm(g + r_k), brought to length 1. A pair
is as similar as its best of K x K cosines. The loss, of a batch of n pairs,

    L_mil   mean over pairs of VSE++'s hinges of the hardest negative caption and image (or over all negatives)
    L_div   mean over items of ||R R' without its diagonal||_F / K^2, R = residuals of length 1, of both modalities
    L_mmd   mean over pairs of embeddings of k(x, x') - 2 k(x, y) + k(y, y'),  k(a, b) = exp(-||a - b|| / 2)

is L_mil + div_weight L_div + mmd_weight L_mmd. The kernel's distance is not squared, as in the authors' code.

Departures: the authors put PIE-Net on a ResNet, here on regions that were extracted before. Their scheduler waits for
rsum to fall, which halves the rate after the 12th and the 23rd epoch as long as the first is the worst: so it is
written here. Their models were chosen on the test set; here on the validation set. ``easy_epochs`` may take all
negatives in the first epochs, as from random weights the hardest teach slowly.

Held against the official code (yalesong/pvse@874aa16) with the same weights and batch (16 pairs, K = 3): embeddings,
loss, gradients and the weights after one step differ by at most 2e-16 in float64 and by 3e-8 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, SetMatcher, Spec
from cmrkit.methods.parts.polysemous import PIENet, Words
from cmrkit.methods.parts.word_region import triplet


class Network(nn.Module):
    """A projection of the pooled regions, words with their GRU, and one PIE-Net for each modality."""

    def __init__(self, spec: Spec, word_dim: int, dim: int, heads: int):
        super().__init__()
        self.words = Words(spec.vocabulary, word_dim, dim)
        self.text = PIENet(heads, word_dim, dim)
        self.fc = nn.Linear(spec.image_shape[1], dim)
        self.image = PIENet(heads, spec.image_shape[1], dim)


def diversity(R: Tensor) -> Tensor:
    """Return how alike the residuals R (n, K, dim) of an item are, on average."""
    R = normalize(R, dim=2)
    gram = R @ R.mT
    off = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    return off.flatten(1).norm(dim=1).mean() / R.shape[1] ** 2


def discrepancy(X: Tensor, Y: Tensor) -> Tensor:
    """Return the maximum mean discrepancy of X and Y (m, dim) under the kernel exp(-||a - b|| / 2)."""

    def kernel(A: Tensor, B: Tensor) -> Tensor:
        return (-torch.cdist(A, B, compute_mode="donot_use_mm_for_euclid_dist") / 2).exp().mean()

    return kernel(X, X) - 2 * kernel(X, Y) + kernel(Y, Y)


@dataclass(kw_only=True)
class PVSE(SetMatcher):
    """``heads`` is K. Words take the vectors that come with the text features, where there are some."""

    data_parallel: ClassVar[bool] = True

    heads: int = 2
    dim: int = 1024
    word_dim: int = 300
    margin: float = 0.1
    hardest: bool = True
    easy_epochs: int = 0
    div_weight: float = 0.1
    mmd_weight: float = 0.01
    epochs: int = 30
    batch_size: int = 256
    lr: float = 2e-4
    schedule: str = "multistep"
    milestones: tuple = (12, 23)
    gamma: float = 0.5
    clip: float = 2.0
    frozen: tuple = ("words.embed",)
    select: str = "rsum"

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError where images are no regions or texts no tokens."""
        if len(spec.image_shape) != 2 or spec.vocabulary is None:
            raise UsageError("PVSE takes regions (regions, d) of images and tokens as text")
        return Network(spec, self.word_dim, self.dim, self.heads)

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Give words the vectors that came with the features. Raises UsageError where these have another width."""
        net.words.take(loop.train.tables)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return Adam in its AMSGrad form, as the authors have it."""
        return {"main": self.make_optimizer(net.parameters(), amsgrad=True)}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return L_mil + div_weight L_div + mmd_weight L_mmd of a batch."""
        sets = [*self._image(net, batch.image), *self._text(net, batch.text)]
        X, image_residuals, Y, text_residuals = (loop.gather(part) for part in sets)
        hardest = self.hardest and loop.epoch >= self.easy_epochs
        loss = triplet(self.match(net, X, Y), self.margin, hardest) / (len(X) if hardest else len(X) ** 2)
        if self.heads > 1:
            loss = loss + self.div_weight * (diversity(image_residuals) + diversity(text_residuals))
            loss = loss + self.mmd_weight * discrepancy(X.flatten(0, 1), Y.flatten(0, 1))
        return loss

    def _image(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        embedded, residual = net.image(net.fc(x.mean(dim=1)), x)
        return normalize(embedded, dim=2), residual

    def _text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
        embedded, residual = net.text(*net.words(y))
        return normalize(embedded, dim=2), residual

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map regions (n, k, d) to K embeddings (n, K, dim)."""
        return self._image(net, x)[0]

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map token ids (n, L) to K embeddings (n, K, dim)."""
        return self._text(net, y)[0]

    def match(self, net: nn.Module, images: Tensor, texts: Tensor) -> Tensor:
        """Return the largest cosine (a, b) between the embeddings of images (a, K, dim) and texts (b, K, dim)."""
        cosines = images.flatten(0, 1) @ texts.flatten(0, 1).T
        return cosines.view(len(images), self.heads, len(texts), self.heads).amax((1, 3))
