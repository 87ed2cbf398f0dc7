"""The arrays that an evaluation takes: checked once, then paired into retrieval directions."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.hamming import Codes, check_codes
from cmrkit.evaluation.positives import Positives, check_positives, relevance_by_distance
from cmrkit.evaluation.quantised import Quantised, check_code_indices, check_codebooks, widen
from cmrkit.evaluation.relevance import Labels, PairRelevance, Relevance, check_labels, check_pairs, relevance_by_label
from cmrkit.evaluation.similarity import check_embeddings

SPACES = ("hamming", "cosine", "dot", "euclidean")
QUERY = ("query_image", "query_text")
DATABASE = {  # whose codes the database items carry -> the arrays of the image and the text database
    "learned": ("learned_image", "learned_text"),
    "hashed": ("database_image", "database_text"),
    "unified": ("unified", "unified"),
}
# A query's codes in the other modality's length, for methods whose two lengths differ; ranked instead of its own.
TRANSLATED = {"query_image": "translated_image", "query_text": "translated_text"}
BANK = {"i2t": "bank_image", "t2i": "bank_text"}
EMBEDDED = (*QUERY, *dict.fromkeys(n for names in DATABASE.values() for n in names), *TRANSLATED.values(),
            *BANK.values())  # fmt: skip
POSITIVES = {"i2t": "positives_i2t", "t2i": "positives_t2i"}
OUTSIDE = {"i2t": "outside_i2t", "t2i": "outside_t2i"}
KEYS = (*EMBEDDED, "query_labels", "database_labels", "pairs", *POSITIVES.values(), *OUTSIDE.values(), "codebooks",
        "space")  # fmt: skip
Array = Codes | Quantised | np.ndarray


@dataclass(frozen=True)
class Direction:
    """Queries of one modality, the other modality's items, what is relevant to what, and a bank of other queries."""

    query: Array
    database: Array
    relevance: Relevance
    bank: Array | None = None


