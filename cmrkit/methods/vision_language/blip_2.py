"""BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and LLMs (Li et al., ICML 2023).

A vision transformer turns an image into tokens V (patches + 1, dim). The Q-Former, a BERT whose input may begin
with learned queries, reads them: in every second layer the queries attend to V, in all layers queries and words
attend to each other, and each kind has its own feed-forward layers. Its three uses, with z_q what it makes of the
queries without a text, w of a text's [CLS] without an image, h_q of the queries beside a text:

    similarity   s(I, T) = max_q cos(P z_q, R w),           first stage, and ITC's logits s / temperature
    logit        g(I, T) = mean_q of the class "match" of a linear layer on h_q
    score        g + s of the pairs on the shortlist

Fine-tuning minimises ITC + ITM. ITC is the cross-entropy, over the images (texts) of the batch, with all pairs of
one image as equally right and label smoothing; ITM the cross-entropy of matching for the pairs of the batch and, for
each text an image and for each image a text, drawn with the softmax of ITC's logits from those that do not belong.

Keys and values of V are computed once per image and gathered by the pairs. Held against the authors' code
(salesforce/LAVIS@506965b, Blip2Qformer) with random weights of a small network: similarities differ by at most 5e-7,
logits by 8e-7, ITC and ITM of a training step with the same negatives by 3e-7, their gradients by 2e-4 of the
largest (in float32); and against transformers' Blip2ForImageTextRetrieval by 1e-7.

Departures: the authors' third term, captioning with the Q-Former as a decoder, is left out; texts have 35 tokens in
training as in evaluation (theirs: 32 in training), and 30 words (theirs: 50).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.models.blip_2.configuration_blip_2 import Blip2VisionConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2VisionModel

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Loop, PairScorer, Spec
from cmrkit.methods.parts.bert import (
    BertEmbeddings,
    BertLayer,
    Intermediate,
    Residual,
    additive_mask,
    initialize,
    rescale,
    trimmed,
)
from cmrkit.methods.parts.contrastive import contrast, same_image
from cmrkit.methods.vision_language.albef import matching, mean_over_processes, resized_positions

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = 0

# Names of weights, LAVIS' first and then those of transformers' Q-Former -> ours.
RENAMED = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm", r"vision_model.encoder.layers.\1.layer_norm"),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.", "vision_model.encoder.layers."),
    (r"^ln_vision\.", "vision_model.post_layernorm."),
    (r"^Qformer\.bert\.encoder\.", "qformer."),
    (r"^Qformer\.bert\.", "qformer."),
    (r"^query_tokens$", "qformer.query_tokens"),
    (r"^qformer\.layernorm\.", "qformer.embeddings.LayerNorm."),
    (r"^qformer\.encoder\.(.*attention)\.attention\.", r"qformer.\1.self."),
    (r"^qformer\.encoder\.", "qformer."),
    (r"^embeddings\.", "qformer.embeddings."),
    (r"^(vision|text)_projection\.", r"\1_proj."),
)
UNUSED = re.compile(r"^Qformer\.cls\.|position_ids$")


class QFormerLayer(BertLayer):
    """A layer of BERT whose first tokens, the queries, have a feed-forward network of their own."""

    def __init__(self, dim: int, heads: int, context_dim: int | None, dropout: float):
        super().__init__(dim, heads, context_dim=context_dim, dropout=dropout)
        self.intermediate_query = Intermediate(dim, 4 * dim)
        self.output_query = Residual(4 * dim, dim, 1e-12, dropout)

    def forward(
        self, x: Tensor, queries: int, mask: Tensor | None, context: Tensor | None, which: Tensor | None
    ) -> Tensor:
        """Map x (b, queries + words, dim) to the same shape; for the rest see `BertLayer`."""
        x = self.attention(x, mask, x)
        read, words = x[:, :queries], x[:, queries:]
        if queries:
            if self.crossattention is not None:
                read = self.crossattention(read, None, context, which)
            read = self.output_query(self.intermediate_query(read), read)
        if words.shape[1]:
            words = self.output(self.intermediate(words), words)
        return torch.cat([read, words], 1)


class QFormer(nn.Module):
    """Queries and words through layers of which every ``every``-th lets the queries read an image's tokens."""

    def __init__(
        self, vocabulary: int, queries: int, dim: int, depth: int, heads: int, every: int, context_dim: int,
        dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, queries, dim))
        self.embeddings = BertEmbeddings(vocabulary, dim, types=0, dropout=dropout)
        widths = [context_dim if i % every == 0 else None for i in range(depth)]
        self.layer = nn.ModuleList(QFormerLayer(dim, heads, width, dropout) for width in widths)
        self.layer.apply(initialize)

    def forward(
        self, ids: Tensor | None, queries: bool, context: Tensor | None = None, which: Tensor | None = None
    ) -> Tensor:
        """Return states (b, queries + words, dim) of token ids (b, words) or None, with the queries before them or not.

        ``context`` (b, tokens, context_dim) are image tokens; with ``which`` (b,) int64 they are those of distinct
        images, and row i reads the one that ``which`` names.
        """  # fmt: skip
        parts, count = [], 0
        if queries:
            rows = len(context) if ids is None else len(ids)
            known = self.embeddings.dropout(self.embeddings.LayerNorm(self.query_tokens.expand(rows, -1, -1)))
            parts, count = [known], known.shape[1]
        mask = None
        if ids is not None:
            parts.append(self.embeddings(ids))
            mask = additive_mask(torch.cat([ids.new_ones(len(ids), count), ids], 1) != PADDING)
        x = torch.cat(parts, 1)
        for layer in self.layer:
            x = layer(x, count, mask, context, which)
        return x


