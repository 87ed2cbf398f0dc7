"""Arrays in, metrics out: one protocol, or the same arrays under every variant of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import MEMORY, Block, both_ways, matrix_blocks
from cmrkit.evaluation.hamming import Codes, hamming_blocks
from cmrkit.evaluation.inputs import Direction, Inputs, check_inputs
from cmrkit.evaluation.metrics import RSUM, Measured, bytes_per_pair, divides_by_relevant, expand, measure, parse
from cmrkit.evaluation.positives import PLAUSIBLE_RADII
from cmrkit.evaluation.protocols import Protocol, find_protocol
from cmrkit.evaluation.relevance import PairRelevance, check_labels, check_pairs, relevance_by_label
from cmrkit.evaluation.similarity import SIMILARITIES, check_embeddings, distance_rows, similarity_blocks

VARIANT_METRICS = (
    *("map@all", "map@all:11-point", "map@50", "map@50:min", "map@50:total", "map@50:first-relevant", "map@100"),
    *("map@r", "r-precision", "precision@100"),
)
VARIANT_SIMILARITIES = ("cosine", "dot", "euclidean", "correlation", "inner-over-sum-of-norms")
SYMMETRIC = ("cosine", "correlation", "dot")  # similarities of which one matrix serves both directions


@dataclass(frozen=True)
class Budget:
    """What an evaluation may use; nothing in it changes a result beyond rounding.

    ``memory`` is in bytes, for one block's arrays; ``device`` names a torch device, None the compiled code.
    """

    memory: int = MEMORY
    device: str | None = None


def evaluate(
    *,
    protocol: str | Protocol | None = None,
    metrics: Sequence[str] | None = None,
    memory: int | None = None,
    device: str | None = None,
    per_query: bool = False,
    space: str = "hamming",
    ties: str | None = None,
    database: str | None = None,
    items: str | None = None,
    relevance: str | None = None,
    similarity: str | None = None,
    normalisation: str | None = None,
    without_relevant: str | None = None,
    averaging: str | None = None,
    folds: int | None = None,
    **arrays: np.ndarray | None,
) -> dict[str, Any]:
    """Evaluate codes (n, bits) of -1/+1 or 0/1, or embeddings (n, d), in both directions they allow.

    Image queries rank texts (``i2t``) and text queries rank images (``t2i``). The arrays, each optional:
    ``query_image``, ``query_text``; ``database_image``, ``database_text``: what the encoders give for the database
    items; ``learned_image``, ``learned_text``: what training learned for them; ``unified``: one code for both
    modalities; ``translated_image``, ``translated_text``: queries in the other modality's code length, ranked
    instead of their own; ``bank_image``, ``bank_text``: other queries, for a normalisation.
    ``codebooks`` (M, K, d), or (M, K, d/M) of a product quantiser, make items of whole numbers (n, M): codewords
    whose sum, or concatenation, the item stands for; queries are then real-valued (n, d) or codewords, too.
    ``query_labels`` and ``database_labels`` are multi-hot (n, c) or class ids (n,), one row per item and shared by
    both modalities; or ``pairs`` (n_text,) is the image row of each text; or ``positives_i2t`` and ``positives_t2i``
    (m, 2) list query rows and relevant item rows, with ``outside_*`` (queries,) counting relevant items that are
    not among the items.

    ``protocol`` names one of PROTOCOLS (default: recall with pairs, else hamming-map or real-map); the options
    named as its fields override them. Where ``database``, ``items`` or the relevance is left to the protocol and
    the arrays for its choice were not given, the choice that the arrays do allow is taken; ``resolve`` returns the
    protocol that results. ``memory`` (bytes) bounds one block's arrays; ``device`` is a torch device to compute on.

    Returns ``{"map@all": {"i2t": x, "t2i": y}, ..}`` under the names in ``metrics``; ``pr_curve`` holds a
    dict of lists per direction, ``rsum`` is one number and is left out where one direction is missing.
    ``queries`` is the number of queries, by direction where that differs, and ``queries_without_relevant`` how many
    have no relevant item, where some have none. With ``per_query`` there is also
    ``per_query``: ``{metric: {direction: float64 (queries,)}}``, for significance tests.

    Raises UsageError for anything in the arrays or options that cannot be evaluated, naming array and row.
    """
    inputs = check_inputs(space=space, **arrays)
    options = dict(
        ties=ties, database=database, items=items, relevance=relevance, similarity=similarity, folds=folds,
        normalisation=normalisation, without_relevant=without_relevant, averaging=averaging,
        metrics=None if metrics is None else tuple(metrics),
    )  # fmt: skip
    chosen = resolve(inputs, protocol, **options)
    budget = _budget(memory, device)
    results = []
    for case in _cases(inputs, chosen):
        per_pair = bytes_per_pair([parse(name) for name in chosen.metrics], (chosen.ties,))
        blocks = direction_blocks(case, chosen, budget, per_pair)
        results.append(_document(_measure(blocks, chosen.metrics, (chosen.ties,)), chosen, per_query))
    return results[0] if len(results) == 1 else _mean(results)


def evaluate_variants(
    *,
    space: str = "hamming",
    metrics: Sequence[str] | None = None,
    memory: int | None = None,
    device: str | None = None,
    **arrays: np.ndarray | None,
) -> dict[str, dict[str, float | dict]]:
    """Evaluate the same arrays (those of ``evaluate``) under every variant that they allow.

    Keys read ``database=hashed,items=database,ties=stable``; a part that makes no difference is absent
    (``items=query,ties=stable``: queries have one kind of codes). In Hamming space every tie rule is reported; in
    real-valued spaces, where ties are rare, expected and stable, and every similarity of VARIANT_SIMILARITIES. Two
    more readings of the expected order follow where they differ: ``averaging=micro``, and, where some query has no
    relevant item, ``without_relevant=skip``. Raises UsageError as ``evaluate`` does.
    """
    inputs = check_inputs(space=space, **arrays)
    names = metrics or (VARIANT_METRICS if inputs.pairs is None else find_protocol("recall").metrics)
    ties = ("expected", "stable", "worst", "best") if space == "hamming" else ("expected", "stable")
    similarities = (None,) if space == "hamming" else VARIANT_SIMILARITIES
    budget, variants = _budget(memory, device), {}
    per_pair = bytes_per_pair([parse(name) for name in names], ties)
    base = find_protocol("hamming-map" if space == "hamming" else "real-map")
    for where, directions in _selections(inputs).items():
        for similarity in similarities:
            blocks = direction_blocks(directions, base.changed(similarity=similarity), budget, per_pair)
            suffix = f",similarity={similarity}" if similarity else ""
            for reading, values in _readings(_measure(blocks, names, ties), names, ties).items():
                variants[f"{where},{reading}{suffix}"] = values
    return variants


def _readings(measured: dict[str, Measured], names: Sequence[str], ties: Sequence[str]) -> dict[str, dict]:
    found = {f"ties={rule}": _by_metric(measured, names, rule) for rule in ties}
    pooled = [name for name in names if divides_by_relevant(parse(name))]
    if pooled:
        found["ties=expected,averaging=micro"] = _by_metric(measured, pooled, "expected", averaging="micro")
    if not all(m.answerable.all() for m in measured.values()):
        found["ties=expected,without_relevant=skip"] = _by_metric(measured, names, "expected", "skip")
    return found


def evaluate_matrix(
    similarity: np.ndarray,
    *,
    reverse: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    image_labels: np.ndarray | None = None,
    text_labels: np.ndarray | None = None,
    protocol: str | Protocol = "recall",
    metrics: Sequence[str] | None = None,
    ties: str | None = None,
    without_relevant: str | None = None,
    memory: int | None = None,
    per_query: bool = False,
) -> dict[str, Any]:
    """Evaluate a similarity matrix (n_images, n_texts), larger for nearer, in both directions.

    For methods that score a pair at a time. ``reverse``, of the same shape, is what text queries rank by where
    that is another matrix, as after re-ranking each direction's own shortlist. ``pairs`` (n_text,) is the image
    row of each text; without it the two label arrays decide. Returns and raises as ``evaluate`` does.
    """
    forward = check_embeddings("similarity", similarity)
    backward = forward if reverse is None else check_embeddings("reverse", reverse)
    if backward.shape != forward.shape:
        raise UsageError(f"reverse is {backward.shape}, but similarity is {forward.shape}: both are images x texts")
    images, texts = forward.shape
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
        if (len(image), len(text)) != forward.shape:
            raise UsageError(f"similarity is {images} x {texts}, but there are {len(image)} and {len(text)} labels")
        relevance = {"i2t": relevance_by_label(image, text), "t2i": relevance_by_label(text, image)}
    blocks = both_ways(-forward, relevance, memory)
    if reverse is not None:
        blocks["t2i"] = both_ways(-backward, relevance, memory)["t2i"]
    return _document(_measure(blocks, chosen.metrics, (chosen.ties,)), chosen, per_query)


def resolve(inputs: Inputs, protocol: str | Protocol | None = None, **options) -> Protocol:
    """Return the protocol with ``options`` put over it and what it left open settled by the arrays.

    Raises UsageError where the protocol ranks another space than the arrays live in.
    """
    hamming = inputs.space == "hamming"
    listed = inputs.pairs is not None or bool(inputs.positives)
    if protocol is None:
        protocol = "recall" if listed else "hamming-map" if hamming else "real-map"
    base = _as_protocol(protocol)
    if base.hamming not in (None, hamming):
        fits = "Hamming codes" if base.hamming else "real-valued embeddings"
        raise UsageError(f"protocol {base.name} is for {fits}, but the arrays' space is {inputs.space}")
    if base.relevance in ("labels", "pairs") and (not listed or inputs.query_labels is None):
        base = base.changed(relevance=("pairs" if inputs.pairs is not None else "positives") if listed else "labels")
    databases = inputs.databases()
    if base.relevance != "labels" or (not databases and inputs.has_both_queries):
        base = base.changed(items="query")
    if base.database not in databases:
        base = base.changed(database=databases[0] if databases else "hashed")
    chosen = base.changed(**options)
    for name in ("similarity", "normalisation"):
        if hamming and getattr(chosen, name) is not None:
            raise UsageError(f"{name}={getattr(chosen, name)} does not apply to Hamming codes")
    return chosen if hamming else chosen.changed(similarity=_similarity(chosen.similarity or inputs.space))


def _as_protocol(protocol: str | Protocol) -> Protocol:
    return protocol if isinstance(protocol, Protocol) else find_protocol(protocol)


def _similarity(name: str) -> str:
    if name not in SIMILARITIES:
        raise UsageError(f"unknown similarity {name!r}; there are {', '.join(SIMILARITIES)}")
    return name


def _budget(memory: int | None, device: str | None) -> Budget:
    if memory is not None and memory < 1:
        raise UsageError(f"memory is {memory} bytes: it must be positive")
    return Budget(memory or MEMORY, device)


def _cases(inputs: Inputs, chosen: Protocol) -> Iterator[dict[str, Direction]]:
    """Yield the sets of directions that a protocol measures one by one and averages: its folds, its label radii."""
    by_distance = chosen.relevance == "label-distance"
    radii = PLAUSIBLE_RADII if by_distance else (0,)
    for part in _folds(inputs, chosen.folds, by_distance):
        for radius in radii:
            yield part.directions(chosen.database, chosen.items, chosen.relevance, radius)


def _folds(inputs: Inputs, folds: int, labelled: bool) -> Iterator[Inputs]:
    if folds == 1 and not labelled:
        yield inputs
        return
    if inputs.pairs is None:
        raise UsageError("folds cut an image set and the texts that belong to it: pairs is missing")
    images = len(inputs.arrays[inputs.paired("image")])
    if images % folds:
        raise UsageError(f"{images} images cannot be cut into {folds} equal folds")
    size = images // folds
    for start in range(0, images, size):
        yield inputs.fold(start, start + size, labelled)


def direction_blocks(
    directions: dict[str, Direction], chosen: Protocol, budget: Budget, bytes_per_pair: int = 0
) -> dict[str, Iterator[Block]]:
    """Return the blocks of each direction under a protocol's similarity.

    ``bytes_per_pair`` is what the caller will hold for every pair of a query and an item in Hamming space.
    """
    if chosen.normalisation is not None:
        return {d: _normalised(each, d, chosen, budget) for d, each in directions.items()}
    if _shares_matrix(directions, chosen.similarity, budget):
        forward, backward = directions["i2t"], directions["t2i"]
        matrix = distance_rows(forward.query, forward.database, chosen.similarity, budget.device)(slice(None))
        return both_ways(matrix, {"i2t": forward.relevance, "t2i": backward.relevance}, budget.memory)
    return {d: _blocks_of(each, chosen.similarity, budget, bytes_per_pair) for d, each in directions.items()}


def _blocks_of(each: Direction, similarity: str | None, budget: Budget, per_pair: int) -> Iterator[Block]:
    if isinstance(each.query, Codes):
        return hamming_blocks(each.query, each.database, each.relevance, per_pair, budget.memory, budget.device)
    return similarity_blocks(each.query, each.database, similarity, each.relevance, budget.memory, budget.device)


def _shares_matrix(directions: dict[str, Direction], similarity: str | None, budget: Budget) -> bool:
    arrays = [array for each in directions.values() for array in (each.query, each.database)]
    if similarity not in SYMMETRIC or len(arrays) < 4 or not all(isinstance(a, np.ndarray) for a in arrays):
        return False
    forward, backward = directions["i2t"], directions["t2i"]
    same = forward.query is backward.database and forward.database is backward.query
    size = len(forward.query) * len(forward.database) * np.result_type(forward.query, forward.database).itemsize
    return same and size <= 2 * budget.memory


def _normalised(each: Direction, name: str, chosen: Protocol, budget: Budget) -> Iterator[Block]:
    from cmrkit.evaluation.normalisation import normalise

    kind = chosen.normalisation
    if each.bank is None:
        side = "image" if name == "i2t" else "text"
        raise UsageError(f"bank_{side} is missing: normalisation {kind} needs other {side} queries, as of training")
    own, bank = (
        -distance_rows(query, each.database, chosen.similarity, budget.device)(slice(None))
        for query in (each.query, each.bank)
    )
    return matrix_blocks(normalise(own, kind, bank=bank), each.relevance, budget.memory)


def _selections(inputs: Inputs) -> dict[str, dict[str, Direction]]:
    """Return the directions of every (database, items) that the arrays allow, by their part of the key."""
    if inputs.pairs is not None or inputs.positives:
        return {
            "items=query": inputs.directions("hashed", "query", "pairs" if inputs.pairs is not None else "positives")
        }
    found = {}
    for database in inputs.databases():
        found[f"database={database},items=database"] = inputs.directions(database, "database", "labels")
    if not found or (inputs.has_both_queries and not any(n.startswith("translated") for n in inputs.arrays)):
        found["items=query"] = inputs.directions("hashed", "query", "labels")
    return found


def _measure(blocks: dict[str, Iterator[Block]], names: Sequence[str], ties: Sequence[str]) -> dict[str, Measured]:
    asked = expand([parse(name) for name in names])
    return {d: measure(each, asked, ties) for d, each in blocks.items()}


def _by_metric(
    measured: dict[str, Measured], names: Sequence[str], ties: str, without_relevant: str = "zero",
    averaging: str = "macro",
) -> dict[str, float | dict]:  # fmt: skip
    """Return ``{metric: {direction: value}}``, with rsum put together from both directions."""
    asked = [m.name for m in expand([parse(name) for name in names])]
    means = {d: m.means(asked, ties, without_relevant, averaging) for d, m in measured.items()}
    values = {}
    for name in names:
        if name != "rsum":
            found = {d: each[name] for d, each in means.items() if name in each}
            values |= {name: found} if found else {}
        elif len(means) == 2:
            values["rsum"] = sum(each[part] for each in means.values() for part in RSUM)
    return values


def _document(measured: dict[str, Measured], chosen: Protocol, per_query: bool) -> dict[str, Any]:
    values = _by_metric(measured, chosen.metrics, chosen.ties, chosen.without_relevant, chosen.averaging)
    skipped = chosen.without_relevant == "skip"
    counts = {d: int(m.answerable.sum()) if skipped else len(m.answerable) for d, m in measured.items()}
    document = {**values, "queries": _one(counts)}
    unanswerable = {d: int((~m.answerable).sum()) for d, m in measured.items()}
    if any(unanswerable.values()):
        document["queries_without_relevant"] = _one(unanswerable)
    if per_query:
        names = [m.name for m in expand([parse(name) for name in chosen.metrics]) if m.kind != "pr_curve"]
        document["per_query"] = {n: {d: m.queries[chosen.ties, n] for d, m in measured.items()} for n in names}
    return document


def _one(queries: dict[str, int]) -> int | dict[str, int]:
    return next(iter(queries.values())) if len(set(queries.values())) == 1 else queries


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average documents of one form; the number of queries is left as the first has it."""
    first = results[0]
    if "per_query" in first:
        raise UsageError("per-query values are those of one ranking: folds and label radii are averaged over several")
    return {
        name: value if name.startswith("queries") else _mean_of([r[name] for r in results])
        for name, value in first.items()
    }


def _mean_of(values: list) -> Any:
    if isinstance(values[0], dict):
        return {key: _mean_of([v[key] for v in values]) for key in values[0]}
    return np.mean(values, axis=0).tolist() if isinstance(values[0], list) else float(np.mean(values))
