"""The arrays that an evaluation takes: checked once, then paired into retrieval directions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.hamming import Codes, check_codes, hamming_blocks
from cmrkit.evaluation.relevance import (
    LabelRelevance,
    Labels,
    PairRelevance,
    check_labels,
    check_pairs,
    relevance_by_label,
)
from cmrkit.evaluation.similarity import check_embeddings, similarity_blocks

SPACES = ("hamming", "cosine", "dot", "euclidean")
QUERY = ("query_image", "query_text")
DATABASE = {  # whose codes the database items carry -> the arrays of the image and the text database
    "learned": ("learned_image", "learned_text"),
    "hashed": ("database_image", "database_text"),
    "unified": ("unified", "unified"),
}
EMBEDDED = (*QUERY, *dict.fromkeys(name for names in DATABASE.values() for name in names))
KEYS = (*EMBEDDED, "query_labels", "database_labels", "pairs", "space")


@dataclass(frozen=True)
class Direction:
    """Queries of one modality, the other modality's items, and what is relevant to what."""

    query: Codes | np.ndarray
    database: Codes | np.ndarray
    relevance: LabelRelevance | PairRelevance

    def blocks(self, similarity: str) -> Iterator[Block]:
        """Yield distances and relevance, by Hamming distance or by a real-valued similarity."""
        if isinstance(self.query, Codes):
            return hamming_blocks(self.query, self.database, self.relevance)
        return similarity_blocks(self.query, self.database, similarity, self.relevance)


@dataclass(frozen=True)
class Inputs:
    """Checked arrays; whatever was not given is absent from ``arrays`` or None."""

    space: str
    arrays: dict[str, Codes | np.ndarray]
    query_labels: Labels | None
    database_labels: Labels | None
    pairs: np.ndarray | None

    @property
    def has_both_queries(self) -> bool:
        """Whether the two modalities' queries can rank each other."""
        return self.arrays.keys() >= set(QUERY)

    def databases(self) -> list[str]:
        """Return the kinds of database codes that were given: learned, hashed, unified."""
        return [kind for kind, names in DATABASE.items() if any(name in self.arrays for name in names)]

    def directions(self, database: str, items: str, relevance: str) -> dict[str, Direction]:
        """Return the directions, i2t and t2i, that the arrays allow under these choices of a protocol.

        Raises UsageError where they allow none, or the labels that a choice needs are missing.
        """
        if relevance == "pairs":
            return self._paired_directions(items)
        image, text = QUERY if items == "query" else DATABASE[database]
        wanted = {"i2t": ("query_image", text), "t2i": ("query_text", image)}
        names = {d: pair for d, pair in wanted.items() if all(name in self.arrays for name in pair)}
        if not names:
            self._explain_nothing_to_rank(wanted, database if items == "database" else None)
        relevant = self._label_relevance(items)
        return {d: Direction(self.arrays[q], self.arrays[b], relevant) for d, (q, b) in names.items()}

    def _label_relevance(self, items: str) -> LabelRelevance:
        self._check_label_rows()
        database = self.query_labels if items == "query" else self.database_labels
        if self.query_labels is None or database is None:
            missing = "query_labels" if self.query_labels is None else "database_labels"
            raise UsageError(f"{missing} is missing: ranking the {items} items needs the labels of both sides")
        return relevance_by_label(self.query_labels, database)

    def _check_label_rows(self) -> None:
        for name, array in self.arrays.items():
            owner = "query_labels" if name in QUERY else "database_labels"
            labels = getattr(self, owner)
            if labels is not None and len(labels) != len(array):
                raise UsageError(f"{name} has {len(array)} rows, but {owner} has {len(labels)}")

    def _paired_directions(self, items: str) -> dict[str, Direction]:
        if self.pairs is None:
            raise UsageError("pairs is missing: recall needs the image row of every text, or labels instead")
        if items != "query":
            raise UsageError("pairs relate one image set to one text set: there is no other database (items=query)")
        image, text = (self.arrays[self._paired(m)] for m in ("image", "text"))
        rows = np.arange(len(image))
        return {
            "i2t": Direction(image, text, PairRelevance(rows, self.pairs)),
            "t2i": Direction(text, image, PairRelevance(self.pairs, rows)),
        }

    def _paired(self, modality: str) -> str:
        names = [name for name in (f"query_{modality}", f"database_{modality}") if name in self.arrays]
        if len(names) != 1:
            given = "both" if names else "neither"
            either = f"query_{modality} or database_{modality}"
            raise UsageError(f"pairs relate one image set to one text set: give {either}, not {given}")
        return names[0]

    def _explain_nothing_to_rank(self, wanted: dict[str, tuple[str, str]], database: str | None) -> None:
        needs = "; ".join(f"{d} needs {q} and {b}" for d, (q, b) in wanted.items())
        given = ", ".join(self.arrays) or "nothing"
        chosen = f" with database={database}" if database else ""
        raise UsageError(f"no direction can be ranked{chosen}: {needs}; given: {given}")


def check_inputs(
    *,
    space: str = "hamming",
    query_labels: np.ndarray | None = None,
    database_labels: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    **embedded: np.ndarray | None,
) -> Inputs:
    """Check everything that can be checked without a protocol. ``embedded`` has the names of EMBEDDED.

    Raises UsageError naming the array, and the row where there is one.
    """
    if space not in SPACES:
        raise UsageError(f"unknown space {space!r}; choose from {', '.join(SPACES)}")
    _check_names(embedded)
    check = check_codes if space == "hamming" else check_embeddings
    arrays = {name: check(name, array) for name, array in embedded.items() if array is not None}
    _check_widths(arrays, "bits" if space == "hamming" else "dimensions")
    query = None if query_labels is None else check_labels("query_labels", query_labels)
    database = None if database_labels is None else check_labels("database_labels", database_labels)
    if query is not None and database is not None:
        relevance_by_label(query, database)
    if pairs is None and query is None:
        raise UsageError("neither query_labels nor pairs is given: nothing says what is relevant")
    inputs = Inputs(space, arrays, query, database, pairs=None)
    if pairs is None:
        inputs._check_label_rows()
        return inputs
    images, texts = (len(arrays[inputs._paired(m)]) for m in ("image", "text"))
    return replace(inputs, pairs=check_pairs(pairs, images, texts))


def _check_names(embedded: dict[str, np.ndarray | None]) -> None:
    for name in embedded:
        if name not in EMBEDDED:
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(f"unknown array {name!r}{hint}; known are {', '.join(KEYS)}")


def _check_widths(arrays: dict[str, Codes | np.ndarray], unit: str) -> None:
    widths = {name: a.bits if isinstance(a, Codes) else a.shape[1] for name, a in arrays.items()}
    first = next(iter(widths), None)
    for name, width in widths.items():
        if width != widths[first]:
            raise UsageError(f"{name} has {width} {unit}, but {first} has {widths[first]}")
