"""Attestations: what runs of one recipe on one dataset came to, in a file that anybody can check.

A file holds everything the numbers depend on, by digest: the recipe's choices, the files of the data, the code of
every step. Its own hash is the SHA-256 of its canonical JSON (sorted keys, no spaces) without the field ``sha256``.
It is no proof of who wrote it; it says what to run again and what should come out.

Numbers of the recipe's own protocol are kept, and of the other variants those that one of its claims is about, so
that a verdict can be made again from the file alone.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.pipeline.digest import PACKAGE, digest_of, source_digest
from cmrkit.pipeline.plan import Step, needed_assets, plan_run
from cmrkit.pipeline.resolve import Run, resolve
from cmrkit.recipe.library import load_recipe
from cmrkit.recipe.model import EvalChoice, Recipe, Setting
from cmrkit.reporting.judge import QUALIFIERS
from cmrkit.reporting.records import Record, Skipped, group_over_seeds, judge_group, read_records

FORMAT = 1
TOLERANCE = 0.01  # of a number below 1, or relative to it: code bits that rounding decides move an mAP by less
FIELDS = {
    "attestation": int, "recipe": str, "dataset": str, "data": dict, "preprocess": dict, "setting": dict, "eval": dict,
    "origin": str, "params": dict, "assets": dict, "digests": dict, "cmrkit": str, "environment": dict,
    "tolerance": (int, float), "when": str, "runs": list, "sha256": str,
}  # fmt: skip
IN_COMMON = ("recipe", "dataset", "data", "preprocess", "setting", "eval", "origin", "environment")


def attest(records: Sequence[Record], tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Return the attestation of some runs, which may differ in parameters and seeds, and in nothing else.

    Raises UsageError where they differ in more, or where the recipe, data or code of today would not give them.
    """
    if not records:
        raise UsageError("there is no run to attest")
    first = records[0]
    for name in IN_COMMON:
        other = next((r for r in records if getattr(r, name) != getattr(first, name)), None)
        if other:
            raise UsageError(f"{first.path.name} and {other.path.name} differ in {name}: attest them apart, or run"
                             " 'cmrkit reproduce --force prepare' to make them alike")  # fmt: skip
    recipe = load_recipe(first.recipe)
    rows, last = [], None
    for record in sorted(records, key=_order):
        last = planned(record, recipe)
        if last[1].key != record.steps.get("evaluate"):
            step = next(s.name for s in last[1].ancestry() if record.steps.get(s.name) != s.key)
            raise UsageError(f"{record.path}: what step {step!r} depends on has changed since (recipe, data or code);"
                             f" run 'cmrkit reproduce {first.recipe} -d {first.dataset}' again")  # fmt: skip
        rows.append(_run(record, recipe))
    run, step = last
    shared = {k: v for k, v in first.params.items() if all(r.params.get(k) == v for r in records)}
    document = {
        "attestation": FORMAT,
        **{name: getattr(first, name) for name in IN_COMMON if name != "environment"},
        "paper": recipe.paper.title,
        "params": shared,
        "assets": _assets(run),
        "digests": _digests(run, step),
        "cmrkit": first.environment.get("cmrkit", "unknown"),
        "revision": _revision(),
        "environment": {**first.environment, "cpu": cpu_model()},
        "tolerance": tolerance,
        "when": max(r.when for r in records),
        "runs": [{**row, "params": {k: v for k, v in row["params"].items() if k not in shared}} for row in rows],
    }
    return {**document, "sha256": digest_of(document)}


def _order(record: Record) -> tuple:
    params = [v for k, v in sorted(record.params.items()) if k != "bits"]
    return (str(params), record.params.get("bits", 0), record.seed)


def _run(record: Record, recipe: Recipe) -> dict[str, Any]:
    """Return what one run came to: plain numbers, and of the variants what the recipe's claims ask for."""
    claims = [c for c in recipe.claims if c.dataset == record.dataset]
    own = {name: _plain(v) for name, v in record.metrics.items() if _plain(v) is not None}
    variants = {}
    for name, metrics in record.variants.items():
        have = dict(part.split("=", 1) for part in name.split(","))
        asked = {c.metric for c in claims
                 if all({**record.eval, **_qualifiers(c.at)}.get(k) == v for k, v in have.items())}  # fmt: skip
        found = {m: v for m in metrics if m in asked and (v := _plain(metrics[m])) is not None}
        if found and found != {m: own.get(m) for m in found}:
            variants[name] = found
    skipped = {"skipped": record.skipped} if record.skipped else {}
    return {"params": record.params, "seed": record.seed, **skipped, "key": record.steps["evaluate"], "metrics": own,
            "variants": variants}  # fmt: skip


