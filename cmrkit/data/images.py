"""Images that stay in the archive or folder they came in, and are decoded one at a time."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmrkit.data.archives import member_names, read_member
from cmrkit.errors import CmrkitError, UsageError

# What Pillow and zipfile raise on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class ImageFiles:
    """Image files inside archives or folders, as a sequence of RGB arrays.

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
        asset, name = self.members[row]
        if asset not in self.roots:
            raise CmrkitError(f"image {name} is wanted, but nothing says where the asset {asset!r} lies")
        try:
            return decode(read_member(self.roots[asset], name))
        except _UNREADABLE as error:
            raise CmrkitError(f"{self.roots[asset]}: image {name} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))


def decode(content: bytes) -> np.ndarray:
    """Return the image in ``content`` as uint8 RGB (height, width, 3), as a viewer would show it.

    It is turned upright where a camera left a note of its orientation, 16-bit greys are scaled, what is
    transparent shows white, and of an animation the first frame counts. Raises `ValueError`, `OSError` or another
    of the exceptions that Pillow has for damaged files.
    """
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    with image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            return _grey(np.asarray(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    # Pillow's own conversion clips 16-bit greys at 255, which leaves nearly white images.
    deep = values.dtype.kind != "f" and values.size and values.max() > 255
    grey = np.clip(values // 257 if deep else values, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


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
