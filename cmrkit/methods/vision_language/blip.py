"""BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and Generation.

Li et al., ICML 2022. A vision transformer turns an image into tokens V (patches + 1, dim), the first of them [CLS]. One
BERT reads texts: alone, without cross-attention, or beside an image, every layer then attending to V too and the first
token being [ENC] in place of [CLS]:

    similarity   s(I, T) = cos(P v_cls, R w_cls),           first stage, and ITC's logits s / temperature
    logit        g(I, T) = the class "match" of a linear layer on [ENC]
    score        g + s of the pairs on the shortlist (256 on MS-COCO, 128 on Flickr30K)

Fine-tuning minimises ITC + ITM. ITC compares a batch with what a slowly moving copy of the network makes of the batch
and of the last 57,600 pairs; its targets are (1 - alpha) times the pairs of the same image, all equally right, and
alpha times what the copy itself thinks, where alpha rises during the first epoch. ITM is the cross-entropy of matching
for the pairs of the batch and, for each text an image and for each image a text, drawn with the softmax of ITC's logits
from those that do not belong.

Keys and values of V are computed once per image and gathered by the pairs, in training too. Held against the authors'
code (salesforce/BLIP@056a169) with random weights of a small network: similarities differ by at most 3e-7, logits by
8e-7, ITC and ITM in three training steps in a row, with the same negatives, by 5e-7, their gradients by 5e-6 of the
largest; and against transformers' BlipForImageTextRetrieval, given [ENC], by 3e-7.

The authors trained on 8 GPUs with 32 pairs each: this is ``batch_size`` 256 in ``accumulate`` 8 groups. Departures:
the rate falls by the cosine at every update (theirs: at every epoch), and on MS-COCO negatives come from the 32 pairs
of a group, as on Flickr30K (theirs: from all 256).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import Bert, additive_mask, rescale, trimmed
from cmrkit.methods.parts.contrastive import MomentumQueue
from cmrkit.methods.vision_language.albef import (
    Keys,
    cross_contrast,
    matching,
    mean_over_processes,
    momentum_keys,
    places,
    ramp,
    resized_positions,
)
from cmrkit.training.momentum import momentum_copy, momentum_update

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
COLDEST, HOTTEST = 0.001, 0.5  # between which the temperature is kept
PADDING = 0

# transformers' names of the image tower's weights -> the authors' (which are timm's).
RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_model\.post_layernorm\.", "visual_encoder.norm."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"visual_encoder.blocks.\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.", r"visual_encoder.blocks.\1.attn."),
    (r"^vision_model\.encoder\.layers\.", "visual_encoder.blocks."),
)
TOWERS = re.compile(r"^(visual_encoder|text_encoder|vision_proj|text_proj)(_m)?\.")
QUEUES = {"image_queue": "queue.image", "text_queue": "queue.text"}
UNUSED = re.compile(r"^text_decoder\.|position_ids$|^(idx_queue|ptr_queue|queue_ptr)$")


class Encoders(nn.Module):
    """The two towers and their projections, of which training keeps a slowly moving copy."""

    def __init__(self, image: VisionTransformer, text: Bert, text_dim: int, projection: int):
        super().__init__()
        self.visual_encoder = image
        self.text_encoder = text
        self.vision_proj = nn.Linear(image.embed_dim, projection)
        self.text_proj = nn.Linear(text_dim, projection)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def images(self, x: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to tokens (n, 1 + patches, dim)."""
        return self.visual_encoder((x.permute(0, 3, 1, 2) / 255 - self.mean) / self.std)

    def texts(self, ids: Tensor) -> Tensor:
        """Map token ids (n, L) to tokens (n, longest, text_dim), past the cross-attention."""
        ids, present = trimmed(ids, ids != PADDING)
        x, mask = self.text_encoder.embeddings(ids), additive_mask(present)
        for layer in self.text_encoder.encoder.layer:
            x = layer.attention(x, mask, x)
            x = layer.output(layer.intermediate(x), x)
        return x

    def image_vectors(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., dim) to unit vectors (..., projection)."""
        return normalize(self.vision_proj(tokens), dim=-1)

    def text_vectors(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., text_dim) to unit vectors (..., projection)."""
        return normalize(self.text_proj(tokens), dim=-1)


