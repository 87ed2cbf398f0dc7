"""Claims against results: a verdict, and for a miss the cheap explanation that closes it, if one does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cmrkit.recipe.model import Claim, EvalChoice

QUALIFIERS = ("database", "items", "ties", "similarity")
NEAR = 0.02  # absolute, in units of the metric: what a reader would call "about the same"


@dataclass(frozen=True)
class Result:
    """What one run obtained: its parameters, its metrics, and the same codes under every variant."""

    params: dict[str, Any]
    metrics: dict[str, Any]
    variants: dict[str, Any]


def judge(claims: list[Claim], results: list[Result], choice: EvalChoice) -> list[dict[str, Any]]:
    """Return one row per claim that some result answers.

    A row has metric, at, value, source, kind, obtained (mean over seeds), std, n, verdict and cause.
    ``verdict`` is match (within rounding, two standard deviations, or the stated tolerance), near, below
    or above. ``std`` is the sample standard deviation over seeds, None for a single run.
    """
    rows = []
    for claim in claims:
        answering = [r for r in results if _answers(claim, r)]
        values = [v for r in answering if (v := _value(claim, r, choice)) is not None]
        if values:
            rows.append(_row(claim, values, answering, choice))
    return rows


def _answers(claim: Claim, result: Result) -> bool:
    wanted = {k: v for k, v in claim.at.items() if k not in (*QUALIFIERS, "direction")}
    return all(k in result.params and result.params[k] == v for k, v in wanted.items())


def _value(claim: Claim, result: Result, choice: EvalChoice) -> float | None:
    direction = claim.at.get("direction")
    asked = {k: claim.at[k] for k in QUALIFIERS if k in claim.at}
    default = {k: getattr(choice, k) for k in QUALIFIERS if getattr(choice, k)}
    metrics = result.metrics
    if any(default.get(k) != v for k, v in asked.items()):
        metrics = _variant(result, {**default, **asked})
    return _pick(metrics, claim.metric, direction)


def _variant(result: Result, wanted: dict[str, str]) -> dict[str, Any]:
    for name, metrics in result.variants.items():
        have = dict(part.split("=") for part in name.split(","))
        if all(wanted.get(k) == v for k, v in have.items()):
            return metrics
    return {}


def _pick(metrics: dict[str, Any], metric: str, direction: str | None) -> float | None:
    found = metrics.get(metric)
    if isinstance(found, dict):
        found = found.get(direction)
    return found if isinstance(found, (int, float)) else None


def _row(claim: Claim, values: list[float], answering: list[Result], choice: EvalChoice) -> dict[str, Any]:
    obtained = fmean(values)
    std = stdev(values) if len(values) > 1 else None
    tolerance = max(rounding(claim.value), 2 * max(claim.std or 0, std or 0), claim.tolerance or 0)
    verdict = verdict_of(obtained - claim.value, tolerance)
    return {
        "metric": claim.metric,
        "at": claim.at,
        "value": claim.value,
        "claimed_std": claim.std,
        "source": claim.source,
        "kind": claim.kind,
        "obtained": obtained,
        "std": std,
        "n": len(values),
        "tolerance": tolerance,
        "verdict": verdict,
        "cause": None if verdict == "match" else explain(claim, answering, tolerance),
    }


def rounding(value: float) -> float:
    """Return half a unit of the last decimal that ``value`` is written with."""
    decimals = len(repr(value).partition(".")[2])
    return 0.5 * 10.0**-decimals


def verdict_of(difference: float, tolerance: float) -> str:
    """Return match, near, below or above for obtained minus claimed."""
    slack = tolerance + 1e-12
    if abs(difference) <= slack:
        return "match"
    if abs(difference) <= max(2 * slack, NEAR):
        return "near"
    return "below" if difference < 0 else "above"


def explain(claim: Claim, answering: list[Result], tolerance: float) -> str | None:
    """Return which single other reading of the same codes would give the claimed number, or None."""
    direction = claim.at.get("direction")
    swapped = {"i2t": "t2i", "t2i": "i2t"}.get(direction)
    family = claim.metric.partition(":")[0]
    readings: dict[str, list[float]] = {}
    for result in answering:
        for name, metrics in {"recipe's protocol": result.metrics, **result.variants}.items():
            for metric in (m for m in metrics if m.partition(":")[0] == family):
                _collect(readings, f"{metric} under {name}", _pick(metrics, metric, direction))
                _collect(readings, f"{metric} under {name}, directions swapped", _pick(metrics, metric, swapped))
        own = _pick(result.metrics, claim.metric, direction)
        queries = result.metrics.get("queries")
        if own is not None and isinstance(queries, int):
            # A counter that starts at 10 in circulating evaluation code scales every mAP by q / (q + 10).
            _collect(readings, "the mAP divided by ten queries too many", own * queries / (queries + 10))
    gaps = {name: abs(fmean(values) - claim.value) for name, values in readings.items()}
    best = min(gaps, key=gaps.get, default=None)
    return f"{best} gives the claimed value" if best and gaps[best] <= max(tolerance, 0.001) else None


def _collect(readings: dict[str, list[float]], name: str, value: float | None) -> None:
    if value is not None and math.isfinite(value):
        readings.setdefault(name, []).append(value)


def overall(rows: list[dict[str, Any]]) -> str:
    """Return the worst verdict of some rows, or ``unclaimed`` where there is none."""
    order = ("below", "above", "near", "match")
    return next((v for v in order if any(r["verdict"] == v for r in rows)), "unclaimed")
