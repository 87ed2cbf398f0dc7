"""Methods side by side on one split under one protocol: means over seeds, and which of them differ.

Every run is made under its paper's own protocol and stays in the store as such; what it encoded is then scored again,
all rows in the same way. Rows of one code length are tested against each other over the queries (see
``significance``), where each query's number is its mean over the seeds.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation.protocols import find_protocol
from cmrkit.evaluation.statistics import summary
from cmrkit.methods.inspect import find_method
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import Run, resolve
from cmrkit.pipeline.store import Store
from cmrkit.recipe.library import load_recipe
from cmrkit.reporting.records import DIRECTIONS, Record, artifact_folder, number, preprocessing_name
from cmrkit.reporting.remarks import remarks
from cmrkit.reporting.rescore import rescored
from cmrkit.reporting.significance import letters, paired_tests

KINDS = ("map", "recall")
SHOWN = {"map": ("map@all",), "recall": ("r@1", "r@5", "r@10")}  # what tables show and tests are made of
CUTS = (1, 2, 5, 10, 20, 50, 100)
METRICS = {
    "map": ("map@all", "map@50", "precision@100", "pr_curve:rank"),
    "recall": (*(f"r@{k}" for k in CUTS), "medr", "rsum"),
}


@dataclass
class System:
    """One row: a method, or variant of one, at one code length (``size``; None in other spaces), over its seeds.

    ``scores`` are the metrics of each run, ``queries`` what each run's queries came to, and ``asked`` the digest of
    what makes an item relevant for them: rows are tested against each other where it is the same.
    """

    run: Run
    choice: dict[str, Any]
    name: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[tuple[str, str], np.ndarray]] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    records: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def size(self) -> int | None:
        """The code length in bits, or None for a method without one."""
        return self.run.params.get("bits") if self.space == "hamming" else None

    @property
    def space(self) -> str:
        """What items are compared by: ``hamming``, or a similarity."""
        return "hamming" if self.choice["space"] == "hamming" else self.choice["similarity"] or self.choice["space"]

    def mean_queries(self, metric: str, direction: str) -> np.ndarray | None:
        """Return the mean over seeds of each query's number, float64 (queries,), or None where there are none."""
        found = [q[metric, direction] for q in self.queries if (metric, direction) in q]
        return np.mean(found, axis=0) if found and len({len(f) for f in found}) == 1 else None


