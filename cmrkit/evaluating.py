"""What ``cmrkit eval`` does, as functions: a checkpoint, codes or a run made elsewhere in, a document out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import UsageError

LISTED = {"cxc": "cxc", "eccv-caption": "eccv"}  # protocols whose relevant items MS-COCO's manifest has files of
RUN_METRICS = ("map@all", "map@50", "precision@10", "recall@100", "ndcg@10", "r@1", "r@5", "r@10", "medr")


@dataclass(frozen=True)
class Subject:
    """What is evaluated: arrays as ``cmrkit.evaluation.evaluate`` takes them, or one ``similarity`` matrix.

    ``options`` are the protocol, by name, and fields of it that its maker chose; ``ids`` name rows.
    """

    source: str
    arrays: dict[str, np.ndarray]
    space: str
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def read_subject(path: str | Path) -> Subject:
    """Return the codes or embeddings of an .npz file. Raises UsageError naming file, array and row."""
    from cmrkit.evaluation import check_inputs
    from cmrkit.evaluation.files import load_codes

    file = load_codes(path)
    try:
        check_inputs(**file.arrays, space=file.space)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return Subject(str(path), file.arrays, file.space, ids=file.ids)


def encode(
    checkpoint: str | Path, dataset: str | None = None, *, offline: bool = False, cache: str | Path | None = None,
    learned: bool = True,
) -> tuple[Any, dict[str, np.ndarray], str]:  # fmt: skip
    """Return a checkpoint's model, the encoded queries and database (rows are pairs), and the dataset they are of.

    ``dataset`` is another one than the checkpoint's own where its recipe declares features of that; codes that
    training ``learned`` belong to the own. Raises UsageError for a dataset without such features.
    """
    from cmrkit.api import load, open_context
    from cmrkit.pipeline.encoding import encode_arrays
    from cmrkit.pipeline.plan import feature_step
    from cmrkit.pipeline.resolve import pick_dataset
    from cmrkit.pipeline.runner import Runner
    from cmrkit.pipeline.steps import obtain_features
    from cmrkit.recipe.library import load_manifest, load_recipe
    from cmrkit.recipe.model import DataChoice

    model = load(checkpoint)
    own = dataset in (None, model.about["dataset"])
    if own:
        dataset, choice = model.about["dataset"], DataChoice(**model.about["data"])
    else:
        recipe = load_recipe(model.about["recipe"])
        choice = recipe.data[pick_dataset(recipe, dataset)]
    data = obtain_features(Runner(open_context(offline, cache)), feature_step(load_manifest(dataset), choice))
    return model, encode_arrays(model, data, learned=own and learned), dataset


def encode_subject(checkpoint: str | Path, dataset: str | None = None, **where: Any) -> Subject:
    """Encode a checkpoint as ``encode`` does, to be evaluated as its recipe says."""
    from cmrkit.pipeline.scoring import FIELDS, evaluable
    from cmrkit.recipe.library import load_recipe

    model, arrays, dataset = encode(checkpoint, dataset, **where)
    recipe = load_recipe(model.about["recipe"])
    override = recipe.on[dataset].eval if dataset in recipe.on else None
    options = (override or recipe.eval).model_dump(mode="json", include=set(FIELDS), exclude_none=True)
    if options["database"] == "learned" and "learned_image" not in arrays:
        options["database"] = "hashed"
    arrays = evaluable(arrays, options["protocol"])
    if "pairs" in arrays:
        options = {k: v for k, v in options.items() if k not in ("database", "items")}
    return Subject(
        str(checkpoint), arrays, model.space, options, dataset, about={"same_code": model.about["same_code"]}
    )


def evaluate_subject(
    subject: Subject,
    *,
    protocol: str | None = None,
    all_protocols: bool = False,
    metrics: Sequence[str] | None = None,
    overrides: dict[str, Any] | None = None,
    memory: int | None = None,
    device: str | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Return ``{source, dataset, protocol, metrics}``, metrics keyed by variant with ``all_protocols``.

    ``overrides`` change fields of the protocol. Raises UsageError for what cannot be evaluated so.
    """
    from cmrkit.evaluation import evaluate_variants

    document = {"source": subject.source, "dataset": subject.dataset, **subject.about}
    subject = with_listed_positives(subject, protocol or subject.options.get("protocol"), offline)
    if all_protocols:
        if protocol or overrides:
            raise UsageError("--all-protocols goes through the protocols itself: leave --protocol and --set out")
        if "similarity" in subject.arrays:
            raise UsageError(f"{subject.source} is scored pair by pair: recall is its one protocol")
        variants = evaluate_variants(
            **subject.arrays, space=subject.space, metrics=metrics, memory=memory, device=device
        )
        return document | {"protocol": "all", "metrics": variants}
    options = _options(subject, protocol, overrides)
    found = _evaluate(subject, options, metrics, memory=memory, device=device)
    return document | {"protocol": _described(options, subject), "metrics": found}


