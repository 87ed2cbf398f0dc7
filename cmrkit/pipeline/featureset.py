"""The arrays that the ``features`` step left: rows of any shape, memory-mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.training.rows import Rows

ROLES = ("train", "val", "query", "database")


@dataclass(frozen=True)
class FeatureSet:
    """Features of all images (n_images, ...) and texts (n_texts, ...), with labels, pairs, splits and meta.json."""

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray | None
    pairs: np.ndarray
    splits: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    roots: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, roots: dict[str, Path] | None = None) -> FeatureSet:
        """Return the feature set in ``path``, memory-mapped; ``roots`` says where the files of photographs lie."""
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in path.glob("*.npy")}
        splits = {r: np.asarray(arrays[f"split-{r}"]) for r in ROLES if f"split-{r}" in arrays}
        tables = {k.partition("-")[2]: v for k, v in arrays.items() if k.startswith(("image-", "text-"))}
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        return cls(
            arrays["image"], arrays["text"], arrays.get("labels"), np.asarray(arrays["pairs"]), splits, meta, tables,
            roots or {},
        )  # fmt: skip

    @property
    def vocabulary(self) -> list[str] | None:
        """The word of each token id, where texts are token ids."""
        entry = self.meta["text"]
        return entry["vocabulary"] if entry["kind"] == "tokens" else None

    def rows(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned (image rows, text rows) of a split: one entry per text, its image beside it."""
        if role not in self.splits:
            raise UsageError(f"this split has no {role!r} part; it has {', '.join(self.splits)}")
        rank = np.full(len(self.image), -1)
        rank[self.splits[role]] = np.arange(len(self.splits[role]))
        texts = np.flatnonzero(rank[self.pairs] >= 0)
        texts = texts[np.argsort(rank[self.pairs[texts]], kind="stable")]
        return self.pairs[texts], texts

    def parts(self, role: str) -> tuple[Rows, Rows, np.ndarray, np.ndarray]:
        """Return (images, texts, pairs, image rows) of a split: each image once, ``pairs`` the image of each text."""
        images, texts = self.rows(role)
        distinct, pairs = np.unique(images, return_inverse=True)
        return Rows(self.image, distinct, self.roots), Rows(self.text, texts), pairs, distinct

    def limited(self, images: int) -> FeatureSet:
        """Return this set with only the first ``images`` queries, and of the database what is left of it by that."""
        kept = self.splits["query"][:images]
        within = np.array_equal(self.splits["query"], self.splits["database"])
        splits = {**self.splits, "query": kept, "database": kept if within else self.splits["database"]}
        return replace(self, splits=splits)