def compare(
    keys: Sequence[str],
    dataset: str,
    *,
    bits: list[int] | None = None,
    seeds: int | None = None,
    protocol: str | None = None,
    database: str = "hashed",
    items: str = "database",
    offline: bool = False,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """Run what is missing of ``keys`` on ``dataset``, score all of it alike, and return the comparison.

    ``bits`` default to the code lengths that all the hashing recipes sweep over, ``seeds`` to each recipe's own; a
    number N means 0..N-1. ``protocol`` is "map" (by labels) or "recall" (by pairs), by default the recipes' own.
    ``database`` and ``items`` are those of a protocol and go with "map".

    Returns ``{dataset, split, protocol, choice, shown, sizes, rows, tests, notes}``. A row has key, name, family,
    space, protocol, size, features, preprocess, origin, seeds, train_seconds, records, ``metrics``
    ({metric: {direction: {mean, std, n, group}}}, direction "both" for rsum) and ``curves``. A test has size, metric,
    direction, a, b (rows' numbers), difference, p, p_holm and differ. Raises UsageError naming every method that
    cannot run, before anything is run.
    """
    from cmrkit.api import open_store

    keys = list(dict.fromkeys(keys))
    plans = _plans(keys, dataset, bits)
    split = _one_split(plans)
    kind = protocol or _one_kind(plans)
    if kind == "recall" and (database, items) != ("hashed", "database"):
        raise UsageError("--database and --items go with labels: recall ranks the query set")
    store = open_store(cache)
    systems: list[System] = []
    for runs in plans.values():
        systems += _systems(store, runs, _seeds(runs[0], seeds), kind, {"database": database, "items": items}, offline)
    _name(systems)
    tests = _test(systems, kind)
    rows = [_row(system, kind) for system in systems]
    _add_letters(rows, tests)
    sizes = sorted({s.size for s in systems}, key=lambda size: size or float("inf"))
    return {
        "dataset": dataset,
        "split": split,
        "protocol": kind,
        "choice": {"database": database, "items": items} if kind == "map" else {"items": "query"},
        "shown": list(SHOWN[kind]),
        "sizes": sizes,
        "rows": rows,
        "tests": tests,
        "notes": remarks(systems, kind),
    }


def _plans(keys: list[str], dataset: str, bits: list[int] | None) -> dict[str, list[Run]]:
    """Return the settings to run of each paper, with one seed, or raise UsageError naming all that cannot run."""
    plans, faults = {}, []
    if bits and not any(_hashes(key) for key in keys):
        raise UsageError(f"--bits: no hashing method that runs here is among {', '.join(keys)}")
    for key in keys:
        try:
            plans[key] = resolve(key, dataset, bits=bits if _hashes(key) else None, seeds=[0])
            for run in plans[key]:
                plan_run(run)
        except CmrkitError as error:
            faults.append(str(error) if key in str(error) else f"{key}: {error}")
    if faults:
        raise UsageError("\n".join(faults))
    common = _common_bits(plans)
    return {key: [run for run in runs if run.params.get("bits") in (None, *common)] if _hashes(key) else runs
            for key, runs in plans.items()}  # fmt: skip


def _hashes(key: str) -> bool:
    """Whether a paper that runs here has a code length."""
    recipe = load_recipe(key)
    return recipe.runnable and "bits" in find_method(recipe.family, recipe.model["name"]).fields


def _seeds(run: Run, seeds: int | None) -> list[int]:
    """Return the seeds to run: a recipe that sweeps over none, or weights that are given, have one result."""
    override = run.recipe.on.get(run.dataset)
    swept = {**run.recipe.sweep, **(override.sweep if override else {})}.get("seed", [0])
    if run.origin == "checkpoint" or len(swept) == 1:
        return swept[:1] if run.origin != "checkpoint" else [0]
    return list(range(seeds)) if seeds else list(swept)


def _common_bits(plans: dict[str, list[Run]]) -> list[int]:
    swept = {key: {run.params["bits"] for run in runs} for key, runs in plans.items() if _hashes(key)}
    common = set.intersection(*swept.values()) if swept else set()
    if swept and not common:
        each = "; ".join(f"{key} {', '.join(map(str, sorted(b)))}" for key, b in swept.items())
        raise UsageError(f"the recipes share no code length ({each}): choose with --bits")
    return sorted(common)


def _one_split(plans: dict[str, list[Run]]) -> str:
    splits = {}
    for key, (run, *_) in plans.items():
        name = run.choice.split
        splits[key] = name if name in run.manifest.splits else run.manifest.default_split
    if len(set(splits.values())) > 1:
        each = ", ".join(f"{key} {split}" for key, split in splits.items())
        raise UsageError(f"the recipes divide {next(iter(plans.values()))[0].dataset} differently ({each}):"
                         " numbers on different queries cannot be compared")  # fmt: skip
    return next(iter(splits.values()))


def _one_kind(plans: dict[str, list[Run]]) -> str:
    kinds = {}
    for key, (run, *_) in plans.items():
        kinds[key] = "recall" if find_protocol(run.eval.protocol).relevance == "pairs" else "map"
    if len(set(kinds.values())) > 1:
        each = ", ".join(f"{key} {kind}" for key, kind in kinds.items())
        raise UsageError(f"some of these papers go by labels, some by pairs ({each}): choose one with --protocol")
    return next(iter(kinds.values()))


def _choice(run: Run, kind: str, options: dict[str, str]) -> dict[str, Any]:
    space = run.method.class_attribute("space")
    similarity = None if space == "hamming" else run.eval.similarity
    base = {"ties": "expected", "similarity": similarity, "space": space}
    if kind == "recall":
        return {"protocol": "recall", "items": "query", **base}
    return {"protocol": "hamming-map" if space == "hamming" else "real-map", **options, **base}


def _systems(store: Store, runs: list[Run], seeds: list[int], kind: str, options: dict[str, str],
             offline: bool) -> list[System]:  # fmt: skip
    """Reproduce one paper, each of ``runs`` with every seed, and score what it encoded: a system for each run."""
    from cmrkit.api import reproduce

    key = runs[0].recipe.key
    bits = list(dict.fromkeys(run.params["bits"] for run in runs)) if _hashes(key) else None
    document = reproduce(key, runs[0].dataset, bits=bits, seeds=seeds, offline=offline, cache=store.root)
    systems = {_setting(run.params): System(run, _choice(run, kind, options)) for run in runs}
    for done in document["runs"]:
        system = systems[_setting(done["params"])]
        run, choice = system.run, system.choice
        record = _record(Path(done["record"]))
        try:
            scores, queries = rescored(store.root, record, choice, METRICS[kind])
        except UsageError as error:
            raise UsageError(f"{run.label}: {error}") from None
        system.asked.add(_asked(store.root, record, choice["protocol"]))
        system.scores.append(scores)
        system.queries.append(queries)
        system.seeds.append(record.seed)
        system.records.append(done["record"])
        system.seconds.append(record.seconds.get("train", 0.0))
    return list(systems.values())


def _setting(params: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in params.items() if k != "seed"}, sort_keys=True)


