"""Scoring again what a run left in the store, under a protocol of one's choice; kept, so that it is done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.pipeline.digest import PACKAGE, digest_of, source_digest
from cmrkit.reporting.records import Record, artifact_folder

Queries = dict[tuple[str, str], np.ndarray]  # (metric, direction) -> float64 (queries,)


def rescored(
    root: Path, record: Record, choice: dict[str, Any], metrics: tuple[str, ...], queries: bool = True
) -> tuple[dict[str, Any], Queries] | None:
    """Return ``metrics`` of a run's codes under the fields of ``choice``, and per query where ``queries`` asks for it.

    None where the codes were collected. Raises UsageError where they do not allow the choice, such as ``learned``
    codes that the method does not have.
    """
    from cmrkit.pipeline.scoring import evaluable, measured
    from cmrkit.pipeline.store import Store, write_json

    folder = artifact_folder(root, record, "encode")
    if folder is None:
        return None
    code = source_digest(PACKAGE / "evaluation" / "evaluator.py")
    key = digest_of(["score", folder.name, choice, metrics, queries, code])

    def write(out: Path) -> None:
        codes = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
        space = json.loads((folder / "space.json").read_text(encoding="utf-8"))
        arrays = evaluable(codes, choice["protocol"])
        found = measured(arrays, space, choice, metrics=metrics, per_query=queries)
        each = found.pop("per_query", {})
        np.savez(out / "per_query.npz", **{f"{m}/{d}": v for m, values in each.items() for d, v in values.items()})
        write_json(out / "metrics.json", found)

    store = Store(root)
    about = {"params": choice, "inputs": [folder.name]}
    artifact = store.find("score", key) or store.publish("score", key, about, write)
    with np.load(artifact.path / "per_query.npz", allow_pickle=False) as file:
        values = {tuple(name.rsplit("/", 1)): np.asarray(file[name]) for name in file.files}
    return artifact.json("metrics.json"), values
