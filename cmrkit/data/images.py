"""Images that stay in the archive or folder they came in, and are decoded one at a time."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cmrkit.errors import CmrkitError


@dataclass(frozen=True)
class ImageFiles:
    """Image files inside ``root``, a zip archive or a folder, as a sequence of RGB arrays.

    ``asset`` is the name under which the dataset's manifest declares ``root``, so that what is stored about
    a dataset does not depend on where its files lie. ``root`` may be None until an image is wanted.
    """

    asset: str
    names: tuple[str, ...]
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return image ``row`` as uint8 (height, width, 3). Raises CmrkitError where it cannot be read."""
        from PIL import Image

        name = self.names[row]
        if self.root is None:
            raise CmrkitError(f"image {name} is wanted, but nothing says where the asset {self.asset!r} lies")
        try:
            with Image.open(io.BytesIO(_read(self.root, name))) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, KeyError, zipfile.BadZipFile, SyntaxError, ValueError) as error:
            raise CmrkitError(f"{self.root}: image {name} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))


def member_names(root: Path) -> list[str]:
    """Return the names of the files in a zip archive or below a folder, sorted.

    Raises CmrkitError where ``root`` is neither.
    """
    if root.is_dir():
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    try:
        return sorted(name for name in _archive(root, os.getpid()).namelist() if not name.endswith("/"))
    except (OSError, zipfile.BadZipFile) as error:
        raise CmrkitError(f"{root}: not a zip archive or folder of images: {error}") from error


def _read(root: Path, name: str) -> bytes:
    return (root / name).read_bytes() if root.is_dir() else _archive(root, os.getpid()).read(name)


@lru_cache(maxsize=4)
def _archive(root: Path, process: int) -> zipfile.ZipFile:
    # Opening an archive reads its whole directory, which would cost more than the image itself. A forked
    # process needs its own, because the position in an open file is shared with its parent.
    return zipfile.ZipFile(root)
