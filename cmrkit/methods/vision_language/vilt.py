"""ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision (Kim et al., ICML 2021).

One transformer reads a caption and an image together. The caption t (L,) and the image's N patches v (N, patch^2 * 3)
enter it through nothing but linear embeddings (section 3.1):

    T = LayerNorm(word[t] + position + segment) + modality_text                                         (L, dim)
    V = [class; v W + b] + position', + modality_image                                              (1 + N, dim)
    z = [T; V],   z += MSA(LN(z)),   z += MLP(LN(z))   in each of ``depth`` layers
    score = w' tanh(P LN(z)_0 + p) + b,   where 0 is the place of [CLS]

with position' the image's table of positions, interpolated to its grid of patches: images keep their proportions.
Training (section 4.4) is cross-entropy over each image's own caption and ``false_texts`` others, drawn anew from all
captions of the training set, which may be of the same image. Pre-training (ITM, word-patch alignment, MLM) is not done
here; the head starts from the row "match" of the pre-trained ITM head. All pairs are scored: there is no first stage.

What does not depend on the pair is computed once: the image's embedding and, in each group of pairs, queries, keys and
values of its tokens in the first layer. In the last layer only [CLS] is read, so only its query, projection and MLP are
computed. Pairs come in small groups of one image and captions of like length, all but free of padding.

Held with the same random weights against dandelin/ViLT@762fd39 (logits within 1.4e-6, the loss of a batch within 5e-7,
its gradients within 2e-6) and against transformers' ViltForImageAndTextRetrieval (4e-6; its LayerNorms divide by the
deviation with 1e-12 under the root, the authors' layers and these with 1e-6). The authors' code shuffles an image's
patches, which changes nothing: positions are added before. Departures: the embedding's dropout is drawn once for an
image, not for each of its pairs; RandAugment's operations are those of `cmrkit.data.augment`, without posterize,
solarize, colour and contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, linear, scaled_dot_product_attention

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import BertEmbeddings, Pooler, additive_mask, initialize, rescale
from cmrkit.training.batches import to_tensor

# Numbers (pairs x tokens x dim) in a group of pairs: on a CPU what passes between the layers then stays in its cache.
WORK = {"cpu": 1 << 17, "cuda": 1 << 24}


class Transformer(nn.Module):
    """Patch embedding, position table (1, 1 + grid * grid, dim), layers and last LayerNorm, by the authors' names."""

    def __init__(self, dim: int, depth: int, heads: int, patch: int, grid: int, dropout: float):
        super().__init__()
        self.grid, self.patch = grid, patch
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid * grid, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, proj_drop=dropout, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(dim)

    def embed(self, pixels: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Map pixels (n, H, W, 3 or 4) uint8 to tokens (n, 1 + longest, dim), and how many each image has (n,)."""
        maps = self.patch_embed["proj"]((pixels[..., :3].movedim(3, 1).to(self.pos_embed.dtype) / 255 - 0.5) / 0.5)
        sizes = self.sizes(pixels)
        if (sizes.prod(1) > longest).any():
            row = int((sizes.prod(1) > longest).nonzero()[0])
            raise UsageError(
                f"image {row} of a batch has {int(sizes[row].prod())} patches, this network at most {longest}"
            )
        out = maps.new_zeros(len(maps), 1 + longest, maps.shape[1])
        out[:, :1] = self.cls_token + self.pos_embed[:, :1]
        for h, w in sizes.unique(dim=0).tolist():
            rows = (sizes == sizes.new_tensor([h, w])).all(1).nonzero()[:, 0]
            out[rows, 1 : 1 + h * w] = maps[rows, :, :h, :w].flatten(2).mT + self.positions(h, w)
        return self.dropout(out), 1 + sizes.prod(1)

    def sizes(self, pixels: Tensor) -> Tensor:
        """Return the grid (n, 2) of patches that each image covers, rows and columns; the rest is padding."""
        if pixels.shape[3] == 3:
            return torch.tensor([s // self.patch for s in pixels.shape[1:3]], device=pixels.device).expand(
                len(pixels), 2
            )
        corners = pixels[:, :: self.patch, :: self.patch, 3] > 0
        return torch.stack([corners[:, :, 0].sum(1), corners[:, 0].sum(1)], 1)

    def positions(self, h: int, w: int) -> Tensor:
        """Return the position table for a grid of h x w patches, (h * w, dim)."""
        table = self.pos_embed[:, 1:].mT.unflatten(2, (self.grid, self.grid))
        return interpolate(table, (h, w), mode="bilinear", align_corners=True)[0].flatten(1).T


class Network(nn.Module):
    """ViLT's layers, by the names of the authors' weights."""

    def __init__(self, vocabulary: int, length: int, dim: int, depth: int, heads: int, patch: int, grid: int,
                 dropout: float):  # fmt: skip
        super().__init__()
        self.text_embeddings = BertEmbeddings(vocabulary, dim, length, dropout=dropout)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.transformer = Transformer(dim, depth, heads, patch, grid, dropout)
        self.pooler = Pooler(dim)
        self.rank_output = nn.Linear(dim, 1)
        self.apply(initialize)
        for table in (self.transformer.cls_token, self.transformer.pos_embed):
            nn.init.normal_(table, std=0.02)

    def forward(self, texts: Tensor, images: Tensor, which: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits (b,) of texts (b, L, dim) with those of images (a, N, dim) that ``which`` (b,) names.

        ``mask`` (b, 1, 1, L + N) is added to the logits of attention; None says that there is no padding.
        """
        first, *middle, last = self.transformer.blocks
        x = torch.cat([texts, images[which]], 1)
        q, k, v = torch.cat([first.attn.qkv(first.norm1(texts)), first.attn.qkv(first.norm1(images))[which]], 1).chunk(
            3, 2
        )
        x = _rest(first, x, q, k, v, mask)
        for block in middle:
            x = block(x, attn_mask=mask)
        h, dim = last.norm1(x), x.shape[2]
        weight, bias = last.attn.qkv.weight, last.attn.qkv.bias
        q = linear(h[:, :1], weight[:dim], bias[:dim])
        k, v = linear(h, weight[dim:], bias[dim:]).chunk(2, 2)
        x = _rest(last, x[:, :1], q, k, v, mask)
        return self.rank_output(self.pooler(self.transformer.norm(x)))[:, 0]


def _rest(block: Block, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return what ``block`` makes of x (b, n, dim) where queries (b, n, dim), keys and values are there already."""
    attn = block.attn
    q, k, v = (t.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    x = x + attn.proj_drop(attn.proj(out))
    return x + block.mlp(block.norm2(x))


def groups(which: Tensor, counts: Tensor, lengths: Tensor, dim: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut pairs into groups that need little padding, as many at once as the device does well.

    ``which`` (b,) is each pair's image, ``counts`` (a,) how many tokens images have, ``lengths`` (b,) how many texts
    have, each ``dim`` wide. Yields (rows of pairs (g,), their distinct images (c,), the place of each pair's image
    among these (g,)).
    """
    key = (counts[which] * len(counts) + which) * (lengths.max() + 1) + lengths
    tokens = int(counts.max() + lengths.max())
    size = max(16, WORK.get(which.device.type, 1 << 24) // (tokens * dim))
    for rows in key.argsort(stable=True).split(size):
        yield rows, *which[rows].unique(return_inverse=True)


def token_mask(lengths: Tensor, longest: int) -> Tensor:
    """Return (n, longest), True at the first ``lengths`` (n,) places."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def draw_texts(loop: Loop, device: torch.device, *shape: int) -> Tensor:
    """Return token ids (*shape, L) of captions drawn from the whole training set, with repetition."""
    rows = torch.randint(loop.spec.n_texts, shape)
    return to_tensor(loop.train.text[rows.flatten().numpy()]).to(device).unflatten(0, shape)


def without_decay(net: nn.Module) -> set[str]:
    """Return the names of parameters that the authors' optimiser does not decay: biases and LayerNorms."""
    norms = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.LayerNorm)}
    return norms | {name for name, _ in net.named_parameters() if "bias" in name}


@dataclass(kw_only=True)
class ViLT(PairScorer):
    """``size`` is the shorter side of images in pixels; ``depth`` at least 2."""

    size: int = 384
    framing: Literal["aspect"] = "aspect"
    interpolation: str = "bicubic"
    augment: str = ""
    tokenizer: Literal["bert"] = "bert"
    max_length: int = 40
    patch: int = 32
    dim: int = 768
    depth: int = 12
    heads: int = 12
    dropout: float = 0.1
    initializer_range: float = 0.02
    false_texts: int = 15
    epochs: int = 10
    batch_size: int = 256
    optimizer: str = "AdamW"
    lr: float = 1e-4
    betas: tuple = (0.9, 0.98)
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 1.0

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError for input that is not pixels and token ids."""
        if len(spec.image_shape) != 3 or spec.vocabulary is None:
            raise UsageError("ViLT takes pixels (height, width, 3 or 4) as images and token ids as texts")
        if self.depth < 2 or self.dim % self.heads or self.size % self.patch:
            raise UsageError("ViLT needs a depth of at least 2, a dim that heads divide and a size that patch divides")
        grid = self.size // self.patch
        net = Network(
            spec.vocabulary, self.max_length, self.dim, self.depth, self.heads, self.patch, grid, self.dropout
        )
        rescale(net, self.initializer_range)
        net.longest = grid * (max(spec.image_shape[:2]) // self.patch)
        return net

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser that decays neither biases nor LayerNorms."""
        still = without_decay(net)
        split = [[p for n, p in net.named_parameters() if (n in still) == flag] for flag in (False, True)]
        return {"main": self.make_optimizer([{"params": split[0]}, {"params": split[1], "weight_decay": 0.0}])}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the cross-entropy of each image's own caption among ``false_texts`` drawn ones."""
        count = len(batch)
        drawn = draw_texts(loop, batch.text.device, count, self.false_texts)
        texts = torch.cat([batch.text[:, None], drawn], 1).flatten(0, 1)
        which = torch.arange(count, device=texts.device).repeat_interleave(1 + self.false_texts)
        logits = self._logits(net, self.embed_image(net, batch.image), self.embed_text(net, texts), which)
        return cross_entropy(logits.view(count, -1), torch.zeros_like(batch.images))

    def embed_image(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (n, H, W, 3 or 4) to tokens (n, 1 + most patches, dim), padded, and their number (n,)."""
        tokens, counts = net.transformer.embed(x, net.longest)
        return tokens + net.token_type_embeddings.weight[1], counts

    def embed_text(self, net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids (n, L) as they are, and lengths (n,): embedded, they would take 400 times the memory."""
        return y, (y != 0).sum(1).clamp(min=1)

    def score(self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of images and texts row by row."""
        return self.score_block(net, images, texts, torch.arange(len(texts[0]), device=texts[0].device))

    def score_block(
        self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor
    ) -> Tensor:
        """Return the logits (b,) of texts with the images that ``which`` (b,) names, group by group."""
        (tokens, counts), (ids, lengths) = images, texts
        out = []
        for rows, distinct, place in groups(which, counts, lengths, self.dim):
            part = (tokens[distinct], counts[distinct]), (ids[rows], lengths[rows])
            out.append((rows, self._logits(net, *part, place)))
        rows, logits = (torch.cat(column) for column in zip(*out, strict=True))
        return torch.empty_like(logits).index_copy(0, rows, logits)

    def _logits(
        self, net: nn.Module, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor], which: Tensor
    ) -> Tensor:
        (tokens, counts), (ids, lengths) = images, texts
        mask = torch.cat([token_mask(lengths, int(lengths.max())), token_mask(counts, int(counts.max()))[which]], 1)
        ids, tokens = ids[:, : lengths.max()], tokens[:, : counts.max()]
        embedded = net.text_embeddings(ids) + net.token_type_embeddings.weight[0]
        return net(embedded, tokens, which, None if mask.all() else additive_mask(mask))

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the authors' repository or of the Hub's ``dandelin/vilt-b32-*``.

        The position tables are brought to this ``size`` and ``max_length``; the row "match" of a pre-trained ITM head
        becomes the rank head where there is none.
        """
        if any(name.startswith("vilt.") for name in weights):
            weights = _from_hub(weights)
        if "rank_output.weight" not in weights and "itm_score.fc.weight" in weights:
            weights = weights | {f"rank_output.{n}": weights[f"itm_score.fc.{n}"][1:] for n in ("weight", "bias")}
        unused = ("mlm_score", "itm_score", "mpp_score", "vqa_classifier", "nlvr2_classifier")
        kept = {n: t for n, t in weights.items() if not n.startswith(unused) and not n.endswith("position_ids")}
        words, patches = "text_embeddings.position_embeddings.weight", "transformer.pos_embed"
        kept[words] = kept[words][: self.max_length]
        kept[patches] = _resized(kept[patches], self.size // self.patch)
        return kept


def _resized(table: Tensor, grid: int) -> Tensor:
    """Interpolate a position table (1, 1 + g * g, dim) to (1, 1 + grid * grid, dim)."""
    before = round((table.shape[1] - 1) ** 0.5)
    if before == grid:
        return table
    squares = table[:, 1:].mT.unflatten(2, (before, before))
    squares = interpolate(squares, (grid, grid), mode="bilinear", align_corners=True)
    return torch.cat([table[:, :1], squares.flatten(2).mT], 1)


HUB = (
    ("vilt.embeddings.text_embeddings.", "text_embeddings."),
    ("vilt.embeddings.token_type_embeddings.", "token_type_embeddings."),
    ("vilt.embeddings.cls_token", "transformer.cls_token"),
    ("vilt.embeddings.position_embeddings", "transformer.pos_embed"),
    ("vilt.embeddings.patch_embeddings.projection.", "transformer.patch_embed.proj."),
    ("vilt.encoder.layer.", "transformer.blocks."),
    ("vilt.layernorm.", "transformer.norm."),
    ("vilt.", ""),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.attention.", ".attn."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
)


def _from_hub(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the Hub's tensors the authors' names, with queries, keys and values in one."""
    out = {}
    for name, tensor in weights.items():
        for theirs, ours in HUB:
            name = name.replace(theirs, ours)
        out[name] = tensor
    for name in [n for n in out if ".attn.query." in n]:
        parts = [out.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        out[name.replace("query", "qkv")] = torch.cat(parts)
    return out
