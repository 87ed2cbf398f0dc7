"""The embedded shapes: 2,400 drawn scenes with five captions each and 24 labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.draws import Draws
from cmrkit.data.paired import PairedData
from cmrkit.data.reading import require
from cmrkit.data.shapes import SCENES, generate

SPLITS = ("default", "subset")
IMAGE = ("pixels", "color-edge-hist", "color-edge-grid", "color-edge-pooled")
TEXT = ("captions", "bow", "tfidf", "tfidf-lsa-64", "tokens")
SPLIT_SEED = 20260103


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the scenes and captions; every feature is computed from those.

    The split "default" trains on the whole database of 1,800 scenes, "subset" on 600 of them.
    """
    require("split", split, SPLITS, "shapes")
    require("image feature", image, IMAGE, "shapes")
    require("text feature", text, TEXT, "shapes")
    shapes = generate()
    return PairedData(
        name="shapes",
        pairs=np.repeat(np.arange(SCENES, dtype=np.int64), 5),
        splits=divide(split),
        image_items=shapes.images,
        captions=shapes.captions,
        labels=shapes.labels,
        classes=shapes.classes,
    )


def divide(split: str) -> dict[str, np.ndarray]:
    """Return the image rows of each part of ``split``."""
    order = Draws(SPLIT_SEED).permutation(SCENES)
    train = order[600:] if split == "default" else order[600:1200]
    parts = {"train": train, "val": order[400:600], "query": order[:400], "database": order[600:]}
    return {role: np.sort(rows) for role, rows in parts.items()}
