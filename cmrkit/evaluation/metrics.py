"""Metric names and what they compute: from a block of queries to one value per query, then to a mean.

Means are over queries (``macro``), or sums are divided once (``micro``). Precisions are in 0..1, as the hashing
papers print them; r@K and rsum are in per cent, as the matching papers do. METRICS explains every name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation import curves, graded, ranking
from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.recall import FirstHits, first_hits, rank, recall

RSUM = ("r@1", "r@5", "r@10")
METRICS = {  # form -> definition; R is the number of a query's relevant items
    "map@all": "mean over queries of average precision: the mean, over the R relevant items, of the precision at each",
    "map@all:11-point": "mean interpolated average precision: the largest precision at each recall 0, .1, .. 1 or"
    " beyond; needs an order, so ties stable, worst or best",
    "map@50": "the list is cut at 50; the precisions at the relevant items found, divided by their number",
    "map@50:min": "the list is cut at 50; the same sum divided by min(50, R)",
    "map@50:total": "the list is cut at 50; the same sum divided by R",
    "map@50:first-relevant": "no list is cut: the mean precision at the first min(50, R) relevant items",
    "map@r": "the list is cut at R, a rank of each query's own; the sum divided by R",
    "r-precision": "the precision among the first R",
    "precision@100": "the share of relevant items among the first 100",
    "recall@100": "the share of its R relevant items that a query finds among the first 100",
    "precision@2:radius": "precision within Hamming radius 2; a query that retrieves nothing there has 0",
    "precision@2:radius-found": "the same, over the queries that retrieve something within the radius",
    "recall@2:radius": "the share of the R relevant items within Hamming radius 2",
    "pr_curve": "precision and recall within each Hamming radius, or at ranks 1.. in real-valued spaces",
    "pr_curve:rank": "precision and recall at ranks 1.., 50 of them evenly spaced on a logarithmic scale",
    "ndcg@100": "normalised discounted cumulative gain of the first 100: gain 2**g - 1, g the labels shared, discount"
    " log2(1 + rank), over the best ranking of the database; ndcg@all likewise",
    "ndcg@100:linear": "the same with the gain g",
    "acg@100": "average cumulative gain: the mean number of labels shared by the first 100",
    "wmap@100": "weighted mean average precision: the mean of acg@rank over the relevant items among the first 100"
    "; wmap@all over all R",
    "r@1": "per cent of queries with a relevant item among the first 1",
    "medr": "median over queries of the rank of the first relevant item, from 1",
    "medr:floor": "the same as VSE++'s code prints it: rounded down",
    "meanr": "mean rank of the first relevant item, from 1",
    "rsum": "r@1 + r@5 + r@10 over both directions, 600 at best",
}
_PATTERN = re.compile(
    r"(map)@(all)(?::(11-point))?|(map)@(\d+)(?::(min|total|first-relevant))?|(map)@(r)|(r-precision)"
    r"|(precision|recall)@(\d+)(?::(radius|radius-found))?|(pr_curve)(?::(rank))?"
    r"|(ndcg)@(all|\d+)(?::(linear))?|(acg)@(\d+)|(wmap)@(all|\d+)|(r)@(\d+)|(medr)(?::(floor))?|(meanr|rsum)"
)


@dataclass(frozen=True)
class Metric:
    """A parsed metric name: its kind, its cut-off (None: no cut, "r": at R) and its variant."""

    name: str
    kind: str
    k: int | str | None = None
    variant: str | None = None


def parse(name: str) -> Metric:
    """Read a metric's name. Raises UsageError with the nearest known form."""
    match = _PATTERN.fullmatch(name) if isinstance(name, str) else None
    if not match or name == "recall@2:radius-found":
        near = difflib.get_close_matches(str(name), METRICS, n=1, cutoff=0.0)
        raise UsageError(f"unknown metric {name!r} (did you mean {near[0]!r}?); known forms: {', '.join(METRICS)}")
    kind, *rest = [part for part in match.groups() if part is not None]
    variant = rest.pop() if rest and not (rest[-1].isdigit() or rest[-1] in ("all", "r")) else None
    cut = rest[0] if rest else "all"
    k = None if cut == "all" else "r" if cut == "r" else int(cut)
    if k == 0 and variant not in ("radius", "radius-found"):
        raise UsageError(f"metric {name!r} cuts at 0; the first cut is 1")
    return Metric(name, kind, k, variant)


def explain(name: str) -> str | None:
    """Return the definition of a metric, whatever its cut-off, or None where there is no such metric."""
    try:
        metric = parse(name)
    except UsageError:
        return None
    for form, text in METRICS.items():
        known = parse(form)
        if (known.kind, known.variant) == (metric.kind, metric.variant) and (known.k == "r") == (metric.k == "r"):
            if metric.kind == "map" and (known.k is None) != (metric.k is None):
                continue
            return text.replace(str(known.k), str(metric.k)) if isinstance(metric.k, int) else text
    return None


