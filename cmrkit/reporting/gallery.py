"""Queries and what they found: the best, middling and worst of a run, with images where a dataset has pixels.

Nothing is trained or encoded: what is in the store is looked at. Images become small JPEG files below ``gallery/``
beside the page, one for each image of a dataset however many methods found it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError
from cmrkit.evaluation import find_protocol
from cmrkit.evaluation.similarity import check_embeddings, distance_rows
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.reporting.records import Record, artifact_folder, per_query

EACH = 2  # queries of each sort: best, middling, worst
TOP = 8  # results of a query
SIDE = 112  # pixels, the longer side of a thumbnail
RANKED_BY = ("map@all", "meanr")  # the metric that says which queries went well: the first that was kept


@dataclass(frozen=True)
class Ranking:
    """One direction: the dataset's rows of queries and items, and what a query's distances and hits are (items,).

    ``same`` says which items are shown once only: the texts of one image where labels decide. ``measure`` names what
    readers see beside an item: a distance, or a similarity, which is the distance with its sign turned.
    """

    queries: np.ndarray
    items: np.ndarray
    same: np.ndarray
    distances: Callable[[int], np.ndarray]
    hits: Callable[[int], np.ndarray]
    measure: str


class Thumbnails:
    """Writes images of datasets below ``folder``, each once, and says under which name."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bytes = 0
        self.files = 0
        self._known: dict[tuple[str, int], str | None] = {}

    def of(self, data: PairedData, source: str, row: int) -> str | None:
        """Return the name of an image's file, relative to the page; None where there are no pixels or no file."""
        if data.image_items is None:
            return None
        if (source, row) not in self._known:
            self._known[source, row] = self._write(data, source, row)
        return self._known[source, row]

    def _write(self, data: PairedData, source: str, row: int) -> str | None:
        from PIL import Image

        try:
            image = Image.fromarray(np.asarray(data.image_items[row]))
        except CmrkitError:  # the photographs were moved since
            return None
        image.thumbnail((SIDE, SIDE))
        name = f"{data.name}-{source[:8]}/{row}.jpg"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=82, optimize=True)
        self.bytes += path.stat().st_size
        self.files += 1
        return f"{self.folder.name}/{name}"


def gallery(root: Path, record: Record, thumbnails: Thumbnails) -> dict[str, Any] | None:
    """Return a run's queries with their top results, or None where too little of the run is left in the store.

    The result has ``images`` and ``texts`` (row -> file, caption, labels) and, for each direction, queries as
    ``{"row", "sort", "value", "results": [[row, hit, value], ..]}``, the values being ``measure``'s; an item that
    several rows stand for is there once. Raises CmrkitError where an artifact is damaged.
    """
    folders = {step: artifact_folder(root, record, step) for step in ("prepare", "features", "encode", "evaluate")}
    quality = per_query(root, record)
    metric = next((m for m in RANKED_BY if (m, "i2t") in quality or (m, "t2i") in quality), None)
    if None in folders.values() or metric is None:
        return None
    data = PairedData.load(folders["prepare"], _asset_files(root, record))
    found: dict[str, Any] = {"metric": metric, "images": {}, "texts": {}, "pixels": data.image_items is not None}
    for direction, ranking in rankings(record, folders).items():
        values = quality.get((metric, direction))
        if values is not None and len(values) == len(ranking.queries):
            found["measure"] = ranking.measure
            found[direction] = [
                {"row": int(ranking.queries[q]), "sort": sort, "value": float(values[q]), "results": _top(ranking, q)}
                for q, sort in _chosen(values if metric == "map@all" else -values, ranking.queries)
            ]
            _describe(found, direction, data, record.steps["prepare"], thumbnails)
    return found if "i2t" in found or "t2i" in found else None


def _asset_files(root: Path, record: Record) -> dict[str, Path]:
    folder = artifact_folder(root, record, "download")
    if folder is None:
        return {}
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    return {name: Path(path) for name, path in files.items() if Path(path).exists()}


def rankings(record: Record, folders: dict[str, Path]) -> dict[str, Ranking]:
    """Return the two directions of a run as its own protocol ranks them; ``folders`` has its features and codes."""
    codes = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folders["encode"].glob("*.npy")}
    space = json.loads((folders["encode"] / "space.json").read_text(encoding="utf-8"))
    data = FeatureSet.load(folders["features"])
    if record.eval["limit"]:
        data = data.limited(record.eval["limit"])
    by_pairs = find_protocol(record.eval["protocol"]).relevance == "pairs"
    if by_pairs or "similarity" in codes:
        return _among_queries(record, codes, space, data, by_pairs)
    queries, items, labels = data.rows("query"), data.rows("query"), codes["query_labels"]
    names = ("query_image", "query_text")
    if record.eval["items"] == "database":
        source = {"learned": "learned_{}", "hashed": "database_{}", "unified": "unified"}[record.eval["database"]]
        names = tuple(source.format(m) for m in ("image", "text"))
        items, labels = data.rows("database"), codes["database_labels"]
    hits = _shares(codes["query_labels"], labels)
    kind = _kind(space, record)
    near = _distances(codes["query_image"], codes[names[1]], kind)
    far = _distances(codes["query_text"], codes[names[0]], kind)
    return {"i2t": Ranking(queries[0], items[1], items[0], near, hits, _measure(kind)),
            "t2i": Ranking(queries[1], items[0], items[0], far, hits, _measure(kind))}  # fmt: skip


