"""Checking an attestation: its hash, what has changed since, and whether the numbers come out again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmrkit.errors import CmrkitError
from cmrkit.recipe.library import load_recipe
from cmrkit.reporting.attestation import attested_records, changes, cpu_model, is_sealed, planned

BESIDE = ("cmrkit",)  # versions whose change the digests show better


def check(document: dict[str, Any], path: Path, *, rerun: bool = True, offline: bool = False) -> dict[str, Any]:
    """Check one attestation and return ``{file, recipe, dataset, sealed, changes, expected, elsewhere, runs, faults,
    holds}``.

    A wrong hash, another recipe and other data are faults. Changed code is one where nothing is run again; otherwise
    the numbers decide. They must come out to the last bit on the same platform's CPU (``expected`` is "equal"), and
    within the attested tolerance elsewhere, where ``elsewhere`` says what differs. A run has label, numbers, equal,
    largest (difference), at, and outside (how many differ by more than expected). Raises CmrkitError where a run
    cannot be made, such as for files that are missing.
    """
    report = {"file": str(path), "recipe": document["recipe"], "dataset": document["dataset"],
              "sealed": is_sealed(document), "changes": {}, "expected": None, "elsewhere": [], "runs": [],
              "faults": []}  # fmt: skip
    faults = report["faults"]
    if not report["sealed"]:
        faults.append("hash: the content is not what was attested")
    else:
        try:
            report["changes"] = changes(document)
        except CmrkitError as error:
            faults.append(f"recipe: {error}")
        faults += [each for part in ("recipe", "data") for each in report["changes"].get(part, ())]
        if not rerun:
            faults += report["changes"].get("code", ())
    if rerun and not faults:
        report["elsewhere"] = elsewhere(document)
        report["expected"] = "within tolerance" if report["elsewhere"] else "equal"
        report["runs"] = _rerun(
            document, path, 0.0 if report["expected"] == "equal" else document["tolerance"], offline
        )
        faults += [f"{r['label']}: {r['outside']} of {r['numbers']} numbers differ, {r['at']} by {r['largest']:.2g}"
                   for r in report["runs"] if r["outside"]]  # fmt: skip
    return {**report, "holds": not faults}


def elsewhere(document: dict[str, Any]) -> list[str]:
    """Return in what this machine differs from the one attested; a device other than the CPU always differs."""
    from cmrkit.api import environment

    then, now = document["environment"], {**environment(), "cpu": cpu_model()}
    found = []
    for name in (n for n in now if n not in BESIDE):
        if then.get(name) != now[name]:
            found.append(
                f"{name}: attested {_short(then.get(name), now[name])}, here {_short(now[name], then.get(name))}"
            )
    if then.get("device", "cpu") != "cpu":
        found.append(f"device: {then['device']} does not repeat its bits")
    return found


def _short(value: Any, other: Any) -> str:
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v) or "the same otherwise"
    return str(value)


def _rerun(document: dict[str, Any], path: Path, tolerance: float, offline: bool) -> list[dict[str, Any]]:
    """Do every attested run again from the data's files on, in a store of its own, and compare its numbers."""
    from cmrkit.api import open_context, open_store
    from cmrkit.pipeline.runner import Runner

    recipe, rows = load_recipe(document["recipe"]), []
    with _fresh_store(open_store().root, document["sha256"][:8]) as root:
        runner = Runner(open_context(offline, root))
        for record in attested_records(document, path):
            run, step = planned(record, recipe)
            scores = runner.obtain(step).json("metrics.json")
            rows.append({"label": run.label, **_compared(record, scores, tolerance)})
    return rows


@contextmanager
def _fresh_store(root: Path, name: str) -> Iterator[Path]:
    """Make a store in which nothing is done but the downloads, and remove it afterwards."""
    folder = root / "staging" / f"verify-{name}-{os.getpid()}"  # named as the garbage collector reads it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "downloads").symlink_to((root / "downloads").resolve())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compared(record: Any, scores: dict[str, Any], tolerance: float) -> dict[str, Any]:
    attested = dict(_numbers({"own": record.metrics, **record.variants}))
    obtained = dict(_numbers({"own": scores["metrics"], **scores["variants"]}))
    gaps = {at: abs(obtained.get(at, float("nan")) - value) for at, value in attested.items()}
    outside = [at for at, gap in gaps.items() if not gap <= tolerance * max(1.0, abs(attested[at]))]
    worst = max(gaps, key=lambda at: float("inf") if gaps[at] != gaps[at] else gaps[at])
    return {"numbers": len(gaps), "equal": sum(gap == 0 for gap in gaps.values()), "outside": len(outside),
            "at": " ".join(part for part in worst if part not in ("own", "")), "largest": gaps[worst]}  # fmt: skip


def _numbers(places: dict[str, dict[str, Any]]) -> Iterator[tuple[tuple[str, str, str], float]]:
    for where, metrics in places.items():
        for metric, value in metrics.items():
            for direction, number in (value if isinstance(value, dict) else {"": value}).items():
                if isinstance(number, (int, float)):
                    yield (where, metric, direction), float(number)