def _record(path: Path) -> Record:
    """Return the record that ``reproduce`` left at ``path``, superseded by a later one or not."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["params"] = {k: v for k, v in raw["params"].items() if k != "seed"}
    return Record(path=path, **{f.name: raw[f.name] for f in fields(Record) if f.name != "path"})


def _asked(root: Path, record: Record, protocol: str) -> str:
    """Return the digest of what makes an item relevant for each query of a run."""
    from cmrkit.pipeline.scoring import evaluable

    folder = artifact_folder(root, record, "encode")
    arrays = evaluable({p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}, protocol)
    digest = sha256()
    for name in sorted(n for n in arrays if "labels" in n or n == "pairs"):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _name(systems: list[System]) -> None:
    """Name every row by its acronym, with the key where two papers share one, and by what varies in its sweep."""
    keys = {s.run.recipe.key: s.run.recipe.paper.acronym for s in systems}
    shared = Counter(keys.values())
    for key, acronym in keys.items():
        mine = [s for s in systems if s.run.recipe.key == key]
        varying = [n for n in mine[0].run.params if n not in ("bits", "seed")
                   and len({str(s.run.params.get(n)) for s in mine}) > 1]  # fmt: skip
        for system in mine:
            chosen = [str(system.run.params[n]) for n in varying]
            extra = [key, *chosen] if shared[acronym] > 1 else chosen
            system.name = f"{acronym} ({', '.join(extra)})" if extra else acronym


def _test(systems: list[System], kind: str) -> list[dict[str, Any]]:
    """Test every pair of rows of one size in every shown column. ``a`` and ``b`` are rows' numbers."""
    tests = []
    for size in dict.fromkeys(s.size for s in systems):
        members = [i for i, s in enumerate(systems) if s.size == size]
        for metric in SHOWN[kind]:
            for direction in DIRECTIONS:
                tests += _column_tests(systems, members, size, metric, direction)
    return tests


def _column_tests(systems: list[System], members: list[int], size: int | None, metric: str,
                  direction: str) -> list[dict[str, Any]]:  # fmt: skip
    values = {i: v for i in members if (v := systems[i].mean_queries(metric, direction)) is not None and len(v) > 1}
    pairs = [(i, j) for i, j in combinations(values, 2)
             if systems[i].asked == systems[j].asked and len(systems[i].asked) == 1]  # fmt: skip
    at = {"size": size, "metric": metric, "direction": direction}
    return [{**at, **test} for test in paired_tests(values, pairs)]


def _add_letters(rows: list[dict[str, Any]], tests: list[dict[str, Any]]) -> None:
    """Put into every tested number the letters of its groups."""
    columns: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for test in tests:
        columns[test["size"], test["metric"], test["direction"]].append(test)
    for (_, metric, direction), column in columns.items():
        tested = sorted({i for test in column for i in (test["a"], test["b"])})
        pairs = {frozenset((t["a"], t["b"])): t["differ"] for t in column}
        if any(frozenset(pair) not in pairs for pair in combinations(tested, 2)):
            continue  # some answered other queries: letters would say more than the tests do
        means = {i: rows[i]["metrics"][metric][direction]["mean"] for i in tested}
        for i, letter in letters(means, {pair for pair, differ in pairs.items() if differ}).items():
            rows[i]["metrics"][metric][direction]["group"] = letter


def _row(system: System, kind: str) -> dict[str, Any]:
    run = system.run
    return {
        "key": run.recipe.key,
        "name": system.name,
        "family": run.recipe.family,
        "space": system.space,
        "protocol": system.choice["protocol"],
        "size": system.size,
        "features": {"image": run.choice.image, "text": run.choice.text},
        "preprocess": preprocessing_name(run.preprocess.model_dump(mode="json")),
        "origin": run.origin,
        "seeds": system.seeds,
        "train_seconds": summary(system.seconds).mean,
        "records": system.records,
        "metrics": _metrics(system, kind),
        "curves": _curves(system, kind),
    }


def _metrics(system: System, kind: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for metric in METRICS[kind]:
        for direction in (*DIRECTIONS, None):
            values = [v for s in system.scores if (v := number(s, metric, direction)) is not None]
            if values:
                over = summary(values)
                found[metric][direction or "both"] = {"mean": over.mean, "std": over.std, "n": over.n}
    return dict(found)


def _curves(system: System, kind: str) -> dict[str, dict[str, list[float]]]:
    """Return, by direction, precision and recall at ranks, or the recall (per cent) at cuts: means over seeds."""
    if kind == "recall":
        return {d: {"rank": list(CUTS), "recall": [_mean([s[f"r@{k}"][d] for s in system.scores]) for k in CUTS]}
                for d in DIRECTIONS if d in system.scores[0]["r@1"]}  # fmt: skip
    found = [s["pr_curve:rank"] for s in system.scores]
    return {d: {"rank": found[0][d]["rank"], **{name: np.mean([c[d][name] for c in found], axis=0).tolist()
                                                for name in ("precision", "recall")}}
            for d in DIRECTIONS if d in found[0]}  # fmt: skip


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
