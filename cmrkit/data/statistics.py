"""What a manifest says about a dataset, asserted after every preparation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError

if TYPE_CHECKING:
    from cmrkit.recipe.manifest import Manifest


def check_statistics(data: PairedData, manifest: Manifest, split: str) -> None:
    """Raise CmrkitError listing everything in ``data`` that differs from what ``manifest`` declares.

    Compared are the size of each part of ``split``, the width of each feature, and of ``statistics``:
    items, texts, labels, and label_counts, which are those of the default split.
    """
    faults = [
        f"  {what}: expected {_shown(expected)}, found {_shown(found)}"
        for what, expected, found in _compared(data, manifest, split)
        if expected is not None and expected != found
    ]
    if faults:
        raise CmrkitError("\n".join([f"{data.name} (split {split}) is not what its manifest says:", *faults]))


def _compared(data: PairedData, manifest: Manifest, split: str) -> Iterator[tuple[str, Any, Any]]:
    sizes = {role: len(rows) for role, rows in data.splits.items()}
    for role, expected in manifest.splits[split].counts.items():
        yield f"size of {role}", expected, sizes.get(role)
    for modality, matrices in (("image", data.image), ("text", data.text)):
        declared = getattr(manifest.features, modality)
        for name, matrix in matrices.items():
            yield f"width of {modality} {name}", declared[name].dim, matrix.shape[1]
    statistics = manifest.statistics
    yield "items", statistics.get("items"), data.n_images
    yield "texts", statistics.get("texts"), data.n_texts
    yield "labels", statistics.get("labels"), 0 if data.labels is None else data.labels.shape[1]
    if split == manifest.default_split:
        yield from _label_counts(data, statistics.get("label_counts", {}))


def _label_counts(data: PairedData, expected: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for role, counts in expected.items():
        present = data.labels is not None and role in data.splits
        found = data.labels[data.splits[role]].sum(axis=0, dtype=int).tolist() if present else None
        yield f"label counts of {role}", list(counts), found


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
