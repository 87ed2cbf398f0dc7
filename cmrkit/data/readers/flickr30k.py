"""Flickr30k: photographs with five captions each, in Karpathy's split; no labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.images import find_images
from cmrkit.data.karpathy import Described, joined, read_aligned, read_annotations
from cmrkit.data.paired import PairedData
from cmrkit.data.reading import asset, require, rows_in_order

SHIPPED = ("bottomup-36",)  # regions that come without the photographs
IMAGE = ("photos", "pixels", "color-edge-hist", "mobilenetv2-pooled", "mobilenetv2-grid", *SHIPPED)
TEXT = ("captions", "bow", "tfidf", "tfidf-lsa-256", "tokens")


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return images and captions under "karpathy", or only its test set under "test-1k".

    Retrieval is within the test set.
    """
    require("split", split, ("karpathy", "test-1k"), "flickr30k")
    require("image feature", image, IMAGE, "flickr30k")
    require("text feature", text, TEXT, "flickr30k")
    parts = {"query": read_annotations(asset(assets, "test-captions", "flickr30k"))}
    if split == "karpathy":
        val = read_annotations(asset(assets, "val-captions", "flickr30k"))
        parts = {"train": _train(assets), "val": val, **parts}
    images, pairs, captions = joined(parts)
    splits = rows_in_order(**{role: len(part) for role, part in parts.items()})
    items = None
    if image not in SHIPPED:
        items = find_images([i.image for i in images], {"images": asset(assets, "images", "flickr30k")})
    return PairedData(
        name="flickr30k",
        pairs=pairs,
        splits={**splits, "database": splits["query"]},
        image_items=items,
        captions=captions,
    )


def _train(assets: Mapping[str, Path]) -> list[Described]:
    captions = [asset(assets, f"train-captions-{number}", "flickr30k") for number in range(1, 6)]
    return read_aligned(asset(assets, "train-images", "flickr30k"), captions)
