"""Arrays in, metrics out: one protocol, or the same arrays under every variant of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block, matrix_blocks
from cmrkit.evaluation.inputs import Direction, Inputs, check_inputs
from cmrkit.evaluation.metrics import RSUM, Metric, measure, parse
from cmrkit.evaluation.protocols import Protocol, find_protocol
from cmrkit.evaluation.relevance import PairRelevance, check_labels, check_pairs, relevance_by_label
from cmrkit.evaluation.similarity import SIMILARITIES, check_embeddings

VARIANT_METRICS = ("map@all", "map@50", "map@50:min", "map@50:total", "map@50:first-relevant", "map@100")
VARIANT_SIMILARITIES = ("cosine", "dot", "euclidean", "correlation", "inner-over-sum-of-norms")


def evaluate(
    *,
    query_image: np.ndarray | None = None,
    query_text: np.ndarray | None = None,
    database_image: np.ndarray | None = None,
    database_text: np.ndarray | None = None,
    learned_image: np.ndarray | None = None,
    learned_text: np.ndarray | None = None,
    unified: np.ndarray | None = None,
    query_labels: np.ndarray | None = None,
    database_labels: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    space: str = "hamming",
    protocol: str | Protocol | None = None,
    metrics: Sequence[str] | None = None,
    ties: str | None = None,
    database: str | None = None,
    items: str | None = None,
    similarity: str | None = None,
    without_relevant: str | None = None,
) -> dict[str, float | int | dict]:
    """Evaluate codes (n, bits) of -1/+1 or 0/1, or embeddings (n, d), in both directions they allow.

    Image queries rank texts (``i2t``) and text queries rank images (``t2i``). ``database_*`` hold what the
    encoders give for the database items, ``learned_*`` what training learned for them, ``unified`` one code
    for both modalities. ``*_labels`` are multi-hot (n, c) or class ids (n,), one row per item and shared
    by both modalities; ``pairs`` (n_text,) is the image row of each text instead.

    ``protocol`` names one of PROTOCOLS (default: recall with pairs, else hamming-map or real-map); the
    options after it override its fields. Where ``database``, ``items`` or the relevance is left to the
    protocol and the arrays for its choice were not given, the choice that the arrays do allow is taken;
    ``resolve`` returns the protocol that results.

    Returns ``{"map@all": {"i2t": x, "t2i": y}, ..}`` under the names in ``metrics``; ``pr_curve`` holds a
    dict of lists per direction, ``rsum`` is one number and is left out where one direction is missing.
    ``queries`` is the number of queries, by direction where that differs.

    Raises UsageError for anything in the arrays or options that cannot be evaluated, naming array and row.
    """
    inputs = check_inputs(
        space=space,
        query_image=query_image,
        query_text=query_text,
        database_image=database_image,
        database_text=database_text,
        learned_image=learned_image,
        learned_text=learned_text,
        unified=unified,
        query_labels=query_labels,
        database_labels=database_labels,
        pairs=pairs,
    )
    chosen = resolve(
        inputs,
        protocol,
        metrics=None if metrics is None else tuple(metrics),
        ties=ties,
        database=database,
        items=items,
        similarity=similarity,
        without_relevant=without_relevant,
    )
    directions = inputs.directions(chosen.database, chosen.items, chosen.relevance)
    blocks = {d: direction.blocks(chosen.similarity) for d, direction in directions.items()}
    values = _measure(blocks, chosen.metrics, (chosen.ties,), chosen.without_relevant)[chosen.ties]
    return values | {"queries": _counts({d: len(direction.query) for d, direction in directions.items()})}


def evaluate_variants(
    *, space: str = "hamming", metrics: Sequence[str] | None = None, **arrays: np.ndarray | None
) -> dict[str, dict[str, float | dict]]:
    """Evaluate the same arrays (those of ``evaluate``) under every variant that they allow.

    Keys read ``database=hashed,items=database,ties=stable``; a part that makes no difference is absent
    (``items=query,ties=stable``: queries have one kind of codes). In Hamming space every tie rule is
    reported; in real-valued spaces, where ties are rare, expected and stable, and every similarity of
    VARIANT_SIMILARITIES. Raises UsageError as ``evaluate`` does.
    """
    inputs = check_inputs(space=space, **arrays)
    default = VARIANT_METRICS if inputs.pairs is None else find_protocol("recall").metrics
    names = default if metrics is None else tuple(metrics)
    ties = ("expected", "stable", "worst", "best") if space == "hamming" else ("expected", "stable")
    similarities = (None,) if space == "hamming" else VARIANT_SIMILARITIES
    variants = {}
    for where, directions in _selections(inputs).items():
        for similarity in similarities:
            blocks = {d: direction.blocks(similarity) for d, direction in directions.items()}
            suffix = f",similarity={similarity}" if similarity else ""
            for rule, values in _measure(blocks, names, ties, "zero").items():
                variants[f"{where},ties={rule}{suffix}"] = values
    return variants


def evaluate_matrix(
    similarity: np.ndarray,
    *,
    pairs: np.ndarray | None = None,
    image_labels: np.ndarray | None = None,
    text_labels: np.ndarray | None = None,
    protocol: str | Protocol = "recall",
    metrics: Sequence[str] | None = None,
    ties: str | None = None,
    without_relevant: str | None = None,
) -> dict[str, float | int | dict]:
    """Evaluate a similarity matrix (n_images, n_texts), larger for nearer, in both directions.

    For methods that score a pair at a time. ``pairs`` (n_text,) is the image row of each text; without it
    the two label arrays decide. Returns and raises as ``evaluate`` does.
    """
    matrix = check_embeddings("similarity", similarity)
    images, texts = matrix.shape
    chosen = _as_protocol(protocol).changed(
        metrics=None if metrics is None else tuple(metrics), ties=ties, without_relevant=without_relevant
    )
    if pairs is not None:
        rows, owners = np.arange(images), check_pairs(pairs, images, texts)
        relevance = {"i2t": PairRelevance(rows, owners), "t2i": PairRelevance(owners, rows)}
    elif image_labels is None or text_labels is None:
        raise UsageError("evaluate_matrix needs pairs, or both image_labels and text_labels")
    else:
        image, text = check_labels("image_labels", image_labels), check_labels("text_labels", text_labels)
        if (len(image), len(text)) != matrix.shape:
            raise UsageError(f"similarity is {images} x {texts}, but there are {len(image)} and {len(text)} labels")
        relevance = {"i2t": relevance_by_label(image, text), "t2i": relevance_by_label(text, image)}
    blocks = {"i2t": matrix_blocks(matrix, relevance["i2t"]), "t2i": matrix_blocks(matrix.T, relevance["t2i"])}
    values = _measure(blocks, chosen.metrics, (chosen.ties,), chosen.without_relevant)[chosen.ties]
    return values | {"queries": _counts({"i2t": images, "t2i": texts})}


def resolve(inputs: Inputs, protocol: str | Protocol | None = None, **options) -> Protocol:
    """Return the protocol with ``options`` put over it and what it left open settled by the arrays.

    Raises UsageError where the protocol ranks another space than the arrays live in.
    """
    hamming = inputs.space == "hamming"
    if protocol is None:
        protocol = "recall" if inputs.pairs is not None else "hamming-map" if hamming else "real-map"
    base = _as_protocol(protocol)
    if base.hamming not in (None, hamming):
        fits = "Hamming codes" if base.hamming else "real-valued embeddings"
        raise UsageError(f"protocol {base.name} is for {fits}, but the arrays' space is {inputs.space}")
    if inputs.pairs is None or inputs.query_labels is None:
        base = base.changed(relevance="labels" if inputs.pairs is None else "pairs")
    databases = inputs.databases()
    if base.relevance == "pairs" or (not databases and inputs.has_both_queries):
        base = base.changed(items="query")
    if base.database not in databases:
        base = base.changed(database=databases[0] if databases else "hashed")
    chosen = base.changed(**options)
    if hamming and chosen.similarity is not None:
        raise UsageError(f"similarity={chosen.similarity} does not apply to Hamming codes")
    return chosen if hamming else chosen.changed(similarity=_similarity(chosen.similarity or inputs.space))


def _as_protocol(protocol: str | Protocol) -> Protocol:
    return protocol if isinstance(protocol, Protocol) else find_protocol(protocol)


def _similarity(name: str) -> str:
    if name not in SIMILARITIES:
        raise UsageError(f"unknown similarity {name!r}; there are {', '.join(SIMILARITIES)}")
    return name


def _selections(inputs: Inputs) -> dict[str, dict[str, Direction]]:
    """Return the directions of every (database, items) that the arrays allow, by their part of the key."""
    if inputs.pairs is not None:
        return {"items=query": inputs.directions("hashed", "query", "pairs")}
    found = {}
    for database in inputs.databases():
        found[f"database={database},items=database"] = inputs.directions(database, "database", "labels")
    if not found or inputs.has_both_queries:
        found["items=query"] = inputs.directions("hashed", "query", "labels")
    return found


def _measure(
    blocks: dict[str, Iterable[Block]], names: Sequence[str], ties: Sequence[str], without_relevant: str
) -> dict[str, dict[str, float | dict]]:
    """Return ``{tie rule: {metric: {direction: value}}}``, with rsum put together from both directions."""
    metrics = [parse(name) for name in names]
    asked = _asked_of_each_direction(metrics)
    measured = {d: measure(each, asked, ties, without_relevant) for d, each in blocks.items()}
    return {rule: _by_metric({d: m[rule] for d, m in measured.items()}, metrics) for rule in ties}


def _asked_of_each_direction(metrics: list[Metric]) -> list[Metric]:
    named = [m.name for m in metrics if m.kind != "rsum"]
    parts = RSUM if any(m.kind == "rsum" for m in metrics) else ()
    return [parse(name) for name in dict.fromkeys((*named, *parts))]


def _by_metric(measured: dict[str, dict], metrics: list[Metric]) -> dict[str, float | dict]:
    values = {}
    for metric in metrics:
        if metric.kind != "rsum":
            values[metric.name] = {d: found[metric.name] for d, found in measured.items()}
        elif len(measured) == 2:
            values["rsum"] = sum(found[part] for found in measured.values() for part in RSUM)
    return values


def _counts(queries: dict[str, int]) -> int | dict[str, int]:
    return next(iter(queries.values())) if len(set(queries.values())) == 1 else queries
