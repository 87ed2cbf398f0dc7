"""Images, the texts that belong to them, their labels and their splits: what every reader returns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.images import ImageFiles
from cmrkit.errors import CmrkitError, UsageError

ROLES = ("train", "val", "query", "database")
INDEX = "data.json"


@dataclass(frozen=True)
class PairedData:
    """A dataset of image-text pairs, as features, as raw items, or both.

    An image may have several texts: ``pairs`` (n_texts,) gives each text the row of its image, and a split
    is a set of image rows, which brings the images' texts along.

    ``image`` and ``text`` map feature names to 2-d arrays, (n_images, d) and (n_texts, d). ``image_items``
    is a uint8 array (n_images, height, width, 3) or an `ImageFiles`; ``captions`` has n_texts strings.
    ``labels`` is multi-hot uint8 (n_images, n_classes), or None. ``splits`` maps "train", "val", "query"
    and "database" to int64 image rows; "database" may hold the training images, or more than those.
    """

    name: str
    pairs: np.ndarray
    splits: Mapping[str, np.ndarray]
    image: Mapping[str, np.ndarray] = field(default_factory=dict)
    text: Mapping[str, np.ndarray] = field(default_factory=dict)
    image_items: np.ndarray | ImageFiles | None = None
    captions: list[str] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    @property
    def n_images(self) -> int:
        """The number of images."""
        for rows in (self.image_items, *self.image.values(), self.labels):
            if rows is not None:
                return len(rows)
        return int(self.pairs.max()) + 1 if len(self.pairs) else 0

    @property
    def n_texts(self) -> int:
        """The number of texts."""
        return len(self.pairs)

    def image_rows(self, split: str) -> np.ndarray:
        """Return the image rows of ``split``. Raises UsageError where there is no such split."""
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise UsageError(f"{self.name}: no split {split!r}; it has {known}")
        return self.splits[split]

    def text_rows(self, split: str) -> np.ndarray:
        """Return the rows of the texts of ``split``, in the order of its images and then of the texts."""
        images = self.image_rows(split)
        by_image = np.argsort(self.pairs, kind="stable")
        ends = np.cumsum(np.bincount(self.pairs, minlength=self.n_images))
        starts = np.concatenate([[0], ends[:-1]])
        return np.concatenate([by_image[starts[i] : ends[i]] for i in images]).astype(np.int64)

    def matrix(self, modality: str, name: str) -> np.ndarray:
        """Return the feature ``name`` of "image" or "text". Raises UsageError where it is no matrix here."""
        features = {"image": self.image, "text": self.text}[modality]
        if name not in features:
            known = ", ".join(features) or "none: raw items, which need an extractor"
            raise UsageError(f"{self.name}: no matrix of {modality} feature {name!r}; there is {known}")
        return features[name]

    def replace(self, **changes: Any) -> PairedData:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def validate(self) -> PairedData:
        """Return self. Raises UsageError at the first thing that is not as this class promises."""
        self._check_features("image", self.image)
        self._check_features("text", self.text)
        self._check_counts()
        self._check_pairs()
        self._check_items()
        self._check_splits()
        if self.labels is not None:
            self._check_labels(self.labels)
        return self

    def save(self, folder: Path) -> None:
        """Write everything below ``folder`` as .npy files and one JSON file, byte for byte reproducible.

        Raises CmrkitError where the folder cannot be written.
        """
        arrays = dict(self._arrays())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
            index = json.dumps(self._index(), ensure_ascii=False, indent=1)
            (folder / INDEX).write_text(index, encoding="utf-8")
        except OSError as error:
            raise CmrkitError(f"{folder}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, folder: Path, assets: Mapping[str, Path] | None = None) -> PairedData:
        """Return what `save` wrote; arrays are memory-mapped and read-only.

        ``assets`` says where on this machine the files lie that `ImageFiles` reads its images from.
        Raises CmrkitError where a file is missing or damaged.
        """
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))

            def array(name: str) -> np.ndarray:
                return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

            items = index["image_items"]
            if isinstance(items, dict):
                items = ImageFiles(tuple(map(tuple, items["members"])), assets or {})
            return cls(
                name=index["name"],
                pairs=array("pairs"),
                splits={role: array(f"split.{role}") for role in index["splits"]},
                image={name: array(f"image.{name}") for name in index["image"]},
                text={name: array(f"text.{name}") for name in index["text"]},
                image_items=array("image_items") if items == "array" else items,
                captions=index["captions"],
                labels=array("labels") if index["labels"] else None,
                classes=tuple(index["classes"]),
            )
        except (OSError, ValueError, KeyError) as error:
            raise CmrkitError(f"{folder}: not prepared data, or damaged ({error}): prepare it again") from error

    def _arrays(self) -> Mapping[str, np.ndarray]:
        arrays = {"pairs": self.pairs}
        arrays |= {f"split.{role}": rows for role, rows in self.splits.items()}
        arrays |= {f"image.{name}": matrix for name, matrix in self.image.items()}
        arrays |= {f"text.{name}": matrix for name, matrix in self.text.items()}
        if self.labels is not None:
            arrays["labels"] = self.labels
        if isinstance(self.image_items, np.ndarray):
            arrays["image_items"] = self.image_items
        return arrays

    def _index(self) -> dict[str, Any]:
        items = self.image_items
        if isinstance(items, ImageFiles):
            items = {"members": items.members}
        elif items is not None:
            items = "array"
        return {
            "name": self.name,
            "image": list(self.image),
            "text": list(self.text),
            "image_items": items,
            "splits": list(self.splits),
            "labels": self.labels is not None,
            "classes": self.classes,
            "captions": self.captions,
        }

    def _fail(self, what: str) -> None:
        raise UsageError(f"{self.name}: {what}")

    def _check_pairs(self) -> None:
        if self.pairs.ndim != 1 or self.pairs.dtype != np.int64:
            self._fail(f"pairs must be a 1-d int64 array, not {self.pairs.ndim}-d {self.pairs.dtype}")
        if not len(self.pairs):
            self._fail("there are no texts")
        outside = np.flatnonzero((self.pairs < 0) | (self.pairs >= self.n_images))
        if len(outside):
            row = outside[0]
            self._fail(f"text row {row} belongs to image row {self.pairs[row]} of {self.n_images} images")

    def _check_features(self, modality: str, features: Mapping[str, np.ndarray]) -> None:
        for name, matrix in features.items():
            which = f"{modality} feature {name!r}"
            if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
                self._fail(f"{which} must be a 2-d numeric array, not {matrix.ndim}-d {matrix.dtype}")
            bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1)) if matrix.dtype.kind == "f" else ()
            if len(bad):
                self._fail(f"{which} has NaN or infinity in row {bad[0]} ({len(bad)} such rows)")

    def _check_counts(self) -> None:
        images = {f"image feature {name!r}": matrix for name, matrix in self.image.items()}
        texts = {f"text feature {name!r}": matrix for name, matrix in self.text.items()}
        images |= {"image items": self.image_items, "labels": self.labels}
        texts |= {"pairs": self.pairs, "captions": self.captions}
        for counted in (images, texts):
            counts = {what: len(rows) for what, rows in counted.items() if rows is not None}
            if len(set(counts.values())) > 1:
                listed = ", ".join(f"{what} {count}" for what, count in counts.items())
                self._fail(f"numbers of rows differ: {listed}")

    def _check_items(self) -> None:
        items = self.image_items
        if isinstance(items, np.ndarray) and (items.dtype != np.uint8 or items.ndim != 4 or items.shape[3] != 3):
            self._fail(f"image items must be uint8 (n, height, width, 3), not {items.dtype} {items.shape}")

    def _check_splits(self) -> None:
        has_text = np.bincount(self.pairs, minlength=self.n_images) > 0
        for role, rows in self.splits.items():
            if role not in ROLES:
                self._fail(f"unknown split {role!r}; splits are {', '.join(ROLES)}")
            if rows.ndim != 1 or rows.dtype != np.int64:
                self._fail(f"split {role!r} must be a 1-d int64 array, not {rows.ndim}-d {rows.dtype}")
            if not len(rows):
                self._fail(f"split {role!r} is empty")
            if rows.min() < 0 or rows.max() >= self.n_images:
                row = int(np.flatnonzero((rows < 0) | (rows >= self.n_images))[0])
                self._fail(f"split {role!r} names image row {rows[row]} of {self.n_images} images")
            if len(np.unique(rows)) < len(rows):
                self._fail(f"split {role!r} names image row {_first_repeated(rows)} twice")
            if not has_text[rows].all():
                self._fail(f"split {role!r}: image row {rows[~has_text[rows]][0]} has no text")
        shared = np.intersect1d(self.splits.get("train", ()), self.splits.get("query", ()))
        if len(shared):
            self._fail(f"image row {int(shared[0])} is in both 'train' and 'query' ({len(shared)} such rows)")

    def _check_labels(self, labels: np.ndarray) -> None:
        if labels.ndim != 2 or labels.dtype != np.uint8:
            self._fail(f"labels must be a 2-d uint8 array, not {labels.ndim}-d {labels.dtype}")
        if labels.shape[1] != len(self.classes):
            self._fail(f"labels have {labels.shape[1]} columns for {len(self.classes)} classes")
        if labels.size and labels.max() > 1:
            row = int(np.flatnonzero(labels.max(axis=1) > 1)[0])
            self._fail(f"labels are 0 or 1, but row {row} has {labels[row].max()}")
        for role, rows in self.splits.items():
            bare = rows[~labels[rows].any(axis=1)]
            if len(bare):
                self._fail(f"image row {bare[0]} of split {role!r} has no label ({len(bare)} such rows)")


def _first_repeated(rows: np.ndarray) -> int:
    values, counts = np.unique(rows, return_counts=True)
    return int(values[counts > 1][0])
