"""MS-COCO with its captions, in Karpathy's split; no labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmrkit.data.images import find_images
from cmrkit.data.karpathy import joined, read_annotations, read_splits
from cmrkit.data.paired import PairedData
from cmrkit.data.reading import asset, require, rows_in_order

SHIPPED = ("bottomup-36",)  # regions that come without the photographs
IMAGE = ("photos", "pixels", "color-edge-hist", "mobilenetv2-pooled", "mobilenetv2-grid", *SHIPPED)
TEXT = ("captions", "bow", "tfidf", "tfidf-lsa-256", "tokens")
TESTS = {"test-5k": "test-captions", "test-5k-gz": "test-captions-gz"}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return images and captions under "karpathy", or only its test set under "test-5k" and "test-5k-gz".

    Retrieval is within the test set of 5,000 images. Ten of its images have six captions.
    """
    require("split", split, ("karpathy", *TESTS), "mscoco")
    require("image feature", image, IMAGE, "mscoco")
    require("text feature", text, TEXT, "mscoco")
    if split == "karpathy":
        read_parts = read_splits(asset(assets, "karpathy", "mscoco"), "dataset_coco.json")
        parts = {"train": read_parts["train"], "val": read_parts["val"], "query": read_parts["test"]}
        archives = ("train2014", "val2014")
    else:
        parts = {"query": read_annotations(asset(assets, TESTS[split], "mscoco"))}
        archives = ("val2014",)
    images, pairs, captions = joined(parts)
    splits = rows_in_order(**{role: len(part) for role, part in parts.items()})
    items = None
    if image not in SHIPPED:
        roots = {name: asset(assets, name, "mscoco") for name in archives}
        items = find_images([i.image for i in images], roots)
    return PairedData(
        name="mscoco",
        pairs=pairs,
        splits={**splits, "database": splits["query"]},
        image_items=items,
        captions=captions,
    )
