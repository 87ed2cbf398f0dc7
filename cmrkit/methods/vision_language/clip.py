"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021).

An image tower f and a text tower g map to vectors of unit length, which are compared by their cosine. A batch of n
pairs is trained to find each image's own text and each text's own image (section 2.3, figure 3):

    s_ij = exp(t) f(x_i)'g(y_j),   L = (mean_i H(s_i., i) + mean_j H(s_.j, j)) / 2

with H the cross-entropy and exp(t), the inverse temperature, learned and kept at 100 at most. f is a ViT with a
LayerNorm before its layers and one after them on the class token; g a causal transformer, read at the first <end>.
Both have pre-LayerNorm layers and QuickGELU, x sigmoid(1.702 x), and end in a linear projection. The paper evaluates
retrieval without training on the data set, with "a photo of" before each caption: ``prompt``.

Held with the same random weights against openai/CLIP@d05afc4 (cosines within 3e-7, the loss of a batch of distinct
images within 5e-7, its gradients within 2e-6) and against transformers' CLIPModel (cosines and loss within 3e-7).
Departures: what comes after <end> is cut off before the text tower, which changes nothing, as it is causal; where an
image comes with several of its texts in a batch, all are right for it, in equal shares, and it is encoded once.

``image_tower`` "timm:NAME" puts a network of timm, pooled, in the place of the ViT, as the paper does with ResNets;
its BatchNorms keep the statistics that they come with. Published weights are then those of that network alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import parse_qsl

import torch
from timm import create_model
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec
from cmrkit.methods.parts.contrastive import symmetric_contrast

LARGEST_SCALE = math.log(100)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of x, of any shape."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention, over the tokens so far where it is ``causal``."""

    def __init__(self, dim: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, L, dim) to (n, L, dim)."""
        x = linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.heads, -1))
        x = scaled_dot_product_attention(*x.permute(2, 0, 3, 1, 4), is_causal=self.causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x += attention(LN(x)), x += MLP(LN(x)); ``dropout`` of either, which the paper does without."""

    def __init__(self, dim: int, heads: int, causal: bool, dropout: float):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, causal)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(dim, 4 * dim))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, L, dim) to (n, L, dim)."""
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


def transformer(dim: int, depth: int, heads: int, causal: bool = False, dropout: float = 0.0) -> nn.ModuleDict:
    """Return ``depth`` blocks under the name that the authors' weights have for them."""
    return nn.ModuleDict({"resblocks": nn.Sequential(*(Block(dim, heads, causal, dropout) for _ in range(depth)))})