class Ranked:
    """One block of queries under one tie rule; what its metrics share is worked out once, when first asked for."""

    def __init__(self, block: Block, ties: str):
        self.block, self.ties = block, ties
        self._groups = self._graded = self._first = None

    @property
    def groups(self) -> ranking.TieGroups:
        """The tie groups, for everything that walks down the ranking."""
        if self._groups is None:
            self._groups = self.block.stable if self.ties == "stable" else self.block.groups.under(self.ties)
        return self._groups

    @property
    def graded(self) -> graded.GradedGroups:
        """The tie groups with their grades."""
        if self._graded is None:
            self._graded = graded.graded_groups(self.block, self.ties)
        return self._graded

    @property
    def first(self) -> FirstHits:
        """Where the first relevant items stand."""
        if self._first is None:
            self._first = first_hits(self.groups)
        return self._first


Ratio = tuple[np.ndarray, np.ndarray]  # numerators and denominators per query: (q,), or (q, 1 and 2, points) of curves


def _map(ranked: Ranked, metric: Metric) -> Ratio:
    groups, total = ranked.groups, ranked.groups.total
    if metric.variant == "11-point":
        if ranked.ties == "expected":
            raise UsageError(f"{metric.name} has no closed form over tied orders: choose ties stable, worst or best")
        return ranking.interpolated_precision(groups), _ones(total)
    if metric.variant == "first-relevant":
        wanted = np.minimum(total, metric.k)
        return ranking.average_precision_at(groups, metric.k, "first-relevant") * wanted, wanted
    k = groups.items if metric.k is None else total if metric.k == "r" else metric.k
    sums = ranking.cut_sums(groups, k)
    if metric.variant == "min":
        return sums, np.minimum(total, metric.k)
    return sums, ranking.hits_at(groups, k) if isinstance(metric.k, int) and metric.variant is None else total


def _at_cut(ranked: Ranked, metric: Metric) -> Ratio:
    groups = ranked.groups
    if metric.variant in ("radius", "radius-found"):
        hits, retrieved = (
            counts[:, min(metric.k, counts.shape[1] - 1)] for counts in curves.within_radius(ranked.block)
        )
        return hits, retrieved if metric.kind == "precision" else groups.total
    k = min(metric.k, groups.items)
    return ranking.hits_at(groups, k), k * _ones(groups.total) if metric.kind == "precision" else groups.total


def _r_precision(ranked: Ranked, metric: Metric) -> Ratio:
    return ranking.hits_at(ranked.groups, ranked.groups.total), ranked.groups.total


def _curve(ranked: Ranked, metric: Metric) -> Ratio:
    total = ranked.groups.total[:, None]
    if ranked.block.levels is None or metric.variant == "rank":
        hits = curves.along_ranks(ranked.groups)
        retrieved = np.broadcast_to(curves.rank_grid(ranked.block.items), hits.shape)
    else:
        hits, retrieved = curves.within_radius(ranked.block)
    return hits[:, None], np.stack([retrieved, np.broadcast_to(total, hits.shape)], 1)


def _graded(ranked: Ranked, metric: Metric) -> Ratio:
    if metric.kind == "ndcg":
        return graded.dcg(ranked.graded, metric.k, linear=metric.variant == "linear")
    if metric.kind == "wmap":
        return graded.weighted_precision(ranked.graded, metric.k)
    return graded.cumulative_gain(ranked.graded, metric.k), _ones(ranked.graded.groups.total)


def _first(ranked: Ranked, metric: Metric) -> Ratio:
    values = 100 * recall(ranked.first, metric.k) if metric.kind == "r" else rank(ranked.first)
    return values, _ones(values)


def _ones(like: np.ndarray) -> np.ndarray:
    return np.ones(len(like))


_RATIOS = {
    **{"map": _map, "r-precision": _r_precision, "precision": _at_cut, "recall": _at_cut, "pr_curve": _curve},
    **{"ndcg": _graded, "acg": _graded, "wmap": _graded, "r": _first, "medr": _first, "meanr": _first},
}
GRADED = ("ndcg", "acg", "wmap")


