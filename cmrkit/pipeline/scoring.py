"""Between the encode step's arrays and the evaluation room: the recipe's protocol and every variant."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from cmrkit.errors import UsageError

FIELDS = ("protocol", "database", "items", "ties", "similarity")


def score(codes: dict[str, np.ndarray], space: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"metrics": .., "variants": .., "per_query": ..}`` of encoded arrays under an evaluation choice.

    ``choice`` has the fields of a recipe's ``eval``. Where relevance goes by pairs, the protocol's own is the one
    variant. ``per_query`` maps metric and direction to float64 (queries,).
    """
    from cmrkit.evaluation import evaluate_variants, find_protocol

    arrays = evaluable(codes, choice["protocol"])
    metrics = measured(arrays, space, choice, per_query=find_protocol(choice["protocol"]).folds == 1)
    single = "similarity" in arrays or "pairs" in arrays
    return {
        "metrics": metrics,
        "variants": {} if single else evaluate_variants(**arrays, space=space),
        "per_query": metrics.pop("per_query", {}),
    }


def evaluable(codes: dict[str, np.ndarray], protocol: str) -> dict[str, np.ndarray]:
    """Return encoded arrays, whose rows are aligned pairs, in the form that the evaluation room takes them.

    Where relevance goes by pairs each image is there once. Raises UsageError where similarities of whole sets lack
    what the protocol goes by.
    """
    from cmrkit.evaluation import find_protocol

    by_label = find_protocol(protocol).relevance == "labels"
    if "similarity" in codes:
        names = ("image_labels", "text_labels") if by_label else ("pairs",)
        if missing := [n for n in names if n not in codes]:
            raise UsageError(f"protocol {protocol} needs {missing[0]}, which this dataset does not have")
        return {n: np.asarray(codes[n]) for n in ("similarity", "reverse", *names) if n in codes}
    if by_label:
        return {k: np.asarray(v) for k, v in codes.items() if not k.endswith("_items")}
    _, first, pairs = np.unique(codes["query_items"], return_index=True, return_inverse=True)
    image, text = codes["query_image"][first], np.asarray(codes["query_text"])
    return {"query_image": image, "query_text": text, "pairs": pairs}


def measured(arrays: dict[str, np.ndarray], space: str, choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the metrics of evaluable arrays under the fields of ``choice`` that are a protocol's."""
    from cmrkit.evaluation import evaluate, evaluate_matrix

    options = {name: choice[name] for name in FIELDS if choice.get(name) is not None}
    if "similarity" in arrays:
        return evaluate_matrix(**arrays, protocol=options["protocol"], ties=options.get("ties"), **more)
    if "pairs" in arrays:
        options = {name: options[name] for name in ("protocol", "ties", "similarity") if name in options}
    return evaluate(**arrays, space=space, **options, **more)


def criterion(codes: dict[str, np.ndarray], space: str, choice: dict[str, Any], metric: str) -> float:
    """Return the number by which an epoch is chosen: ``metric``, the mean of both directions, larger for better.

    Raises UsageError where the protocol cannot measure it or it is a rank, which is better when smaller.
    """
    if metric in ("medr", "meanr", "pr_curve"):
        raise UsageError(f"train.select: {metric!r} is no number that is better when larger; rsum or map@all would do")
    if choice["database"] == "learned":
        choice = {**choice, "database": "hashed"}
    value = measured(evaluable(codes, choice["protocol"]), space, choice, metrics=[metric])[metric]
    return fmean(value.values()) if isinstance(value, dict) else float(value)
