"""BEiT-3: Image as a Foreign Language (Wang et al., CVPR 2023), as a dual encoder for retrieval.

The backbone is a multiway transformer: each layer has an expert for images (A) and one for text (B), here of
attention's projections and LayerNorms as well as of the feed-forward network. With one modality at a time every token
takes the same way, so that the two ways are two transformers f and g, of Magneto's layers with sub-LayerNorm:

    x += O LN(softmax(q k' / sqrt(d)) v),  q, k, v = projections of LN(x);     x += W2 LN(gelu(W1 LN(x)))

The class token of an image, and a text's first token <s>, after a last LayerNorm and a linear head without bias, are
compared by their cosine. Fine-tuning (section 3.2 and the authors' code) contrasts the pairs of a batch of 3,072:
L = (mean_i H(s_i., i) + mean_j H(s_.j, j)) / 2, s = exp(t) F G', where other captions of the same image count as wrong.
Rates fall by ``layer_decay`` from layer to layer down to the embeddings. There is no re-ranking.

Held with the same random weights against microsoft/unilm@768a3c8's BEiT3ForRetrieval, put together from
torchscale@4d1e0e8: vectors within 2e-7, the loss of a batch and its gradients within 3e-7. Position tables begin at
what fairseq leaves unused: their row 2 is the first place. Departures: the rate's rise begins above 0; from scratch,
which the authors' code never trains, weights begin as Magneto's (Wang et al., 2022) and tables at variance 1 / dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from timm.layers import DropPath, resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.contrastive import symmetric_contrast

PADDING = 1
FIRST = 2  # the row of a position table that the first token takes


class Attention(nn.Module):
    """Self-attention with a LayerNorm before its last projection."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.inner_attn_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (n, L, dim) to (n, L, dim); ``mask`` (n, 1, 1, L) is True where there is a token."""
        q, k, v = (p(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(self.inner_attn_ln(scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Two linear maps with GELU and a LayerNorm between them."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.ffn_layernorm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, L, dim) to (n, L, dim)."""
        return self.fc2(self.ffn_layernorm(gelu(self.fc1(x))))


class Layer(nn.Module):
    """One expert of a multiway layer."""

    def __init__(self, dim: int, heads: int, drop_path: float):
        super().__init__()
        self.self_attn_layer_norm, self.self_attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.final_layer_norm, self.ffn = nn.LayerNorm(dim), FeedForward(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (n, L, dim) to (n, L, dim)."""
        x = x + self.drop_path(self.self_attn(self.self_attn_layer_norm(x), mask))
        return x + self.drop_path(self.ffn(self.final_layer_norm(x)))


class Encoder(nn.Module):
    """One way through the transformer, for sequences of at most ``length`` tokens."""

    def __init__(self, dim: int, depth: int, heads: int, length: int, drop_path: float):
        super().__init__()
        self.embed_positions = nn.Embedding(FIRST + length, dim)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.layers = nn.ModuleList(Layer(dim, heads, rate) for rate in rates)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Map embedded tokens (n, L, dim), of which ``present`` (n, L) are no padding, to the first one's (n, dim)."""
        x = x + self.embed_positions.weight[FIRST : FIRST + x.shape[1]]
        mask = None
        if present is not None:
            x, mask = x * present[..., None], present[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x[:, 0])


class Network(nn.Module):
    """Embeddings, both ways, both heads, and the logarithm of the inverse temperature."""

    def __init__(self, vocabulary: int, length: int, size: int, patch: int, dim: int, depth: int, heads: int,
                 drop_path: float):  # fmt: skip
        super().__init__()
        self.text_embed = nn.Embedding(vocabulary, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.vision = Encoder(dim, depth, heads, 1 + (size // patch) ** 2, drop_path)
        self.language = Encoder(dim, depth, heads, length, drop_path)
        self.vision_head, self.language_head = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        initialize(self, depth)

    def images(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to unit vectors (n, dim)."""
        x = self.patch_embed((pixels.movedim(3, 1) / 255 - 0.5) / 0.5).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1)
        return normalize(self.vision_head(self.vision(x)), dim=1)

    def texts(self, ids: Tensor) -> Tensor:
        """Map token ids (n, L) to unit vectors (n, dim)."""
        present = ids != PADDING
        present = present[:, : int(present.sum(1).max())]
        x = self.language(self.text_embed(ids[:, : present.shape[1]]), present)
        return normalize(self.language_head(x), dim=1)


def initialize(net: nn.Module, depth: int) -> None:
    """Draw Magneto's initial weights: values and feed-forward maps grow with the depth, which sub-LayerNorm allows."""
    gain = math.sqrt(math.log(2 * depth))
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            scaled = name.endswith(("v_proj", "out_proj", "fc1", "fc2"))
            nn.init.xavier_normal_(module.weight, gain if scaled else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a parameter: 0 for embeddings, 1 to ``depth``, and ``depth`` + 1 for all others."""
    if "embed" in name or name == "cls_token":
        return 0
    return int(name.split("layers.")[1].split(".")[0]) + 1 if "layers." in name else depth + 1


@dataclass(kw_only=True)
class BEiT3(DeepEmbedder):
    """The defaults are the base model's, fine-tuned on MS-COCO. ``vocabulary`` is the least number of word vectors:

    the published weights have some that their tokenizer has no words for.
    """

    space: ClassVar[str] = "cosine"
    data_parallel: ClassVar[bool] = True

    size: int = 384
    framing: Literal["squash"] = "squash"
    interpolation: str = "bicubic"
    augment: str = "crop:0.5:1.0,flip"
    tokenizer: Literal["beit3"] = "beit3"
    max_length: int = 64
    vocabulary: int = 64_010
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    drop_path: float = 0.2
    layer_decay: float = 0.65
    epochs: int = 15
    batch_size: int = 3072
    optimizer: str = "AdamW"
    lr: float = 2e-4
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup: float = 3.0
    final_lr: float = 1e-6
    precision: str = "fp16"
    drop_last: bool = True
    select: str = "rsum"

    def build(self, spec: Spec) -> Network:
        """Return the network. Raises UsageError for input that is not pixels and token ids."""
        if len(spec.image_shape) != 3 or spec.vocabulary is None:
            raise UsageError("BEiT-3 takes pixels (height, width, 3) as images and token ids as texts")
        if self.dim % self.heads or self.size % self.patch:
            raise UsageError(
                "BEiT-3 needs a model.dim that model.heads divides and a model.size that model.patch divides"
            )
        vocabulary = max(self.vocabulary, spec.vocabulary)
        return Network(vocabulary, self.max_length, self.size, self.patch, self.dim, self.depth, self.heads,
                       self.drop_path)  # fmt: skip

    def optimizers(self, net: Network) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser whose rates fall with the layers; vectors and the table of patches do not decay."""
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, parameter in net.named_parameters():
            still = parameter.ndim < 2 or name in ("cls_token", "vision.embed_positions.weight")
            groups.setdefault((layer_of(name, self.depth), still), []).append(parameter)
        return {"main": self.make_optimizer([
            {"params": part, "lr": self.lr * self.layer_decay ** (self.depth + 1 - layer),
             "weight_decay": 0.0 if still else self.weight_decay}
            for (layer, still), part in groups.items()
        ])}  # fmt: skip

    def loss(self, net: Network, batch: Batch, loop: Loop) -> Tensor:
        """Return the mean cross-entropy of both directions, over the pairs of all processes."""
        image, text = loop.gather(net.images(batch.image)), loop.gather(net.texts(batch.text))
        return symmetric_contrast(image, text, net.logit_scale.exp())

    def embed_image(self, net: Network, x: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to unit vectors (n, dim)."""
        return net.images(x)

    def embed_text(self, net: Network, y: Tensor) -> Tensor:
        """Map token ids (n, L) to unit vectors (n, dim)."""
        return net.texts(y)

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' retrieval weights, and bring position tables to this ``size`` and ``max_length``."""
        out = {}
        for name, tensor in weights.items():
            name = name.removeprefix("beit3.").replace("vision_embed.proj.", "patch_embed.")
            name = name.replace("vision_embed.cls_token", "cls_token")
            for way, ours in ((".A.", "vision."), (".B.", "language.")):
                if way in name:
                    name = ours + name.removeprefix("encoder.").replace(way, ".")
            if name != "vision_embed.mask_token":
                out[name] = tensor.float()
        grid, table = self.size // self.patch, "vision.embed_positions.weight"
        out[table] = resample_abs_pos_embed(out[table][None], [grid, grid], num_prefix_tokens=FIRST + 1,
                                            antialias=False)[0]  # fmt: skip
        table = "language.embed_positions.weight"
        out[table] = out[table][: FIRST + self.max_length]
        return out
