"""VinVL: Revisiting Visual Representations in Vision-Language Models (Zhang et al., CVPR 2021), with Oscar's retrieval.

One BERT (Oscar, Li et al., ECCV 2020) reads a caption, the names of the objects that a detector saw, and the
detector's features r of their regions, for VinVL 2,048 numbers and 6 of the box:

    z = [CLS] caption [SEP] tags [SEP] regions,    words: word + position + segment (tags: 1), normalised
                                                   regions: LayerNorm(W r + b), without position
    logit = l_1 - l_0,    l = C tanh(P BERT(z)_0 + p) + c                                       (2,)

Words and tags share ``max_length`` places, and tags give way to the caption. Training is cross-entropy over each pair
and one that does not belong: the image with another image's caption, or the caption with another image, drawn evenly
from the training set. Every pair is scored; log odds rank as the authors' probabilities do, without their ties near 1.

An image is an array (regions, d). Where its tags are known, the last ``tag_pieces`` numbers of each region are the ids
of its own tag's word pieces, 0 where there are fewer, so that one array carries both; a region of zeros is padding.

The regions' embedding is computed once an image, and in the last layer only [CLS]. Held against microsoft/Oscar@266075f
(ImageBertForSequenceClassification over pytorch-transformers 1.2) with the same random weights, four images of 4 to 8
regions with four captions: both logits differ by at most 1.3e-6 with tags and without, the loss by 1.2e-7.

Departures: features without tags make a sequence without them, as for Oscar's "no labels" models; the best epoch is
chosen by all pairs of val, not by 20 captions an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import Bert, Pooler, additive_mask, initialize, rescale
from cmrkit.training.batches import to_tensor

GROUP = {"cpu": 32, "cuda": 256}  # pairs at a time
Columns = tuple[Tensor, ...]


class ImageBert(Bert):
    """BERT with an embedding of regions, by the names of the authors' weights."""

    def __init__(self, vocabulary: int, region_dim: int, dim: int, depth: int, heads: int, dropout: float):
        super().__init__(vocabulary, dim, depth, heads, dropout=dropout)
        self.img_embedding = nn.Linear(region_dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.pooler = Pooler(dim)
        self.img_embedding.apply(initialize)

    def regions(self, x: Tensor) -> Tensor:
        """Map region features (n, regions, d) to (n, regions, dim)."""
        return self.LayerNorm(self.img_embedding(x))

    def pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map embedded tokens (b, n, dim) to what the pooler makes of the first one's last state, (b, dim)."""
        *layers, last = self.encoder.layer
        for layer in layers:
            x = layer(x, mask)
        first = last.attention(x[:, :1], mask, x)
        return self.pooler(last.output(last.intermediate(first), first))


class Network(nn.Module):
    """The transformer and its classifier of pairs: 0 not belonging, 1 belonging."""

    def __init__(self, bert: ImageBert, dim: int, dropout: float):
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, 2)
        self.classifier.apply(initialize)

    def forward(self, images: Columns, texts: Columns, max_length: int) -> Tensor:
        """Return (b, 2) of embedded images and texts, row by row."""
        regions, present, tags = images
        ids, types, words = joined(*texts, tags, max_length)
        count = max(1, int(present.sum(1).max()))
        regions, present = regions[:, :count], present[:, :count]
        x = torch.cat([self.bert.embeddings(ids, types), self.bert.dropout(regions)], 1)
        there = torch.cat([words, present], 1)
        return self.classifier(self.dropout(self.bert.pooled(x, None if there.all() else additive_mask(there))))