@dataclass
class Measured:
    """What one direction came to: every query's values, by tie rule and metric, to be averaged in one way or another.

    ``queries`` holds what ``per_query`` gives and ``ratios`` numerators and denominators (those of a curve summed
    over queries already, for both ways of averaging). ``answerable`` (q,) tells queries with a relevant item.
    """

    queries: dict[tuple[str, str], np.ndarray]
    ratios: dict[tuple[str, str], Ratio]
    answerable: np.ndarray
    levels: int | None
    items: int

    def means(
        self, names: Sequence[str], ties: str, without_relevant: str = "zero", averaging: str = "macro"
    ) -> dict[str, float | dict]:
        """Return the value of each metric that was measured under this tie rule.

        Queries without relevant items count as 0 (``zero``) or are left out (``skip``); ``macro`` is the mean over
        queries, ``micro`` divides the summed numerators by the summed denominators.
        """
        kept = self.answerable if without_relevant == "skip" else slice(None)
        values = {}
        for metric in map(parse, names):
            at = ties, metric.name
            if at in self.ratios:
                ratio = tuple(side[kept] for side in self.ratios[at])
                values[metric.name] = _mean(metric, self.queries.get(at, ratio[0])[kept], ratio, averaging)
            if isinstance(values.get(metric.name), np.ndarray):
                values[metric.name] = self._curve(metric, values[metric.name])
        return values

    def _curve(self, metric: Metric, value: np.ndarray) -> dict[str, list]:
        by_radius = self.levels is not None and metric.variant != "rank"
        points = {"radius": np.arange(self.levels)} if by_radius else {"rank": curves.rank_grid(self.items)}
        points |= {"precision": value[0], "recall": value[1]}
        return {name: column.tolist() for name, column in points.items()}


def measure(blocks: Iterable[Block], metrics: Sequence[Metric], ties: Sequence[str]) -> Measured:
    """Run over the blocks of one direction once and keep what every query comes to under each tie rule.

    A metric that needs an order is left out under ``expected`` where other rules are asked too. Raises UsageError
    where no query has any relevant item. ``rsum`` is not known here: it takes two directions.
    """
    asked = [(rule, m) for rule in ties for m in metrics if not (m.variant == "11-point" and _is_open(rule, ties))]
    values: dict[tuple[str, Metric], list[np.ndarray]] = {at: [] for at in asked if at[1].kind != "pr_curve"}
    ratios: dict[tuple[str, Metric], list[Ratio]] = {at: [] for at in asked}
    answerable, block = [], None
    for block in blocks:
        answerable.append(block.total > 0)
        ranked = {rule: Ranked(block, rule) for rule in ties}
        for rule, metric in asked:
            ratios[rule, metric].append(ratio := _RATIOS[metric.kind](ranked[rule], metric))
            if metric.kind != "pr_curve":
                values[rule, metric].append(_per_query(ranked[rule], metric, ratio))
    if not np.concatenate(answerable).any():
        raise UsageError(
            f"no query has a relevant item among the {block.items} of the database: "
            "check that the labels or pairs belong to these rows"
        )
    return Measured(
        {(rule, m.name): _joined(parts) for (rule, m), parts in values.items()},
        {(rule, m.name): tuple(map(_joined, zip(*parts, strict=True))) for (rule, m), parts in ratios.items()},
        np.concatenate(answerable),
        block.levels,
        block.items,
    )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _is_open(rule: str, ties: Sequence[str]) -> bool:
    return rule == "expected" and len(ties) > 1


def _per_query(ranked: Ranked, metric: Metric, ratio: Ratio) -> np.ndarray:
    if metric.kind == "map" and isinstance(metric.k, int) and metric.variant is None:
        # A quotient of two things that both vary with the order: the expected value is not theirs divided.
        return ranking.average_precision_at(ranked.groups, metric.k, "retrieved")
    return ranking.ratio(*ratio)


def _mean(metric: Metric, values: np.ndarray, ratio: Ratio, averaging: str) -> float | np.ndarray:
    if metric.kind == "medr":
        median = float(np.median(values))
        return float(np.floor(median)) if metric.variant == "floor" else median
    if metric.kind == "pr_curve":
        return (
            ranking.ratio(ratio[0].sum(0), ratio[1].sum(0)) if averaging == "micro" else ranking.ratio(*ratio).mean(0)
        )
    if averaging == "micro":
        return float(ranking.ratio(ratio[0].sum(), ratio[1].sum()))
    if metric.variant == "radius-found":
        return float(values[ratio[1] > 0].mean()) if (ratio[1] > 0).any() else 0.0
    return float(values.mean())


def expand(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics to measure in each direction: rsum as its parts, each once."""
    names = [m.name for m in metrics if m.kind != "rsum"]
    parts = RSUM if any(m.kind == "rsum" for m in metrics) else ()
    return [parse(name) for name in dict.fromkeys((*names, *parts))]


def divides_by_relevant(metric: Metric) -> bool:
    """Tell whether a query's value is divided by its number of relevant items, so that micro-averaging weighs by it."""
    if metric.kind == "map":
        return metric.variant == "total" or (metric.k in (None, "r") and metric.variant is None)
    return metric.kind in ("r-precision", "recall") and metric.variant is None


def bytes_per_pair(metrics: Sequence[Metric], ties: Sequence[str]) -> int:
    """Return what these metrics hold in memory for every pair of a query and an item, at most, in Hamming space."""
    if "stable" not in ties:
        return 0
    return 96 if any(m.kind in GRADED for m in metrics) else 48
