"""Classic features by the names that manifests give their extractors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features.base import Extracted, Job, require_captions, require_images
from cmrkit.features.image import color_edge_grid, color_edge_hist
from cmrkit.features.text import bow, lda, tfidf, tfidf_lsa

IMAGE = ("color-edge-hist", "color-edge-grid", "color-edge-pooled")
TEXT = ("bow", "tfidf", "tfidf-lsa", "lda")


def extract(name: str, data: PairedData, job: Job | None = None) -> Extracted:
    """Return the feature ``name`` of all images or texts of ``data``; what is fitted sees its split "train" only.

    Raises UsageError for an unknown name or option, or where the data has no images, captions or split to
    work on; CmrkitError where an image cannot be read.
    """
    job = job or Job()
    if name in IMAGE:
        return _of_images(name, data, job)
    if name in TEXT:
        return _of_texts(name, data, job)
    raise UsageError(f"no extractor {name!r}; known: {', '.join([*IMAGE, *TEXT])}")


def _of_images(name: str, data: PairedData, job: Job) -> Extracted:
    skipped: list[int] = []
    images = _readable(require_images(name, data), job.skip_bad, skipped)
    if name == "color-edge-hist":
        job.choose(name)
        return Extracted("image", color_edge_hist(images), skipped=tuple(skipped))
    regions = color_edge_grid(images, job.choose(name, cells=6)["cells"])
    if name == "color-edge-grid":
        return Extracted("image", regions, kind="regions", skipped=tuple(skipped))
    return Extracted("image", regions.mean(axis=1), skipped=tuple(skipped))


def _readable(images: Sequence[np.ndarray], skip_bad: bool, skipped: list[int]) -> Iterator[np.ndarray]:
    for row in range(len(images)):
        try:
            yield images[row]
        except CmrkitError:
            if not skip_bad:
                raise
            skipped.append(row)
            yield np.zeros((8, 8, 3), np.uint8)


def _of_texts(name: str, data: PairedData, job: Job) -> Extracted:
    captions, skipped = require_captions(name, data, job.skip_bad)
    train = data.text_rows("train")
    if name in ("bow", "tfidf"):
        job.choose(name)
        matrix, vocabulary = (bow if name == "bow" else tfidf)(captions, train)
        return Extracted("text", matrix, tuple(vocabulary), skipped=skipped)
    if name == "lda":
        return Extracted("text", lda(captions, train, **job.choose(name, topics=10)), skipped=skipped)
    return Extracted("text", tfidf_lsa(captions, train, **job.choose(name, dim=256, min_count=2)), skipped=skipped)
