"""Contrast of images and texts with momentum keys and a queue, as ALBEF (Li et al., NeurIPS 2021) and BLIP train.

A query (an image, say) is compared with keys made by slowly moving encoders: those of the batch and, in a queue, of
the batches before. Its targets are all keys of the same image, however many captions that has, mixed with what the
momentum encoder itself believes (momentum distillation):

    p = softmax(q'k / tau),   y = alpha softmax(q_m'k / tau) + (1 - alpha) 1[same image] / count,   loss = -sum y log p
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import CmrkitError

NOBODY = -100  # the image of keys that were drawn at random


class MomentumQueue(nn.Module):
    """The last ``size`` momentum keys: image and text (size, dim), unit rows, and ids (size,) int64 of their images.

    It begins with random keys of no image, which are negatives for everything until they are pushed out.
    """

    def __init__(self, dim: int, size: int):
        super().__init__()
        self.register_buffer("image", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("text", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("ids", torch.full((size,), NOBODY))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, image: Tensor, text: Tensor, ids: Tensor) -> None:
        """Put keys (n, dim) of images ids (n,) in the place of the oldest ones."""
        size = len(self.ids)
        if not size:
            return
        image, text, ids = image[-size:], text[-size:], ids[-size:]
        places = (self.position + torch.arange(len(ids), device=ids.device)) % size
        self.image[places], self.text[places] = image.to(self.image.dtype), text.to(self.text.dtype)
        self.ids[places] = ids
        self.position.copy_((self.position + len(ids)) % size)


def same_image(ids: Tensor, keys: Tensor) -> Tensor:
    """Return hard targets (b, m) of queries of images ids (b,) among keys (m,): equal shares of 1 for the same one."""
    same = (ids[:, None] == keys).float()
    return same / same.sum(1, keepdim=True)


def distilled(targets: Tensor, queries: Tensor, keys: Tensor, temperature: Tensor | float, alpha: float) -> Tensor:
    """Mix targets (b, m) with what momentum queries (b, dim) say of keys (m, dim): soft targets (b, m)."""
    return alpha * (queries @ keys.T / temperature).softmax(1) + (1 - alpha) * targets


def contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropies (b,) of logits (b, m) with targets (b, m) whose rows sum to 1."""
    return -(targets * logits.log_softmax(1)).sum(1)


@torch.no_grad()
def hard_negatives(logits: Tensor, ids: Tensor, others: Tensor, floor: float = 1e-9) -> Tensor:
    """Draw for each of b queries one of n others of another image: places (b,) int64, by torch's global generator.

    The chance of each is softmax(logits) + floor, of logits (b, n); ids (b,) and others (n,) int64 are images.
    BLIP's code has a floor of 1e-4; this one's keeps a chance where the softmax underflows.

    Raises CmrkitError where a query has no other image.
    """
    same = ids[:, None] == others
    if same.all(1).any():
        raise CmrkitError("a part of a batch has one image alone, so no negatives: lower train.accumulate, or use a"
                          " larger train.batch_size")  # fmt: skip
    chances = (logits.float().softmax(1) + floor).masked_fill(same, 0)
    return torch.multinomial(chances, 1)[:, 0]


def symmetric_contrast(image: Tensor, text: Tensor, scale: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Return CLIP's loss of unit rows image and text (n, dim): the mean of both directions, a scalar.

    The logits are scale (the inverse temperature) times the cosines. With ids (n,) of images, all texts of an image
    are right for it, in equal shares; without, only its own is.
    """
    logits = scale * image @ text.T
    targets = torch.eye(len(image), device=image.device) if ids is None else same_image(ids, ids)
    return (contrast(logits, targets) + contrast(logits.T, targets)).mean() / 2
