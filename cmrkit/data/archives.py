"""Files inside folders, zip and tar archives and the hub's Parquet files, read in place: nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cmrkit.errors import CmrkitError, UsageError


def member_names(root: Path) -> list[str]:
    """Return the names of the files below a folder, or in an archive, sorted.

    Webdataset shards are tar archives. Of a Parquet file in the form of the Hugging Face hub each image is a file,
    called by the path stored beside its bytes, or by its row. Raises CmrkitError where ``root`` is none of these.
    """
    if root.is_dir():
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    names = sorted(_index(root))
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]


def read_member(root: Path, name: str) -> bytes:
    """Return the content of a file below a folder or in an archive. Raises OSError or KeyError where there is none."""
    if root.is_dir():
        return (root / name).read_bytes()
    kind = _kind(root)
    if kind == "zip":
        return _zip(root, os.getpid()).read(name)
    where = _index(root)[name]
    if kind == "parquet":
        return _images_of(root, where[0])[where[1]]
    with root.open("rb") as file:  # a handle of its own: threads read at once
        file.seek(where[0])
        return file.read(where[1])


def _kind(root: Path) -> str:
    if root.suffix == ".parquet":
        return "parquet"
    return "tar" if root.is_file() and not zipfile.is_zipfile(root) and _starts_as_tar(root) else "zip"


def _starts_as_tar(root: Path) -> bool:
    with root.open("rb") as file:
        file.seek(257)
        return file.read(5) == b"ustar"


@lru_cache(maxsize=64)
def _index(root: Path) -> Mapping[str, tuple[int, int]]:
    """Return where each file lies: (offset, size) in a tar archive, (row group, row) in a Parquet file."""
    kind = _kind(root)
    try:
        if kind == "tar":
            with tarfile.open(root, "r:") as archive:
                return {m.name.removeprefix("./"): (m.offset_data, m.size) for m in archive if m.isfile()}
        if kind == "parquet":
            return _parquet_index(root)
        return dict.fromkeys(_zip(root, os.getpid()).namelist(), (0, 0))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise CmrkitError(f"{root}: not a zip or tar archive, Parquet file or folder of images: {error}") from error


def _parquet_index(root: Path) -> dict[str, tuple[int, int]]:
    file, places = _parquet(root), {}
    for group in range(file.num_row_groups):
        for row, image in enumerate(_image_column(root, group, "path")):
            places[image or f"{group}-{row}"] = (group, row)
    return places


@lru_cache(maxsize=4)
def _images_of(root: Path, group: int) -> list[bytes]:
    return _image_column(root, group, "bytes")


def _image_column(root: Path, group: int, part: str) -> list:
    table = _parquet(root).read_row_group(group, columns=[f"image.{part}"])
    if "image" not in table.column_names:
        raise CmrkitError(f"{root}: has no column 'image' with 'bytes' and 'path', as the hub stores images")
    return [image[part] for image in table.column("image").to_pylist()]


def _parquet(root: Path):
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError(f"{root}: reading Parquet files needs pyarrow: pip install 'cmrkit[parquet]'") from None
    try:
        return ParquetFile(root)
    except ArrowInvalid as error:
        raise CmrkitError(f"{root}: not a Parquet file: {error}") from error


@lru_cache(maxsize=4)
def _zip(root: Path, process: int) -> zipfile.ZipFile:
    # Opening an archive reads its whole directory, which would cost more than the image itself. A forked
    # process needs its own, because the position in an open file is shared with its parent.
    return zipfile.ZipFile(root)
