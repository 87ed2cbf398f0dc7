"""Captions in the two JSON forms that image-text matching papers share, and images to go with them."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import UsageError


@dataclass(frozen=True)
class Described:
    """One image, by its path inside its archive or folder, and its captions."""

    image: str
    captions: tuple[str, ...]


def read_annotations(path: Path) -> list[Described]:
    """Return the images of a list of ``{image_name, file_path?, captions}``, plain or gzip-compressed.

    Raises UsageError naming the file where it is not of this form.
    """
    return _parsed(path, lambda: _from_list(json.loads(_text(path))))


def read_splits(path: Path, member: str) -> dict[str, list[Described]]:
    """Return the images of each split from ``member`` of the archive with Karpathy's JSON files.

    Its ``restval`` images count as "train", as all papers have it; "test" is returned under that name.
    Raises UsageError naming the file where it is not of this form.
    """

    def parse() -> dict[str, list[Described]]:
        with zipfile.ZipFile(path) as archive:
            images = json.loads(archive.read(member))["images"]
        splits: dict[str, list[Described]] = {"train": [], "val": [], "test": []}
        for image in images:
            name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
            captions = tuple(sentence["raw"] for sentence in image["sentences"])
            splits["train" if image["split"] == "restval" else image["split"]].append(Described(name, captions))
        return splits

    return _parsed(path, parse)


def read_aligned(names: Path, captions: list[Path]) -> list[Described]:
    """Return images listed one a line, with one caption a line in each of several gzip-compressed files.

    Raises UsageError where the files do not have the same number of lines.
    """
    images = _parsed(names, lambda: _text(names).splitlines())
    columns = [_parsed(path, lambda path=path: _text(path).removesuffix("\n").split("\n")) for path in captions]
    for path, column in zip(captions, columns, strict=True):
        if len(column) != len(images):
            raise UsageError(f"{path}: {len(column)} captions for the {len(images)} images of {names}")
    return [
        Described(image, tuple(caption.strip() for caption in row))
        for image, row in zip(images, zip(*columns, strict=True), strict=True)
    ]


def joined(parts: Mapping[str, list[Described]]) -> tuple[list[Described], np.ndarray, list[str]]:
    """Return all images of ``parts`` in order, the image row of each caption (int64), and the captions."""
    images = [image for part in parts.values() for image in part]
    counts = [len(image.captions) for image in images]
    return (
        images,
        np.repeat(np.arange(len(images), dtype=np.int64), counts),
        [caption for image in images for caption in image.captions],
    )


def _from_list(entries: list[dict[str, Any]]) -> list[Described]:
    return [
        Described("/".join(filter(None, (e.get("file_path"), e["image_name"]))), tuple(e["captions"])) for e in entries
    ]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")


def _parsed(path: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not the captions that are expected ({type(error).__name__}: {error})") from error
