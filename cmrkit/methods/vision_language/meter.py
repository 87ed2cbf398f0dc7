"""METER: An Empirical Study of Training End-to-End Vision-and-Language Transformers (Dou et al., CVPR 2022).

The variant METER-CLIP16-RoBERTa. CLIP's ViT-B/16, without its last layer but with the LayerNorm behind it, reads the
image and RoBERTa the caption; both states are mapped to ``dim`` and marked with their modality. Two stacks of
``fusion_depth`` layers then look at each other (co-attention, figure 4a), each at the other's input of the same layer:

    x <- FFN(CA(SA(x), y)),   y <- FFN(CA(SA(y), x)),       x (L, dim) of the caption, y (N, dim) of the image
    score = w' [tanh(P x_0 + p); tanh(Q y_0 + q)] + b,      0 the place of <s> and of the class token

all of them post-norm layers as in BERT. Training (section 4.1 and the authors' code) adds two cross-entropies: of each
image's own caption among ``false_texts`` drawn from the training set, and, weighed by ``itm``, of pairs that match
or do not, half of the batch with a drawn image, by the pre-trained ITM head, which stays as it is. The score's head
starts from that head's row "match"; the co-attention layers, their inputs' maps and the poolers learn ``fusion_lr``
times as fast. All pairs are scored: there is no first stage.

What does not depend on the pair is computed once: both encoders, and, in each group of pairs, the first layer's
self-attention of the image and the keys and values that captions look at in it. The last layer is computed for the two
tokens that are read. Scores stay the same.

Held against zdou0830/METER@f4f0934 with the same random weights: logits within 1.1e-6, the loss of a batch within
3e-7, its gradients within 4e-6. RoBERTa's and CLIP's LayerNorms have 1e-5 under the root, the co-attention layers'
1e-12, as there. Departures: RandAugment's operations are those of `cmrkit.data.augment`; the last epoch is kept, where
the code keeps that of the best ITM accuracy on val.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import Bert, BertLayer, Pooler, additive_mask, initialize, rescale
from cmrkit.methods.vision_language.vilt import draw_texts, groups, token_mask
from cmrkit.training.batches import to_tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Of the authors' checkpoints, what retrieval does not need: CLIP's text side, RoBERTa's pooler, heads of other tasks.
UNUSED = (
    "vit_model.positional_embedding", "vit_model.ln_final", "text_transformer.pooler", "mlm_score", "vqa_classifier",
    "nlvr2_classifier", "snli_classifier",
)  # fmt: skip


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x elementwise."""
        return x * torch.sigmoid(1.702 * x)


