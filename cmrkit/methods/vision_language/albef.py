"""ALBEF: Align before Fuse, with Momentum Distillation (Li et al., NeurIPS 2021), fine-tuned for retrieval.

An image is the tokens v (1 + patches, dim) of a ViT, a text the tokens w (L, text_dim) of BERT's first layers; the
first token of each, projected to unit length, gives vectors f and g. BERT's last layers, the fusion, let w attend to
v; the first token of the outcome is classified as a match or not. Trained are (section 3.2, 3.3)

    L_itc = (H(y_i2t, p_i2t) + H(y_t2i, p_t2i)) / 2,    p_i2t = softmax(f'g_m / tau)
    L_itm = cross-entropy of match / no match, over each pair, its text with a hard negative image, and its image
            with a hard negative text, drawn from the group by softmax(f'g_m / tau)

where g_m are keys by momentum encoders (rate ``ema``): those of the group and ``queue`` earlier ones. All captions of
an image are right for it; of the targets y, a share ``alpha`` is what the momentum encoders believe instead, rising
from 0 over the first epoch. Evaluation takes each item's ``shortlist`` of largest f'g and ranks these by the logit
of "match" alone.

The authors trained on 8 GPUs with 32 pairs each, whose losses and negatives never left a GPU, while the queue took
all 256 keys: this is ``batch_size`` 256 in ``accumulate`` 8 groups, on one device or on several.

Held against the official code (salesforce/ALBEF@b9727e4) with a tiny random network and the same inputs: vectors
differ by at most 1e-7, logits by 3e-7; the losses of a batch with the official negatives by 3e-7, the temperature's
gradient by 1e-5 of itself. Departures: the rate falls update by update, not epoch by epoch; texts are cut at
``max_length`` in training too; cls_token begins at timm's scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import Bert, BertEncoder, additive_mask, initialize, rescale, trimmed
from cmrkit.methods.parts.contrastive import MomentumQueue, contrast, distilled, hard_negatives, same_image
from cmrkit.training import distributed
from cmrkit.training.momentum import momentum_copy, momentum_update

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # official dataset/__init__.py
PADDING = 0


class Towers(nn.Module):
    """What looks at one side alone: the ViT, BERT's first layers, and the projections of their first tokens."""

    def __init__(self, method: Any, vocabulary: int):
        super().__init__()
        m = method
        self.visual = VisionTransformer(m.size, m.patch, embed_dim=m.dim, depth=m.depth, num_heads=m.heads,
                                        num_classes=0)  # fmt: skip
        self.text = Bert(vocabulary, m.text_dim, m.text_depth, m.text_heads, dropout=m.dropout)
        self.image_projection = nn.Linear(m.dim, m.projection)
        self.text_projection = nn.Linear(m.text_dim, m.projection)
        rescale(self.visual, m.initializer_range)
        rescale(self.text, m.initializer_range)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def images(self, x: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to tokens (n, 1 + patches, dim)."""
        return self.visual.forward_features((x.permute(0, 3, 1, 2) / 255 - self.mean) / self.std)

    def texts(self, ids: Tensor) -> Tensor:
        """Map token ids (n, L) to tokens (n, L, text_dim)."""
        return self.text(ids, additive_mask(ids != PADDING))

    def image_vectors(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., dim) to unit vectors (..., projection)."""
        return normalize(self.image_projection(tokens), dim=-1)

    def text_vectors(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., text_dim) to unit vectors (..., projection)."""
        return normalize(self.text_projection(tokens), dim=-1)


class Network(nn.Module):
    """The towers, their momentum twins, the queue, and the fusion with its classifier of pairs."""

    def __init__(self, method: Any, vocabulary: int):
        super().__init__()
        m = method
        self.towers = Towers(m, vocabulary)
        self.fusion = BertEncoder(m.text_dim, m.fusion_depth, m.text_heads, cross=range(m.fusion_depth),
                                  context_dim=m.dim, dropout=m.dropout)  # fmt: skip
        self.match = nn.Linear(m.text_dim, 2)
        self.temperature = nn.Parameter(torch.tensor(m.temperature))
        self.momentum = momentum_copy(self.towers)
        self.queue = MomentumQueue(m.projection, m.queue)
        self.match.apply(initialize)
        rescale(self.fusion, m.initializer_range)

    def logits(self, text: Tensor, present: Tensor, image: Tensor, which: Tensor | None = None) -> Tensor:
        """Return (b, 2), no match and match, of text tokens (b, L, text_dim), present (b, L) bool, and image tokens.

        The latter are (b, n, dim), or (a, n, dim) of which ``which`` (b,) int64 names each text's.
        """
        return self.match(self.fusion(text, additive_mask(present), image, which=which)[:, 0])


@dataclass
class Keys:
    """Unit rows of momentum encoders: image and text (n, projection) of the batch, ids (n,) of their images."""

    image: Tensor
    text: Tensor
    ids: Tensor

    def gathered(self, loop: Loop) -> Keys:
        """Return the keys of all processes."""
        return Keys(loop.gather(self.image), loop.gather(self.text), loop.gather(self.ids))

    def queued(self, queue: MomentumQueue) -> Keys:
        """Return these keys followed by those of the queue."""
        return Keys(torch.cat([self.image, queue.image]), torch.cat([self.text, queue.text]),
                    torch.cat([self.ids, queue.ids]))  # fmt: skip


def places(rows: Tensor, among: Tensor) -> Tensor:
    """Return where each of rows (b,) stands among others (n,), all different."""
    return (rows[:, None] == among).int().argmax(1)


def ramp(alpha: float, loop: Loop) -> float:
    """Return alpha, which rises from 0 over the first epoch."""
    return alpha * min(1.0, loop.step / loop.steps_per_epoch)


def cross_contrast(
    image: Tensor, text: Tensor, own: Keys, keys: Keys, temperature: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return L_itc of each pair (b,) and the logits (b, m) of images with text keys and of texts with image keys.

    ``own`` are the momentum keys of the pairs' own images and texts, unit rows (b, projection), and ``keys`` all m.
    """
    hard = same_image(own.ids, keys.ids)
    with torch.no_grad():
        image_targets = distilled(hard, own.image, keys.text, temperature, alpha)
        text_targets = distilled(hard, own.text, keys.image, temperature, alpha)
    i2t, t2i = image @ keys.text.T / temperature, text @ keys.image.T / temperature
    return (contrast(i2t, image_targets) + contrast(t2i, text_targets)) / 2, i2t, t2i


def matching(
    net: Network, image: Tensor, text: Tensor, ids: Tensor, part: Batch, i2t: Tensor, t2i: Tensor, loop: Loop
) -> Tensor:
    """Return L_itm of each pair (b,), from its image tokens (b, n, dim) and text tokens (b, L, text_dim).

    ids (m,) are the images of the group, those of all processes; i2t and t2i (b, m) are its logits of L_itc.
    """
    images, texts, captions = loop.gather(image), loop.gather(text), loop.gather(part.text)
    own = places(part.rows, loop.gather(part.rows))
    wrong_image, wrong_text = hard_negatives(t2i, part.images, ids), hard_negatives(i2t, part.images, ids)
    which_text, which_image = torch.cat([own, own, wrong_text]), torch.cat([own, wrong_image, own])
    logits = net.logits(texts[which_text], captions[which_text] != PADDING, images, which_image)
    labels = (torch.arange(len(logits), device=logits.device) < len(own)).long()
    return cross_entropy(logits, labels, reduction="none").view(3, -1).mean(0)


def mean_over_processes(values: Tensor, count: int) -> Tensor:
    """Return what, averaged over processes, is the mean of all their values (b,), ``count`` in number."""
    return values.sum() * distributed.size() / count


@torch.no_grad()
def momentum_keys(net: Network, batch: Batch, loop: Loop) -> Keys:
    """Return the momentum keys of a batch, group by group."""
    with loop.autocast():
        parts = batch.split(loop.parts)
        image = [net.momentum.image_vectors(net.momentum.images(p.image)[:, 0]).float() for p in parts]
        text = [net.momentum.text_vectors(net.momentum.texts(p.text)[:, 0]).float() for p in parts]
    return Keys(torch.cat(image), torch.cat(text), batch.images)


def decayed_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups of an optimiser that spare vectors from weight decay, as the authors' optim_factory does."""
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    spared = [p for n, p in named if p.ndim == 1 or n.endswith(".bias")]
    rest = [p for n, p in named if not (p.ndim == 1 or n.endswith(".bias"))]
    return [{"params": spared, "weight_decay": 0.0}, {"params": rest, "weight_decay": weight_decay}]


def resized_positions(weights: Tensor, patches: int) -> Tensor:
    """Interpolate position embeddings (1, 1 + old, dim) of a square of patches to (1, 1 + patches, dim)."""
    old, new = round((weights.shape[1] - 1) ** 0.5), round(patches**0.5)
    if old == new:
        return weights
    grid = weights[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([weights[:, :1], grid.flatten(2).mT], 1)


RENAMED = {"visual_encoder": "visual", "text_encoder": "text", "vision_proj": "image_projection",
           "text_proj": "text_projection"}  # fmt: skip
ELSEWHERE = {"temp": "temperature", "itm_head.weight": "match.weight", "itm_head.bias": "match.bias",
             "image_queue": "queue.image", "text_queue": "queue.text", "idx_queue": "queue.ids",
             "queue_ptr": "queue.position"}  # fmt: skip


def renamed(name: str, text_depth: int) -> str | None:
    """Return our name of an official tensor, or None for one that retrieval does not need."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    part, _, rest = name.replace("bert.", "").partition(".")
    slow, part = part.endswith("_m"), part.removesuffix("_m")
    if part not in RENAMED:
        return name
    if rest.startswith("cls.") or rest == "embeddings.position_ids":
        return None
    layer = rest.removeprefix("encoder.layer.").partition(".")
    if part == "text_encoder" and rest.startswith("encoder.layer.") and int(layer[0]) >= text_depth:
        return None if slow else f"fusion.layer.{int(layer[0]) - text_depth}.{layer[2]}"
    return f"{'momentum' if slow else 'towers'}.{RENAMED[part]}.{rest}"


def converted(method: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' tensors, of pre-training or fine-tuning, under the names of `Network`.

    Names that they never had stay as they are. Where momentum twins are missing they are copies, and a queue of
    another length than ``method.queue`` is left out.
    """
    out = {}
    for name, tensor in weights.items():
        new = renamed(name, method.text_depth)
        if new is None:
            continue
        if new.startswith("queue."):
            tensor = tensor.squeeze(0) if new in ("queue.ids", "queue.position") else tensor.T.contiguous()
        elif new.endswith("visual.pos_embed"):
            tensor = resized_positions(tensor, (method.size // method.patch) ** 2)
        out[new] = tensor
    if len(out.get("queue.image", ())) != method.queue:
        out = {name: tensor for name, tensor in out.items() if not name.startswith("queue.")}
    twins = {n.replace("towers.", "momentum.", 1): t for n, t in out.items() if n.startswith("towers.")}
    return {**twins, **out}


@dataclass(kw_only=True)
class ALBEF(PairScorer):
    """``queue`` is a number of keys, ``ema`` the rate at which momentum encoders stay as they are.

    ``initializer_range`` is the deviation of the initial weights of ViT and BERT. Weight decay spares vectors: biases
    and the parameters of LayerNorm.
    """

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
        """Return the network for images (size, size, 3) and token ids."""
        return Network(self, spec.vocabulary)

    def optimizers(self, net: Network) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW over what decays and what does not."""
        return {"main": self.make_optimizer(decayed_groups(net, self.weight_decay))}

    def step(self, net: Network, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Move the momentum encoders, take a step down the losses, and queue the batch's keys."""
        momentum_update(net.momentum, net.towers, self.ema)
        keys = momentum_keys(net, batch, loop)
        loss = loop.descend(batch, lambda part: self.loss_of(net, part, keys, places(part.rows, batch.rows), loop))
        keys = keys.gathered(loop)
        net.queue.push(keys.image, keys.text, keys.ids)
        return {"loss": loss}

    def loss_of(self, net: Network, part: Batch, keys: Keys, rows: Tensor, loop: Loop) -> Tensor:
        """Return L_itc + L_itm of a group of pairs, whose momentum keys are the ``rows`` (b,) of ``keys``."""
        image, text = net.towers.images(part.image), net.towers.texts(part.text)
        f, g = net.towers.image_vectors(image[:, 0]), net.towers.text_vectors(text[:, 0])
        own = Keys(keys.image[rows], keys.text[rows], part.images)
        group = own.gathered(loop)
        n = len(group.ids)
        aligned, i2t, t2i = cross_contrast(f, g, own, group.queued(net.queue), net.temperature, ramp(self.alpha, loop))
        matched = matching(net, image, text, group.ids, part, i2t[:, :n], t2i[:, :n], loop)
        loop.log_value("itc", aligned.detach().mean())
        loop.log_value("itm", matched.detach().mean())
        return mean_over_processes(aligned + matched, n)

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
        """Return the authors' tensors under the names of this method's network; see `converted`."""
        return converted(self, weights)
