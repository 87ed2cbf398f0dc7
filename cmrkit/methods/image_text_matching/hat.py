"""HAT: Unifying Two-Stream Encoders with Transformers for Cross-Modal Retrieval (Bin et al., ACM MM 2023).

Both encoders are transformers, and images meet captions at three depths l. A Swin transformer gives regions x_i after
each of its last three stages (784, 196 and 49 of 256, 512 and 1024 numbers for Swin-B at 224 pixels), before they are
merged for the next stage and through a LayerNorm of their own; BERT gives words y_j after 4, 10 and 12 layers, [CLS]
and [SEP] among them. Linear layers bring both to one width, v_i = W_l x_i + b_l and e_j = U_l y_j + c_l, which are not
normalised. At each level regions look for themselves in the caption, as in SCAN's image-text attention:

    A_ij = f(v_i'e_j) / ||f(v_.'e_j)|| over the regions,  a_i = sum_j softmax_j(lambda A_ij) e_j,  f: LeakyReLU(0.1)
    s_l = mean over regions of cos(v_i, a_i),             s(image, caption) = s_1 + s_2 + s_3

The loss is VSE++'s hinge over the hardest negatives of the batch. The encoders come pre-trained and stay as they are
for the first eleven epochs, in which only the linear layers learn; then all train, at a tenth of the rate.

Written from the paper's abstract and from what the authors' code (LuminosityX/HAT@25c18b3, GPL-3, none of which is
here) was seen to compute when it ran on random weights: a Swin-B of fewer blocks, a BERT of 48 numbers, three images
and three captions. With those weights, through ``convert``, projected regions differ by at most 1.4e-6 and words by
2e-7 of about 2, similarities by 6e-8 and the loss by 1.2e-7. A loop over pairs, written apart, says the same.

Departures: photographs are brought to ``size`` and cut there, where the authors take the middle 224 of 256 pixels;
while the encoders are frozen, their dropout rests; ``easy_epochs`` may take all negatives in the first epochs, as from
random weights the hardest teach slowly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, SetMatcher, Spec
from cmrkit.methods.image_text_matching.scan import Captions, image_text
from cmrkit.methods.parts.bert import Bert, additive_mask
from cmrkit.methods.parts.word_region import triplet

LEVELS = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
PRODUCTS = {"cpu": 1 << 20, "cuda": 1 << 26}  # of words and regions at a time: on a CPU they then stay in its cache


class Swin(nn.Module):
    """A Swin transformer that gives what its last three stages see, each through a LayerNorm."""

    def __init__(self, method: HAT):
        super().__init__()
        m = method
        trunk = SwinTransformer(m.size, m.patch, embed_dim=m.dim, depths=m.depths, num_heads=m.heads,
                                window_size=m.window, drop_path_rate=m.drop_path, num_classes=0)  # fmt: skip
        self.patch_embed, self.layers = trunk.patch_embed, trunk.layers
        self.widths = [m.dim << stage for stage in range(len(m.depths))][-LEVELS:]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map pixels (n, size, size, 3) uint8 to regions of three levels (n, regions, width)."""
        x = self.patch_embed((x.permute(0, 3, 1, 2) / 255 - self.mean) / self.std)
        levels = []
        for stage in self.layers:
            x = stage(x)
            levels.append(x.flatten(1, 2))
        return [norm(level) for norm, level in zip(self.norms, levels[-LEVELS:], strict=True)]


