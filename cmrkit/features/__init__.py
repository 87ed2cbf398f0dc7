"""Features of images and texts, by the names that manifests give their extractors.

An extractor is a module with a function ``extract(name, data, job) -> Extracted``. It is imported when it is
asked for, so that nobody pays for torch who counts colours.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from cmrkit.errors import UsageError

if TYPE_CHECKING:
    from cmrkit.data.paired import PairedData
    from cmrkit.features.base import Extracted, Job

MODULES = {
    "color-edge-hist": "classic",
    "color-edge-grid": "classic",
    "color-edge-pooled": "classic",
    "bow": "classic",
    "tfidf": "classic",
    "tfidf-lsa": "classic",
    "lda": "classic",
    "tokens": "tokens",
    "captions": "captions",
    "photos": "photos",
    "pixels": "deep",
    "timm": "deep",
    "torchvision": "deep",
    "transformers": "sentences",
    "precomputed": "precomputed",
}


def extract(name: str, data: PairedData, job: Job | None = None) -> Extracted:
    """Return the feature ``name`` of all images or texts of ``data``; what is fitted sees its split "train" only.

    Raises UsageError for an unknown name or option, or where the data lacks images, captions or a split;
    CmrkitError where an image cannot be read or weights do not fit.
    """
    from cmrkit.features.base import Job

    module = importlib.import_module(f"cmrkit.features.{_module(name)}")
    return module.extract(name, data, job or Job())


def source(name: str) -> Path:
    """Return the file of the extractor ``name``: with what it imports, its digest is that of the extraction."""
    return Path(__file__).with_name(f"{_module(name)}.py")


def _module(name: str) -> str:
    if name not in MODULES:
        raise UsageError(f"no extractor {name!r}; known: {', '.join(MODULES)}")
    return MODULES[name]
