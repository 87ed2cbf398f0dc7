"""Flickr8k: 8,000 photographs in the official split, five captions each; no labels.

The caption file names one image ``2258277193_586949ec62.jpg.1`` in one line and ``.jpg`` in four. It is in no
split, as are 91 more images, so what is read are the images of the split files, in their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.images import find_images
from cmrkit.data.paired import PairedData
from cmrkit.data.reading import asset, read_lines, require, rows_in_order
from cmrkit.errors import UsageError

# A feature of the resized images carries their size in its name: it never passes for one of the originals.
OF_PIXELS = (
    "photos",
    "pixels",
    "color-edge-hist",
    "mobilenetv2-pooled",
    "mobilenetv2-grid",
    "squeezenet-pooled",
    "squeezenet-grid",
)
ARCHIVES = {**dict.fromkeys(OF_PIXELS, "images"), **{f"{name}-224": "images-224" for name in OF_PIXELS}}
TEXT = ("captions", "bow", "tfidf", "tfidf-lsa-256", "lda-10", "tokens", "tokens-glove")
LISTS = {"train": "train-list", "val": "dev-list", "query": "test-list"}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return images and captions under the split "official"; retrieval is within the test set."""
    require("split", split, ("official",), "flickr8k")
    archive = ARCHIVES[require("image feature", image, ARCHIVES, "flickr8k")]
    require("text feature", text, TEXT, "flickr8k")
    lists = {role: read_lines(asset(assets, name, "flickr8k")) for role, name in LISTS.items()}
    names = [name for part in lists.values() for name in part]
    captions = read_captions(asset(assets, "captions", "flickr8k"))
    missing = [name for name in names if name not in captions]
    if missing:
        raise UsageError(f"{assets['captions']}: has no caption for {missing[0]} ({len(missing)} such images)")
    splits = rows_in_order(**{role: len(part) for role, part in lists.items()})
    return PairedData(
        name="flickr8k",
        pairs=np.repeat(np.arange(len(names), dtype=np.int64), [len(captions[name]) for name in names]),
        splits={**splits, "database": splits["query"]},
        image_items=find_images(names, {archive: asset(assets, archive, "flickr8k")}),
        captions=[caption for name in names for caption in captions[name]],
    )


def read_captions(path: Path) -> dict[str, list[str]]:
    """Return the captions of each image from lines ``image.jpg#number<TAB>caption``.

    Raises UsageError naming the line that is not of this form.
    """
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(read_lines(path), start=1):
        key, tab, caption = line.partition("\t")
        name, mark, _ = key.partition("#")
        if not (tab and mark):
            raise UsageError(f"{path}:{number}: expected 'image#number<TAB>caption', found {line[:60]!r}")
        captions[name.removesuffix(".1")].append(caption)
    return dict(captions)
