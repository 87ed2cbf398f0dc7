"""Metric names and what they compute: from a block of queries to one value per query, then to a mean.

========================= ===========================================================================
map@all                   mean average precision over the whole ranking
map@50                    the same cut at 50, divided by the relevant items retrieved
map@50:min|total          divided by min(50, R), by R
map@50:first-relevant     mean precision at the first min(50, R) relevant items
precision@100 recall@100  among the first 100
precision@2:radius        within Hamming radius 2; likewise recall@2:radius
pr_curve                  precision and recall by Hamming radius, or by rank in real-valued spaces
r@1 r@5 r@10              per cent of queries with a relevant item among the first K
medr meanr                median and mean rank of the first relevant item, from 1
rsum                      r@1 + r@5 + r@10 over both directions, 600 at best
========================= ===========================================================================

Means are over queries. Precisions are in 0..1, as the hashing papers print them; r@K and rsum are in per
cent, as the matching papers do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation import curves, ranking
from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.recall import FirstHits, first_hits, rank, recall

EXAMPLES = (
    *("map@all", "map@50", "map@50:min", "map@50:total", "map@50:first-relevant", "precision@100", "recall@100"),
    *("precision@2:radius", "recall@2:radius", "pr_curve", "r@1", "medr", "meanr", "rsum"),
)
RSUM = ("r@1", "r@5", "r@10")
_PATTERN = re.compile(
    r"(map)@(all)|(map)@(\d+)(?::(min|total|first-relevant))?|(precision|recall)@(\d+)(?::(radius))?"
    r"|(r)@(\d+)|(medr|meanr|rsum|pr_curve)"
)


@dataclass(frozen=True)
class Metric:
    """A parsed metric name: its kind, its cut-off (None: no cut) and its variant."""

    name: str
    kind: str
    k: int | None = None
    variant: str | None = None


def parse(name: str) -> Metric:
    """Read a metric's name. Raises UsageError with the nearest known form."""
    match = _PATTERN.fullmatch(name) if isinstance(name, str) else None
    if not match:
        near = difflib.get_close_matches(str(name), EXAMPLES, n=1, cutoff=0.0)
        raise UsageError(f"unknown metric {name!r} (did you mean {near[0]!r}?); known forms: {', '.join(EXAMPLES)}")
    kind, *rest = [part for part in match.groups() if part is not None]
    k = int(rest[0]) if rest and rest[0] != "all" else None
    variant = rest[1] if len(rest) > 1 else None
    if k == 0 and variant != "radius":
        raise UsageError(f"metric {name!r} cuts at 0; the first cut is 1")
    return Metric(name, kind, k, variant)


class Ranked:
    """One block of queries; what its metrics share is worked out once, when first asked for."""

    def __init__(self, block: Block):
        self.block = block
        self._groups: dict[str, ranking.TieGroups] = {}
        self._first: dict[str, FirstHits] = {}

    def groups(self, ties: str) -> ranking.TieGroups:
        """Return the tie groups under a rule, for everything that walks down the ranking."""
        if not self._groups:
            self._groups["expected"] = ranking.tie_groups(self.block)
        if ties not in self._groups:
            self._groups[ties] = ranking.break_ties(self._groups["expected"], self.block, ties)
        return self._groups[ties]

    def first(self, ties: str) -> FirstHits:
        """Return where the first relevant items stand under a rule, for recall at K."""
        if ties not in self._first:
            self._first[ties] = first_hits(self.block, ties)
        return self._first[ties]

    def values(self, metric: Metric, ties: str) -> np.ndarray:
        """Return one value per query (q,), or for a curve (q, 2, points): precision and recall."""
        return _VALUES[metric.kind](self, metric, ties)


def _map(ranked: Ranked, metric: Metric, ties: str) -> np.ndarray:
    if metric.k is None:
        return ranking.average_precision(ranked.groups(ties))
    return ranking.average_precision_at(ranked.groups(ties), metric.k, metric.variant or "retrieved")


def _at_cut(ranked: Ranked, metric: Metric, ties: str) -> np.ndarray:
    if metric.variant == "radius":
        which = curves.within_radius(_hamming(ranked, metric))[metric.kind == "recall"]
        return which[:, min(metric.k, which.shape[1] - 1)]
    at = ranking.precision_at if metric.kind == "precision" else ranking.recall_at
    return at(ranked.groups(ties), metric.k)


def _curve(ranked: Ranked, metric: Metric, ties: str) -> np.ndarray:
    by_radius = ranked.block.levels is not None
    return np.stack(curves.within_radius(ranked.block) if by_radius else curves.along_ranks(ranked.groups(ties)), 1)


def _hamming(ranked: Ranked, metric: Metric) -> Block:
    if ranked.block.levels is None:
        raise UsageError(f"metric {metric.name} asks for a Hamming radius, but this space is real-valued")
    return ranked.block


_VALUES = {
    "map": _map,
    "precision": _at_cut,
    "recall": _at_cut,
    "pr_curve": _curve,
    "r": lambda ranked, metric, ties: 100 * recall(ranked.first(ties), metric.k),
    "medr": lambda ranked, metric, ties: rank(ranked.first(ties)),
    "meanr": lambda ranked, metric, ties: rank(ranked.first(ties)),
}


def measure(
    blocks: Iterable[Block], metrics: Sequence[Metric], ties: Sequence[str], without_relevant: str = "zero"
) -> dict[str, dict[str, float | dict]]:
    """Run over the blocks of one direction once and return ``{tie rule: {metric name: value}}``.

    Queries without relevant items count as 0 (``zero``) or are left out (``skip``). Raises UsageError
    where no query has any. ``rsum`` is not known here: it takes two directions.
    """
    values: dict[str, dict[str, list]] = {rule: {m.name: [] for m in metrics} for rule in ties}
    answerable, levels, items = [], None, 0
    for block in blocks:
        levels, items = block.levels, block.items
        answerable.append(block.relevance.any(1))
        ranked = Ranked(block)
        for rule, metric in product(ties, metrics):
            values[rule][metric.name].append(ranked.values(metric, rule))
    some = np.concatenate(answerable)
    if not some.any():
        raise UsageError(
            f"no query has a relevant item among the {items} of the database: "
            "check that the labels or pairs belong to these rows"
        )
    kept = some if without_relevant == "skip" else slice(None)
    return {
        rule: {m.name: _reduce(m, np.concatenate(values[rule][m.name])[kept], levels, items) for m in metrics}
        for rule in ties
    }


def _reduce(metric: Metric, values: np.ndarray, levels: int | None, items: int) -> float | dict:
    if metric.kind == "medr":
        return float(np.median(values))
    if metric.kind != "pr_curve":
        return float(values.mean())
    precision, recalled = values.mean(0)
    points = {"radius": np.arange(levels)} if levels else {"rank": curves.rank_grid(items)}
    points |= {"precision": precision, "recall": recalled}
    return {name: column.tolist() for name, column in points.items()}