@dataclass(frozen=True)
class Inputs:
    """Checked arrays; whatever was not given is absent from ``arrays`` or None."""

    space: str
    arrays: dict[str, Array]
    query_labels: Labels | None
    database_labels: Labels | None
    pairs: np.ndarray | None
    positives: dict[str, Positives] = field(default_factory=dict)

    @property
    def has_both_queries(self) -> bool:
        """Whether the two modalities' queries can rank each other."""
        return self.arrays.keys() >= set(QUERY)

    def databases(self) -> list[str]:
        """Return the kinds of database codes that were given: learned, hashed, unified."""
        return [kind for kind, names in DATABASE.items() if any(name in self.arrays for name in names)]

    def directions(self, database: str, items: str, relevance: str, radius: int = 0) -> dict[str, Direction]:
        """Return the directions, i2t and t2i, that the arrays allow under these choices of a protocol.

        Raises UsageError where they allow none, where lengths differ, or the labels that a choice needs are missing.
        """
        if relevance == "labels":
            return self._labelled_directions(database, items)
        image, text = self._one_set_each(items)
        relevant = self._paired_relevance(relevance, len(image), len(text), radius)
        sides = {"i2t": (image, text), "t2i": (text, image)}
        return {d: self._direction(d, *sides[d], relevant[d]) for d in sides}

    def _labelled_directions(self, database: str, items: str) -> dict[str, Direction]:
        image, text = QUERY if items == "query" else DATABASE[database]
        wanted = {"i2t": ("query_image", text), "t2i": ("query_text", image)}
        names = {d: pair for d, pair in wanted.items() if all(name in self.arrays for name in pair)}
        if not names:
            self._explain_nothing_to_rank(wanted, database if items == "database" else None)
        relevant = self._label_relevance(items)
        return {d: self._direction(d, self._query(q), self.arrays[b], relevant) for d, (q, b) in names.items()}

    def _query(self, name: str) -> Array:
        return self.arrays.get(TRANSLATED[name], self.arrays[name])

    def _direction(self, direction: str, query: Array, database: Array, relevance: Relevance) -> Direction:
        if width(query) != width(database):
            unit = "bits" if self.space == "hamming" else "dimensions"
            raise UsageError(f"{direction}: the queries have {width(query)} {unit}, the database {width(database)}")
        return Direction(query, database, relevance, self.arrays.get(BANK[direction]))

    def _label_relevance(self, items: str) -> Relevance:
        self.check_label_rows()
        database = self.query_labels if items == "query" else self.database_labels
        if self.query_labels is None or database is None:
            missing = "query_labels" if self.query_labels is None else "database_labels"
            raise UsageError(f"{missing} is missing: ranking the {items} items needs the labels of both sides")
        return relevance_by_label(self.query_labels, database)

    def check_label_rows(self) -> None:
        """Raise UsageError where an array has another number of rows than its labels."""
        for name, array in self.arrays.items():
            owner = "query_labels" if name in (*QUERY, *TRANSLATED.values()) else "database_labels"
            labels = None if name in BANK.values() else getattr(self, owner)
            if labels is not None and len(labels) != len(array):
                raise UsageError(f"{name} has {len(array)} rows, but {owner} has {len(labels)}")

    def _one_set_each(self, items: str) -> tuple[Array, Array]:
        if items != "query":
            raise UsageError("pairs relate one image set to one text set: there is no other database (items=query)")
        return tuple(self.arrays[self.paired(m)] for m in ("image", "text"))

    def _paired_relevance(self, kind: str, images: int, texts: int, radius: int) -> dict[str, Relevance]:
        if kind == "positives":
            if self.positives.keys() != POSITIVES.keys():
                raise UsageError(f"{' and '.join(POSITIVES.values())} are missing: they list the relevant items")
            return self.positives
        if self.pairs is None:
            raise UsageError("pairs is missing: recall needs the image row of every text, or labels instead")
        if kind == "pairs":
            rows = np.arange(images)
            return {"i2t": PairRelevance(rows, self.pairs), "t2i": PairRelevance(self.pairs, rows)}
        if self.query_labels is None or len(self.query_labels) != images:
            raise UsageError("query_labels is missing, or not one row an image: relevance goes by the images' labels")
        image, text = self.query_labels, self.query_labels.rows(self.pairs)
        return {"i2t": relevance_by_distance(image, text, radius), "t2i": relevance_by_distance(text, image, radius)}

    def fold(self, start: int, stop: int, labelled: bool = False) -> Inputs:
        """Return the images from ``start`` to ``stop``, only those with a label if asked, and the texts of these."""
        image, text = self.paired("image"), self.paired("text")
        chosen = np.arange(start, stop)
        if labelled and self.query_labels is not None:
            chosen = chosen[self.query_labels.data[:, start:stop].any(0)]
        row = np.full(len(self.arrays[image]), -1)
        row[chosen] = np.arange(len(chosen))
        texts = np.flatnonzero(row[self.pairs] >= 0)
        if not len(texts):
            raise UsageError(f"images {start} to {stop - 1} have no text to rank" + " or no label" * labelled)
        arrays = {**self.arrays, image: _rows(self.arrays[image], chosen), text: _rows(self.arrays[text], texts)}
        labels = None if self.query_labels is None else self.query_labels.rows(chosen)
        return replace(self, arrays=arrays, pairs=row[self.pairs[texts]], query_labels=labels)

    def paired(self, modality: str) -> str:
        """Return the name of the one array of a modality. Raises UsageError where there are two or none."""
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
    positives_i2t: np.ndarray | None = None,
    positives_t2i: np.ndarray | None = None,
    outside_i2t: np.ndarray | None = None,
    outside_t2i: np.ndarray | None = None,
    codebooks: np.ndarray | None = None,
    **embedded: np.ndarray | None,
) -> Inputs:
    """Check everything that can be checked without a protocol. ``embedded`` has the names of EMBEDDED.

    Raises UsageError naming the array, and the row where there is one.
    """
    if space not in SPACES:
        raise UsageError(f"unknown space {space!r}; choose from {', '.join(SPACES)}")
    _check_names(embedded)
    embedded = {name: array for name, array in embedded.items() if array is not None}
    if codebooks is not None:
        arrays = _check_quantised(embedded, codebooks, space)
    else:
        check = check_codes if space == "hamming" else check_embeddings
        arrays = {name: check(name, array) for name, array in embedded.items()}
    _check_widths(arrays, "bits" if space == "hamming" else "dimensions")
    query = None if query_labels is None else check_labels("query_labels", query_labels)
    database = None if database_labels is None else check_labels("database_labels", database_labels)
    if query is not None and database is not None:
        relevance_by_label(query, database)
    positives = {"i2t": (positives_i2t, outside_i2t), "t2i": (positives_t2i, outside_t2i)}
    listed = any(array is not None for array, _ in positives.values())
    if pairs is None and query is None and not listed:
        raise UsageError("neither query_labels nor pairs is given: nothing says what is relevant")
    inputs = Inputs(space, arrays, query, database, pairs=None)
    if pairs is None and not listed:
        inputs.check_label_rows()
        return inputs
    sizes = {m: len(arrays[inputs.paired(m)]) for m in ("image", "text")}
    if pairs is not None:
        inputs = replace(inputs, pairs=check_pairs(pairs, *sizes.values()))
    counts = {"i2t": tuple(sizes.values()), "t2i": tuple(sizes.values())[::-1]}
    found = {d: check_positives(POSITIVES[d], array, *counts[d], outside)
             for d, (array, outside) in positives.items() if array is not None}  # fmt: skip
    return replace(inputs, positives=found)