class ClipLayer(nn.Module):
    """A pre-norm layer of CLIP, by the names of its weights."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        inner = {"c_fc": nn.Linear(dim, 4 * dim), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * dim, dim)}
        self.mlp = nn.Sequential(OrderedDict(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (n, N, dim) to the same shape."""
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipImage(nn.Module):
    """CLIP's image tower of ``depth`` layers but the last, all tokens normalised at the end."""

    def __init__(self, size: int, patch: int, dim: int, depth: int, heads: int):
        super().__init__()
        scale = dim**-0.5
        self.conv1 = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(dim))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + (size // patch) ** 2, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(ClipLayer(dim, heads) for _ in range(depth - 1))})
        for layer in self.transformer["resblocks"]:
            nn.init.normal_(layer.attn.in_proj_weight, std=scale)
            nn.init.normal_(layer.attn.out_proj.weight, std=scale * (2 * depth) ** -0.5)
            nn.init.normal_(layer.mlp.c_fc.weight, std=(2 * dim) ** -0.5)
            nn.init.normal_(layer.mlp.c_proj.weight, std=scale * (2 * depth) ** -0.5)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (n, size, size, 3) uint8 to tokens (n, 1 + patches, dim), the class token first."""
        x = self.conv1((pixels.movedim(3, 1).float() / 255 - self.mean) / self.std).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], 1)
        x = self.ln_pre(x + self.positional_embedding)
        for layer in self.transformer["resblocks"]:
            x = layer(x)
        return self.ln_post(x)


class Network(nn.Module):
    """METER's layers, by the names of the authors' weights."""

    def __init__(self, method: METER, vocabulary: int):
        super().__init__()
        dim, rate = method.dim, method.dropout
        image = ClipImage(method.size, method.patch, method.image_dim, method.image_depth, method.image_heads)
        self.vit_model = nn.ModuleDict({"visual": image})
        self.text_transformer = Bert(vocabulary, method.text_dim, method.text_depth, method.text_heads, types=1,
                                     positions=method.max_length + 2, first_position=2, eps=1e-5,
                                     dropout=rate)  # fmt: skip
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.cross_modal_image_transform = nn.Linear(method.image_dim, dim)
        self.cross_modal_text_transform = nn.Linear(method.text_dim, dim)
        layer = partial(BertLayer, dim, method.fusion_heads, context_dim=dim, dropout=rate)
        stacks = [[layer() for _ in range(method.fusion_depth)] for _ in range(2)]
        self.cross_modal_image_layers, self.cross_modal_text_layers = map(nn.ModuleList, stacks)
        self.cross_modal_image_pooler, self.cross_modal_text_pooler = Pooler(dim), Pooler(dim)
        self.rank_output, self.itm_score = nn.Linear(2 * dim, 1), nn.ModuleDict({"fc": nn.Linear(2 * dim, 2)})
        for name, module in self.named_children():
            if name not in ("vit_model", "text_transformer"):
                module.apply(initialize)
                rescale(module, method.initializer_range)
        rescale(self.text_transformer, method.initializer_range)
        self.itm_score.requires_grad_(False)

    def image(self, pixels: Tensor) -> Tensor:
        """Map pixels (n, size, size, 3) to tokens (n, N, dim) that the co-attention takes."""
        x = self.cross_modal_image_transform(self.vit_model["visual"](pixels))
        return x + self.token_type_embeddings.weight[1]

    def text(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Map token ids (n, L) of ``lengths`` (n,) to tokens (n, L, dim) that the co-attention takes."""
        x = self.text_transformer(ids, additive_mask(token_mask(lengths, ids.shape[1])))
        return self.cross_modal_text_transform(x) + self.token_type_embeddings.weight[0]

    def forward(self, x: Tensor, y: Tensor, which: Tensor, mask: Tensor | None) -> Tensor:
        """Return features (b, 2 dim) of captions x (b, L, dim) with those of images y (a, N, dim) that ``which`` names.

        ``mask`` (b, 1, 1, L) is added to logits of attention to captions; None says that there is no padding.
        """
        first, *middle, last = zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True)
        alone = first[1].attention(y, None, y)[which]  # one self-attention an image
        x, y = first[0](x, mask, y, None, which), _from_attention(first[1], alone, mask, x)
        for text, image in middle:
            x, y = text(x, mask, y), image(y, None, x, mask)
        text, image = last
        one, other = text.attention(x[:, :1], mask, x), image.attention(y[:, :1], None, y)
        x, y = _from_attention(text, one, None, y), _from_attention(image, other, mask, x)
        return torch.cat([self.cross_modal_text_pooler(x), self.cross_modal_image_pooler(y)], 1)


def _from_attention(layer: BertLayer, x: Tensor, context_mask: Tensor | None, context: Tensor) -> Tensor:
    """Return what ``layer`` makes of x (b, n, dim), the output of its self-attention."""
    x = layer.crossattention(x, context_mask, context)
    return layer.output(layer.intermediate(x), x)