def _options(subject: Subject, protocol: str | None, overrides: dict[str, Any] | None) -> dict[str, Any]:
    from dataclasses import fields

    from cmrkit.evaluation import Protocol
    from cmrkit.recipe.source import did_you_mean

    known = {f.name for f in fields(Protocol)} - {"name", "definition", "reference", "used_by", "metrics", "hamming"}
    for name in overrides or {}:
        if name not in known:
            raise UsageError(
                f"--set {name}: no field of a protocol{did_you_mean(name, known)}; there are {', '.join(sorted(known))}"
            )
    chosen = {"protocol": protocol} if protocol else dict(subject.options)
    return chosen | (overrides or {})


def _described(options: dict[str, Any], subject: Subject) -> Any:
    if set(options) <= {"protocol"}:
        return options.get("protocol") or _default_protocol(subject)
    return {"protocol": _default_protocol(subject), **options}


def _default_protocol(subject: Subject) -> str:
    if "pairs" in subject.arrays or "positives_i2t" in subject.arrays:
        return "recall"
    return "hamming-map" if subject.space == "hamming" else "real-map"


def _evaluate(
    subject: Subject, options: dict, metrics: Sequence[str] | None, device: str | None = None, **more
) -> dict:
    from cmrkit.evaluation import evaluate, evaluate_matrix

    if "similarity" not in subject.arrays:
        return evaluate(**subject.arrays, space=subject.space, metrics=metrics, device=device, **options, **more)
    names = ("protocol", "ties", "without_relevant")
    options = {k: v for k, v in options.items() if k in names}
    return evaluate_matrix(**subject.arrays, metrics=metrics, **options, **more)


def with_listed_positives(subject: Subject, protocol: str | None, offline: bool = False) -> Subject:
    """Add what is relevant under ``cxc`` and ``eccv-caption``, from MS-COCO's files, to arrays of its test set.

    The arrays hold the 5,000 test images in Karpathy's order and their captions in order; ``pairs`` says whose they
    are. Only the first five captions of an image stay. Raises UsageError where they are another set.
    """
    if protocol not in LISTED or "positives_i2t" in subject.arrays:
        return subject
    from cmrkit.api import open_context
    from cmrkit.data.plausible import ASSETS, karpathy_positives
    from cmrkit.pipeline.fetch import fetch_all
    from cmrkit.recipe.library import load_manifest

    if "pairs" not in subject.arrays:
        raise UsageError(f"protocol {protocol} ranks MS-COCO's test captions: pairs, the image row of each, is missing")
    context = open_context(offline)
    names = ("coco-test-ids", ASSETS["coco"][1], *ASSETS[LISTED[protocol]])
    assets = {name: load_manifest("mscoco").assets[name] for name in names}
    paths = fetch_all(assets, destination=context.store.root / "downloads", mirror=context.mirror,
                      offline=context.offline, progress=context.progress)  # fmt: skip
    relevant, captions = karpathy_positives(LISTED[protocol], paths, np.asarray(subject.arrays["pairs"]))
    text = "query_text" if "query_text" in subject.arrays else "database_text"
    arrays = {name: array for name, array in subject.arrays.items() if name != "pairs"}
    arrays[text] = arrays[text][captions]
    for direction, each in relevant.items():
        arrays |= {f"positives_{direction}": each.pairs, f"outside_{direction}": each.outside}
    return replace(subject, arrays=arrays)


