"""Rankings and judgements in TREC's text formats, for exchange with trec_eval and its kin.

A run has lines ``qid Q0 docid rank score tag``, judgements (qrels) have lines ``qid 0 docid rel``; columns are
separated by white space, and a document is relevant where rel is at least 1. Files may be gzipped.

A run is ranked by its scores, larger first, as trec_eval does; a tie rule (see ``ranking``) orders equal ones:
``expected``, ``worst``, ``best``, or ``stable``, which is the file's order by its rank column. trec_eval itself
breaks ties by docid, last first, and reads scores in single precision.

A document that is missing from the run was not retrieved. A query that is judged but missing from the run
counts as zero, as with ``trec_eval -c``; one that is not judged is ignored. Precision at k divides by k however
short the list is. Where no relevant document was retrieved, the rank of the first one is taken to be one more
than the longest list of the run, the least that it can be: ``meanr``, and ``medr`` where it comes out so large,
are lower bounds then.

``ndcg@k`` and ``ndcg@k:linear`` are those of ``graded``, with rel as the grade: the gain is 2**rel - 1, or rel itself,
which is trec_eval's ndcg_cut. The ideal ranking is of all judged documents, retrieved or not.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation import ranking
from cmrkit.evaluation.files import replacing
from cmrkit.evaluation.metrics import parse
from cmrkit.evaluation.recall import first_hits, rank, recall

RUN = "qid Q0 docid rank score tag"
QRELS = "qid 0 docid rel"
METRICS = "map, r-precision, precision, recall, ndcg, r, medr and meanr, with every cut-off; no radius and no curve"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Ranking:
    """One query's documents, nearest first (ties in the file's order), and their scores, float64 (n,)."""

    items: list[str]
    scores: np.ndarray


@dataclass
class _Lines:
    # What the lines of one query say, column by column.
    items: list[str] = field(default_factory=list)
    scores: array = field(default_factory=lambda: array("d"))
    ranks: array = field(default_factory=lambda: array("q"))
    numbers: array = field(default_factory=lambda: array("q"))


def write_run(path: str | Path, blocks: Iterable[tuple], tag: str = "cmrkit") -> None:
    """Write a run from blocks of (query ids (q,), item ids (q, k), scores (q, k)), nearest items first.

    Blocks are written as they come, so a run of any length fits into memory; the file appears whole or not
    at all, gzipped where its name ends in ``.gz``. Raises UsageError for scores that rise along a row or are
    not finite, for an id that is empty or holds white space, and for a query or an item that comes twice.
    """
    seen: set[str] = set()
    _check_id("the tag", tag)
    with _writing(path) as file:
        for queries, items, scores in blocks:
            scores = np.asarray(scores, dtype=np.float64)
            if not len(queries) == len(items) == len(scores):
                raise UsageError(f"a block has {len(queries)} query ids, {len(items)} rows of items, {len(scores)} of "
                                 "scores: the three must agree")  # fmt: skip
            for query, row, values in zip(_texts(queries), items, scores, strict=True):
                _check_ranking(query, row := _texts(row), values, seen)
                file.writelines(
                    f"{query} Q0 {item} {rank} {value!r} {tag}\n"
                    for rank, (item, value) in enumerate(zip(row, values.tolist(), strict=True), 1)
                )


def write_qrels(path: str | Path, blocks: Iterable[tuple], items: Sequence) -> None:
    """Write judgements from blocks of (query ids (q,), relevance (q, n)) over the ids of the items (n,).

    ``relevance`` is bool, or whole-number grades; only what is relevant is written. Raises UsageError for
    ids as ``write_run`` does, and for a relevance of another width than there are items.
    """
    items = _texts(items)
    _check_ids("the items", items)
    seen: set[str] = set()
    with _writing(path) as file:
        for queries, relevance in blocks:
            relevance = np.asarray(relevance)
            if relevance.shape != (len(queries), len(items)):
                raise UsageError(f"relevance is {relevance.shape}, but there are {len(queries)} queries and "
                                 f"{len(items)} items")  # fmt: skip
            for query, row in zip(_texts(queries), relevance, strict=True):
                _check_query(query, seen)
                file.writelines(f"{query} 0 {items[i]} {int(row[i])}\n" for i in np.flatnonzero(row > 0))


def top_k(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` nearest items of each row of distances (q, n) and their scores, for ``write_run``.

    Both are (q, min(k, n)): int64 columns, ties in the order of the columns, and float64 negated distances.
    """
    columns = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return columns, -np.take_along_axis(distances, columns, 1).astype(np.float64)


