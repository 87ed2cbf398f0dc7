"""What the page says about one paper: its facts, from the recipe, and its results, from groups of runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from statistics import fmean
from textwrap import dedent
from typing import Any

from cmrkit.errors import CmrkitError
from cmrkit.methods.inspect import find_method
from cmrkit.recipe.model import Claim, Recipe, Setting
from cmrkit.reporting.records import (
    DIRECTIONS,
    RULES,
    Group,
    artifact_folder,
    departures,
    is_main,
    judge_group,
    unanswered,
    variant_rows,
)
from cmrkit.reporting.rescore import rescored

DIGITS = 5  # of numbers on the page; curves and variants, of which there are thousands, have one less
LISTED = ("map@all", "rsum", "r@1", "map@50", "r@5", "r@10")  # metrics that the matrix offers, the usual one first
KINDS = ("paper", "code", "oracle", "cited", "rerun")  # whose number stands for the paper where there are several
WORST_FIRST = ("below", "above", "near", "match")
ASIDE = re.compile(r"Not to be confused|[^=]*\b(19|20)\d\d\.$")  # a namesake, or the citation's second line
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(`])")


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Return JSON data with every float rounded to so many decimals."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, (list, tuple)) else value


def facts(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe alone says: citation, idea, data, parameters with provenance, notes."""
    from cmrkit.cli.show import bibtex

    paper = recipe.paper.model_dump(mode="json", exclude={"bibtex"}, exclude_defaults=True)
    found = {"paper": paper, "bibtex": bibtex(recipe), "notes": list(recipe.notes)}
    if not recipe.runnable:
        return found
    doc = find_method(recipe.family, recipe.model["name"]).doc
    return found | {
        "idea": idea(doc),
        "doc": doc,
        "data": [[name, c.image, c.text, c.split] for name, c in recipe.data.items()],
        "protocol": {k: v for k, v in recipe.eval.model_dump(mode="json").items() if v},
        "params": list(_parameters(recipe)),
        "compute": recipe.compute and recipe.compute.model_dump(mode="json", exclude_none=True),
    }


def idea(doc: str) -> list[list[str]]:
    """Return the first two sentences after a docstring's title, with the formulas and lists that belong to them.

    Blocks are ["p", text], ["pre", formula] and ["li", item]; what only cites or tells namesakes apart is left out.
    """
    blocks, left = [], 2
    for block in doc.split("\n\n")[1:]:
        if block.startswith(("    ", "==")):
            blocks.append(["pre", dedent(block)])
        elif block.startswith("* "):
            if not (blocks and blocks[-1][1].endswith(":")):
                break
            blocks += [["li", " ".join(item.split())] for item in block[2:].split("\n* ")]
        elif left < 1:
            break
        elif sentences := [s for s in SENTENCE.split(" ".join(block.split())) if not ASIDE.match(s)]:
            blocks.append(["p", " ".join(sentences[:left])])
            left -= len(sentences) - (not sentences[-1].endswith((".", "!", "?")))
    return blocks


def _parameters(recipe: Recipe) -> Any:
    for section in ("model", "train"):
        for name, value in getattr(recipe, section).items():
            if name != "name":
                dotted = f"{section}.{name}"
                source = next((s for k, s in recipe.provenance.items() if dotted in k.replace(" ", "").split(",")), "")
                others = {d: getattr(o, section)[name] for d, o in recipe.on.items() if name in getattr(o, section)}
                yield [dotted, value, source, others]


def results(root: Path, recipe: Recipe, groups: list[Group]) -> dict[str, Any]:
    """Return what runs of a recipe obtained: ``groups``, ``claims`` with verdicts, ``numbers`` for the matrix.

    Groups on a dataset that the recipe no longer knows keep their numbers, and are judged against nothing.
    """
    apart = [_departures(g, recipe) for g in groups]
    judged = [(g, row) for g, departs in zip(groups, apart, strict=True) if departs is not None
              for row in judge_group(g, recipe)]  # fmt: skip
    answers = [
        _claim(row, groups.index(g)) | {"dataset": g.first.dataset} for g, row in judged if not row["departures"]
    ]
    claims = _one_each(answers)
    missing = unanswered(recipe, [row for _, row in judged if not row["departures"]])
    shown = [_group(root, g, recipe, departs) for g, departs in zip(groups, apart, strict=True)]
    claims += [_unrun(claim, recipe) for claim in missing]
    own = [g for g, s in zip(groups, shown, strict=True) if s["departs"] == {} and not g.first.eval["limit"]]
    return {"groups": shown, "claims": claims, "numbers": _numbers(claims, own), "verdict": _overall(claims),
            "tally": {v: n for v in WORST_FIRST if (n := sum(c["verdict"] == v for c in claims))}}  # fmt: skip