def compare_subjects(
    one: Subject, other: Subject, *, protocol: str | None = None, metrics: Sequence[str] | None = None,
    overrides: dict[str, Any] | None = None, memory: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Test whether two subjects, evaluated on the same queries, differ beyond the draw of the queries.

    Returns ``{source, against, protocol, comparison: {metric: {direction: {..}}}}`` with both means, their
    difference, its bootstrap interval and the p-values of the bootstrap and of the randomisation test.
    """
    options = _options(one, protocol, overrides)
    found = [_evaluate(s, options, metrics, memory=memory, per_query=True)["per_query"] for s in (one, other)]
    for name in ("query_labels", "pairs"):
        if not np.array_equal(one.arrays.get(name, []), other.arrays.get(name, [])):
            raise UsageError(f"{one.source} and {other.source} differ in {name}: they must rank for the same queries")
    return {"source": one.source, "against": other.source, "protocol": _described(options, one),
            "comparison": _comparison(*found)}  # fmt: skip


def _comparison(one: dict, other: dict) -> dict[str, dict[str, dict[str, Any]]]:
    from cmrkit.evaluation.statistics import paired_bootstrap, randomisation_test

    table: dict[str, dict[str, dict[str, Any]]] = {}
    for metric, directions in one.items():
        for direction, values in directions.items():
            against = other[metric].get(direction)
            if against is None:
                continue
            interval, test = paired_bootstrap(values, against), randomisation_test(values, against)
            table.setdefault(metric, {})[direction] = {
                "mean": float(values.mean()), "against": float(against.mean()), "difference": interval.difference,
                "interval": [interval.low, interval.high], "p_bootstrap": interval.p, "p_randomisation": test.p,
                "queries": len(values),
            }  # fmt: skip
    return table


def evaluate_run_file(
    run: str | Path, qrels: str | Path, *, metrics: Sequence[str] | None = None, ties: str = "expected",
    against: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a run in TREC's format, or compare it with another one over the same judgements."""
    from cmrkit.evaluation.trec import evaluate_run, query_values, read_qrels, read_run

    judged, names = read_qrels(qrels), metrics or RUN_METRICS
    document = {"source": str(run), "dataset": None, "protocol": f"run, ties {ties}"}
    if against is None:
        return document | {"metrics": evaluate_run(read_run(run), judged, names, ties)}
    one, other = (
        {n: {"run": v} for n, v in query_values(read_run(p), judged, names, ties).items()} for p in (run, against)
    )
    return document | {"against": str(against), "comparison": _comparison(one, other)}


def write_subject(
    subject: Subject,
    *,
    codes: str | Path | None = None,
    run: str | Path | None = None,
    depth: int | None = None,
    protocol: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> list[str]:
    """Write a subject's arrays (``codes``, an .npz file) and its rankings (``run``, a prefix); return the paths.

    Of each ranking the first ``depth`` items are written, DEPTH of them where it is None.
    """
    from cmrkit.evaluation.export import DEPTH, write_rankings
    from cmrkit.evaluation.files import write_codes

    if "similarity" in subject.arrays:
        raise UsageError(f"{subject.source} is scored pair by pair: it has no codes to write")
    written = []
    if codes is not None:
        write_codes(codes, {**subject.arrays, **subject.ids}, subject.space)
        written.append(str(codes))
    if run is not None:
        options = _options(subject, protocol, overrides)
        paths = write_rankings(
            run,
            **subject.arrays,
            **subject.ids,
            space=subject.space,
            depth=DEPTH if depth is None else depth,
            options=options,
        )
        written += [str(path) for path in paths]
    return written
