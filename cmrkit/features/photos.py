"""Photographs as networks take them: decoded when they are asked for, never held all at once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.images import ImageFiles
from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features.base import Extracted, Job, require_images
from cmrkit.features.encoders import Framing
from cmrkit.features.loading import default_workers

PATCH = 32  # sides of images that keep their proportions are multiples of this
LONGEST = 1333 / 800  # of those images' longer side to the shorter one's size, before rounding


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return where each photograph lies, an array of byte strings ``asset:path inside it``; a reader opens them.

    Raises UsageError where the dataset has no image files. With ``skip_bad`` all are opened once, and those that
    cannot be are left out.
    """
    job.choose(name)
    items = require_images(name, data)
    if not isinstance(items, ImageFiles):
        raise UsageError(f"{data.name}: {name!r} needs image files; this dataset's images are an array, see 'pixels'")
    members = np.array([f"{asset}:{member}".encode() for asset, member in items.members])
    skipped = tuple(row for row in range(len(items)) if not _opens(items, row)) if job.skip_bad else ()
    return Extracted("image", members, kind="photos", skipped=skipped)


def _opens(items: ImageFiles, row: int) -> bool:
    try:
        items[row]
    except CmrkitError:
        return False
    return True


@dataclass
class PhotoReader:
    """Opens photographs and brings them to the size of a network's input.

    ``framing`` "squash" makes a square whatever the proportions; "crop" resizes the shorter side and cuts the middle
    out; "aspect" keeps the proportions (ViLT: shorter side ``size``, longer at most 1333/800 of it, both multiples of
    32) and pads to the largest of a batch, with a fourth channel that is 255 where the image is. ``augment`` is a
    chain of `cmrkit.data.augment`, drawn for each row anew in every ``epoch``.
    """

    size: int
    framing: str = "squash"
    interpolation: str = "bicubic"
    augment: str = ""
    seed: int = 0
    roots: Mapping[str, Path] = field(default_factory=dict)
    epoch: int = 0
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Trailing shape of what comes out: (height, width, channels), the largest where sizes differ."""
        if self.framing != "aspect":
            return (self.size, self.size, 3)
        return (longest_side(self.size),) * 2 + (4,)

    @property
    def fixed(self) -> bool:
        """Whether a row gives the same pixels each time."""
        return not self.augment

    def __call__(self, names: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return uint8 (n, height, width, channels) of ``names`` (n,), which stand in ``rows`` (n,) of their array.

        Raises CmrkitError naming an image that cannot be read.
        """
        files = ImageFiles(tuple(tuple(name.decode().split(":", 1)) for name in names), self.roots)

        def one(place: int) -> np.ndarray:
            return self._framed(files[place], int(rows[place]))

        images = list(_pool().map(one, range(len(files))))
        return np.stack(images) if self.framing != "aspect" else padded(images, self.shape)

    def _framed(self, image: np.ndarray, row: int) -> np.ndarray:
        from PIL import Image

        if self.augment:
            rng = np.random.default_rng([self.seed, self.epoch, row])
            picture = Image.fromarray(image)
            for change in self._chain:
                picture = change(picture, rng)
            image = np.asarray(picture)
        if self.framing == "aspect":
            height, width = image.shape[:2]
            target = aspect_size(width, height, self.size)
            return np.asarray(Image.fromarray(image).resize(target, self._resample))
        return Framing(self.size, 1.0 if self.framing == "crop" else None, self.interpolation)(image)

    @cached_property
    def _chain(self) -> list[Any]:
        from cmrkit.data.augment import parse_chain

        return parse_chain(self.augment, self.size, self._resample)

    @property
    def _resample(self) -> Any:
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]


def longest_side(size: int) -> int:
    """Return the longest side that an image kept in proportion can have, in pixels."""
    return int(LONGEST * size) // PATCH * PATCH


def aspect_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side ``size``, unless the longer one would grow too long.

    Both are rounded down to multiples of 32, as ViLT's transform does it.
    """
    scale = min(size / min(width, height), int(LONGEST * size) / max(width, height))
    return tuple(max(PATCH, int(side * scale + 0.5) // PATCH * PATCH) for side in (width, height))


def padded(images: list[np.ndarray], limit: tuple[int, ...]) -> np.ndarray:
    """Return images (h, w, 3) of different sizes as one uint8 array (n, H, W, 4), marked where they are."""
    height, width = (max((image.shape[axis] for image in images), default=limit[axis]) for axis in (0, 1))
    out = np.zeros((len(images), height, width, 4), np.uint8)
    for row, image in enumerate(images):
        h, w = image.shape[:2]
        out[row, :h, :w, :3], out[row, :h, :w, 3] = image, 255
    return out


_POOL: list[ThreadPoolExecutor] = []


def _pool() -> ThreadPoolExecutor:
    if not _POOL:
        _POOL.append(ThreadPoolExecutor(default_workers(), thread_name_prefix="decode"))
    return _POOL[0]
