"""Classic features by the names that manifests give their extractors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import UsageError
from cmrkit.features.image import color_edge_hist
from cmrkit.features.text import bow, tfidf

IMAGE = {"color-edge-hist": color_edge_hist}
TEXT = {"bow": bow, "tfidf": tfidf}


@dataclass(frozen=True)
class Extracted:
    """A feature matrix (n, d), one row per image or text, and for texts the word of each column."""

    modality: str
    matrix: np.ndarray
    vocabulary: tuple[str, ...] = ()


def extract(name: str, data: PairedData) -> Extracted:
    """Return the feature ``name`` of all images or texts of ``data``; what is fitted sees its split "train" only.

    Raises UsageError for an unknown name, or where the data has no images, captions or split to work on.
    """
    if name in IMAGE:
        if data.image_items is None:
            raise UsageError(f"{data.name}: {name!r} needs images, and this dataset was read without any")
        return Extracted("image", IMAGE[name](data.image_items))
    if name in TEXT:
        if data.captions is None:
            raise UsageError(f"{data.name}: {name!r} needs captions, and this dataset was read without any")
        matrix, vocabulary = TEXT[name](data.captions, data.text_rows("train"))
        return Extracted("text", matrix, tuple(vocabulary))
    raise UsageError(f"no extractor {name!r}; known: {', '.join([*IMAGE, *TEXT])}")
