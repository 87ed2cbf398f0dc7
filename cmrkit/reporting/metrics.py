"""Tables of metrics for the terminal: one protocol, every variant with its bounds, or two runs compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from cmrkit.reporting.card import table

DIRECTIONS = ("i2t", "t2i")


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Return a table of the scalar metrics, a column for each direction."""
    rows = table("metric", ">i2t", ">t2i")
    for name, value in metrics.items():
        if cells := _cells(value):
            rows.add_row(name, *cells)
    return rows


def _cells(value: Any) -> list[str]:
    if isinstance(value, (int, float)):
        return [_number(value), ""]
    if not isinstance(value, dict) or not all(isinstance(value.get(d, 0), (int, float)) for d in DIRECTIONS):
        return []
    return [_number(value[d]) if d in value else "" for d in DIRECTIONS]


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def variants_tables(variants: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Table]]:
    """Yield a title and a table for each choice of database, items and similarity.

    A row has a metric under the expected order of ties, the bounds of the worst and the best order, and the
    database's own order. Other readings of the expected order follow as rows.
    """
    places: dict[str, dict[str, dict[str, Any]]] = {}
    for key, metrics in variants.items():
        parts = dict(part.split("=") for part in key.split(","))
        rule = parts.pop("ties")
        more = [f"{n}={parts.pop(n)}" for n in ("averaging", "without_relevant") if n in parts]
        where = ", ".join(f"{k} {v}" for k, v in parts.items())
        places.setdefault(where, {})[" ".join(more) or rule] = metrics
    for where, readings in places.items():
        yield where, _variant_rows(readings)


def _variant_rows(readings: dict[str, dict[str, Any]]) -> Table:
    rows = table("metric", *(f">{c}" for d in DIRECTIONS for c in (d, "\\[worst, best]", "stable")))
    for column in rows.columns:
        column.no_wrap = True
    rules = {rule: readings.pop(rule) for rule in ("expected", "worst", "best", "stable") if rule in readings}
    for name in dict.fromkeys(n for metrics in rules.values() for n in metrics):
        if name != "rsum":
            rows.add_row(name, *(cell for d in DIRECTIONS for cell in _bounded(rules, name, d)))
    for reading, metrics in readings.items():
        for name, value in metrics.items():
            if _cells(value) and not _alike(value, rules["expected"].get(name)):
                cells = [_number(value[d]) if isinstance(value, dict) and d in value else "" for d in DIRECTIONS]
                rows.add_row(f"{name} {reading.partition('=')[2]}", cells[0], "", "", cells[1], "", "")
    return rows


def _alike(one: Any, other: Any) -> bool:
    one, other = (each if isinstance(each, dict) else {"": each} for each in (one, other))
    return all(abs(value - other.get(d, value)) < 1e-9 for d, value in one.items())


def _bounded(rules: dict[str, dict[str, Any]], name: str, direction: str) -> tuple[str, str, str]:
    found = {}
    for rule, metrics in rules.items():
        value = metrics.get(name, {})
        found[rule] = value.get(direction) if isinstance(value, dict) else None
    shown = {rule: "" if v is None else f"{v:.4f}" for rule, v in found.items() if not isinstance(v, dict)}
    bounds = f"\\[{shown['worst']}, {shown['best']}]" if shown.get("worst") and shown.get("best") else ""
    return shown.get("expected", ""), bounds, shown.get("stable", "")


def comparison_table(comparison: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Return a table of paired tests, a row for each metric and direction."""
    rows = table("metric", ">mean", ">against", ">difference", ">95 % interval", ">p boot", ">p random", ">queries")
    for metric, directions in comparison.items():
        for direction, test in directions.items():
            low, high = test["interval"]
            rows.add_row(
                f"{metric} {direction}", f"{test['mean']:.4f}", f"{test['against']:.4f}", f"{test['difference']:+.4f}",
                f"\\[{low:+.4f}, {high:+.4f}]", f"{test['p_bootstrap']:.4f}", f"{test['p_randomisation']:.4f}",
                str(test["queries"]),
            )  # fmt: skip
    return rows
