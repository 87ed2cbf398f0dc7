"""MIRFlickr-25K as the hashing papers clean it: 20,015 photographs with tags, 24 labels.

The cleaned lists come in the order of the photographs' numbers. The file of the DCMH authors holds the same
number of items in an order of its own, which its split relies on, so the two are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.draws import Draws
from cmrkit.data.images import find_images
from cmrkit.data.paired import PairedData
from cmrkit.data.parts import Part, read_parts
from cmrkit.data.reading import asset, mat_arrays, multi_hot, read_lines, require, rows_in_order
from cmrkit.errors import UsageError

CLASSES = (
    "animals", "baby", "bird", "car", "clouds", "dog",
    "female", "flower", "food", "indoor", "lake", "male",
    "night", "people", "plant_life", "portrait", "river", "sea",
    "sky", "structures", "sunset", "transport", "tree", "water",
)  # fmt: skip
SEED = 20260104
CNN = {
    "train": Part("I_tr", "T_tr", "L_tr"),
    "query": Part("I_te", "T_te", "L_te"),
    "database": Part("I_db", "T_db", "L_db"),
}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the items under "seeded", "dcmh" or "bmc", each with the features that its files hold."""
    readers = {"seeded": _read_lists, "dcmh": _read_dcmh, "bmc": _read_bmc}
    require("split", split, readers, "mirflickr25k")
    return readers[split](assets, image, text)


def _read_lists(assets: Mapping[str, Path], image: str, text: str) -> PairedData:
    require("image feature of split seeded", image, ("pixels", "color-edge-hist"), "mirflickr25k")
    require("text feature of split seeded", text, ("tags-1386",), "mirflickr25k")
    names, tags, labels, vocabulary = (
        read_lines(asset(assets, name, "mirflickr25k")) for name in ("image-list", "tags", "labels", "tag-list")
    )
    if not len(names) == len(tags) == len(labels):
        raise UsageError(f"mirflickr25k: {len(names)} images, {len(tags)} tag lines, {len(labels)} label lines")
    order = Draws(SEED).permutation(len(names))
    return PairedData(
        name="mirflickr25k",
        pairs=np.arange(len(names), dtype=np.int64),
        splits={
            "train": np.sort(order[2000:12000]),
            "query": np.sort(order[:2000]),
            "database": np.sort(order[2000:]),
        },
        text={text: tag_matrix(tags, vocabulary, assets["tags"])},
        image_items=find_images(names, {"images": asset(assets, "images", "mirflickr25k")}),
        labels=multi_hot(np.array([line.split() for line in labels], dtype=int), assets["labels"]),
        classes=CLASSES,
    )


def tag_matrix(tags: list[str], vocabulary: list[str], path: Path) -> np.ndarray:
    """Return comma-separated tags as 0/1 float32 (n, d). Raises UsageError for a tag that is not in the vocabulary."""
    columns = {tag: column for column, tag in enumerate(vocabulary)}
    matrix = np.zeros((len(tags), len(vocabulary)), dtype=np.float32)
    for row, line in enumerate(tags):
        for tag in line.split(","):
            if tag not in columns:
                raise UsageError(f"{path}:{row + 1}: the tag {tag!r} is not in the list of tags")
            matrix[row, columns[tag]] = 1
    return matrix


def _read_dcmh(assets: Mapping[str, Path], image: str, text: str) -> PairedData:
    require("image feature of split dcmh", image, ("dcmh-pixels", "dcmh-color-edge-hist"), "mirflickr25k")
    require("text feature of split dcmh", text, ("dcmh-tags-1386",), "mirflickr25k")
    path = asset(assets, "dcmh", "mirflickr25k")
    images, tags, labels = mat_arrays(path, ("images", "YAll", "LAll"))
    rows = rows_in_order(query=2000, database=len(labels) - 2000)
    return PairedData(
        name="mirflickr25k",
        pairs=np.arange(len(labels), dtype=np.int64),
        splits={"train": rows["database"][:10000], **rows},
        text={text: tags.astype(np.float32)},
        image_items=np.moveaxis(images, 3, 0).astype(np.uint8),
        labels=multi_hot(labels, path),
        classes=CLASSES,
    )


def _read_bmc(assets: Mapping[str, Path], image: str, text: str) -> PairedData:
    require("image feature of split bmc", image, ("bmc-cnn",), "mirflickr25k")
    require("text feature of split bmc", text, ("bmc-tags",), "mirflickr25k")
    path = asset(assets, "bmc", "mirflickr25k")
    return read_parts("mirflickr25k", path, CNN, image=image, text=text, classes=CLASSES)
