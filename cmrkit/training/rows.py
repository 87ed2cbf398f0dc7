"""The training set as arrays of rows, which stay on disk where they are large."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Some rows of an array of any trailing shape, in order, without copying it: ``rows[3:5]`` reads two.

    ``roots`` says where the files lie that rows of kind "photos" name.
    """

    array: np.ndarray
    index: np.ndarray | None = None  # (n,) rows of ``array``; None: all
    roots: Any = None

    def __len__(self) -> int:
        return len(self.array) if self.index is None else len(self.index)

    def __getitem__(self, which: Any) -> np.ndarray:
        return np.asarray(self.array[which if self.index is None else self.index[which]])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the selection."""
        return (len(self), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements as stored."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the selection would take in memory, as stored."""
        return len(self) * int(np.prod(self.array.shape[1:], dtype=np.int64)) * self.array.dtype.itemsize

    @property
    def fixed(self) -> bool:
        """Whether a row is the same each time it is read."""
        return True

    def take(self, rows: np.ndarray) -> Rows:
        """Return a selection of this selection."""
        return Rows(self.array, rows if self.index is None else self.index[rows], self.roots)


@dataclass(frozen=True)
class ReadRows(Rows):
    """Rows that a ``reader`` makes of stored ones when they are asked for: pixels of photographs, ids of captions.

    The reader takes (stored rows, their places in the array) and has the ``shape`` and ``dtype`` of what comes out;
    ``fixed`` says that a row is the same each time, and may be kept.
    """

    reader: Any = None

    def __getitem__(self, which: Any) -> np.ndarray:
        places = np.arange(len(self.array)) if self.index is None else self.index
        return self.reader(super().__getitem__(which), places[which])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is read."""
        return (len(self), *self.reader.shape)

    @property
    def ndim(self) -> int:
        """Number of axes of what is read."""
        return 1 + len(self.reader.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of what is read."""
        return self.reader.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take once read."""
        return len(self) * int(np.prod(self.reader.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def fixed(self) -> bool:
        """Whether a row is the same each time it is read."""
        return self.reader.fixed

    def take(self, rows: np.ndarray) -> ReadRows:
        """Return a selection of this selection."""
        return ReadRows(self.array, rows if self.index is None else self.index[rows], self.roots, self.reader)


@dataclass(frozen=True)
class TrainingSet:
    """What a deep method trains on: every image once, every text once, and which belongs to which.

    ``image`` (n_images, ...) and ``text`` (n_texts, ...) are `Rows` or arrays; ``pairs`` (n_texts,) int64 is the
    image row of each text; ``labels`` is a multi-hot uint8 (n_images, c) array or None. ``vocabulary`` is the
    number of token ids, padding included, where texts are token ids; ``tables`` holds arrays that came with the
    features, such as the word vectors ``embedding`` (vocabulary, d).
    """

    image: Rows | np.ndarray
    text: Rows | np.ndarray
    pairs: np.ndarray
    labels: np.ndarray | None = None
    vocabulary: int | None = None
    tables: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        """The shapes that a network is built from."""
        classes = None if self.labels is None else int(self.labels.shape[1])
        return Spec(
            tuple(self.image.shape[1:]), tuple(self.text.shape[1:]), len(self.image), len(self.text), classes,
            self.vocabulary,
        )  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What a network must know of its data, so that a checkpoint can be built again without them.

    ``image_shape`` and ``text_shape`` are trailing shapes: (d,) features, (regions, d), (height, width, 3) uint8
    pixels, or (length,) token ids where ``vocabulary`` is given. ``n_images`` and ``n_texts`` count the training
    set; ``classes`` is None without labels.
    """

    image_shape: tuple[int, ...]
    text_shape: tuple[int, ...]
    n_images: int
    n_texts: int
    classes: int | None = None
    vocabulary: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields for checkpoint.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Spec:
        """Return what ``as_json`` described."""
        shapes = {k: tuple(values[k]) for k in ("image_shape", "text_shape")}
        return cls(**{**values, **shapes})
