"""A trained method and a feature set in, the arrays that evaluation takes out."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmrkit.pipeline.featureset import FeatureSet


def encode_arrays(
    model: Any, data: FeatureSet, learned: bool = True, query: str = "query", **scoring: Any
) -> dict[str, np.ndarray]:
    """Return query and database codes, labels and pairs, rows aligned as pairs (one row per text).

    Where the database is the training set and the method learned codes for it, those are included. ``query``
    names the split whose items are the queries. A method that compares sets or scores pairs gives ``similarity``
    (images x texts of the queries), ``pairs`` and labels instead, and ``reverse`` where texts rank images by other
    scores; ``scoring`` goes to a method that scores pairs.
    """
    _require_vocabulary(model, data)
    if model.space == "similarity":
        return _similarities(model, data, query, scoring)
    arrays: dict[str, np.ndarray] = {}
    for name, role in (("query", query), ("database", "database")):
        images, texts, pairs, distinct = data.parts(role)
        arrays[f"{name}_image"] = model.encode_image(images)[pairs]
        arrays[f"{name}_text"] = model.encode_text(texts)
        arrays[f"{name}_items"] = distinct[pairs]
        if data.labels is not None:
            arrays[f"{name}_labels"] = np.asarray(data.labels[distinct])[pairs]
        if name == "database" and hasattr(model.method, "encode_pair"):
            arrays["unified"] = model.encode_pair(images.take(pairs), texts)
    trained = data.rows("train")[0]
    if learned and hasattr(model.method, "image_codes_") and np.array_equal(trained, arrays["database_items"]):
        arrays["learned_image"] = model.method.image_codes_
        arrays["learned_text"] = model.method.text_codes_
    return arrays


def _similarities(model: Any, data: FeatureSet, query: str, scoring: dict[str, Any]) -> dict[str, np.ndarray]:
    images, texts, pairs, distinct = data.parts(query)
    scores = model.similarity(images, texts, **(scoring if hasattr(model.method, "score") else {}))
    arrays = {"similarity": scores["i2t"], "reverse": scores["t2i"]} if isinstance(scores, dict) else (
        {"similarity": scores})  # fmt: skip
    arrays["pairs"] = pairs
    if data.labels is not None:
        labels = np.asarray(data.labels[distinct])
        arrays |= {"image_labels": labels, "text_labels": labels[pairs]}
    return arrays


def _require_vocabulary(model: Any, data: FeatureSet) -> None:
    trained = model.about.get("vocabulary")
    if trained is not None and data.vocabulary is not None:
        from cmrkit.features.tokens import require_vocabulary

        require_vocabulary(trained, data.vocabulary, "text features")
