"""The UCI multiple-features digits as the FSH paper pairs them: two descriptions of one handwritten digit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.data.reading import asset, one_hot, require, rows_in_order, stacked

IMAGE = {"fourier-76": ("I_tr", "I_te")}
TEXT = {"karhunen-64": ("T_tr", "T_te")}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return 2,000 digits: 1,500 to train on, which are also the database, and 500 queries."""
    require("split", split, ("fsh",), "uci-digits")
    require("image feature", image, IMAGE, "uci-digits")
    require("text feature", text, TEXT, "uci-digits")
    path = asset(assets, "uci-all", "uci-digits")
    labels = one_hot(stacked(path, ("L_tr", "L_te")), 10, path)
    splits = rows_in_order(train=1500, query=len(labels) - 1500)
    return PairedData(
        name="uci-digits",
        pairs=np.arange(len(labels), dtype=np.int64),
        splits={**splits, "database": splits["train"]},
        image={image: stacked(path, IMAGE[image])},
        text={text: stacked(path, TEXT[text])},
        labels=labels,
        classes=tuple(str(number) for number in range(1, 11)),
    )