def width(array: Array) -> int:
    """Return the bits of codes, or the dimensions of embeddings."""
    if isinstance(array, Codes):
        return array.bits
    return array.width if isinstance(array, Quantised) else array.shape[1]


def _rows(array: Array, rows: np.ndarray) -> Array:
    return array[rows] if isinstance(array, np.ndarray) else array.rows(rows)


def _check_quantised(embedded: dict[str, np.ndarray], codebooks: np.ndarray, space: str) -> dict[str, Array]:
    if space not in ("euclidean", "dot"):
        raise UsageError(f"codebooks are given, but the space is {space}: quantised items lie in euclidean or dot")
    books = check_codebooks(codebooks)
    whole = {name: np.asarray(array).dtype.kind in "iu" for name, array in embedded.items()}
    arrays: dict[str, Array] = {}
    for name, array in embedded.items():
        if whole[name]:
            arrays[name] = Quantised(check_code_indices(name, array, books), books)
        elif name in (*QUERY, *BANK.values()):
            arrays[name] = check_embeddings(name, array)
        else:
            raise UsageError(f"{name} is not whole numbers: with codebooks, database items are codeword numbers (n, M)")
    vectors = next((a.shape[1] for a in arrays.values() if isinstance(a, np.ndarray)), None)
    if vectors == books.shape[0] * books.shape[2] != books.shape[2]:  # the books of a product quantiser
        books = widen(books)
        arrays = {n: Quantised(a.codes, books) if isinstance(a, Quantised) else a for n, a in arrays.items()}
    return arrays


def _check_names(embedded: dict[str, np.ndarray | None]) -> None:
    for name in embedded:
        if name not in EMBEDDED:
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(f"unknown array {name!r}{hint}; known are {', '.join(KEYS)}")


def _check_widths(arrays: dict[str, Array], unit: str) -> None:
    # Where queries come translated, the two modalities may have different lengths; each direction checks its own.
    if any(name in arrays for name in TRANSLATED.values()):
        return
    first = next(iter(arrays), None)
    for name, array in arrays.items():
        if width(array) != width(arrays[first]):
            raise UsageError(f"{name} has {width(array)} {unit}, but {first} has {width(arrays[first])}")
