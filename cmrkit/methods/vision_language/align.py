"""ALIGN: Scaling Up Visual and Vision-Language Representation Learning (Jia et al., ICML 2021).

An EfficientNet's pooled feature map and a linear map of BERT's [CLS], both of unit length, are compared by their
cosine. Training contrasts the pairs of a batch, each image's own text against all others and the reverse:

    L = (mean_i H(s_i., i) + mean_j H(s_.j, j)) / 2,   s_ij = f(x_i)'g(y_j) / tau

with H the cross-entropy of targets smoothed by ``smoothing`` and the temperature tau learned from 1. Images are
resized to ``size`` x ``size``, of which the middle ``crop`` x ``crop`` is looked at.

Google published neither weights nor data. The Hub's kakaobrain/align-base, which ``convert`` reads, is Kakao Brain's
model of the same kind (EfficientNet-B7 and BERT-base, where the paper's best has EfficientNet-L2 and BERT-large),
trained on COYO-700M: what it scores reproduces their model card, and no number of the paper.

The network is transformers' AlignModel, whose cosines and loss this file gives within 1e-7. Departures: in training,
too, the middle is cut out; BatchNorm's running means move by 0.1, PyTorch's default and here a guess, where that
library has 0.99.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from timm.optim import Lamb
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AlignConfig, AlignModel

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, DeepEmbedder, Loop, Spec

PADDING = 0
WIDTH = 320  # channels of EfficientNet-B0's last block, which larger ones multiply


def channels(width: float) -> int:
    """Return how long an image's vector is: EfficientNet's rule, a multiple of 8 and at least 90 % of the product."""
    scaled = WIDTH * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


@dataclass(kw_only=True)
class ALIGN(DeepEmbedder):
    """The defaults are EfficientNet-B7 and BERT-base; ``width`` and ``repeats`` are B7's multiples of B0."""

    space: ClassVar[str] = "cosine"
    data_parallel: ClassVar[bool] = True

    size: int = 346
    crop: int = 289
    framing: Literal["squash"] = "squash"
    interpolation: str = "bilinear"
    augment: str = "flip"
    tokenizer: Literal["bert"] = "bert"
    max_length: int = 64
    width: float = 2.0
    repeats: float = 3.1
    drop_connect: float = 0.2
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    dropout: float = 0.1
    temperature: float = 1.0
    smoothing: float = 0.1
    epochs: int = 20
    batch_size: int = 2048
    optimizer: str = "LAMB"
    lr: float = 1e-5
    weight_decay: float = 1e-5
    schedule: str = "linear"

    def build(self, spec: Spec) -> nn.Module:
        """Return the network. Raises UsageError for input that is not pixels and token ids."""
        if len(spec.image_shape) != 3 or spec.vocabulary is None:
            raise UsageError("ALIGN takes pixels (height, width, 3) as images and token ids as texts")
        if self.text_dim % self.text_heads or self.crop > self.size:
            raise UsageError(
                "ALIGN needs a model.text_dim that model.text_heads divides, and a model.crop up to model.size"
            )
        dim = channels(self.width)
        text = {"vocab_size": spec.vocabulary, "hidden_size": self.text_dim, "num_hidden_layers": self.text_depth,
                "num_attention_heads": self.text_heads, "intermediate_size": 4 * self.text_dim,
                "hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}  # fmt: skip
        vision = {"width_coefficient": self.width, "depth_coefficient": self.repeats, "hidden_dim": dim,
                  "drop_connect_rate": self.drop_connect, "batch_norm_momentum": 0.1}  # fmt: skip
        net = AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=dim,
                                     temperature_init_value=self.temperature))  # fmt: skip
        net.text_model.pooler = None  # retrieval reads [CLS] itself
        return net

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return LAMB, or the optimiser of torch that is asked for instead."""
        if self.optimizer != "LAMB":
            return super().optimizers(net)
        return {"main": Lamb(net.parameters(), self.lr, betas=self.betas, weight_decay=self.weight_decay)}

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the mean cross-entropy of both directions, over the pairs of all processes."""
        image, text = (loop.gather(x) for x in (self.embed_image(net, batch.image), self.embed_text(net, batch.text)))
        logits, own = image @ text.T / net.temperature, torch.arange(len(image), device=image.device)
        return sum(cross_entropy(s, own, label_smoothing=self.smoothing) for s in (logits, logits.T)) / 2

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map uint8 pixels (n, size, size, 3) to unit vectors (n, dim)."""
        margin = (self.size - self.crop) // 2
        x = x[:, margin : margin + self.crop, margin : margin + self.crop].movedim(3, 1)
        return normalize(net.vision_model(pixel_values=x / 127.5 - 1).pooler_output, dim=1)

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map token ids (n, L) to unit vectors (n, dim)."""
        present = y != PADDING
        longest = int(present.sum(1).max())
        states = net.text_model(input_ids=y[:, :longest], attention_mask=present[:, :longest].long()).last_hidden_state
        return normalize(net.text_projection(states[:, 0]), dim=1)

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the weights of the Hub's ``kakaobrain/align-base``, but for BERT's pooler, which is not used."""
        unused = ("position_ids", "token_type_ids")
        out = {n: t for n, t in weights.items() if not n.endswith(unused) and not n.startswith("text_model.pooler.")}
        counts = {n.replace("running_mean", "num_batches_tracked") for n in out if n.endswith("running_mean")}
        return {**{n: torch.tensor(0) for n in counts}, **out}
