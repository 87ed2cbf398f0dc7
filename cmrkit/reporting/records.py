"""The records of a store: read whatever version wrote them, grouped over seeds, and judged against the claims.

A record is the JSON file that ``reproduce`` leaves for each run. A *group* is the runs that differ in nothing but
their seed; means, deviations and verdicts belong to groups, never to a mixture of settings.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError
from cmrkit.evaluation.statistics import Summary, summary
from cmrkit.recipe.model import Claim, EvalChoice, Recipe, Setting

DIRECTIONS = ("i2t", "t2i")
RULES = ("expected", "worst", "best", "stable")
SHOWN_FIRST = ("variant", "bits", "dim")


@dataclass(frozen=True)
class Record:
    """One run, as it was recorded. What an older version did not note is empty."""

    path: Path
    recipe: str
    dataset: str
    data: dict[str, Any]
    preprocess: dict[str, list[str]]
    params: dict[str, Any]  # without the seed
    seed: int
    setting: dict[str, Any]
    eval: dict[str, Any]
    metrics: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    steps: dict[str, str]
    seconds: dict[str, float]
    history: list[dict[str, Any]]
    environment: dict[str, Any]
    when: str
    origin: str = "scratch"  # or "checkpoint", published weights as they are, or "pretrained", trained from such
    skipped: int = 0  # bad images that were left out of the data

    @cached_property
    def identity(self) -> str:
        """Canonical JSON of everything but the seed: runs with the same identity form a group."""
        parts = [self.recipe, self.dataset, self.data, self.preprocess, self.params, self.setting, self.eval,
                 self.origin, self.skipped]  # fmt: skip
        return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True)
class Skipped:
    """A file among the records that could not be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Records:
    """What a store's records say. ``superseded`` counts runs that were done again, by other code, later."""

    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...] = ()
    superseded: int = 0


@dataclass(frozen=True)
class Group:
    """Runs of one recipe on one dataset that differ only in their seed, sorted by it.

    ``label`` tells it from its siblings, the groups of the same recipe and dataset: ``bits=16 label_noise=0.4``.
    """

    records: tuple[Record, ...]
    label: str = ""

    @property
    def first(self) -> Record:
        """The run with the smallest seed; whatever is not a number is the same in all."""
        return self.records[0]

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [r.seed for r in self.records]

    def values(self, metric: str, direction: str | None = None) -> list[float]:
        """Return one number per run that has it; ``direction`` is i2t or t2i, or None for one number like rsum."""
        found = (number(r.metrics, metric, direction) for r in self.records)
        return [v for v in found if v is not None]

    def summary(self, metric: str, direction: str | None = None) -> Summary | None:
        """Return mean, std, n and 95 % interval over seeds, or None where no run has the number."""
        values = self.values(metric, direction)
        return summary(values) if values else None


def number(metrics: dict[str, Any], metric: str, direction: str | None = None) -> float | None:
    """Return a finite scalar out of a run's metrics, or None where it is not there or is a curve."""
    found = metrics.get(metric)
    found = found.get(direction) if isinstance(found, dict) else None if direction else found
    if type(found) is not float and type(found) is not int:
        return None
    return float(found) if math.isfinite(found) else None


def read_records(root: Path, recipe: str | None = None) -> Records:
    """Read ``root/records/*.json``, where ``root`` is the store's; the newest of runs that were done again counts.

    With ``recipe``, only records of that one, and only files that hold its name are looked into. A damaged file, or
    one that lacks what every version must have, is skipped with its reason: nothing is raised.
    """
    newest: dict[tuple[str, int], Record] = {}
    skipped, read = [], 0
    for path in sorted((root / "records").glob("*.json")):
        if path.name.startswith("."):
            continue  # what a killed run left half written
        found = _read(path, recipe)
        if isinstance(found, Skipped):
            skipped.append(found)
        if not isinstance(found, Record) or recipe not in (None, found.recipe):
            continue
        read += 1
        key = (found.identity, found.seed)
        if key not in newest or newest[key].when <= found.when:
            newest[key] = found
    return Records(tuple(newest.values()), tuple(skipped), read - len(newest))


def _read(path: Path, recipe: str | None = None) -> Record | Skipped | None:
    try:
        text = path.read_text(encoding="utf-8")
        if recipe is not None and f'"{recipe}"' not in text:
            return None
        raw = json.loads(text)
    except (OSError, ValueError) as error:
        return Skipped(path, f"not readable as JSON: {error}")
    if not isinstance(raw, dict):
        return Skipped(path, f"holds a {type(raw).__name__}, not a record")
    wanted = {"recipe": str, "dataset": str, "params": dict, "eval": dict, "metrics": dict}
    wrong = [name for name, kind in wanted.items() if not isinstance(raw.get(name), kind)]
    optional = {"data": dict, "preprocess": dict, "setting": dict, "variants": dict, "steps": dict, "seconds": dict,
                "history": list, "environment": dict, "when": str, "origin": str, "skipped": int}  # fmt: skip
    wrong += [name for name, kind in optional.items() if name in raw and not isinstance(raw[name], kind)]
    if wrong:
        return Skipped(path, f"lacks a usable {', '.join(map(repr, wrong))}: an older or foreign version wrote it")
    try:
        choice = EvalChoice.model_validate(raw["eval"])
        setting = Setting.model_validate(raw.get("setting", {})).changes
    except ValueError:
        return Skipped(path, "its 'eval' or 'setting' is none of this version")
    params = dict(raw["params"])
    seed = params.pop("seed", raw.get("seed"))
    if not isinstance(seed, int):
        return Skipped(path, "lacks a seed")
    more = {name: raw.get(name, kind()) for name, kind in optional.items()}
    more |= {"origin": more["origin"] or "scratch", "setting": setting}
    return Record(path=path, recipe=raw["recipe"], dataset=raw["dataset"], params=params, seed=seed,
                  eval=choice.model_dump(mode="json"), metrics=raw["metrics"], **more)  # fmt: skip