@dataclass(kw_only=True)
class METER(PairScorer):
    """``image_depth`` counts the layer of CLIP that is left out; ``fusion_depth`` is at least 2."""

    size: int = 384
    framing: Literal["crop"] = "crop"
    interpolation: str = "bicubic"
    augment: str = ""
    tokenizer: Literal["roberta"] = "roberta"
    max_length: int = 40
    patch: int = 16
    image_dim: int = 768
    image_depth: int = 12
    image_heads: int = 12
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    dim: int = 768
    fusion_depth: int = 6
    fusion_heads: int = 12
    dropout: float = 0.1
    initializer_range: float = 0.02
    false_texts: int = 15
    itm: float = 1.0
    fusion_lr: float = 5.0
    epochs: int = 10
    batch_size: int = 512
    optimizer: str = "AdamW"
    lr: float = 5e-6
    betas: tuple = (0.9, 0.98)
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 1.0

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError for input that is not pixels and token ids."""
        if spec.image_shape != (self.size, self.size, 3) or spec.vocabulary is None:
            raise UsageError(f"METER takes pixels ({self.size}, {self.size}, 3) as images and token ids as texts")
        if self.fusion_depth < 2:
            raise UsageError(f"model.fusion_depth must be at least 2, not {self.fusion_depth}")
        return Network(self, spec.vocabulary)

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser in the authors' groups; they decay the LayerNorms of CLIP, by their names."""
        sets: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                kind = "cross_modal" in name, "bias" in name or "LayerNorm.weight" in name
                sets.setdefault(kind, []).append(parameter)
        groups = [
            {
                "params": parameters,
                "lr": self.lr * (self.fusion_lr if fusion else 1),
                "weight_decay": 0.0 if still else self.weight_decay,
            }
            for (fusion, still), parameters in sets.items()
        ]
        return {"main": self.make_optimizer(groups)}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the cross-entropies of the own caption among drawn ones and, times ``itm``, of matching."""
        count, device = len(batch), batch.text.device
        images = self.embed_image(net, batch.image)
        drawn = draw_texts(loop, device, count, self.false_texts)
        texts = torch.cat([batch.text[:, None], drawn], 1)
        states, lengths = self.embed_text(net, texts.flatten(0, 1))
        which = torch.arange(count, device=device).repeat_interleave(1 + self.false_texts)
        logits = net.rank_output(self._features(net, images, (states, lengths), which)).view(count, -1)
        loss = cross_entropy(logits, torch.zeros_like(batch.images))
        if self.itm:
            own = (states[:: 1 + self.false_texts], lengths[:: 1 + self.false_texts])
            loss = loss + self.itm * self._matching(net, images[0], own, loop)
        return loss

    def _matching(self, net: nn.Module, images: Tensor, texts: tuple[Tensor, Tensor], loop: Loop) -> Tensor:
        count, device = len(images), images.device
        match = torch.arange(count, device=device) < count // 2
        match = match[torch.randperm(count).to(device)]
        rows = torch.randint(loop.spec.n_images, (count - count // 2,))
        drawn = self.embed_image(net, to_tensor(loop.train.image[rows.numpy()]).to(device))[0]
        which = torch.arange(count, device=device).masked_scatter(
            ~match, count + torch.arange(len(drawn), device=device)
        )
        features = self._features(net, (torch.cat([images, drawn]),), texts, which)
        return cross_entropy(net.itm_score["fc"](features), match.long())

    def embed_image(self, net: nn.Module, x: Tensor) -> tuple[Tensor]:
        """Map pixels (n, size, size, 3) to tokens (n, 1 + patches, dim)."""
        return (net.image(x),)

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, L) to tokens (n, L, dim) and their number (n,)."""
        lengths = (y != 1).sum(1).clamp(min=1)
        return net.text(y, lengths), lengths

    def score(self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of images and texts row by row."""
        return self.score_block(net, images, texts, torch.arange(len(texts[0]), device=texts[0].device))

    def score_block(
        self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor
    ) -> Tensor:
        """Return the logits (b,) of texts with the images that ``which`` (b,) names, group by group."""
        (tokens,), (states, lengths) = images, texts
        counts = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        out = []
        for rows, distinct, place in groups(which, counts, lengths, self.dim):
            features = self._features(net, (tokens[distinct],), (states[rows], lengths[rows]), place)
            out.append((rows, net.rank_output(features)[:, 0]))
        rows, logits = (torch.cat(column) for column in zip(*out, strict=True))
        return torch.empty_like(logits).index_copy(0, rows, logits)

    def _features(self, net: nn.Module, images: tuple[Tensor], texts: tuple[Tensor, Tensor], which: Tensor) -> Tensor:
        states, lengths = texts
        present = token_mask(lengths, int(lengths.max()))
        mask = None if present.all() else additive_mask(present)
        return net(states[:, : lengths.max()], images[0], which, mask)

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take what retrieval needs of the authors' weights.

        The position tables are brought to this ``size`` and ``max_length``; the row "match" of a pre-trained ITM head
        becomes the rank head where there is none.
        """
        if "rank_output.weight" not in weights:
            weights = weights | {f"rank_output.{n}": weights[f"itm_score.fc.{n}"][1:] for n in ("weight", "bias")}
        kept = {n: t for n, t in weights.items() if not n.startswith(UNUSED) and not n.endswith("position_ids")}
        words, patches = (
            "text_transformer.embeddings.position_embeddings.weight",
            "vit_model.visual.positional_embedding",
        )
        kept[words] = kept[words][: self.max_length + 2]
        kept[patches] = _resized(kept[patches], self.size // self.patch)
        return kept


def _resized(table: Tensor, grid: int) -> Tensor:
    """Interpolate a position table (1 + g * g, dim) to (1 + grid * grid, dim), bicubically as the authors do."""
    before = round((len(table) - 1) ** 0.5)
    if before == grid:
        return table
    squares = table[1:].T.unflatten(1, (before, before))[None]
    return torch.cat([table[:1], interpolate(squares, (grid, grid), mode="bicubic")[0].flatten(1).T])