def _qualifiers(at: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in at.items() if k in QUALIFIERS}


def _plain(value: Any) -> Any:
    """Return a number, or numbers by direction; None for a curve."""
    values = list(value.values()) if isinstance(value, dict) else [value]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return value if values and numbers else None


def planned(record: Record, recipe: Recipe) -> tuple[Run, Step]:
    """Return the run of a record, every parameter as recorded, under today's recipe and code."""
    override = recipe.on.get(record.dataset)
    swept = [*recipe.sweep, *(override.sweep if override else ())]
    overrides: dict[str, Any] = {}
    for name, value in record.params.items():
        section = "train" if f"train.{name}" in swept else "model"
        overrides[f"{section}.{name}"] = value
    setting = {**Setting().model_dump(mode="json"), **record.setting}
    for section, values in (("setting", setting), ("eval", record.eval), ("preprocess", record.preprocess)):
        overrides |= {f"{section}.{name}": value for name, value in values.items()}
    runs = resolve(recipe.key, record.dataset, seeds=[record.seed], overrides=overrides, origin=record.origin)
    if len(runs) > 1:
        raise UsageError(f"{recipe.key} sweeps over parameters that were unknown when the run was made")
    return runs[0], plan_run(runs[0], skip_bad=record.skipped > 0)


def _assets(run: Run) -> dict[str, Any]:
    from cmrkit.api import asdict_asset

    found = {name: asdict_asset(run.manifest.assets[name]) for name in needed_assets(run.manifest, run.choice)}
    return json.loads(json.dumps(found))  # as a file gives it back


def _digests(run: Run, step: Step) -> dict[str, str]:
    """Return digests of the recipe's choices, of the method's source, and of the code of every step."""
    recipe = run.recipe.model_dump(mode="json", include={"data", "preprocess", "model", "train", "setting", "eval",
                                                         "on", "sweep", "checkpoints"})  # fmt: skip
    recipe["data"] = recipe["data"][run.dataset]
    recipe["on"] = recipe["on"].get(run.dataset)
    code = {f"step {s.name}": s.code for s in step.ancestry() if s.code}
    return {"recipe": digest_of(recipe), "method": source_digest(run.method.path), **code}


def cpu_model() -> str:
    """Return the processor's model name: bits that rounding decides are the same on the same one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _revision() -> str | None:
    """Return the git revision of the checkout, with ``+`` where files were changed; None outside of one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
                               cwd=PACKAGE.parent, capture_output=True, text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None


