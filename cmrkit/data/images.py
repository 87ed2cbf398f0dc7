"""Images that stay in the archive or folder they came in, and are decoded one at a time."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from cmrkit.errors import CmrkitError, UsageError


@dataclass(frozen=True)
class ImageFiles:
    """Image files inside zip archives or folders, as a sequence of RGB arrays.

    ``members`` gives each image as (asset, name): the name under which the dataset's manifest declares the
    archive, and the path inside it. What is stored about a dataset thus does not depend on where its files
    lie; ``roots`` says that, and may be empty until an image is wanted.
    """

    members: tuple[tuple[str, str], ...]
    roots: Mapping[str, Path] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return image ``row`` as uint8 (height, width, 3). Raises CmrkitError where it cannot be read."""
        from PIL import Image

        asset, name = self.members[row]
        if asset not in self.roots:
            raise CmrkitError(f"image {name} is wanted, but nothing says where the asset {asset!r} lies")
        try:
            with Image.open(io.BytesIO(_read(self.roots[asset], name))) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, KeyError, zipfile.BadZipFile, SyntaxError, ValueError) as error:
            raise CmrkitError(f"{self.roots[asset]}: image {name} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))


def find_images(images: Sequence[str], roots: Mapping[str, Path]) -> ImageFiles:
    """Return ``images`` where they lie in the archives ``roots``, whichever folders those put them in.

    An image is known by its path from the right: ``val2014/a.jpg`` is found as ``coco/val2014/a.jpg``.
    Raises UsageError naming the first image that no archive has.
    """
    found: dict[str, tuple[str, str]] = {}
    depths = {image.count("/") + 1 for image in images}
    for asset, root in roots.items():
        for member in member_names(root):
            parts = member.split("/")
            for depth in depths:
                found.setdefault("/".join(parts[-depth:]), (asset, member))
    missing = [image for image in images if image not in found]
    if missing:
        where = ", ".join(str(root) for root in roots.values())
        raise UsageError(f"{where}: no image {missing[0]} ({len(missing)} of {len(images)} are missing)")
    return ImageFiles(tuple(found[image] for image in images), roots)


def member_names(root: Path) -> list[str]:
    """Return the names of the files in a zip archive or below a folder, sorted.

    Raises CmrkitError where ``root`` is neither.
    """
    if root.is_dir():
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    try:
        names = _archive(root, os.getpid()).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise CmrkitError(f"{root}: not a zip archive or folder of images: {error}") from error
    return sorted(name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/"))


def _read(root: Path, name: str) -> bytes:
    return (root / name).read_bytes() if root.is_dir() else _archive(root, os.getpid()).read(name)


@lru_cache(maxsize=4)
def _archive(root: Path, process: int) -> zipfile.ZipFile:
    # Opening an archive reads its whole directory, which would cost more than the image itself. A forked
    # process needs its own, because the position in an open file is shared with its parent.
    return zipfile.ZipFile(root)
