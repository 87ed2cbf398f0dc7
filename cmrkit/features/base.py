"""What an extractor is given, what it returns, and the checks they share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError

BLOCK = 1 << 24  # elements looked at in one go

Kind = Literal["vectors", "regions", "pixels", "tokens", "states", "photos", "captions"]


@dataclass(frozen=True)
class Job:
    """How to extract: ``options`` and ``assets`` decide the result, everything else only how it comes about.

    ``options`` are those of the manifest's feature; ``assets`` says where its files lie. ``work`` is a folder
    that outlives a killed process, where large arrays grow and from where they are continued; without it they
    grow in memory. With ``skip_bad`` an image that cannot be read is left out and counted
    instead of ending the extraction. ``workers`` is the number of decoding threads, ``batch`` the largest
    number of items that an encoder is given at once; by default both depend on the machine. The ``device`` is
    PyTorch's name for one, or "auto".
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
    work: Path | None = None
    device: str = "cpu"
    progress: bool = False
    skip_bad: bool = False
    workers: int | None = None
    batch: int | None = None

    @property
    def batch_size(self) -> int:
        """The largest number of items at once: by default what keeps a device busy and a processor's cache warm."""
        return self.batch or (16 if self.device == "cpu" else 128)

    def choose(self, name: str, **defaults: Any) -> dict[str, Any]:
        """Return the options of extractor ``name`` over its defaults. Raises UsageError for an unknown one."""
        unknown = [option for option in self.options if option not in defaults]
        if unknown:
            known = ", ".join(defaults) or "none"
            raise UsageError(f"extractor {name!r} has no option {unknown[0]!r}; it has {known}")
        return {**defaults, **self.options}

    def asset(self, name: str) -> Path:
        """Return where the asset ``name`` lies. Raises UsageError where it was not handed over."""
        if name not in self.assets:
            known = ", ".join(self.assets) or "none"
            raise UsageError(f"the feature needs the asset {name!r}, but its manifest lists {known}")
        return Path(self.assets[name])


@dataclass(frozen=True)
class Extracted:
    """The feature of every image or every text, one row each.

    ``matrix`` is (n, d) for "vectors", (n, regions, d) for "regions" of an image, (n, length, d) for the
    "states" of a text (zero where there is no word), uint8 (n, height, width, 3) for "pixels" and int32
    (n, length) for "tokens" (0 where there is no word). "photos" and "captions" are byte strings (n,), which say where
    a photograph lies, or what a caption says. ``vocabulary`` is the word of each column, or of each
    token number. ``tables`` are further arrays, such as a vector for each token number. ``skipped`` are the
    rows of the images to leave out: their own rows, or those of their texts, hold nothing of use.
    """

    modality: str
    matrix: np.ndarray
    vocabulary: tuple[str, ...] = ()
    kind: Kind = "vectors"
    meta: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    skipped: tuple[int, ...] = ()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write ``{modality}.npy`` and ``{modality}-{table}.npy``; return what there is to say about them.

        An array that lies in a file of its own is moved, not copied, and must not be used any more.
        """
        target = folder / f"{self.modality}.npy"
        grown = grown_file(self.matrix)
        if grown is None:
            np.save(target, self.matrix, allow_pickle=False)
        else:
            self.matrix.flush()
            shutil.move(grown, target)
        for name, table in self.tables.items():
            np.save(folder / f"{self.modality}-{name}.npy", table, allow_pickle=False)
        return self.about()

    def about(self) -> dict[str, Any]:
        """Return kind, shape, dtype, vocabulary and the shapes of tables, as JSON can hold them."""
        about = {"kind": self.kind, "shape": list(self.matrix.shape), "dtype": str(self.matrix.dtype)}
        if self.vocabulary:
            about["vocabulary"] = list(self.vocabulary)
        if self.tables:
            about["tables"] = {name: list(table.shape) for name, table in self.tables.items()}
        return {**about, **self.meta}


def grown_file(matrix: np.ndarray) -> Path | None:
    """Return the file that a whole, writable memory map grew in, or None for any other array."""
    whole = isinstance(matrix, np.memmap) and not isinstance(matrix.base, np.ndarray)
    mapped = whole and matrix.mode in ("r+", "w+")
    return Path(matrix.filename) if mapped else None


def require_images(name: str, data: PairedData) -> Any:
    """Return the images of ``data``. Raises UsageError where it was read without."""
    if data.image_items is None:
        raise UsageError(f"{data.name}: {name!r} needs images, and this dataset was read without any")
    return data.image_items


def require_captions(name: str, data: PairedData, skip_bad: bool = False) -> tuple[list[str], tuple[int, ...]]:
    """Return the captions of ``data``, and the image rows to leave out because one of theirs is empty.

    Raises UsageError where the data was read without captions, or, unless ``skip_bad``, where one is empty.
    """
    if data.captions is None:
        raise UsageError(f"{data.name}: {name!r} needs captions, and this dataset was read without any")
    empty = [row for row, caption in enumerate(data.captions) if not caption.strip()]
    if empty and not skip_bad:
        image = int(data.pairs[empty[0]])
        raise UsageError(
            f"{data.name}: the caption in text row {empty[0]}, of image row {image}, is empty"
            f" ({len(empty)} such captions); with skip_bad their images are left out"
        )
    return data.captions, tuple(sorted({int(data.pairs[row]) for row in empty}))


def require_finite(matrix: np.ndarray, what: str) -> None:
    """Raise UsageError naming the first row of ``matrix`` that holds NaN or infinity."""
    if matrix.dtype.kind != "f" or not matrix.size:
        return
    rows = max(1, BLOCK // max(1, matrix[0].size))
    for start in range(0, len(matrix), rows):
        block = matrix[start : start + rows]
        bad = np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))
        if len(bad):
            raise UsageError(f"{what} has NaN or infinity in row {start + bad[0]}")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises CmrkitError naming it where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CmrkitError(f"{path}: cannot be read as JSON: {error}") from error
