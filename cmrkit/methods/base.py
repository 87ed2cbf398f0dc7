"""What a method is: the interface between a paper's own file and the rest of the house."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmrkit.errors import UsageError


@dataclass(frozen=True)
class Pairs:
    """Aligned training pairs, as a feature-based method sees them.

    ``image`` (n, d_image) and ``text`` (n, d_text) are float64 and row-aligned; ``labels`` is a multi-hot
    (n, c) uint8 array, or None where the dataset has none.
    """

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray) -> Pairs:
        """Return the pairs of some rows."""
        return Pairs(self.image[rows], self.text[rows], None if self.labels is None else self.labels[rows])


@dataclass(kw_only=True)
class Embedder:
    """A method that maps each modality into one common space.

    Subclasses are dataclasses: fields are hyper-parameters, each annotated with a plain type
    (int, float, str, bool, tuple, Literal, or one of these ``| None``). ``fit`` stores what it learns in
    attributes whose name ends in one underscore; each must be a NumPy array (or a float), because these
    attributes, and nothing else, are the checkpoint.

    A hashing method returns codes as int8 arrays of -1 and +1, shape (n, bits). Where the paper ranks
    against the codes that training *learned* for the training set, ``fit`` leaves them in
    ``image_codes_`` and ``text_codes_`` (n, bits), which may be the same array.

    A method that learns from a stream has ``fit_rounds(rounds)`` besides: an iterable of Pairs, each seen once and in
    order. What ``setting.chunk`` of a recipe declares arrives there; the codes it learns are in the order of arrival.
    """

    space: ClassVar[str]  # "hamming", "cosine", "dot" or "euclidean"
    supervised: ClassVar[bool] = False
    transductive: ClassVar[bool] = False  # whether an item's code may depend on the batch it is encoded in

    seed: int = 0

    def fit(self, train: Pairs) -> Embedder:
        """Learn from ``train`` and return self. Raises UsageError where the data cannot serve."""
        raise NotImplementedError

    def encode_image(self, x: np.ndarray) -> np.ndarray:
        """Map image features (n, d_image) into the common space."""
        raise NotImplementedError

    def encode_text(self, y: np.ndarray) -> np.ndarray:
        """Map text features (n, d_text) into the common space."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Return everything ``fit`` learned, by attribute name."""
        return {k: np.asarray(v) for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}

    def load_state(self, state: dict[str, np.ndarray]) -> Embedder:
        """Put back what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, value)
        return self

    def require_labels(self, train: Pairs) -> np.ndarray:
        """Return the labels as float64 (n, c), or raise UsageError naming the method."""
        if train.labels is None:
            raise UsageError(f"{type(self).__name__} is supervised, but this dataset has no labels")
        return np.asarray(train.labels, dtype=np.float64)


def sign(x: np.ndarray) -> np.ndarray:
    """Binarise to int8 codes of -1 and +1; zero becomes +1."""
    return np.where(x >= 0, 1, -1).astype(np.int8)
