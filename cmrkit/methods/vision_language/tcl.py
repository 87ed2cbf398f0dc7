"""TCL: Vision-Language Pre-Training with Triple Contrastive Learning (Yang et al., CVPR 2022), for retrieval.

TCL is ALBEF (which see for the network, the queue, momentum distillation, L_itm and the two stages of evaluation)
whose contrastive loss also compares like with like. With f, g the unit vectors of image and text, f_m, g_m the
momentum keys, made from a second view of the image, those of the group and the queue, and l_m unit vectors of local
tokens (words, or ``regions`` x ``regions`` averages of patches) of the momentum encoders, it is the mean of six terms:

    cross-modal alignment   H(y_i2t, softmax f'g_m / tau),   H(y_t2i, softmax g'f_m / tau)
    intra-modal contrast    H(1, softmax f'f_m / tau),       H(1, softmax g'g_m / tau)     hard targets, by image
    local mutual            -log e^(f'l / tau) / (e^(f'l / tau) + sum of e^(f'l' / tau)),  mean over own local l;
      information           l' are those of all other pairs of the group; likewise for g and words

Held against the official code (uta-smile/TCL@74a3e4f) with a tiny random network, the same inputs and both views
given: similarities within 1e-6, logits within 2e-6, the losses of a batch within 1e-5. Departures: those of ALBEF, and
the second view. The authors draw both views alike from the photograph (crop, colour jitter, grey, blur, mirror,
RandAugment). Here the readers make the first one, by crop, mirror and RandAugment, and the second is made of the
first: a part of ``second_crop`` of its area and more, mirrored half of the time, brightness, contrast and saturation
changed by up to 40 % in 80 %, grey in 20 %, blurred in 50 % of the cases; hue is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, conv2d, grid_sample, pad, softplus

from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import trimmed
from cmrkit.methods.parts.contrastive import contrast, same_image
from cmrkit.methods.vision_language.albef import (
    PADDING,
    Keys,
    Network,
    converted,
    cross_contrast,
    decayed_groups,
    matching,
    mean_over_processes,
    places,
    ramp,
)
from cmrkit.training.momentum import momentum_update

GREY = (0.299, 0.587, 0.114)


@torch.no_grad()
def second_view(x: Tensor, smallest: float) -> Tensor:
    """Return another view of uint8 pixels (n, H, W, 3), each image changed in its own way, by torch's generator."""
    y = random_part(x.permute(0, 3, 1, 2).float() / 255, smallest)
    y = torch.where(chosen(y, 0.8), jittered(y), y)
    y = torch.where(chosen(y, 0.2), grey(y), y)
    y = torch.where(chosen(y, 0.5), blurred(y), y)
    return (y * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def chosen(x: Tensor, share: float) -> Tensor:
    """Choose each of n images with probability ``share``: (n, 1, 1, 1) bool."""
    return torch.rand(len(x), 1, 1, 1, device=x.device) < share


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Draw a number for each of n images: (n, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device)


def grey(x: Tensor) -> Tensor:
    """Return the luminance of images (n, 3, H, W) in all three channels."""
    return (x * x.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def jittered(x: Tensor, strength: float = 0.4) -> Tensor:
    """Change brightness, contrast and saturation of images (n, 3, H, W) by up to ``strength``."""
    low, high = 1 - strength, 1 + strength
    x = (x * uniform(x, low, high)).clamp(0, 1)
    mean = grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * uniform(x, low, high)).clamp(0, 1)
    luminance = grey(x)
    return (luminance + (x - luminance) * uniform(x, low, high)).clamp(0, 1)


def blurred(x: Tensor, low: float = 0.1, high: float = 2.0, radius: int = 4) -> Tensor:
    """Blur images (n, 3, H, W) by Gaussians of ``low`` to ``high`` pixels."""
    n, c, height, width = x.shape
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernels = (-(offsets**2) / (2 * uniform(x, low, high)[..., 0] ** 2)).exp()
    kernels = (kernels / kernels.sum(2, keepdim=True)).repeat_interleave(c, 0)  # (3n, 1, taps)
    y = pad(x, (radius,) * 4, mode="replicate").view(1, n * c, height + 2 * radius, width + 2 * radius)
    y = conv2d(conv2d(y, kernels[:, :, None], groups=n * c), kernels[..., None], groups=n * c)
    return y.view(n, c, height, width)


def random_part(x: Tensor, smallest: float) -> Tensor:
    """Cut a part of ``smallest`` to all of the area out of images (n, 3, H, W), resize it, mirror half of them."""
    area, ratio = uniform(x, smallest, 1)[:, 0, 0, 0], uniform(x, -0.2877, 0.2877)[:, 0, 0, 0].exp()  # 3:4 to 4:3
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = (torch.rand(2, len(x), device=x.device) * 2 - 1) * torch.stack([1 - width, 1 - height])
    mirror = torch.where(chosen(x, 0.5)[:, 0, 0, 0], -1.0, 1.0)
    zero = torch.zeros_like(width)
    theta = torch.stack([width * mirror, zero, left, zero, height, top], 1).view(-1, 2, 3)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def local_contrast(vectors: Tensor, own: Tensor, group: Tensor, mine: Tensor, temperature: Tensor,
                   present: Tensor | None = None, all_present: Tensor | None = None) -> Tensor:  # fmt: skip
    """Return the local term (b,) of unit vectors (b, dim) and own local ones (b, parts, dim).

    ``group`` (m, parts, dim) holds those of all m pairs, of which ``mine`` (b,) are the own; ``present`` (b, parts) and
    ``all_present`` (m, parts) bool say which parts there are.
    """
    positive = torch.einsum("bd,bpd->bp", vectors, own) / temperature
    logits = torch.einsum("bd,mpd->bmp", vectors, group) / temperature
    absent = mine[:, None] == torch.arange(len(group), device=mine.device)
    absent = absent[..., None] if all_present is None else absent[..., None] | ~all_present
    negative = logits.masked_fill(absent, -torch.inf).flatten(1).logsumexp(1, keepdim=True)
    losses = softplus(negative - positive)
    return losses.mean(1) if present is None else (losses * present).sum(1) / present.sum(1)


@dataclass
class LocalKeys(Keys):
    """Momentum keys with those of local tokens: regions (n, regions^2, projection) and words (n, L - 1, projection)."""

    regions: Tensor
    words: Tensor

    def rows(self, rows: Tensor) -> LocalKeys:
        """Return some of the pairs."""
        return LocalKeys(*(column[rows] for column in vars(self).values()))


@torch.no_grad()
def local_keys(net: Network, batch: Batch, loop: Loop, smallest: float, regions: int) -> LocalKeys:
    """Return the momentum keys of a batch, the images' from a second view, group by group."""
    found, slow = [], net.momentum
    with loop.autocast():
        for part in batch.split(loop.parts):
            image = slow.image_vectors(slow.images(second_view(part.image, smallest))).float()
            text = slow.text_vectors(slow.texts(part.text)).float()
            side = round((image.shape[1] - 1) ** 0.5)
            grid = image[:, 1:].mT.unflatten(2, (side, side))
            pooled = adaptive_avg_pool2d(grid, regions).flatten(2).mT
            found.append((image[:, 0], text[:, 0], part.images, pooled, text[:, 1:]))
    return LocalKeys(*map(torch.cat, zip(*found, strict=True)))


@dataclass(kw_only=True)
class TCL(PairScorer):
    """``regions`` x ``regions`` averages stand for the patches of an image; other fields are ALBEF's."""

    data_parallel: ClassVar[bool] = True
    training_only: ClassVar[tuple[str, ...]] = ("queue", "momentum")

    size: int = 384
    framing: Literal["squash", "crop", "aspect"] = "squash"
    augment: str = "crop:0.5:1.0,flip,randaug:2:7"
    tokenizer: Literal["bert"] = "bert"
    max_length: int = 30
    cleaning: Literal["none", "albef", "blip"] = "albef"

    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    text_dim: int = 768
    text_depth: int = 6
    text_heads: int = 12
    fusion_depth: int = 6
    projection: int = 256
    dropout: float = 0.1
    initializer_range: float = 0.02

    shortlist: int = 128
    temperature: float = 0.07
    queue: int = 65_536
    ema: float = 0.995
    alpha: float = 0.4
    regions: int = 4
    second_crop: float = 0.5

    epochs: int = 10
    batch_size: int = 256
    accumulate: int = 8
    optimizer: str = "AdamW"
    lr: float = 1e-5
    weight_decay: float = 0.02
    schedule: str = "cosine"
    final_lr: float = 1e-6
    drop_last: bool = True
    select: str = "rsum"

    def build(self, spec: Spec) -> Network:
        """Return ALBEF's network for images (size, size, 3) and token ids."""
        return Network(self, spec.vocabulary)

    def optimizers(self, net: Network) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW over what decays and what does not."""
        return {"main": self.make_optimizer(decayed_groups(net, self.weight_decay))}

    def step(self, net: Network, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Move the momentum encoders, take a step down the losses, and queue the batch's keys."""
        momentum_update(net.momentum, net.towers, self.ema)
        keys = local_keys(net, batch, loop, self.second_crop, self.regions)
        loss = loop.descend(batch, lambda part: self.loss_of(net, part, keys.rows(places(part.rows, batch.rows)), loop))
        new = keys.gathered(loop)
        net.queue.push(new.image, new.text, new.ids)
        return {"loss": loss}

    def loss_of(self, net: Network, part: Batch, own: LocalKeys, loop: Loop) -> Tensor:
        """Return the six terms' mean + L_itm of a group of pairs with its momentum keys."""
        image, text = net.towers.images(part.image), net.towers.texts(part.text)
        f, g = net.towers.image_vectors(image[:, 0]), net.towers.text_vectors(text[:, 0])
        group = own.gathered(loop)
        keys, n = group.queued(net.queue), len(group.ids)
        cross, i2t, t2i = cross_contrast(f, g, own, keys, net.temperature, ramp(self.alpha, loop))
        intra = self.intra(f, g, own, keys, net.temperature)
        local = self.local(f, g, own, part, net.temperature, loop)
        matched = matching(net, image, text, group.ids, part, i2t[:, :n], t2i[:, :n], loop)
        for name, term in {"itc": cross, "intra": intra, "local": local, "itm": matched}.items():
            loop.log_value(name, term.detach().mean())
        return mean_over_processes((cross + intra + local) / 3 + matched, n)

    def intra(self, f: Tensor, g: Tensor, own: Keys, keys: Keys, temperature: Tensor) -> Tensor:
        """Return the mean of both intra-modal terms (b,)."""
        hard = same_image(own.ids, keys.ids)
        images, texts = f @ keys.image.T / temperature, g @ keys.text.T / temperature
        return (contrast(images, hard) + contrast(texts, hard)) / 2

    def local(self, f: Tensor, g: Tensor, own: LocalKeys, part: Batch, temperature: Tensor, loop: Loop) -> Tensor:
        """Return the mean of both local terms (b,)."""
        mine, present = places(part.rows, loop.gather(part.rows)), part.text[:, 1:] != PADDING
        of_images = local_contrast(f, own.regions, loop.gather(own.regions), mine, temperature)
        of_texts = local_contrast(g, own.words, loop.gather(own.words), mine, temperature, present,
                                  loop.gather(part.text)[:, 1:] != PADDING)  # fmt: skip
        return (of_images + of_texts) / 2

    def embed_image(self, net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (n, size, size, 3) to unit vectors (n, projection) and tokens (n, 1 + patches, dim)."""
        tokens = net.towers.images(x)
        return net.towers.image_vectors(tokens[:, 0]), tokens

    def embed_text(self, net: Network, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map token ids (n, L) to unit vectors (n, projection), tokens (n, L, text_dim), and which there are (n, L)."""
        tokens = net.towers.texts(y)
        return net.towers.text_vectors(tokens[:, 0]), tokens, y != PADDING

    def score(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of "match" of embedded images and texts, row by row."""
        return net.logits(*trimmed(*texts[1:]), images[1])[:, 1]

    def score_block(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor) -> Tensor:
        """Return the same logits with each image's keys and values computed once."""
        return net.logits(*trimmed(*texts[1:]), images[1], which)[:, 1]

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the authors' tensors, which have ALBEF's names, under those of this method's network."""
        return converted(self, weights)