def group_over_seeds(records: Iterable[Record]) -> list[Group]:
    """Return groups sorted by recipe, dataset and setting, numbers by size."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.identity].append(record)
    groups = sorted((Group(tuple(sorted(members, key=lambda r: r.seed))) for members in found.values()), key=_order)
    families = groupby(groups, key=lambda g: (g.first.recipe, g.first.dataset))
    return [Group(g.records, label) for _, family in families for g, label in _labelled(list(family))]


def _labelled(siblings: list[Group]) -> list[tuple[Group, str]]:
    """Name each group by its sizes, and by whatever else is not the same in all of them."""
    facts = [_facts(g.first) for g in siblings]
    varying = [k for k in dict.fromkeys(k for f in facts for k in f) if len({str(f.get(k)) for f in facts}) > 1]
    names = [*SHOWN_FIRST, *(k for k in varying if k not in SHOWN_FIRST)]
    shown = [{k: f[k] for k in names if k in f} for f in facts]
    noise = [{k: v for k, v in g.first.setting.items() if k != "seed"} for g in siblings]
    labels = (" ".join(f"{k}={v}" for k, v in {**s, **n}.items()) for s, n in zip(shown, noise, strict=True))
    return list(zip(siblings, labels, strict=True))


def _facts(record: Record) -> dict[str, Any]:
    facts = {**record.params, "origin": record.origin, **record.setting, **record.data}
    facts["preprocess"] = preprocessing_name(record.preprocess)
    return facts | {k: v for k, v in record.eval.items() if k != "protocol" and v is not None}


def _order(group: Group) -> tuple:
    first = group.first
    chosen = [first.params.get(k) for k in SHOWN_FIRST]
    sizes = tuple((isinstance(v, str), v if isinstance(v, (int, float)) else 0, str(v)) for v in chosen)
    return (first.recipe, first.dataset, *sizes, first.identity)


def departures(group: Group, recipe: Recipe) -> dict[str, Any]:
    """Return what a group was run with that the recipe, as it is now, does not say: dotted name -> value.

    Compared with the nearest point of the recipe's own sweep; code lengths are nobody's departure. Empty where the
    runs are the recipe's own. Raises CmrkitError where the recipe no longer knows the dataset.
    """
    first = group.first
    candidates = [
        _differences(first, declared)
        for declared in _declared(recipe.key, first.dataset, first.origin, "bits" in first.params)
    ]
    return min(candidates, key=len) | ({"data.skipped": first.skipped} if first.skipped else {})


@lru_cache(maxsize=512)
def _declared(key: str, dataset: str, origin: str, hashes: bool) -> list[dict[str, dict[str, Any]]]:
    from cmrkit.pipeline.resolve import resolve

    return [
        {
            "model": {k: v for k, v in run.params.items() if k != "seed"},
            "data": run.choice.model_dump(mode="json"),
            "preprocess": run.preprocess.model_dump(mode="json"),
            "setting": _whole(run.setting.changes),
            "eval": run.eval.model_dump(mode="json"),
        }
        for run in resolve(key, dataset, bits=[1] if hashes else None, seeds=[0], origin=origin)
    ]


def _whole(changes: dict[str, Any]) -> dict[str, Any]:
    """Return every field of a setting; without its seed where nothing is drawn."""
    whole = Setting.model_validate(changes).model_dump(mode="json")
    return whole if changes else {k: v for k, v in whole.items() if k != "seed"}


def _differences(record: Record, declared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    have = {"model": record.params, "data": record.data, "preprocess": record.preprocess,
            "setting": _whole(record.setting), "eval": record.eval}  # fmt: skip
    return {
        f"{section}.{name}": values.get(name)
        for section, values in have.items()
        for name in sorted({*values, *declared[section]})
        if name != "bits" and values.get(name) != declared[section].get(name)
    }


def judge_group(group: Group, recipe: Recipe) -> list[dict[str, Any]]:
    """Return a row of ``judge`` for each claim that the group answers, two things added to it.

    ``main``: whether the claim is under the recipe's own protocol. ``departures``: what the group was run with that
    neither the recipe nor the claim says (see the function of that name); only rows where it is empty speak about
    the paper. Raises CmrkitError where the recipe no longer knows the dataset.
    """
    from cmrkit.reporting.judge import Result, judge

    first = group.first
    claims = [c for c in recipe.claims if c.dataset == first.dataset]
    if not claims or first.eval["limit"]:  # a part of the queries answers nobody's claim
        return []
    choice = judging_choice(group, recipe)
    setting = Setting.model_validate(first.setting).model_dump(mode="json", exclude={"seed"})
    known = {**setting, "preprocess": preprocessing_name(first.preprocess)}
    results = [Result({**r.params, "seed": r.seed, **known}, r.metrics, r.variants) for r in group.records]
    rows = judge(claims, results, choice)
    apart = departures(group, recipe)
    for row in rows:
        row["main"] = is_main(row["at"], choice)
        row["departures"] = {k: v for k, v in apart.items() if not {*k.split(".", 1)} & {*row["at"]}}
    return rows


def judging_choice(group: Group, recipe: Recipe) -> EvalChoice:
    """Return the evaluation choice of a group with the method's own similarity where none was chosen."""
    from cmrkit.methods.inspect import find_method

    choice = EvalChoice.model_validate(group.first.eval)
    space = find_method(recipe.family, recipe.model["name"]).class_attribute("space")
    if choice.similarity is None and space not in ("hamming", "similarity"):
        return choice.model_copy(update={"similarity": space})
    return choice