def as_text(document: dict[str, Any]) -> str:
    """Return an attestation as JSON that diffs well: a line for each field, and one for each run."""
    last = len(document["runs"]) - 1
    runs = "".join(f"  {_json(run)}{',' if i < last else ''}\n" for i, run in enumerate(document["runs"]))
    fields = [f' "{k}": [\n{runs} ]' if k == "runs" else f' "{k}": {_json(v)}' for k, v in document.items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def file_name(document: dict[str, Any]) -> str:
    """Return where an attestation lies below ``results``: ``<recipe>/<dataset>-<first eight of its hash>.json``."""
    return f"{document['recipe']}/{document['dataset']}-{document['sha256'][:8]}.json"


def read_attestation(path: Path) -> dict[str, Any]:
    """Return the attestation in ``path``. Raises UsageError naming what makes it none; the hash is not checked."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict) or "attestation" not in document:
        raise UsageError(f"{path}: no attestation; 'cmrkit attest' writes one")
    if document["attestation"] != FORMAT:
        raise UsageError(f"{path}: format {document['attestation']}, of which this version knows nothing: it reads"
                         f" format {FORMAT}")  # fmt: skip
    wrong = [name for name, kind in FIELDS.items() if not isinstance(document.get(name), kind)]
    if wrong:
        raise UsageError(f"{path}: lacks a usable {', '.join(map(repr, wrong))}")
    needed = {"params": dict, "seed": int, "key": str, "metrics": dict, "variants": dict}
    for i, run in enumerate(document["runs"]):
        wrong = [n for n, kind in needed.items() if not isinstance(run, dict) or not isinstance(run.get(n), kind)]
        if wrong:
            raise UsageError(f"{path}: run {i} lacks a usable {', '.join(map(repr, wrong))}")
    if not document["runs"]:
        raise UsageError(f"{path}: holds no run")
    return document


def is_sealed(document: dict[str, Any]) -> bool:
    """Whether the hash that an attestation carries is that of its content."""
    return document["sha256"] == digest_of({k: v for k, v in document.items() if k != "sha256"})


def attested_records(document: dict[str, Any], path: Path = Path()) -> list[Record]:
    """Return the runs of an attestation as records."""
    common = {name: document[name] for name in IN_COMMON}
    try:
        common["eval"] = EvalChoice.model_validate(document["eval"]).model_dump(mode="json")
    except ValueError:
        raise UsageError(f"{path}: its 'eval' is none of this version") from None
    return [
        Record(path=path, params={**document["params"], **run["params"]}, seed=run["seed"],
               skipped=run.get("skipped", 0), metrics=run["metrics"], variants=run["variants"],
               steps={"evaluate": run["key"]}, seconds={}, history=[], when=document["when"], **common)
        for run in document["runs"]
    ]  # fmt: skip


def judged(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ``judge``'s rows for the claims of today's recipe that an attestation answers."""
    recipe = load_recipe(document["recipe"])
    rows = [row for group in group_over_seeds(attested_records(document)) for row in judge_group(group, recipe)]
    return [row for row in rows if not row["departures"]]


def changes(document: dict[str, Any]) -> dict[str, list[str]]:
    """Return what is not as it was attested: ``recipe`` and ``data``, without which the numbers are of something
    else, and ``code``, which may or may not matter.

    Raises CmrkitError where the recipe is no longer there, no longer runs, or no longer takes the parameters.
    """
    recipe = load_recipe(document["recipe"])
    found: dict[str, list[str]] = {"recipe": [], "data": [], "code": []}
    plans = [planned(record, recipe) for record in attested_records(document)]
    run, step = plans[0]
    if (now := run.choice.model_dump(mode="json")) != document["data"]:
        found["recipe"].append(f"data: attested {document['data']}, now {now}")
    assets = _assets(run)
    for name in sorted({*assets, *document["assets"]}):
        if assets.get(name, {}).get("checksum") != document["assets"].get(name, {}).get("checksum"):
            found["data"].append(f"file {name!r} has another checksum than it was attested with")
    digests = _digests(run, step)
    for name in sorted({*digests, *document["digests"]}):
        if digests.get(name) != document["digests"].get(name):
            part = "recipe" if name == "recipe" else "code"
            found[part].append(f"{name}: digest {str(document['digests'].get(name))[:12]} was attested, now"
                               f" {str(digests.get(name))[:12]}")  # fmt: skip
    keys = [step.key for _, step in plans] == [r["key"] for r in document["runs"]]
    if not keys and not any(found.values()):
        found["code"].append("steps: keys differ from those attested")
    return found


def select(root: Path, names: Iterable[str], dataset: str | None = None) -> list[Record]:
    """Return records by name: a record's file, the start of its key, or a recipe (all its own runs in the store).

    Raises UsageError for a name that no record answers to, with why where there is a file of it.
    """
    found: dict[Path, Record] = {}
    for name in names:
        path = Path(name).resolve()
        inside = read_records(path.parent.parent if path.suffix == ".json" else root)
        if path.suffix == ".json":
            mine = [r for r in inside.records if r.path == path]
        else:
            mine = [r for r in inside.records if len(name) >= 8 and r.path.stem.startswith(name)]
            mine = mine or _of_recipe(inside.records, name, dataset)
        if not mine:
            raise UsageError(_why_not(name, inside.skipped, dataset))
        found |= {r.path.resolve(): r for r in mine}
    return list(found.values())


def _of_recipe(records: Iterable[Record], key: str, dataset: str | None) -> list[Record]:
    mine = [r for r in records if r.recipe == key and dataset in (None, r.dataset)]
    names = sorted({r.dataset for r in mine})
    if len(names) > 1:
        raise UsageError(f"{key} was run on {', '.join(names)}: choose one with --dataset")
    return [r for r in mine if _is_own(r)]


def _is_own(record: Record) -> bool:
    from cmrkit.reporting.records import Group, departures

    try:
        return not departures(Group((record,)), load_recipe(record.recipe))
    except CmrkitError:
        return False


def _why_not(name: str, skipped: Iterable[Skipped], dataset: str | None) -> str:
    reason = next((s.reason for s in skipped if s.path == Path(name).resolve()), None)
    if reason:
        return f"{name}: {reason}"
    if Path(name).suffix == ".json":
        if not Path(name).is_file():
            return f"{name}: no such file"
        if Path(name).resolve().parent.name != "records":
            return f"{name}: lies outside of a cache's folder of records, so that nothing is known of its steps"
        return f"{name}: a later run of the same settings counts instead"
    on = f" on {dataset}" if dataset else ""
    return (f"{name}: no record and no recipe with runs of its own{on} in this cache; 'cmrkit reproduce' makes"
            " them")  # fmt: skip
