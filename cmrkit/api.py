"""What the verbs do, as functions: the Python interface, and the layer that the command line prints."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cmrkit import __version__
from cmrkit.errors import UsageError
from cmrkit.pipeline.plan import STEPS, Step, plan_run
from cmrkit.pipeline.resolve import Run, resolve
from cmrkit.pipeline.store import Artifact, Store, replace_json
from cmrkit.recipe.source import did_you_mean


def open_store(root: str | Path | None = None) -> Store:
    """Return the store at ``root``, at CMRKIT_CACHE, or in the user's cache directory."""
    import platformdirs

    return Store(Path(root or os.environ.get("CMRKIT_CACHE") or platformdirs.user_cache_dir("cmrkit")).expanduser())


def open_context(offline: bool = False, root: str | Path | None = None):
    """Return the context steps run in; CMRKIT_MIRROR lists directories of files fetched by hand."""
    from cmrkit.pipeline.fetch import mirrors
    from cmrkit.pipeline.steps import Context

    return Context(open_store(root), tuple(mirrors()), offline, progress=sys.stderr.isatty())


def reproduce(
    key: str,
    dataset: str | None = None,
    *,
    bits: list[int] | None = None,
    seeds: list[int] | None = None,
    overrides: dict[str, Any] | None = None,
    force: str | None = None,
    offline: bool = False,
    cache: str | Path | None = None,
    origin: str | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Reproduce a paper's result and return the document that ``cmrkit reproduce --json`` prints.

    Without ``bits`` or ``seeds`` the recipe's own sweep is run. ``origin`` is "checkpoint", weights that the authors
    published, "pretrained", training from such weights, or "scratch"; by default the first where there is one, then
    the second where the recipe names weights for the dataset, then the last. With ``skip_bad`` images that cannot be
    read, or one of whose captions is empty, are left out and counted. Raises UsageError for invalid choices and
    CmrkitError where a step fails.
    """
    from tqdm import tqdm

    from cmrkit.pipeline.runner import Runner
    from cmrkit.reporting.judge import Result, judge

    if force is not None and force not in STEPS:
        raise UsageError(f"no step {force!r}{did_you_mean(force, STEPS)}; steps are {', '.join(STEPS)}")
    runs = resolve(key, dataset, bits=bits, seeds=seeds, overrides=overrides, origin=origin)
    last_steps = [plan_run(run, skip_bad) for run in runs]
    runner = Runner(open_context(offline, cache), force)
    documents = []
    bar = tqdm(list(zip(runs, last_steps, strict=True)), desc=key, unit="run", leave=False,
               disable=not sys.stderr.isatty())  # fmt: skip
    for run, step in bar:
        bar.set_postfix_str(run.label)
        documents.append(_run_document(run, step, runner.obtain(step), runner))
    first = runs[0]
    results = [
        Result(
            {**d["params"], **run.setting.model_dump(exclude={"seed"}), "preprocess": _preprocessing(run)},
            d["metrics"],
            d.pop("variants"),
        )
        for run, d in zip(runs, documents, strict=True)
    ]
    claims = [c for c in first.recipe.claims if c.dataset == first.dataset and not first.eval.limit]
    space = first.method.class_attribute("space")
    choice = first.eval
    if choice.similarity is None and space not in ("hamming", "similarity"):
        choice = choice.model_copy(update={"similarity": space})
    rows = judge(claims, results, choice)
    for row in rows:
        row["main"] = all(getattr(choice, k, None) == v for k, v in row["at"].items()
                          if k in ("database", "items", "ties", "similarity"))  # fmt: skip
    return {
        "recipe": key,
        "dataset": first.dataset,
        "protocol": describe_protocol(first, documents[0]["skipped"]),
        "origin": first.origin,
        "runs": documents,
        "summary": summarise(documents),
        "claims": rows,
        "steps": list(runner.log.values()),
    }


def summarise(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean, std and 95 % confidence interval over seeds of every number, by setting, metric and direction.

    ``documents`` are those of runs: ``params`` (with the seed) and ``metrics``. Curves are left out.
    """
    from dataclasses import asdict

    from cmrkit.evaluation.statistics import summary

    groups: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        setting = {k: v for k, v in {**document["params"], **document["setting"]}.items() if k != "seed"}
        groups.setdefault(json.dumps(setting, sort_keys=True), []).append(document)
    rows = []
    for setting, members in groups.items():
        for metric, value in members[0]["metrics"].items():
            for direction in value if isinstance(value, dict) else (None,):
                numbers = [
                    m["metrics"][metric] if direction is None else m["metrics"][metric][direction] for m in members
                ]
                if metric != "queries" and all(isinstance(n, (int, float)) for n in numbers):
                    rows.append({"setting": json.loads(setting), "metric": metric, "direction": direction,
                                 **asdict(summary(numbers))})  # fmt: skip
    return rows


def _preprocessing(run: Run) -> str:
    """Name a run's preprocessing as a claim's ``at`` does: ``center``, or ``center/l2`` where image and text differ."""
    image, text = ("+".join(names) or "none" for names in (run.preprocess.image, run.preprocess.text))
    return image if image == text else f"{image}/{text}"


def describe_protocol(run: Run, skipped: int = 0) -> str:
    """Return the protocol in one line, with everything that distinguishes it from its neighbours.

    ``skipped`` is the number of images that were left out as bad.
    """
    choice = run.eval
    parts = [choice.protocol, f"split {run.choice.split}", f"features {run.choice.image} + {run.choice.text}"]
    if choice.protocol == "hamming-map":
        parts += [f"{choice.database} codes", f"ties {choice.ties}"]
    if choice.items == "query":
        parts.append("ranked against the query set itself")
    if choice.selection != "none" and run.params.get("select"):
        part = {"val": "validation split", "query": "very query set"}[choice.selection]
        parts.append(f"epoch chosen on the {part}")
    if run.origin != "scratch":
        parts.append({"checkpoint": "the authors' weights", "pretrained": "trained from published weights"}[run.origin])
    if choice.limit:
        parts.append(f"only the first {choice.limit} query images: comparable with no table")
    parts += [f"{name} {value}" for name, value in run.setting.changes.items() if name != "seed"]
    if skipped:
        parts.append(f"{skipped} bad image{'s' if skipped > 1 else ''} left out of the data")
    return ", ".join(parts)


def _run_document(run: Run, step: Step, artifact: Artifact, runner: Any) -> dict[str, Any]:
    store = runner.context.store
    scores = artifact.json("metrics.json")
    steps = {"weights" if "checkpoint" in s.params else s.name: s.key for s in step.ancestry()}
    record = store.root / "records" / f"{step.key}.json"
    if not record.is_file() or not runner.log[step.key]["cached"]:
        replace_json(record, _record(run, steps, scores, runner))
    return {
        "params": run.params,
        "seed": run.params["seed"],
        "setting": run.setting.changes,
        "skipped": _skipped(steps, runner),
        "metrics": scores["metrics"],
        "variants": scores["variants"],
        "record": str(record),
        "checkpoint": str(next(store.root / "artifacts" / n / steps[n] for n in ("train", "convert") if n in steps)),
    }


def _skipped(steps: dict[str, str], runner: Any) -> int:
    """Return how many images the features of a run left out because they, or a caption of theirs, were no good."""
    features = runner.context.store.find("features", steps["features"])
    return len(features.json("meta.json")["skipped"]) if features else 0


def _record(run: Run, steps: dict[str, str], scores: dict[str, Any], runner: Any) -> dict[str, Any]:
    found = {n: runner.context.store.find("download" if n == "weights" else n, key) for n, key in steps.items()}
    return {
        "recipe": run.recipe.key,
        "paper": run.recipe.paper.title,
        "dataset": run.dataset,
        "data": run.choice.model_dump(mode="json"),
        "assets": {n: asdict_asset(a) for n, a in run.manifest.assets.items()},
        "preprocess": run.preprocess.model_dump(mode="json"),
        "params": run.params,
        "seed": run.params["seed"],
        "setting": run.setting.changes,
        "skipped": _skipped(steps, runner),
        "eval": run.eval.model_dump(mode="json"),
        "origin": run.origin,
        "steps": steps,
        "seconds": {n: a.manifest["seconds"] for n, a in found.items() if a},
        "history": _history(found.get("train")),
        "environment": {**environment(), "device": _device(run, runner)},
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **scores,
    }


def _history(train: Artifact | None) -> list[dict[str, Any]]:
    """Return the losses and rates that a deep method's training noted, epoch by epoch; none of a shallow one's."""
    path = train.path / "history.jsonl" if train else None
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _device(run: Run, runner: Any) -> str:
    if not run.method.deep:
        return "cpu"
    from cmrkit.training.device import pick_device

    return str(pick_device(runner.context.training.device))


def asdict_asset(asset: Any) -> dict[str, Any]:
    """Return what identifies a downloaded file in a record."""
    return {"path": asset.path, "checksum": asset.checksum, "variant": asset.variant}


def environment() -> dict[str, Any]:
    """Return versions and machine facts that a result may depend on."""
    packages = {}
    for name in ("numpy", "scipy", "scikit-learn", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"cmrkit": __version__, "python": platform.python_version(), "platform": platform.platform(),
            "cores": os.cpu_count(), "packages": packages}  # fmt: skip


def load(checkpoint: str | Path):
    """Return a trained model with ``encode_image`` and ``encode_text``. Raises UsageError, CmrkitError."""
    from cmrkit.pipeline.checkpoint import load_checkpoint

    return load_checkpoint(Path(checkpoint))


__all__ = ["load", "open_context", "open_store", "reproduce"]