def joined(ids: Tensor, lengths: Tensor, tags: Tensor, max_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Put tags (b, T) behind captions ids (b, L) of lengths (b,): ids, types and present (b, longest).

    Tags and a second [SEP] follow the caption's, as far as ``max_length`` reaches; nothing where there are no tags.
    """
    counts = (tags != 0).sum(1)
    kept = torch.minimum(counts, (max_length - lengths - 1).clamp(min=0))
    total = torch.where(counts > 0, lengths + kept + 1, lengths).clamp(max=max_length)
    place = torch.arange(int(total.max()), device=ids.device).expand(len(ids), -1)
    beyond = place - lengths[:, None]
    separator = ids.gather(1, lengths[:, None] - 1)
    whole = torch.cat([ids, tags, separator], 1)  # where each place of the result is taken from
    source = torch.where(beyond < 0, place, ids.shape[1] + beyond)
    source = torch.where(beyond >= kept[:, None], whole.shape[1] - 1, source)
    present = place < total[:, None]
    return whole.gather(1, source) * present, ((beyond >= 0) & present).long(), present


def other_images(own: Tensor, count: int) -> Tensor:
    """Draw for each image own (b,) one of the ``count`` - 1 others, evenly: (b,) int64 on the CPU."""
    return (own.cpu() + torch.randint(1, count, own.shape)) % count


def other_texts(own: Tensor, pairs: Tensor) -> Tensor:
    """Draw for each image own (b,) a text row (b,) that is not its; ``pairs`` (n_texts,) are their images."""
    own, pairs = own.cpu(), pairs.cpu()
    rows = torch.randint(len(pairs), own.shape)
    while (wrong := pairs[rows] == own).any():
        rows[wrong] = torch.randint(len(pairs), (int(wrong.sum()),))
    return rows


@dataclass(kw_only=True)
class VinVL(PairScorer):
    """``max_length`` is of words and tags together, ``regions`` the most that an image keeps.

    ``tag_pieces`` says how many numbers at the end of each region are ids of its tag. Large: dim 1024, depth 24, heads
    16.
    """

    tokenizer: Literal["bert"] = "bert"
    max_length: int = 70
    regions: int = 70
    tag_pieces: int = 0
    dim: int = 768
    depth: int = 12
    heads: int = 12
    dropout: float = 0.1
    initializer_range: float = 0.02
    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "AdamW"
    lr: float = 2e-5
    weight_decay: float = 0.05
    schedule: str = "linear"
    clip: float = 1.0
    select: str = "r@1"

    training_only: ClassVar[tuple[str, ...]] = ()

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError for input that is not regions and token ids, or for a single image."""
        if len(spec.image_shape) != 2 or spec.vocabulary is None:
            raise UsageError("VinVL takes regions (regions, d) of images and token ids as texts")
        features = spec.image_shape[1] - self.tag_pieces
        if features < 1 or self.dim % self.heads:
            raise UsageError(
                f"VinVL needs regions of more than tag_pieces = {self.tag_pieces} numbers, these have"
                f" {spec.image_shape[1]}, and a dim that heads divide"
            )
        bert = ImageBert(spec.vocabulary, features, self.dim, self.depth, self.heads, self.dropout)
        net = Network(bert, self.dim, self.dropout)
        rescale(net, self.initializer_range)
        return net

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser that decays neither biases nor LayerNorms."""
        still = [n.endswith("bias") or "LayerNorm" in n for n, _ in net.named_parameters()]
        split = [[p for p, s in zip(net.parameters(), still, strict=True) if s == flag] for flag in (False, True)]
        return {"main": self.make_optimizer([{"params": split[0]}, {"params": split[1], "weight_decay": 0.0}])}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the cross-entropy of the pairs and of as many that do not belong, of one kind or the other."""
        if loop.spec.n_images < 2:
            raise UsageError("VinVL learns from pairs that do not belong: it needs two images or more")
        text = torch.rand(len(batch)) < 0.5
        images, texts = batch.image.clone(), batch.text.clone()
        rows = other_images(batch.images[~text], loop.spec.n_images)
        images[~text] = to_tensor(loop.train.image[rows.numpy()]).to(images)
        rows = other_texts(batch.images[text], loop.pairs)
        texts[text] = to_tensor(loop.train.text[rows.numpy()]).to(texts)
        images, texts = torch.cat([batch.image, images]), torch.cat([batch.text, texts])
        logits = net(self.embed_image(net, images), self.embed_text(net, texts), self.max_length)
        return cross_entropy(logits, torch.tensor([1, 0], device=logits.device).repeat_interleave(len(batch)))

    def embed_image(self, net: nn.Module, x: Tensor) -> Columns:
        """Map k regions (n, k, d + tag_pieces) to embeddings (n, regions, dim), present (n, regions), and tags (n, T).

        The tags of all regions count, T = k * tag_pieces, also where only the first ``regions`` are seen.
        """
        features, pieces = x.split([x.shape[2] - self.tag_pieces, self.tag_pieces], 2)
        features = features[:, : self.regions]
        tags = pieces.flatten(1).round().long()
        filled = (tags == 0).long().argsort(dim=1, stable=True)  # pieces first, in their order
        return net.bert.regions(features), (features != 0).any(2), tags.gather(1, filled)

    def embed_text(self, net: nn.Module, y: Tensor) -> Columns:
        """Return token ids (n, L) as they are, and lengths (n,): places of tags depend on the pair."""
        return y, (y != 0).sum(1).clamp(min=1)

    def score(self, net: nn.Module, images: Columns, texts: Columns) -> Tensor:
        """Return the log odds (b,) that images and texts belong together, row by row."""
        which = torch.arange(len(texts[0]), device=texts[0].device)
        return self.score_block(net, images, texts, which)

    def score_block(self, net: nn.Module, images: Columns, texts: Columns, which: Tensor) -> Tensor:
        """Return the log odds (b,) of texts with the images that ``which`` (b,) names, like lengths together."""
        order = texts[1].argsort(stable=True)
        out = []
        for rows in order.split(GROUP.get(which.device.type, 256)):
            logits = net(tuple(c[which[rows]] for c in images), tuple(c[rows] for c in texts), self.max_length)
            out.append(logits[:, 1] - logits[:, 0])
        logits = torch.cat(out)
        return torch.empty_like(logits).index_copy(0, order, logits)

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the authors' weights, whose names these are; a pre-trained model gets a classifier drawn anew."""
        kept = {n: t for n, t in weights.items() if n.startswith(("bert.", "classifier.")) and "position_ids" not in n}
        if "classifier.weight" not in kept:
            dim = kept["bert.pooler.dense.bias"].shape[0]
            kept["classifier.weight"] = torch.randn(2, dim, generator=torch.Generator().manual_seed(0)) * 0.02
            kept["classifier.bias"] = torch.zeros(2)
        return kept