def level_similarity(V: Tensor, E: Tensor, captions: Captions, smooth: float) -> Tensor:
    """Return s_l (images, captions) of regions V (images, regions, dim) with all captions' words E (words, dim)."""
    size = max(1, PRODUCTS.get(V.device.type, 1 << 26) // (len(E) * V.shape[1]))
    return torch.cat([_similarity(part, E, captions, smooth) for part in V.split(size)])


def _similarity(V: Tensor, E: Tensor, captions: Captions, smooth: float) -> Tensor:
    S = (E @ V.flatten(0, 1).T).view(len(E), *V.shape[:2])
    R = image_text(S, E, captions, smooth)  # v_i'a_i / ||a_i||, as SCAN's v_i have length 1
    return (R / V.norm(dim=2).clamp(min=1e-8)).mean(2).T


@dataclass(kw_only=True)
class HAT(SetMatcher):
    """``dim``, ``depths``, ``heads`` and ``window`` are Swin's; ``text_levels`` counts BERT's layers before each level.

    ``smooth`` is lambda; ``drop_path`` and ``dropout`` are those of the two encoders in training.
    """

    reduction: ClassVar[str] = "sum"
    data_parallel: ClassVar[bool] = True

    size: int = 224
    framing: Literal["crop"] = "crop"
    interpolation: str = "bilinear"
    augment: str = "crop:0.08:1.0,flip"
    tokenizer: Literal["bert"] = "bert"
    max_length: int = 32
    patch: int = 4
    dim: int = 128
    depths: tuple = (2, 2, 18, 2)
    heads: tuple = (4, 8, 16, 32)
    window: int = 7
    drop_path: float = 0.1
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    text_levels: tuple = (4, 10, 12)
    dropout: float = 0.1
    projection: int = 768
    smooth: float = 9.0
    margin: float = 0.2
    easy_epochs: int = 0
    epochs: int = 100
    batch_size: int = 58
    optimizer: str = "Adam"
    lr: float = 1e-4
    schedule: str = "step"
    decay_every: int = 10
    precision: str = "fp16"
    frozen: tuple = ("image:11", "text:11")
    select: str = "r@1"

    def build(self, spec: Spec) -> nn.Module:
        """Return both encoders and a linear layer for each level of each. Raises UsageError for other input."""
        if len(spec.image_shape) != 3 or spec.vocabulary is None:
            raise UsageError("HAT takes pixels (height, width, 3) as images and token ids as texts")
        if len(self.text_levels) != LEVELS or len(self.depths) < LEVELS or max(self.text_levels) > self.text_depth:
            raise UsageError(
                f"HAT compares {LEVELS} levels: it needs as many text_levels, up to text_depth, and no fewer depths"
            )
        image = Swin(self)
        return nn.ModuleDict(
            {
                "image": image,
                "text": Bert(spec.vocabulary, self.text_dim, self.text_depth, self.text_heads, dropout=self.dropout),
                "image_projections": _linear(image.widths, self.projection),
                "text_projections": _linear([self.text_dim] * LEVELS, self.projection),
            }
        )

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return VSE++'s loss of the similarities of all images with all captions, summed over the batch."""
        images, texts = self.embed_image(net, batch.image), self.embed_text(net, batch.text)
        images, texts = ([loop.gather(part) for part in parts] for parts in (images, texts))
        return triplet(self.match(net, images, texts), self.margin, loop.epoch >= self.easy_epochs)

    def embed_image(self, net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """Map pixels (n, size, size, 3) to projected regions of three levels (n, regions, projection)."""
        return tuple(layer(x) for layer, x in zip(net["image_projections"], net["image"](x), strict=True))

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, ...]:
        """Map token ids (n, L) to projected words of three levels (n, L, projection), and lengths (n,)."""
        states = net["text"].states(y, additive_mask(y != 0))
        levels = (layer(states[n]) for layer, n in zip(net["text_projections"], self.text_levels, strict=True))
        return *levels, (y != 0).sum(1).clamp(min=1)

    def match(self, net: nn.Module, images: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
        """Return similarities (a, b) of regions (a, regions, projection) and words (b, L, projection), three of each.

        Last of ``texts`` come the lengths (b,).
        """
        *words, lengths = texts
        captions = Captions(lengths)
        words = (E[:, : captions.mask.shape[1]][captions.mask] for E in words)
        return sum(level_similarity(V, E, captions, self.smooth) for V, E in zip(images, words, strict=True))

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the authors' repository, whose Swin is timm's of before version 0.9."""
        out = {}
        for name, tensor in weights.items():
            if name.endswith(("relative_position_index", "attn_mask")) or name.startswith(UNUSED):
                continue
            for theirs, ours in NAMES:
                name = re.sub(theirs, ours, name)
            name = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
            out[name] = tensor
        return out


UNUSED = ("vit_model.norm_0.", "vit_model.head.", "text_transformer.pooler.")
NAMES = (
    (r"^cross_modal_(image|text)_transform_1\.", r"\1_projections.0."),
    (r"^cross_modal_(image|text)_transform_2\.", r"\1_projections.1."),
    (r"^cross_modal_(image|text)_transform\.", r"\1_projections.2."),
    (r"^vit_model\.norm_1\.", "image.norms.0."),
    (r"^vit_model\.norm_2\.", "image.norms.1."),
    (r"^vit_model\.norm\.", "image.norms.2."),
    (r"^vit_model\.", "image."),
    (r"^text_transformer\.", "text."),
)


def _linear(widths: Sequence[int], dim: int) -> nn.ModuleList:
    layers = nn.ModuleList(nn.Linear(width, dim) for width in widths)
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return layers