def read_run(path: str | Path) -> dict[str, Ranking]:
    """Return the ranking of each query of a run. Raises UsageError naming file and line."""
    found: dict[str, _Lines] = {}
    names: dict[str, str] = {}  # one string per document, however many queries rank it
    for number, (query, _, item, place, score, _) in _rows(path, RUN):
        lines = found.setdefault(query, _Lines())
        lines.items.append(names.setdefault(item, item))
        lines.ranks.append(_whole(path, number, "rank", place))
        lines.scores.append(_finite(path, number, "score", score))
        lines.numbers.append(number)
    return {query: _ranking(path, query, lines) for query, lines in found.items()}


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Return the judged documents of each query and their grades. Raises UsageError naming file and line."""
    found: dict[str, dict[str, int]] = {}
    for number, (query, _, item, grade) in _rows(path, QRELS):
        judged = found.setdefault(query, {})
        if item in judged:
            raise UsageError(f"{path}:{number}: document {item!r} is judged a second time for query {query!r}")
        judged[item] = _whole(path, number, "rel", grade)
    return found


def query_values(
    run: dict[str, Ranking], qrels: dict[str, dict[str, int]], metrics: Sequence[str], ties: str = "expected"
) -> dict[str, np.ndarray]:
    """Return ``{metric: values}``, float64 (queries,) in the order of ``qrels``, as significance tests take them.

    Units are those of ``metrics``: r@k is in per cent. Raises UsageError for a metric that a ranked list does
    not give, for an unknown tie rule, and where run and judgements have no query in common.
    """
    if ties not in ranking.TIES:
        raise UsageError(f"unknown tie rule {ties!r}; choose from {', '.join(ranking.TIES)}")
    if not run.keys() & qrels.keys():
        raise UsageError("no query of the run is judged: run and judgements must use the same query ids")
    lists = _Judged(run, qrels, ties)
    return {name: lists.values(name) for name in metrics}


def evaluate_run(
    run: dict[str, Ranking],
    qrels: dict[str, dict[str, int]],
    metrics: Sequence[str],
    ties: str = "expected",
    without_relevant: str = "zero",
) -> dict[str, float | int]:
    """Return the mean of each metric over the judged queries (``medr``: their median), and how many ``queries``.

    Queries without a relevant document count as zero, or with ``without_relevant="skip"`` not at all. Raises
    UsageError as ``query_values`` does, and where no query has a relevant document.
    """
    answerable = np.array([any(grade > 0 for grade in judged.values()) for judged in qrels.values()], dtype=bool)
    values = query_values(run, qrels, metrics, ties)
    if not answerable.any():
        raise UsageError("no query has a relevant document: every rel of the judgements is below 1")
    kept = answerable if without_relevant == "skip" else np.ones_like(answerable)
    return {name: _mean(name, each[kept]) for name, each in values.items()} | {"queries": int(kept.sum())}


def _mean(name: str, values: np.ndarray) -> float:
    metric = parse(name)
    if metric.kind != "medr":
        return float(values.mean())
    return float(np.floor(np.median(values)) if metric.variant == "floor" else np.median(values))


class _Judged:
    """The ranked documents of all judged queries as tie groups, with the grades in each group."""

    def __init__(self, run: dict[str, Ranking], qrels: dict[str, dict[str, int]], ties: str):
        found = [(judged, run.get(query, Ranking([], np.zeros(0)))) for query, judged in qrels.items()]
        lengths = np.array([len(each.items) for _, each in found])
        query = np.repeat(np.arange(len(found)), lengths)
        grade = np.array([max(judged.get(i, 0), 0) for judged, each in found for i in each.items], dtype=np.float64)
        score = np.concatenate([each.scores for _, each in found])
        new = np.append(True, (query[1:] != query[:-1]) | (score[1:] != score[:-1]) | (ties == "stable"))
        if ties in ("worst", "best"):
            grade = grade[np.lexsort((grade if ties == "worst" else -grade, np.cumsum(new)))]
            new = np.ones_like(new)
        self.ties, self.grade, self.first = ties, grade, np.flatnonzero(new)
        self.ideal = [np.sort([float(g) for g in judged.values() if g > 0])[::-1] for judged, _ in found]
        total = np.array([len(grades) for grades in self.ideal])
        query = query[self.first]
        start = self.first - (np.cumsum(lengths) - lengths)[query]
        size, relevant = np.diff(self.first, append=len(grade)), self._sums((grade > 0).astype(np.int64))
        self.some = np.flatnonzero(relevant)
        columns = (column[self.some] for column in (query, start, size, relevant))
        self.groups = ranking.TieGroups(*columns, total, int(lengths.max()))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.first)

    def values(self, name: str) -> np.ndarray:
        """Return one value per query."""
        metric, groups = parse(name), self.groups
        kind, k, variant = metric.kind, metric.k, metric.variant
        if kind == "map":
            return self._average_precision(k, variant)
        if kind == "ndcg":
            return self._ndcg(k, linear=variant == "linear")
        if kind == "r-precision":
            return ranking.ratio(ranking.hits_at(groups, groups.total), groups.total)
        if kind == "precision" and variant is None:
            return ranking.hits_at(groups, k) / k
        if kind == "recall" and variant is None:
            return ranking.recall_at(groups, k)
        if kind == "r":
            return 100 * recall(first_hits(groups), k)
        if kind in ("medr", "meanr"):
            return rank(first_hits(groups))
        raise UsageError(f"metric {name!r} does not follow from a ranked list; there are {METRICS}")

    def _average_precision(self, k: int | str | None, variant: str | None) -> np.ndarray:
        if variant == "11-point":
            if self.ties == "expected":
                raise UsageError("map@all:11-point needs an order of the tied items: choose ties stable, worst or best")
            return ranking.interpolated_precision(self.groups)
        if k is None:
            return ranking.average_precision(self.groups)
        if k == "r":
            return ranking.average_precision_at(self.groups, self.groups.total, "total")
        return ranking.average_precision_at(self.groups, k, variant or "retrieved")

    def _ndcg(self, k: int | None, linear: bool) -> np.ndarray:
        groups = self.groups
        longest = max([groups.items, *map(len, self.ideal)])
        discount = np.append(0, np.cumsum(1 / np.log2(np.arange(longest) + 2)))
        if k is not None:
            discount[k:] = discount[min(k, longest)]
        with np.errstate(over="ignore"):
            gain, *ideal = (grades if linear else np.exp2(grades) - 1 for grades in (self.grade, *self.ideal))
        if not all(np.isfinite(gains).all() for gains in ideal):
            raise UsageError("a rel of the judgements is too large for the gain 2**rel - 1; ask for ndcg@k:linear")
        reach = discount[groups.start + groups.size] - discount[groups.start]
        best = [float(gains @ np.diff(discount[: len(gains) + 1])) for gains in ideal]
        gained = groups.sum(self._sums(gain)[self.some] / groups.size * reach)
        return gained / np.maximum(best, np.finfo(np.float64).tiny)


def _ranking(path: str | Path, query: str, lines: _Lines) -> Ranking:
    if len(set(lines.items)) < len(lines.items):
        first: dict[str, int] = {}
        for item, number in zip(lines.items, lines.numbers, strict=True):
            if item in first:
                raise UsageError(
                    f"{path}:{number}: document {item!r} of query {query!r} stands in line {first[item]} already"
                )
            first[item] = number
    scores = np.array(lines.scores)
    order = np.lexsort((np.array(lines.ranks), -scores))
    return Ranking([lines.items[i] for i in order], scores[order])


def _rows(path: str | Path, form: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line that is not blank."""
    path, width, number = Path(path), len(form.split()), 0
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    empty = True
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                columns = _decoded(path, number, line).split()
                if len(columns) == width:
                    empty = False
                    yield number, columns
                elif columns:
                    raise UsageError(f"{path}:{number}: {len(columns)} columns instead of {width}: {form}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}:{number + 1}: damaged or cut-off gzip file ({error})") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise UsageError(f"{path}: the file is empty; its lines read: {form}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        if file.peek(2)[:2] != _GZIP:
            yield file
            return
        with gzip.open(file) as unpacked:
            yield unpacked


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path}:{number}: not a text file in UTF-8")
    return text


