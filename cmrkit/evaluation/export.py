"""Rankings and judgements of an evaluation, written in TREC's formats for other people's scorers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.blocks import Block
from cmrkit.evaluation.evaluator import Budget, direction_blocks, resolve
from cmrkit.evaluation.inputs import check_inputs
from cmrkit.evaluation.trec import top_k, write_qrels, write_run

DEPTH = 1000  # items of each ranking that are written, as TREC's tracks take them
SIDES = {"i2t": ("image", "text"), "t2i": ("text", "image")}


def write_rankings(
    prefix: str | Path,
    *,
    space: str = "hamming",
    depth: int = DEPTH,
    query_ids: np.ndarray | None = None,
    database_ids: np.ndarray | None = None,
    memory: int | None = None,
    options: dict | None = None,
    **arrays: np.ndarray | None,
) -> list[Path]:
    """Write ``PREFIX.i2t.run`` and ``PREFIX.i2t.qrels``, and the same for t2i, of arrays as ``evaluate`` takes them.

    Tied items stand in the database's order. Rows are named by the ids where given, else ``image-0``, ``text-0`` and
    so on. ``options`` are fields of a protocol and ``protocol`` itself, as in ``evaluate``. Returns the paths written.
    Raises UsageError as ``evaluate`` does.
    """
    inputs = check_inputs(space=space, **arrays)
    chosen = resolve(inputs, **{"protocol": None, **(options or {})})
    if depth < 1:
        raise UsageError(f"depth is {depth}: a ranking has at least one item")
    written = []
    for direction, directions in inputs.directions(chosen.database, chosen.items, chosen.relevance).items():
        one, other = SIDES[direction]
        shared = chosen.items == "query" and chosen.relevance == "labels"
        queries = _names(query_ids, one, len(directions.query))
        items = _names(query_ids if shared else database_ids, other, len(directions.database))
        paths = [Path(f"{prefix}.{direction}.{kind}") for kind in ("run", "qrels")]

        def blocks(direction=direction, directions=directions) -> Iterator[Block]:
            budget = Budget(*([memory] if memory else []))
            made = direction_blocks({direction: directions}, chosen, budget, bytes_per_pair=64)
            return made[direction]

        write_run(paths[0], (_ranked(block, queries, items, depth) for block in blocks()))
        judged = ((queries[block.rows], block.relevance.rows(block.rows)) for block in blocks())
        write_qrels(paths[1], judged, items)
        written += paths
    return written


def _ranked(block: Block, queries: np.ndarray, items: np.ndarray, depth: int) -> tuple:
    columns, scores = top_k(block.distances, depth)
    return queries[block.rows], items[columns], scores


def _names(ids: np.ndarray | None, modality: str, count: int) -> np.ndarray:
    if ids is None or len(ids) != count:
        return np.array([f"{modality}-{row}" for row in range(count)])
    return np.asarray(ids)