class VisionTransformer(nn.Module):
    """The ViT, with the projection of its class token."""

    def __init__(self, size: int, patch: int, dim: int, depth: int, heads: int, projection: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(dim**-0.5 * torch.randn(dim))
        self.positional_embedding = nn.Parameter(dim**-0.5 * torch.randn((size // patch) ** 2 + 1, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = transformer(dim, depth, heads)
        self.proj = nn.Parameter(dim**-0.5 * torch.randn(dim, projection))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pixels (n, 3, size, size) to (n, projection)."""
        x = self.conv1(x).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.transformer["resblocks"](self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class TimmTower(nn.Module):
    """A network of timm by name, with its pooled features projected: "mobilenetv2_100?pad_type=same"."""

    def __init__(self, name: str, projection: int):
        super().__init__()
        name, _, options = name.partition("?")
        self.trunk = create_model(name, num_classes=0, **dict(parse_qsl(options)))
        self.norm = nn.LayerNorm(self.trunk.num_features)
        self.proj = nn.Parameter(self.trunk.num_features**-0.5 * torch.randn(self.trunk.num_features, projection))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pixels (n, 3, size, size) to (n, projection)."""
        return self.norm(self.trunk(x)) @ self.proj

    def train(self, mode: bool = True) -> TimmTower:
        """Set the mode, but leave the statistics of BatchNorm as they are."""
        super().train(mode)
        for module in self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class Network(nn.Module):
    """Both towers and the logarithm of the inverse temperature, by the names of the authors' weights."""

    def __init__(self, visual: nn.Module, vocabulary: int, length: int, dim: int, depth: int, heads: int,
                 projection: int, dropout: float, mean: tuple, std: tuple):  # fmt: skip
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(length, dim))
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer(dim, depth, heads, causal=True, dropout=dropout)
        self.ln_final = nn.LayerNorm(dim)
        self.text_projection = nn.Parameter(dim**-0.5 * torch.randn(dim, projection))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.ModuleDict):
                initialize(module["resblocks"])

    def images(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to unit vectors (n, projection)."""
        return normalize(self.visual((pixels.movedim(3, 1) / 255 - self.mean) / self.std), dim=1)

    def others(self) -> list[nn.Parameter]:
        """Return all parameters that are not of the image tower."""
        return [p for name, p in self.named_parameters() if not name.startswith("visual.")]

    def texts(self, ids: Tensor) -> Tensor:
        """Map token ids (n, L), each with the largest one, <end>, in it, to unit vectors (n, projection)."""
        end = ids.argmax(1)
        ids = ids[:, : int(end.max()) + 1]
        x = self.dropout(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]])
        x = self.transformer["resblocks"](x)
        return normalize(self.ln_final(x[torch.arange(len(x), device=x.device), end]) @ self.text_projection, dim=1)


def initialize(blocks: nn.Sequential) -> None:
    """Draw the authors' initial weights of a transformer: what enters the residual stream is scaled by its depth."""
    for block in blocks:
        dim = block.attn.in_proj_weight.shape[1]
        entering = dim**-0.5 * (2 * len(blocks)) ** -0.5
        nn.init.normal_(block.attn.in_proj_weight, std=dim**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=entering)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * dim) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=entering)


@dataclass(kw_only=True)
class CLIP(DeepEmbedder):
    """The defaults are ViT-B/32 and what the paper pre-trains it with; gains, biases and the scale do not decay.

    ``tower_lr`` is the image tower's learning rate as a share of ``lr``. ``together`` puts all texts of an image into
    the same batch: an epoch then encodes it once.
    """

    space: ClassVar[str] = "cosine"
    data_parallel: ClassVar[bool] = True

    size: int = 224
    framing: Literal["squash", "crop"] = "crop"
    interpolation: str = "bicubic"
    augment: str = ""
    tokenizer: Literal["clip"] = "clip"
    max_length: int = 77
    prompt: str = ""
    mean: tuple = (0.48145466, 0.4578275, 0.40821073)
    std: tuple = (0.26862954, 0.26130258, 0.27577711)
    image_tower: str = "vit"
    patch: int = 32
    dim: int = 768
    depth: int = 12
    heads: int = 12
    text_dim: int = 512
    text_depth: int = 12
    text_heads: int = 8
    projection: int = 512
    dropout: float = 0.0
    tower_lr: float = 1.0
    together: bool = False
    epochs: int = 32
    batch_size: int = 32_768
    optimizer: str = "AdamW"
    lr: float = 5e-4
    betas: tuple = (0.9, 0.98)
    weight_decay: float = 0.2
    schedule: str = "cosine"

    def build(self, spec: Spec) -> Network:
        """Return the network. Raises UsageError for input that is not pixels and token ids, or an unknown tower."""
        if len(spec.image_shape) != 3 or spec.vocabulary is None:
            raise UsageError("CLIP takes pixels (height, width, 3) as images and token ids as texts")
        if self.dim % self.heads or self.text_dim % self.text_heads:
            raise UsageError("model.heads must divide model.dim, and model.text_heads model.text_dim")
        return Network(self._visual(), spec.vocabulary, self.max_length, self.text_dim, self.text_depth,
                       self.text_heads, self.projection, self.dropout, self.mean, self.std)  # fmt: skip

    def _visual(self) -> nn.Module:
        kind, _, name = self.image_tower.partition(":")
        if kind == "vit":
            return VisionTransformer(self.size, self.patch, self.dim, self.depth, self.heads, self.projection)
        if kind != "timm":
            raise UsageError(f"model.image_tower is 'vit' or 'timm:NAME', not {self.image_tower!r}")
        try:
            return TimmTower(name, self.projection)
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"model.image_tower: timm has no network {name!r} with such options: {error}") from None

    def optimizers(self, net: Network) -> dict[str, torch.optim.Optimizer]:
        """Return one optimiser over four groups: of either tower, what decays and what does not."""
        groups = []
        for tower, rate in ((net.visual.parameters(), self.lr * self.tower_lr), (net.others(), self.lr)):
            tower = list(tower)
            for decay, part in ((self.weight_decay, [p for p in tower if p.ndim > 1]),
                                (0.0, [p for p in tower if p.ndim < 2])):  # fmt: skip
                groups.append({"params": part, "lr": rate, "weight_decay": decay})
        return {"main": self.make_optimizer(groups, eps=1e-6)}

    def order(self, loop: Loop) -> Tensor:
        """Return the training rows in a random order, of single texts or of all texts of an image together."""
        if not self.together:
            return super().order(loop)
        place = torch.randperm(loop.spec.n_images, generator=loop.generator)[loop.pairs.cpu()]
        return place.argsort(stable=True)

    def step(self, net: Network, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Take a step down the loss, and bring the scale back to 100 where it grew beyond."""
        report = super().step(net, batch, loop)
        with torch.no_grad():
            net.logit_scale.clamp_(max=LARGEST_SCALE)
        return report

    def loss(self, net: Network, batch: Batch, loop: Loop) -> Tensor:
        """Return the mean cross-entropy of both directions, over the pairs of all processes."""
        distinct, which = batch.images.unique(return_inverse=True)
        first = torch.full_like(distinct, len(which)).scatter_reduce_(
            0, which, torch.arange(len(which), device=which.device), "amin"
        )
        image = net.images(batch.image[first])[which]
        image, text, ids = (loop.gather(x) for x in (image, net.texts(batch.text), batch.images))
        return symmetric_contrast(image, text, net.logit_scale.exp(), ids)

    def embed_image(self, net: Network, x: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to unit vectors (n, projection)."""
        return net.images(x)

    def embed_text(self, net: Network, y: Tensor) -> Tensor:
        """Map token ids (n, L) to unit vectors (n, projection)."""
        return net.texts(y)

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the Hub's ``openai/clip-vit-*``, or take those of OpenAI's own archives.

        Position tables are brought to this ``size`` and ``max_length``. With a tower of timm they are that network's.
        """
        if self.image_tower != "vit":
            heads = ("classifier.", "fc.", "head.fc.", "head.weight", "head.bias")
            return {f"visual.trunk.{n}": t for n, t in weights.items() if not n.startswith(heads)}
        if "visual_projection.weight" in weights:
            weights = from_hub(weights)
        kept = {
            n: t.float() for n, t in weights.items() if n not in ("input_resolution", "context_length", "vocab_size")
        }
        grid = self.size // self.patch
        table = kept["visual.positional_embedding"]
        kept["visual.positional_embedding"] = resample_abs_pos_embed(table[None], [grid, grid], antialias=False)[0]
        kept["positional_embedding"] = kept["positional_embedding"][: self.max_length]
        return kept


HUB = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.q_proj\.", ".in_proj_"),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def from_hub(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ``CLIPModel`` of transformers under OpenAI's names."""
    out = {}
    for name, tensor in weights.items():
        if ".k_proj." in name or ".v_proj." in name or name.endswith("position_ids"):
            continue
        if ".q_proj." in name:
            tensor = torch.cat([weights[name.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"])
        for pattern, replacement in HUB:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    for ours, theirs in (("visual.proj", "visual_projection.weight"), ("text_projection", "text_projection.weight")):
        out[ours] = out.pop(theirs).T.contiguous()
    return out
