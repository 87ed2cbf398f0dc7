"""Between the encode step's arrays and the evaluation room: the recipe's protocol and every variant."""

from __future__ import annotations

from typing import Any

import numpy as np


def score(codes: dict[str, np.ndarray], space: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"metrics": .., "variants": ..}`` of encoded arrays under an evaluation choice.

    ``choice`` has the fields of a recipe's ``eval``. Rows are aligned pairs, one per text; recall counts
    each image once.
    """
    from cmrkit.evaluation import evaluate, evaluate_variants

    if choice["protocol"] == "recall":
        return {"metrics": evaluate(**_unpaired(codes), space=space, protocol="recall"), "variants": {}}
    arrays = {k: np.asarray(v) for k, v in codes.items() if not k.endswith("_items")}
    options = {k: choice[k] for k in ("database", "items", "ties")}
    if choice.get("similarity"):
        options["similarity"] = choice["similarity"]
    return {
        "metrics": evaluate(**arrays, space=space, protocol=choice["protocol"], **options),
        "variants": evaluate_variants(**arrays, space=space),
    }


def _unpaired(codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    _, first, pairs = np.unique(codes["query_items"], return_index=True, return_inverse=True)
    return {
        "query_image": codes["query_image"][first],
        "query_text": np.asarray(codes["query_text"]),
        "pairs": pairs,
    }