def _departures(group: Group, recipe: Recipe) -> dict[str, Any] | None:
    """Return what a group departs from its recipe in, or None where the recipe no longer knows of such runs."""
    try:
        return departures(group, recipe)
    except CmrkitError:
        return None


def _overall(claims: list[dict[str, Any]]) -> str | None:
    return next((v for v in WORST_FIRST if any(c["verdict"] == v for c in claims)), None)


def _claim(row: dict[str, Any], group: int) -> dict[str, Any]:
    keep = (
        "metric",
        "at",
        "value",
        "claimed_std",
        "source",
        "kind",
        "obtained",
        "std",
        "n",
        "verdict",
        "cause",
        "main",
    )
    return {k: row[k] for k in keep} | {"group": group}


def _one_each(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep one group's answer to each claim: that of most seeds, and of these the worst."""
    best: dict[str, dict[str, Any]] = {}
    for claim in claims:
        key = json.dumps([claim[k] for k in ("metric", "at", "value", "source")], sort_keys=True)
        have = best.get(key)
        if have is None or (-claim["n"], _rank(claim)) < (-have["n"], _rank(have)):
            best[key] = claim
    return list(best.values())


def _rank(claim: dict[str, Any]) -> int:
    return WORST_FIRST.index(claim["verdict"])


def _unrun(claim: Claim, recipe: Recipe) -> dict[str, Any]:
    found = claim.model_dump(mode="json", include={"dataset", "metric", "at", "value", "source", "kind"})
    empty = dict.fromkeys(("obtained", "std", "n", "verdict", "cause", "group"))
    main = recipe.eval is not None and is_main(claim.at, recipe.eval)
    return {**empty, **found, "claimed_std": claim.std, "main": main}


def _group(root: Path, group: Group, recipe: Recipe, apart: dict[str, Any] | None) -> dict[str, Any]:
    first = group.first
    return {
        "label": group.label,
        "dataset": first.dataset,
        "data": first.data,
        "bits": first.params.get("bits"),
        "seeds": group.seeds,
        "departs": apart,
        "setting": first.setting,
        "protocol": {k: v for k, v in first.eval.items() if v},
        "origin": first.origin,
        "command": command(group, recipe, apart or {}),
        "summary": _summary(group),
        "variants": rounded(_variants(group), DIGITS - 1),
        "curves": rounded(_curves(root, group), DIGITS - 1),
        "history": _history(group),
        "steps": _steps(root, group),
        "environment": first.environment,
        "when": max(r.when for r in group.records),
    }


def command(group: Group, recipe: Recipe, apart: dict[str, Any]) -> str:
    """Return the command line that repeats a group: every swept parameter and every departure is spelt out."""
    first = group.first
    parts = ["cmrkit", "reproduce", first.recipe, "--dataset", first.dataset]
    if "bits" in first.params:
        parts += ["--bits", str(first.params["bits"])]
    parts += ["--seed", ",".join(map(str, group.seeds))]
    swept = {**recipe.sweep, **(recipe.on[first.dataset].sweep if first.dataset in recipe.on else {})}
    values = {name: first.params.get(name.partition(".")[2]) for name in swept if name.startswith(("model.", "train."))}
    setting = Setting.model_validate(first.setting).model_dump(mode="json")
    values |= {name: setting[name.partition(".")[2]] for name in swept if name.startswith("setting.")}
    values |= {name: value for name, value in apart.items() if not name.startswith("data.")}
    values.pop("model.bits", None)
    for name, value in values.items():
        parts += ["--set", f"{name}={json.dumps(value) if not isinstance(value, str) else value}"]
    if recipe.checkpoints:
        parts += ["--from", first.origin]
    return shlex.join(parts)


def _summary(group: Group) -> list[list[Any]]:
    rows = []
    for metric, value in group.first.metrics.items():
        for direction in [d for d in DIRECTIONS if d in value] if isinstance(value, dict) else [None]:
            found = group.summary(metric, direction) if metric != "queries" else None
            if found:
                rows.append([metric, direction, found.mean, found.std, found.n, found.low, found.high])
    return rows


def _variants(group: Group) -> list[list[Any]]:
    """Return rows [where, metric, direction, reading, expected, worst, best, stable]."""
    rows = variant_rows(group)
    return [[" ".join(f"{k}={v}" for k, v in r["where"].items()), r["metric"], r["direction"], r["reading"],
             *(r.get(rule) for rule in RULES)] for r in rows if r["metric"] != "queries"]  # fmt: skip


def _curves(root: Path, group: Group) -> dict[str, Any]:
    """Return metric -> direction -> {"x": radius or rank, "at", "precision", "recall"}.

    What the runs recorded is a mean over seeds. Precision by rank is not recorded of codes: it is scored again, of
    the first seed's.
    """
    found: dict[str, Any] = {}
    for metric in (m for m in group.first.metrics if m.startswith("pr_curve")):
        for direction in DIRECTIONS:
            curves = [c for r in group.records if isinstance(c := r.metrics.get(metric, {}).get(direction), dict)]
            if curve := _mean_curve(curves):
                found.setdefault(metric, {})[direction] = curve
    if "pr_curve" in found and "pr_curve:rank" not in found and found["pr_curve"].get("i2t", {}).get("x") == "radius":
        again = rescored(root, group.first, group.first.eval, ("pr_curve:rank",), queries=False)
        curves = again[0]["pr_curve:rank"] if again else {}
        found["pr_curve:rank"] = {d: _mean_curve([c]) for d, c in curves.items()}
    return found


def _mean_curve(curves: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the mean of curves that are read at the same radii or ranks, or None where they are not."""
    for name in ("radius", "rank"):
        if curves and name in curves[0] and all(c.get(name) == curves[0][name] for c in curves):
            means = {k: [fmean(p) for p in zip(*(c[k] for c in curves), strict=True)] for k in ("precision", "recall")}
            return {"x": name, "at": curves[0][name], **means}
    return None


def _history(group: Group) -> list[list[Any]]:
    """Return [seed, epochs, losses] of each run that noted any."""
    rows = []
    for record in group.records:
        noted = [h for h in record.history if isinstance(h.get("loss"), (int, float))]
        if noted:
            rows.append([record.seed, [h.get("epoch", i) for i, h in enumerate(noted)], [h["loss"] for h in noted]])
    return rows


def _steps(root: Path, group: Group) -> list[list[Any]]:
    """Return [step, mean seconds over seeds, key of the first run's, whether its files are still there]."""
    rows = []
    for name, key in group.first.steps.items():
        seconds = [r.seconds[name] for r in group.records if name in r.seconds]
        there = artifact_folder(root, group.first, name) is not None
        rows.append([name, fmean(seconds) if seconds else None, key, there])
    return rows


def _numbers(claims: list[dict[str, Any]], own: list[Group]) -> list[dict[str, Any]]:
    """Return what the matrix can show of a paper, the most telling first: claims with results, results, claims."""
    found: dict[tuple, dict[str, Any]] = {}
    for claim in sorted(claims, key=lambda c: KINDS.index(c["kind"])):
        if claim["main"] and claim["metric"] in LISTED:
            rest = {k: v for k, v in claim["at"].items() if k not in ("bits", "direction", "database", "items", "ties")}
            key = (claim["dataset"], claim["at"].get("bits"), claim["metric"], json.dumps(rest, sort_keys=True))
            _place(found, key, claim["at"].get("direction"), claim)
    covered = {key[:3] for key, number in found.items() if any(v is not None for v in number["ours"])}
    for group in own:
        for metric in LISTED:
            key = (group.first.dataset, group.first.params.get("bits"), metric)
            for direction in (*DIRECTIONS, None) if key not in covered else ():
                summary = group.summary(metric, direction)
                if summary:
                    ours = {"kind": None, "value": None, "obtained": summary.mean, "std": summary.std, "n": summary.n,
                            "verdict": "unclaimed"}  # fmt: skip
                    _place(found, (*key, group.label), direction, ours)
    return sorted(found.values(), key=_telling)


def _place(found: dict[tuple, dict[str, Any]], key: tuple, direction: str | None, fact: dict[str, Any]) -> None:
    blank = {"dataset": key[0], "bits": key[1], "metric": key[2], "kind": fact["kind"], "paper": [None, None],
             "ours": [None, None], "std": [None, None], "n": fact["n"], "verdict": fact["verdict"]}  # fmt: skip
    number = found.setdefault(key, blank)
    at = DIRECTIONS.index(direction) if direction in DIRECTIONS else 0
    if number["paper"][at] is None and number["ours"][at] is None:
        number["paper"][at], number["ours"][at], number["std"][at] = fact["value"], fact["obtained"], fact["std"]
        verdicts = [v for v in WORST_FIRST if v in (number["verdict"], fact["verdict"])]
        number["verdict"] = verdicts[0] if verdicts else number["verdict"]


def _telling(number: dict[str, Any]) -> tuple:
    run, claimed = number["ours"] != [None, None], number["paper"] != [None, None]
    smoke = number["dataset"] in ("shapes", "digits")
    return (not (run and claimed), not run, smoke, LISTED.index(number["metric"]), number["bits"] or 0)
