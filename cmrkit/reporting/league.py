"""League tables: all methods on one split, one pair of features and one protocol, with groups that do not differ.

The protocol is the one that every method can be scored under from the codes it already made: ``COMMON``. Groups come
from tests over queries, of numbers that are means over seeds (``significance``), for the league's first metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from cmrkit.evaluation import find_protocol
from cmrkit.recipe.model import Recipe
from cmrkit.reporting.records import DIRECTIONS, Group, Record, number, per_query
from cmrkit.reporting.rescore import Queries, rescored
from cmrkit.reporting.significance import letters, paired_tests

COMMON = {
    "hamming": {"protocol": "hamming-map", "database": "hashed", "items": "database", "ties": "expected"},
    "real": {"protocol": "real-map", "database": "hashed", "items": "database", "ties": "expected",
             "similarity": "cosine"},
    "recall": {"protocol": "recall", "ties": "expected"},
}  # fmt: skip
METRICS = {
    "hamming": ("map@all", "map@50", "precision@100"),
    "real": ("map@all", "map@50", "precision@100"),
    "recall": ("r@1", "r@5", "r@10"),
}


def may_compete(group: Group, departs: dict[str, Any] | None) -> bool:
    """Whether runs stand for their paper: all queries, unchanged data, and what ``departures`` says of them is {}."""
    return departs == {} and not group.first.setting and not group.first.eval["limit"]


def kind_of(record: Record) -> str:
    """Return which league a run plays in: ``hamming``, ``real`` or ``recall``."""
    protocol = find_protocol(record.eval["protocol"])
    if protocol.relevance == "pairs":
        return "recall"
    return "hamming" if protocol.hamming else "real"


def league_tables(
    root: Path, groups: list[tuple[Group, Recipe]], progress: Callable[[list], Any] = iter
) -> list[dict[str, Any]]:
    """Return a league for each dataset, split, features and kind of number under which groups can be compared.

    ``groups`` are runs of recipes as they stand (``may_compete``). A league has ``tables``, one per code length
    (``size``, None in real-valued spaces), whose rows hold ``scores`` (metric -> [i2t, t2i] means over seeds),
    ``std``, ``letters`` and, beside them, the paper's ``own`` protocol.
    """
    played: dict[tuple, list[tuple[Group, Recipe]]] = defaultdict(list)
    for group, recipe in groups:
        first = group.first
        place = (first.dataset, first.data.get("split"), first.data.get("image"), first.data.get("text"))
        played[(*place, kind_of(first))].append((group, recipe))
    found = [_league(root, *each) for each in progress(sorted(played.items(), key=lambda e: str(e[0])))]
    return [league for league in found if any(len(table["rows"]) > 1 for table in league["tables"])]


def _league(root: Path, place: tuple, members: list[tuple[Group, Recipe]]) -> dict[str, Any]:
    dataset, split, image, text, kind = place
    sizes: dict[Any, list[tuple[Group, Recipe]]] = defaultdict(list)
    for group, recipe in members:
        sizes[group.first.params.get("bits") if kind == "hamming" else None].append((group, recipe))
    tables = [_table(root, kind, size, sizes[size]) for size in sorted(sizes, key=lambda s: s or 0)]
    return {"dataset": dataset, "split": split, "image": image, "text": text, "kind": kind,
            "protocol": COMMON[kind], "metrics": METRICS[kind], "tables": tables}  # fmt: skip


def _table(root: Path, kind: str, size: Any, members: list[tuple[Group, Recipe]]) -> dict[str, Any]:
    rows, queries = [], []
    for group, recipe in members:
        scored = [_common(root, record, kind) for record in group.records]
        row = {"key": recipe.key, "acronym": recipe.paper.acronym, "label": _without_size(group.label)}
        row |= {"n": len(scored), "own": _own(group, METRICS[kind]), "database": group.first.eval["database"]}
        row["scores"], row["std"] = _over_seeds([s for s, _ in scored], METRICS[kind])
        if any(v is not None for v in row["scores"][METRICS[kind][0]]):
            rows.append(row)
            queries.append(_mean_queries([q for _, q in scored]))
    _letters(rows, queries, METRICS[kind][0])
    rows.sort(key=lambda r: -fmean(v or 0 for v in r["scores"][METRICS[kind][0]]))
    return {"size": size, "rows": rows}


def _without_size(label: str) -> str:
    return " ".join(part for part in label.split() if not part.startswith("bits="))


def _own(group: Group, metrics: tuple[str, ...]) -> dict[str, list[float | None]]:
    summaries = {m: [group.summary(m, d) for d in DIRECTIONS] for m in metrics}
    return {m: [s and s.mean for s in pair] for m, pair in summaries.items()}


def _over_seeds(scores: list[dict[str, Any]], metrics: tuple[str, ...]) -> tuple[dict, dict]:
    means, stds = {}, {}
    for metric in metrics:
        found = [[v for s in scores if (v := number(s, metric, d)) is not None] for d in DIRECTIONS]
        means[metric] = [fmean(v) if v else None for v in found]
        stds[metric] = [stdev(v) if len(v) > 1 else None for v in found]
    return means, stds


def _mean_queries(seeds: list[Queries]) -> Queries:
    shared = set.intersection(*(set(s) for s in seeds))
    return {at: np.mean([s[at] for s in seeds], axis=0) for at in shared if len({len(s[at]) for s in seeds}) == 1}


def _letters(rows: list[dict[str, Any]], queries: list[Queries], metric: str) -> None:
    """Put into the rows whose queries are known, for each direction, the letters of groups that do not differ."""
    for row in rows:
        row["letters"] = ["", ""]
    for d, direction in enumerate(DIRECTIONS):
        found = {i: q[metric, direction] for i, q in enumerate(queries) if (metric, direction) in q}
        lengths = [len(values) for values in found.values()]
        usual = max(set(lengths), key=lengths.count, default=0)
        values = {i: each for i, each in found.items() if len(each) == usual}
        tests = paired_tests(values, list(combinations(values, 2)))
        differ = {frozenset((test["a"], test["b"])) for test in tests if test["differ"]}
        if tests:
            for i, letter in letters({i: float(each.mean()) for i, each in values.items()}, differ).items():
                rows[i]["letters"][d] = letter


def _common(root: Path, record: Record, kind: str) -> tuple[dict[str, Any], Queries]:
    """Return a run's metrics under the common protocol, and per query, from whatever is left of it in the store."""
    common = COMMON[kind]
    if all(record.eval.get(k) == v for k, v in common.items()):
        return record.metrics, per_query(root, record)
    found = rescored(root, record, common, METRICS[kind])
    if found is not None:
        return found
    parts = [f"{k}={common[k]}" for k in ("database", "items", "ties", "similarity") if k in common]
    return record.variants.get(",".join(parts), {}), {}
