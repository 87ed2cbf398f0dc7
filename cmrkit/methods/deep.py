"""What a deep method is: a network, a loss, and how each modality is embedded; the loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cmrkit.errors import UsageError
from cmrkit.methods.base import Embedder, Pairs, sign
from cmrkit.training.batches import Batch, to_tensor
from cmrkit.training.device import pick_device
from cmrkit.training.embedding import embed
from cmrkit.training.loop import Loop
from cmrkit.training.optimizers import make_optimizer
from cmrkit.training.options import Options
from cmrkit.training.rows import Rows, Spec, TrainingSet

__all__ = ["Batch", "DeepEmbedder", "Loop", "PairScorer", "SetMatcher", "Spec", "TrainingSet"]


@dataclass(kw_only=True)
class DeepEmbedder(Embedder):
    """A method whose embedding is a network trained by gradients.

    A paper's class gives ``build``, ``loss``, ``embed_image`` and ``embed_text``, overrides the defaults of the
    fields below with the paper's, and adds its own. The fields, shared by all deep methods:

    * ``epochs`` passes over the training texts, or ``steps`` updates where that is not 0; ``batch_size`` pairs
      an update, taken in ``accumulate`` parts; ``shuffle``; ``drop_last`` leaves out an incomplete last batch;
    * ``optimizer``, a name of torch.optim, with ``lr``, ``weight_decay``, ``momentum``, ``betas``;
    * ``schedule``: constant; step (times ``gamma`` at every ``decay_every`` epochs); multistep (at ``milestones``,
      in epochs); cosine or linear (to ``final_lr``, update by update); plateau (times ``gamma`` after
      ``decay_every`` epochs without progress); all after ``warmup`` epochs of linear rise;
    * ``clip``, the largest norm of the gradient, 0 for none; ``precision``; ``frozen``, submodules that do not
      train, or not before an epoch (``"image.trunk:5"``);
    * ``select``, the metric by which the best epoch is chosen on the split "val" (or where the recipe's
      eval.selection says), empty for the last epoch; ``patience``, epochs without progress after which it stops.

    Everything that training learns lives in the network, buffers over the training set included. Buffers called
    ``image_codes`` and ``text_codes`` (n_texts, bits) are the codes learned for the training pairs.
    """

    data_parallel: ClassVar[bool] = False  # whether the loss gathers what it needs, so that several processes may train
    reduction: ClassVar[str] = "mean"  # what the loss is over the pairs of a batch: their "mean" or their "sum"

    epochs: int = 20
    steps: int = 0
    batch_size: int = 128
    optimizer: str = "Adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    betas: tuple = (0.9, 0.999)
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "plateau"] = "constant"
    warmup: float = 0.0
    decay_every: int = 0
    milestones: tuple = ()
    gamma: float = 0.1
    final_lr: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    frozen: tuple = ()
    shuffle: bool = True
    drop_last: bool = False
    select: str = ""
    patience: int = 0

    # -- what a paper's class gives

    def build(self, spec: Spec) -> nn.Module:
        """Return the network, with its initial weights drawn from torch's global generator."""
        raise NotImplementedError

    def loss(self, net: nn.Module, batch: Batch, loop: Loop) -> Tensor:
        """Return the loss of a batch, a scalar."""
        raise NotImplementedError

    def embed_image(self, net: nn.Module, x: Tensor) -> Tensor:
        """Map images (n, ...) to (n, dim), before any binarisation."""
        raise NotImplementedError

    def embed_text(self, net: nn.Module, y: Tensor) -> Tensor:
        """Map texts (n, ...) to (n, dim), before any binarisation."""
        raise NotImplementedError

    # -- what it may override

    def optimizers(self, net: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name; the one that ``loop.descend`` steps unasked is ``main``."""
        return {"main": self.make_optimizer(net.parameters())}

    def start(self, net: nn.Module, loop: Loop) -> None:
        """Prepare the network with the data at hand, once, before the first epoch."""

    def epoch_start(self, net: nn.Module, loop: Loop) -> None:
        """Do what comes before the batches of an epoch."""

    def order(self, loop: Loop) -> Tensor:
        """Return the training rows of this epoch in order, (n,) int64; consecutive ones make a batch."""
        count = loop.spec.n_texts
        return torch.randperm(count, generator=loop.generator) if self.shuffle else torch.arange(count)

    def step(self, net: nn.Module, batch: Batch, loop: Loop) -> dict[str, Tensor | float]:
        """Update the network with one batch and return what to log, the ``loss`` first."""
        return {"loss": loop.descend(batch, lambda part: self.loss(net, part, loop))}

    def epoch_end(self, net: nn.Module, loop: Loop) -> None:
        """Do what comes after the batches of an epoch: alternating updates of codes, centres, banks."""

    # -- the same for all

    def make_optimizer(self, parameters: Any, **changes: Any) -> torch.optim.Optimizer:
        """Return this method's optimiser over ``parameters`` or groups, with some settings changed."""
        settings = {n: getattr(self, n) for n in ("optimizer", "lr", "weight_decay", "momentum", "betas")} | changes
        return make_optimizer(settings.pop("optimizer"), parameters, **settings)

    def fit(self, train: Pairs) -> DeepEmbedder:
        """Train on pairs in memory. Raises as ``fit_set``."""
        return self.fit_set(TrainingSet(train.image, train.text, np.arange(len(train)), train.labels))

    def fit_set(
        self,
        data: TrainingSet,
        options: Options | None = None,
        validate: Callable[[DeepEmbedder], float] | None = None,
        initial: dict[str, Tensor] | None = None,
    ) -> DeepEmbedder:
        """Train on ``data`` and return self; ``validate`` scores the method after every epoch, larger for better.

        ``initial`` are tensors that the network starts from, under its own names; what they lack starts as built.

        Raises UsageError where the data or the device cannot serve, CmrkitError where training diverges.
        """
        if self.supervised and data.labels is None:
            raise UsageError(f"{type(self).__name__} is supervised, but this dataset has no labels")
        return self.adopt(Loop(self, data, options or Options(), validate, initial).run(), data.spec)

    def adopt(self, net: nn.Module, spec: Spec) -> DeepEmbedder:
        """Make ``net`` this method's trained network, and its buffers of learned codes this method's codes."""
        self.net_, self.spec_ = net, spec
        for name, buffer in net.named_buffers():
            if name in ("image_codes", "text_codes"):
                setattr(self, f"{name}_", sign(buffer.cpu().numpy()))
        return self

    def to(self, device: str) -> DeepEmbedder:
        """Move the network to a device by name. Raises UsageError where there is none."""
        self.net_.to(pick_device(device))
        return self

    def encode_image(self, x: np.ndarray | Rows) -> np.ndarray:
        """Map images (n, ...) to embeddings (n, dim) float32, or codes (n, bits) int8 in Hamming space."""
        return self._coded(self._embedded("image", x))

    def encode_text(self, y: np.ndarray | Rows) -> np.ndarray:
        """Map texts (n, ...) to embeddings (n, dim) float32, or codes (n, bits) int8 in Hamming space."""
        return self._coded(self._embedded("text", y))

    def _embedded(self, modality: str, rows: np.ndarray | Rows) -> Any:
        device = next((t.device for t in self.net_.state_dict().values()), torch.device("cpu"))
        function = getattr(self, f"embed_{modality}")
        return embed(self.net_, function, lambda a, b: to_tensor(rows[a:b]).to(device), len(rows),
                     device=torch.device("cpu"))  # fmt: skip

    def _coded(self, embedded: Tensor) -> np.ndarray:
        values = embedded.float().numpy()
        return sign(values) if self.space == "hamming" else values

    def state(self) -> dict[str, np.ndarray]:
        """Return the network's parameters and buffers, names prefixed ``net.``."""
        return {f"net.{k}": v.detach().cpu().numpy() for k, v in self.net_.state_dict().items()}

    def load_state(self, state: dict[str, np.ndarray], spec: Spec) -> DeepEmbedder:
        """Build the network of ``spec`` and put back what ``state`` returned."""
        with torch.random.fork_rng([]):
            net = self.build(spec)
        net.load_state_dict({k.removeprefix("net."): torch.from_numpy(np.array(v)) for k, v in state.items()})
        return self.adopt(net.eval(), spec)


@dataclass(kw_only=True)
class SetMatcher(DeepEmbedder):
    """A method that compares an image and a text as sets, and has no common space of single vectors.

    ``embed_image`` and ``embed_text`` map rows to sets, as a tensor (n, parts, dim) or a tuple of tensors such as
    (words, lengths); ``match`` compares them.
    """

    space: ClassVar[str] = "similarity"

    def match(self, net: nn.Module, images: Any, texts: Any) -> Tensor:
        """Return the similarities (a, b) of embedded images (a, ...) and texts (b, ...)."""
        raise NotImplementedError

    @torch.no_grad()
    def similarity(self, images: np.ndarray | Rows, texts: np.ndarray | Rows, block: int = 128) -> np.ndarray:
        """Return the similarity of every image with every text, (n_images, n_texts) float32, block by block."""
        device = next((t.device for t in self.net_.state_dict().values()), torch.device("cpu"))
        x, y = _columns(self._embedded("image", images)), _columns(self._embedded("text", texts))
        out = np.empty((len(images), len(texts)), np.float32)
        self.net_.eval()
        for j in range(0, len(texts), block):
            text = _pack([c[j : j + block].to(device) for c in y])
            for i in range(0, len(images), block):
                image = _pack([c[i : i + block].to(device) for c in x])
                out[i : i + block, j : j + block] = self.match(self.net_, image, text).float().cpu().numpy()
        return out

    def encode_image(self, x: np.ndarray | Rows) -> np.ndarray:
        """Raise UsageError: there is no vector of an image alone."""
        raise UsageError(f"{type(self).__name__} compares images and texts as sets: it gives similarities, not vectors")

    encode_text = encode_image


@dataclass(kw_only=True)
class PairScorer(DeepEmbedder):
    """A method that looks at an image and a text together and gives the pair one logit.

    ``embed_image`` and ``embed_text`` return tuples of tensors, one row an item, computed once per item whatever
    the number of pairs; ``score`` runs what depends on both. With a ``shortlist`` of k, a first stage compares all
    pairs by ``compare``, and only each image's k nearest texts and each text's k nearest images are scored: by the
    logit alone, or by logit + similarity, as ``combine`` says. 0 scores all pairs.
    """

    space: ClassVar[str] = "similarity"

    shortlist: int = 0
    combine: Literal["logit", "logit+similarity"] = "logit"

    def score(self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (b,) of pairs: embedded images (b, ...) with embedded texts (b, ...), row by row."""
        raise NotImplementedError

    def score_block(
        self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...], which: Tensor
    ) -> Tensor:
        """Return the logits (b,) of texts (b, ...) with the images (a, ...) that ``which`` (b,) int64 names.

        Evaluation calls this: a method overrides it where part of the work can be shared by the pairs of an image.
        """
        return self.score(net, tuple(column[which] for column in images), texts)

    def compare(self, net: nn.Module, images: tuple[Tensor, ...], texts: tuple[Tensor, ...]) -> Tensor:
        """Return the first stage's similarities (a, b): by default of the unit vectors that come first."""
        return images[0] @ texts[0].T

    def similarity(
        self,
        images: np.ndarray | Rows,
        texts: np.ndarray | Rows,
        resume: Any = None,
        key: str | None = None,
        progress: bool = False,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Score images with texts: (n_images, n_texts) float32, or with a shortlist one such matrix a direction.

        The latter are ``{"i2t": .., "t2i": ..}``; see `cmrkit.evaluation.reranking`, as for the other arguments.
        """
        from cmrkit.methods.pairs import score_pairs

        x, y = _columns(self._embedded("image", images)), _columns(self._embedded("text", texts))
        return score_pairs(self, x, y, resume=resume, key=key, progress=progress)

    def encode_image(self, x: np.ndarray | Rows) -> np.ndarray:
        """Raise UsageError: an image alone has no score."""
        raise UsageError(f"{type(self).__name__} scores an image and a text together: it gives similarities of pairs")

    encode_text = encode_image


def _columns(embedded: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return embedded if isinstance(embedded, tuple) else (embedded,)


def _pack(columns: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return columns[0] if len(columns) == 1 else tuple(columns)