class Network(nn.Module):
    """The vision transformer, under transformers' names, the Q-Former and three heads, under LAVIS'."""

    def __init__(self, vision: Blip2VisionConfig, qformer: QFormer, projection: int):
        super().__init__()
        dim = qformer.query_tokens.shape[2]
        self.vision_model = Blip2VisionModel(vision)
        self.qformer = qformer
        self.vision_proj = nn.Linear(dim, projection)
        self.text_proj = nn.Linear(dim, projection)
        self.itm_head = nn.Linear(dim, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def image_tokens(self, x: Tensor) -> Tensor:
        """Map pixels (n, height, width, 3) uint8 to tokens (n, patches + 1, dim)."""
        return self.vision_model((x.permute(0, 3, 1, 2) / 255 - self.mean) / self.std).last_hidden_state

    def image_vectors(self, tokens: Tensor) -> Tensor:
        """Map image tokens (n, tokens, dim) to unit vectors (n, queries, projection)."""
        return normalize(self.vision_proj(self.qformer(None, True, tokens)), dim=-1)

    def text_vectors(self, ids: Tensor) -> Tensor:
        """Map token ids (n, length) to unit vectors (n, projection)."""
        return normalize(self.text_proj(self.qformer(trimmed(ids, ids != PADDING)[0], False)[:, 0]), dim=-1)

    def logits(self, ids: Tensor, present: Tensor, tokens: Tensor, which: Tensor) -> Tensor:
        """Return (b, 2), no match and match, of token ids (b, L), present (b, L) bool, and image tokens (a, n, dim).

        ``which`` (b,) int64 names each text's image.
        """
        h = self.qformer(trimmed(ids, present)[0], True, tokens, which)
        return self.itm_head(h[:, : self.qformer.query_tokens.shape[1]]).mean(1)


def best_query(queries: Tensor, texts: Tensor) -> Tensor:
    """Return s (a, b), the largest product over the queries (a, q, dim) of an image with each text (b, dim)."""
    return (queries @ texts.T).max(1).values


def smoothed(ids: Tensor, others: Tensor, smoothing: float) -> Tensor:
    """Return targets (b, n) of images ids (b,) among others (n,): equal shares for the same one, a little for all."""
    return (1 - smoothing) * same_image(ids, others) + smoothing / len(others)


@dataclass(kw_only=True)
class BLIP2(PairScorer):
    """Sizes are those of EVA-CLIP's ViT-g/14 and BERT-base: ``dim``, ``depth``, ``heads`` and ``mlp_dim`` of the image
    tower, ``fusion_*`` of the Q-Former; ``initializer_range`` is the deviation of initial weights.
    ``layer_decay`` scales the rate of each image layer below the next.
    """  # fmt: skip

    data_parallel: ClassVar[bool] = True
    training_only: ClassVar[tuple[str, ...]] = ("temp",)

    size: int = 364
    framing: Literal["squash"] = "squash"
    tokenizer: Literal["bert"] = "bert"
    max_length: int = 35
    cleaning: Literal["none", "blip"] = "blip"
    augment: str = "crop:0.5:1.0,flip"
    patch: int = 14
    dim: int = 1408
    depth: int = 39
    heads: int = 16
    mlp_dim: int = 6144
    fusion_dim: int = 768
    fusion_depth: int = 12
    fusion_heads: int = 12
    cross_every: int = 2
    queries: int = 32
    projection: int = 256
    dropout: float = 0.1
    initializer_range: float = 0.02
    smoothing: float = 0.1
    layer_decay: float = 0.95
    shortlist: int = 128
    combine: Literal["logit", "logit+similarity"] = "logit+similarity"
    optimizer: str = "AdamW"
    lr: float = 1e-5
    weight_decay: float = 0.05
    batch_size: int = 224
    epochs: int = 5
    schedule: str = "cosine"
    warmup: float = 0.4
    drop_last: bool = True
    select: str = "rsum"

    def build(self, spec: Spec) -> Network:
        """Return the network. Raises UsageError for other input than pixels of ``size`` and token ids."""
        if spec.image_shape != (self.size, self.size, 3) or spec.vocabulary is None:
            raise UsageError(f"BLIP-2 takes pixels ({self.size}, {self.size}, 3) and token ids, not images of shape"
                             f" {spec.image_shape}")  # fmt: skip
        vision = Blip2VisionConfig(
            hidden_size=self.dim, intermediate_size=self.mlp_dim, num_hidden_layers=self.depth,
            num_attention_heads=self.heads, image_size=self.size, patch_size=self.patch, layer_norm_eps=1e-6,
            hidden_act="gelu", qkv_bias=True, initializer_range=0.02,
        )  # fmt: skip
        qformer = QFormer(
            spec.vocabulary + 1,  # [DEC], with which LAVIS' decoder begins a caption, stands behind the words
            self.queries, self.fusion_dim, self.fusion_depth, self.fusion_heads, self.cross_every, self.dim,
            self.dropout,
        )  # fmt: skip
        net = Network(vision, qformer, self.projection)
        rescale(net.vision_model, self.initializer_range)
        rescale(net.qformer, self.initializer_range)
        return net

    def optimizers(self, net: Network) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW without weight decay on biases and norms, and with lower rates the lower the image layer."""
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, parameter in net.named_parameters():
            groups.setdefault((self._height(name), parameter.ndim > 1), []).append(parameter)
        return {"main": self.make_optimizer([
            {"params": params, "lr": self.lr * self.layer_decay ** (self.depth + 1 - height),
             "weight_decay": self.weight_decay if decays else 0.0}
            for (height, decays), params in groups.items()
        ])}  # fmt: skip

    def _height(self, name: str) -> int:
        """Return the layer of a parameter: 0 for the patches' embedding, then the image layers, then all else."""
        block = re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name)
        return int(block[1]) + 1 if block else 0 if name.startswith("vision_model.embeddings.") else self.depth + 1

    def loss(self, net: Network, batch: Batch, loop: Loop) -> Tensor:
        """Return ITC + ITM."""
        tokens = net.image_tokens(batch.image)
        queries, text = net.image_vectors(tokens), net.text_vectors(batch.text)
        ids = loop.gather(batch.images)
        i2t = best_query(queries, loop.gather(text)) / net.temp
        t2i = best_query(loop.gather(queries), text).T / net.temp
        targets = smoothed(batch.images, ids, self.smoothing)
        itc = (contrast(i2t, targets) + contrast(t2i, targets)) / 2
        itm = matching(net, tokens, batch.text, ids, batch, i2t, t2i, loop)
        loop.log_value("itc", itc.detach().mean())
        loop.log_value("itm", itm.detach().mean())
        return mean_over_processes(itc + itm, len(ids))

    def embed_image(self, net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (n, size, size, 3) to query vectors (n, queries, projection) and tokens (n, patches + 1, dim)."""
        tokens = net.image_tokens(x)
        return net.image_vectors(tokens), tokens

    def embed_text(self, net: Network, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (n, length) to unit vectors (n, projection) and the ids."""
        return net.text_vectors(y), y

    def compare(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the largest cosine over an image's queries, (a, b)."""
        return best_query(images[0], texts[0])

    def score(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of pairs, row by row."""
        return self.score_block(net, images, texts, torch.arange(len(texts[1]), device=texts[1].device))

    def score_block(self, net: Network, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor) -> Tensor:
        """Return the logits (b,) of texts with the images that ``which`` (b,) names."""
        return net.logits(texts[1], texts[1] != PADDING, images[1], which)[:, 1]

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of LAVIS or of transformers' Blip2ForImageTextRetrieval; tensors are not copied."""
        found = {}
        for name, value in weights.items():
            if UNUSED.search(name) or name.endswith("attn.v_bias"):
                continue
            if name.endswith("attn.q_bias"):  # keys have no bias
                v = weights[name.replace("q_bias", "v_bias")]
                name, value = name.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros_like(v), v])
            for pattern, new in RENAMED:
                name = re.sub(pattern, new, name)
            found[name] = value
        place = "vision_model.embeddings.position_embedding"
        return {**found, place: resized_positions(found[place], (self.size // self.patch) ** 2)}