def is_main(at: dict[str, Any], choice: EvalChoice) -> bool:
    """Whether a claim's qualifiers are the protocol's own."""
    qualifiers = ("database", "items", "ties", "similarity")
    return all(getattr(choice, name) == value for name, value in at.items() if name in qualifiers)


def preprocessing_name(preprocess: dict[str, list[str]]) -> str:
    """Return preprocessing as a claim's ``at`` names it: ``center``, or ``center/l2`` where image and text differ."""
    image, text = ("+".join(preprocess.get(m) or ()) or "none" for m in ("image", "text"))
    return image if image == text else f"{image}/{text}"


def unanswered(recipe: Recipe, rows: list[dict[str, Any]]) -> list[Claim]:
    """Return the recipe's claims that none of some judged rows is about."""
    answered = {(r["metric"], json.dumps(r["at"], sort_keys=True), r["value"], r["source"]) for r in rows}
    return [c for c in recipe.claims
            if (c.metric, json.dumps(c.at, sort_keys=True), c.value, c.source) not in answered]  # fmt: skip


def variant_rows(group: Group) -> list[dict[str, Any]]:
    """Return every metric of the same codes under every variant, means over seeds.

    A row has ``where`` (such as ``{"database": "hashed", "items": "database"}``), ``metric``, ``direction`` (None
    for one number), and ``expected``, ``worst``, ``best``, ``stable``: the orders of tied items, absent where not
    measured. Another reading of the expected order (``averaging=micro``) is a row with ``reading`` set.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for name in dict.fromkeys(n for r in group.records for n in r.variants):
        parts = dict(part.split("=", 1) for part in name.split(",") if "=" in part)
        rule = parts.pop("ties", "expected")
        reading = " ".join(f"{n}={parts.pop(n)}" for n in ("averaging", "without_relevant") if n in parts)
        for metric, direction, value in _means([r.variants[name] for r in group.records if name in r.variants]):
            key = (tuple(parts.items()), metric, direction, reading)
            row = rows.setdefault(key, {"where": parts, "metric": metric, "direction": direction, "reading": reading})
            row[rule] = value
    return list(rows.values())


def mean_variants(group: Group) -> dict[str, dict[str, Any]]:
    """Return the variants of a group in the form of one record's, every number the mean over seeds."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(n for r in group.records for n in r.variants):
        metrics = found.setdefault(name, {})
        for metric, direction, value in _means([r.variants[name] for r in group.records if name in r.variants]):
            if direction is None:
                metrics[metric] = value
            else:
                metrics.setdefault(metric, {})[direction] = value
    return found


def _means(members: list[dict[str, Any]]) -> Iterable[tuple[str, str | None, float]]:
    for metric, value in members[0].items():
        for direction in [d for d in DIRECTIONS if d in value] if isinstance(value, dict) else [None]:
            found = [v for m in members if (v := number(m, metric, direction)) is not None]
            if found:
                yield metric, direction, fmean(found)


def artifact_folder(root: Path, record: Record, step: str) -> Path | None:
    """Return where a step's files of a run lie, or None where they were collected; its time of use stays as it is."""
    folder = root / "artifacts" / step / record.steps.get(step, "-")
    return folder if (folder / "artifact.json").is_file() else None


def per_query(root: Path, record: Record) -> dict[tuple[str, str], np.ndarray]:
    """Return what each query came to under the run's own protocol: (metric, direction) -> float64 (queries,).

    Empty where the artifact was collected, or was made before such values were kept. Raises CmrkitError where it
    is damaged.
    """
    folder = artifact_folder(root, record, "evaluate")
    path = folder / "per_query.npz" if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {tuple(name.rsplit("/", 1)): np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, KeyError) as error:
        raise CmrkitError(f"{path}: damaged ({error}); run 'cmrkit cache verify'") from error