def _whole(path: str | Path, number: int, column: str, text: str) -> int:
    digits = text[1:] if text[:1] in "+-" else text
    if not (digits.isdecimal() and digits.isascii() and len(digits) < 19):  # fits 64 bits
        raise UsageError(f"{path}:{number}: {column} is {text!r}, not a whole number")
    return int(text)


def _finite(path: str | Path, number: int, column: str, text: str) -> float:
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{path}:{number}: {column} is {text!r}, not a finite number")
    return value


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[io.TextIOBase]:
    with replacing(path) as part:
        opened = gzip.open if Path(path).suffix == ".gz" else open
        with opened(part, "wt", encoding="utf-8", newline="\n") as file:
            yield file


def _texts(ids: Iterable) -> list[str]:
    return [str(i) for i in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]


def _check_id(what: str, text: str) -> None:
    if text.split() != [text]:
        raise UsageError(f"{what} is {text!r}: TREC's formats allow no empty id and no white space in one")


def _check_ids(what: str, ids: list[str]) -> None:
    if len(set(ids)) < len(ids):
        again = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise UsageError(f"{what} hold the id {again!r} twice")
    joined = "".join(ids)
    if joined.split() != [joined] or "" in ids:
        for text in ids:
            _check_id(f"an id of {what}", text)


def _check_query(query: str, seen: set[str]) -> None:
    _check_id("a query id", query)
    if query in seen:
        raise UsageError(f"query {query!r} comes twice")
    seen.add(query)


def _check_ranking(query: str, items: list[str], scores: np.ndarray, seen: set[str]) -> None:
    _check_query(query, seen)
    if len(items) != len(scores):
        raise UsageError(f"query {query!r} has {len(items)} items, but {len(scores)} scores")
    _check_ids(f"the items of query {query!r}", items)
    bad = np.flatnonzero(~np.isfinite(scores) | np.append(False, scores[1:] > scores[:-1]))
    if len(bad):
        raise UsageError(
            f"query {query!r} has score {scores[bad[0]]} at rank {bad[0] + 1}: scores are finite and do not rise"
        )