def _among_queries(record: Record, codes: dict, space: str, data: FeatureSet, by_pairs: bool) -> dict[str, Ranking]:
    """Rank the texts of the queries for each of their images, and back; each image is there once."""
    images, texts = data.rows("query")
    distinct, first = np.unique(images, return_index=True)
    if "similarity" in codes:
        forth, back = codes["similarity"], codes.get("reverse", codes["similarity"])
        near, far, measure = (lambda i: -forth[i]), (lambda t: -back[:, t]), "score"
    else:
        image, text, kind = codes["query_image"][first], codes["query_text"], _kind(space, record)
        near, far, measure = _distances(image, text, kind), _distances(text, image, kind), _measure(kind)
    if by_pairs:
        hit, found = (lambda i: images == distinct[i]), (lambda t: distinct == images[t])
    else:
        hit = _shares(codes["image_labels"], codes["text_labels"])
        found = _shares(codes["text_labels"], codes["image_labels"])
    shown = np.arange(len(texts)) if by_pairs else images
    return {"i2t": Ranking(distinct, texts, shown, near, hit, measure),
            "t2i": Ranking(texts, distinct, distinct, far, found, measure)}  # fmt: skip


def _shares(queries: np.ndarray, items: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function from a query to whether it shares a label with each item; both multi-hot (n, classes)."""
    return lambda q: np.asarray(items) @ np.asarray(queries[q], dtype=np.int32) > 0


def _kind(space: str, record: Record) -> str:
    return "hamming" if space == "hamming" else record.eval["similarity"] or space


def _measure(kind: str) -> str:
    distances = {"hamming": "Hamming distance", "euclidean": "Euclidean distance", "l1": "L1 distance"}
    return distances.get(kind, f"{kind} similarity")


def _distances(queries: np.ndarray, items: np.ndarray, kind: str) -> Callable[[int], np.ndarray]:
    """Return a function from a query to its distances (n,): Hamming, or those of a similarity."""
    if kind == "hamming":
        signs = np.where(np.asarray(items) > 0, 1, -1).astype(np.float32)
        return lambda q: (signs.shape[1] - signs @ np.where(queries[q] > 0, 1, -1).astype(np.float32)) / 2
    queries, items = check_embeddings("queries", queries), check_embeddings("items", items)
    if kind == "euclidean":  # evaluation leaves out what does not change the order
        return lambda q: np.linalg.norm(items - queries[q], axis=1)
    of = distance_rows(queries, items, kind)
    return lambda q: of(slice(q, q + 1))[0]


def _chosen(values: np.ndarray, rows: np.ndarray) -> list[tuple[int, str]]:
    """Return queries and their sort, each row of the dataset at most once; ``values`` are better when larger."""
    order = np.argsort(-values, kind="stable")
    first = {int(r): i for i, r in reversed(list(enumerate(rows[order])))}  # a row's best place
    order = order[sorted(first.values())]
    middle = max(0, len(order) // 2 - EACH // 2)
    parts = {"best": order[:EACH], "typical": order[middle : middle + EACH], "worst": order[::-1][:EACH]}
    found: dict[int, str] = {}
    for sort, members in parts.items():
        for q in members:
            found.setdefault(int(q), sort)
    return list(found.items())


def _top(ranking: Ranking, query: int) -> list[list[Any]]:
    distances, hits = ranking.distances(query), ranking.hits(query)
    shown = distances if ranking.measure.endswith("distance") else -distances
    found: dict[int, list[Any]] = {}
    for i in np.argsort(distances, kind="stable"):
        found.setdefault(int(ranking.same[i]), [int(ranking.items[i]), bool(hits[i]), float(shown[i])])
        if len(found) == TOP:
            break
    return list(found.values())


def _describe(found: dict[str, Any], direction: str, data: PairedData, source: str, thumbnails: Thumbnails) -> None:
    asked, answered = ("images", "texts") if direction == "i2t" else ("texts", "images")
    wanted = {asked: {q["row"] for q in found[direction]},
              answered: {r[0] for q in found[direction] for r in q["results"]}}  # fmt: skip
    for row in wanted["images"]:
        found["images"].setdefault(row, {"file": thumbnails.of(data, source, row), "labels": _labels(data, row)})
    for row in wanted["texts"]:
        caption = data.captions[row] if data.captions else None
        found["texts"].setdefault(row, {"caption": caption, "labels": _labels(data, int(data.pairs[row]))})


def _labels(data: PairedData, image: int) -> list[str]:
    if data.labels is None:
        return []
    return [data.classes[c] if data.classes else f"class {c}" for c in np.flatnonzero(data.labels[image])]