class Network(nn.Module):
    """The encoders, the matching head, and what training needs: momentum encoders and the queue of their vectors."""

    def __init__(self, encoders: Encoders, queue: int):
        super().__init__()
        self.encoders = encoders
        self.itm_head = nn.Linear(encoders.text_proj.in_features, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.momentum = momentum_copy(encoders)
        self.queue = MomentumQueue(encoders.text_proj.out_features, queue)
        self.enc = encoders.text_encoder.embeddings.word_embeddings.num_embeddings - 1

    def logits(self, ids: Tensor, present: Tensor, image: Tensor, which: Tensor) -> Tensor:
        """Return (b, 2), no match and match, of token ids (b, L), present (b, L) bool, and image tokens (a, n, dim).

        ``which`` (b,) int64 names each text's image.
        """
        ids, present = trimmed(ids, present)
        ids = torch.cat([torch.full_like(ids[:, :1], self.enc), ids[:, 1:]], 1)
        return self.itm_head(self.encoders.text_encoder(ids, additive_mask(present), image, which=which)[:, 0])


@dataclass(kw_only=True)
class BLIP(PairScorer):
    """``dim``, ``depth``, ``heads`` and ``drop_path`` are the image tower's (ViT-L: 1024, 24, 16, 0.1).

    ``queue`` is a number of keys, ``ema`` the rate at which momentum encoders stay as they are,
    ``initializer_range`` the deviation of initial weights.
    """

    data_parallel: ClassVar[bool] = True
    training_only: ClassVar[tuple[str, ...]] = ("queue", "momentum", "temp")

    size: int = 384
    framing: Literal["squash"] = "squash"
    tokenizer: Literal["blip"] = "blip"
    max_length: int = 35
    cleaning: Literal["none", "blip"] = "blip"
    augment: str = "crop:0.5:1.0,flip,randaug:2:5"
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    drop_path: float = 0.0
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    dropout: float = 0.1
    initializer_range: float = 0.02
    projection: int = 256
    queue: int = 57600
    ema: float = 0.995
    alpha: float = 0.4
    shortlist: int = 256
    combine: Literal["logit", "logit+similarity"] = "logit+similarity"
    optimizer: str = "AdamW"
    lr: float = 1e-5
    weight_decay: float = 0.05
    batch_size: int = 256
    accumulate: int = 8
    epochs: int = 6
    schedule: str = "cosine"
    drop_last: bool = True
    select: str = "rsum"

    def build(self, spec: Spec) -> Network:
        """Return the network. Raises UsageError for other input than pixels of ``size`` and token ids."""
        if spec.image_shape != (self.size, self.size, 3) or spec.vocabulary is None:
            raise UsageError(f"BLIP takes pixels ({self.size}, {self.size}, 3) and token ids, not images of shape"
                             f" {spec.image_shape}")  # fmt: skip
        image = VisionTransformer(
            img_size=self.size, patch_size=self.patch, embed_dim=self.dim, depth=self.depth, num_heads=self.heads,
            num_classes=0, global_pool="", drop_path_rate=self.drop_path,
        )  # fmt: skip
        text = Bert(
            spec.vocabulary, self.text_dim, self.text_depth, self.text_heads, cross=range(self.text_depth),
            context_dim=self.dim, types=0, dropout=self.dropout,
        )  # fmt: skip
        rescale(image, self.initializer_range)
        rescale(text, self.initializer_range)
        return Network(Encoders(image, text, self.text_dim, self.projection), self.queue)

    def step(self, net: Network, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Move the momentum encoders, take a step down ITC + ITM, and queue the batch's keys."""
        net.temp.data.clamp_(COLDEST, HOTTEST)
        momentum_update(net.momentum, net.encoders, self.ema)
        keys = momentum_keys(net, batch, loop)
        loss = loop.descend(batch, lambda part: self.loss_of(net, part, keys, places(part.rows, batch.rows), loop))
        keys = keys.gathered(loop)
        net.queue.push(keys.image, keys.text, keys.ids)
        return {"loss": loss}

    def loss_of(self, net: Network, part: Batch, keys: Keys, rows: Tensor, loop: Loop) -> Tensor:
        """Return ITC + ITM of a group of pairs, whose momentum keys are the ``rows`` (b,) of ``keys``."""
        tokens = net.encoders.images(part.image)
        image = net.encoders.image_vectors(tokens[:, 0])
        text = net.encoders.text_vectors(net.encoders.texts(part.text)[:, 0])
        own = Keys(keys.image[rows], keys.text[rows], part.images)
        group = own.gathered(loop)
        itc, _, _ = cross_contrast(image, text, own, group.queued(net.queue), net.temp, ramp(self.alpha, loop))
        with torch.no_grad():
            i2t, t2i = image @ loop.gather(text).T / net.temp, text @ loop.gather(image).T / net.temp
        itm = matching(net, tokens, part.text, group.ids, part, i2t, t2i, loop)
        loop.log_value("itc", itc.detach().mean())
        loop.log_value("itm", itm.detach().mean())
        return mean_over_processes(itc + itm, len(group.ids))

    def embed_image(self, net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (n, size, size, 3) to unit vectors (n, projection) and tokens (n, 1 + patches, dim)."""
        tokens = net.encoders.images(x)
        return net.encoders.image_vectors(tokens[:, 0]), tokens

    def embed_text(self, net: Network, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L) to unit vectors (n, projection) and the ids."""
        return net.encoders.text_vectors(net.encoders.texts(y)[:, 0]), y

    def score(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of "match" of embedded images and texts, row by row."""
        return self.score_block(net, images, texts, torch.arange(len(texts[1]), device=texts[1].device))

    def score_block(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor) -> Tensor:
        """Return the same logits of texts with the images that ``which`` (b,) names, read once each."""
        return net.logits(texts[1], texts[1] != PADDING, images[1], which)[:, 1]

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of the authors, of pre-training or fine-tuning, or of BlipForImageTextRetrieval.

        Where momentum encoders are missing they are those of the weights themselves; queues of another length than
        ``queue`` are left out.
        """
        found: dict[str, Tensor] = {}
        for name, value in weights.items():
            new = renamed(name)
            if new is None or (new.startswith("queue.") and value.shape[1] != self.queue):
                continue
            if new.endswith("visual_encoder.pos_embed"):
                value = resized_positions(value, (self.size // self.patch) ** 2)
            found[new] = value.T.contiguous() if new.startswith("queue.") else value
        twins = {n.replace("encoders.", "momentum.", 1): t for n, t in found.items() if n.startswith("encoders.")}
        return {**twins, **found}


def renamed(name: str) -> str | None:
    """Return our name of a published tensor, or None for one that retrieval does not need."""
    if name in QUEUES:
        return QUEUES[name]
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return None if UNUSED.search(name) else TOWERS.sub(_placed, name)


def _placed(match: re.Match[str]) -> str:
    return f"{'momentum' if match[2] else 'encoders'}.{match[1]}."
