"""Scikit-learn's handwritten digits, cut in two: the left half stands for the image, the right for the text.

A tenth of a second from nothing to paired features with ten classes: a first test for anything shallow. No
words and no pixels of photographs are involved, and numbers on it mean nothing beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.draws import Draws
from cmrkit.data.paired import PairedData
from cmrkit.data.reading import require

SEED = 20260101
QUERIES = 500


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return 1,797 digits: 1,297 to train on, which are also the database, and 500 queries."""
    from sklearn.datasets import load_digits

    require("split", split, ("default",), "digits")
    require("image feature", image, ("left-half",), "digits")
    require("text feature", text, ("right-half",), "digits")
    digits = load_digits()
    n = len(digits.target)
    order = Draws(SEED).permutation(n)
    train = np.sort(order[QUERIES:])
    return PairedData(
        name="digits",
        pairs=np.arange(n, dtype=np.int64),
        splits={"train": train, "query": np.sort(order[:QUERIES]), "database": train},
        image={image: digits.images[:, :, :4].reshape(n, 32)},
        text={text: digits.images[:, :, 4:].reshape(n, 32)},
        labels=(digits.target[:, None] == np.arange(10)).astype(np.uint8),
        classes=tuple("0123456789"),
    )
