"""How long evaluation takes, beside published code's way, the best library and the limit, in one run.

    python benchmarks/evaluation.py [mirflickr nuswide million ten-million coco]

Every row is measured here and now, by wall clock, the best of a few runs; only the ratios carry over to another
machine. ``plain`` is the loop of published scripts, one query at a time, timed on part of the queries and scaled up.
``library`` is FAISS where it is installed: it ranks (as far down as a metric needs) and evaluates nothing.
``limit`` does the bare work that no evaluation can avoid: for codes XOR, popcount and label AND of every pair, once
written to a buffer and once only summed; for embeddings the matrix product.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from numba import njit, prange

from cmrkit.evaluation import check_inputs, evaluate, find_protocol
from cmrkit.evaluation.evaluator import Budget, direction_blocks
from cmrkit.evaluation.hamming import Codes, check_codes
from cmrkit.evaluation.kernels import _popcount
from cmrkit.evaluation.metrics import measure, parse
from cmrkit.evaluation.relevance import check_labels

BITS = 64


@njit(parallel=True, nogil=True)
def scan_to_buffer(query, database, query_labels, labels):
    last = np.zeros(len(query), np.uint8)
    for i in prange(len(query)):
        code, label = query[i], query_labels[i]
        buffer = np.empty(len(database), np.uint8)
        for j in range(len(database)):
            buffer[j] = np.uint8(_popcount(code ^ database[j]) << np.uint64(1)) | np.uint8((label & labels[j]) != 0)
        last[i] = buffer[-1]
    return last


@njit(parallel=True, nogil=True)
def scan_and_sum(query, database, query_labels, labels):
    total = np.zeros(len(query), np.uint64)
    for i in prange(len(query)):
        code, label, count = query[i], query_labels[i], np.uint64(0)
        for j in range(len(database)):
            count += _popcount(code ^ database[j]) + np.uint64((label & labels[j]) != 0)
        total[i] = count
    return total


def plain_map(query, database, query_labels, labels, kind: str | None = None) -> float:
    """Mean average precision, one query at a time: distances by a product, argsort, cumulative precision.

    In double precision, as codes from np.sign and labels from a .mat file are, and with NumPy's default sort.
    """
    total = 0.0
    for code, label in zip(query, query_labels, strict=True):
        hits = (labels @ label > 0)[np.argsort(0.5 * (database.shape[1] - database @ code), kind=kind)]
        ranks = np.flatnonzero(hits) + 1
        total += np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0
    return total / len(query)


def plain_recall(image: np.ndarray, text: np.ndarray, pairs: np.ndarray, images: int, texts: int) -> list[int]:
    """First ranks in the style of published matching code: a full argsort for every query."""
    ranks = []
    for i in range(images):
        order = np.argsort(image[i] @ text.T)[::-1]
        ranks.append(min(np.flatnonzero(pairs[order] == i)))
    for j in range(texts):
        order = np.argsort(text[j] @ image.T)[::-1]
        ranks.append(np.flatnonzero(order == pairs[j])[0])
    return ranks


def best_of(work: Callable[[], object], times: int = 7) -> float:
    work()  # compiles, and fills caches
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def row(name: str, seconds: float, ours: float) -> None:
    print(f"  {name:58}{seconds:11.4f} s{seconds / ours:12.2f} x ours")


def peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB resident at most so far"


def hashing(name: str, queries: int, items: int, classes: int, share: float, portion: int) -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 2, (n, BITS), dtype=np.int8) for n in (queries, items)]
    labels = [(rng.random((n, classes)) < share).astype(np.uint8) for n in (queries, items)]
    labels[0][np.arange(queries), rng.integers(0, classes, queries)] = 1
    given = {"query_image": check_codes("q", codes[0]), "database_text": check_codes("d", codes[1])}
    given |= {"query_labels": labels[0], "database_labels": labels[1]}
    packed = [given["query_image"].words[0], given["database_text"].words[0]]
    packed += [check_labels("labels", x).data[0] for x in labels]

    print(f"{name}: {queries} x {items}, {BITS} bits, {classes} labels")
    evaluator = best_of(lambda: all_at_once(given))
    print(f"  {'ours: map@all, both bounds, precision curve, one pass':58}{evaluator:11.4f} s")
    few = slice(0, portion)
    floats = [x.astype(np.float64) for x in (2 * codes[0] - 1, 2 * codes[1] - 1)]
    wide = [x.astype(np.float64) for x in labels]
    plain = best_of(lambda: plain_map(floats[0][few], floats[1], wide[0][few], wide[1]), 1) * queries / portion
    row("plain loop: product, argsort, map@all of one order", plain, evaluator)
    faiss_row(codes, evaluator)
    row("limit: bare scan, distance and relevance to a buffer", best_of(lambda: scan_to_buffer(*packed)), evaluator)
    row("limit: bare scan, only summed", best_of(lambda: scan_and_sum(*packed)), evaluator)
    ours = evaluate(**{**given, "query_image": codes[0][few], "query_labels": labels[0][few]},
                    metrics=["map@all"], ties="stable")["map@all"]["i2t"]  # fmt: skip
    difference = abs(ours - plain_map(floats[0][few], floats[1], wide[0][few], wide[1], "stable"))
    print(f"  difference from the plain loop under its order of ties: {difference:.1e}; {peak()}")
    assert difference < 1e-6


def all_at_once(given: dict) -> dict:
    """What evaluate_variants does in one pass, for two metrics under three tie rules."""
    inputs = check_inputs(**given)
    names, ties = ("map@all", "pr_curve:rank"), ("expected", "worst", "best")
    directions = inputs.directions("hashed", "database", "labels")
    blocks = direction_blocks(directions, find_protocol("hamming-map"), Budget())["i2t"]
    measured = measure(blocks, [parse(name) for name in names], ties)
    return {rule: measured.means(names, rule) for rule in ties}


def faiss_row(codes: list[np.ndarray], ours: float) -> None:
    try:
        import faiss
    except ImportError:
        print("  library: faiss-cpu is not installed")
        return
    index = faiss.IndexBinaryFlat(BITS)
    query, database = (np.packbits(x, axis=1) for x in codes)
    index.add(database)
    row("library: FAISS binary search, nearest 1000 only", best_of(lambda: index.search(query, 1000), 1), ours)


def large(name: str, items: int, queries: int = 1000) -> None:
    rng = np.random.default_rng(0)
    codes = [Codes(rng.integers(0, 2**63, (1, n), dtype=np.uint64), BITS) for n in (queries, items)]
    ids = [rng.integers(0, 50, n) for n in (queries, items)]
    given = {"query_image": codes[0], "database_text": codes[1], "query_labels": ids[0], "database_labels": ids[1]}
    seconds = best_of(lambda: evaluate(**given, metrics=["map@all"]), 1)
    pairs = queries * items
    print(f"{name}: {queries} x {items}, 64 bits: {seconds:.2f} s, {seconds / pairs * 1e9:.2f} ns a pair; {peak()}")


def coco(images: int = 5000, each: int = 5, width: int = 512, portion: int = 100) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((images, width), dtype=np.float32)
    pairs = np.repeat(np.arange(images), each)
    text = image[pairs] + 5 * rng.standard_normal((images * each, width), dtype=np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    given = {"query_image": image, "query_text": text, "pairs": pairs, "space": "dot"}
    print(f"coco: {images} images, {images * each} captions, {width}-d float32, r@1/5/10 in both directions")
    found = evaluate(**given)
    ours = best_of(lambda: evaluate(**given))
    print(f"  {'ours':58}{ours:11.4f} s   (r@1 {found['r@1']['i2t']:.1f} / {found['r@1']['t2i']:.1f})")
    texts = portion * each
    plain = (best_of(lambda: plain_recall(image, text, pairs, portion, 0), 1) * images / portion
             + best_of(lambda: plain_recall(image, text, pairs, 0, texts), 1) * len(text) / texts)  # fmt: skip
    row("plain: one argsort a query", plain, ours)
    row("limit: the matrix product alone", best_of(lambda: image @ text.T), ours)
    print(f"  {peak()}")


JOBS = {
    "mirflickr": lambda: hashing("MIRFlickr-25K size", 2000, 18015, 24, 0.15, 200),
    "nuswide": lambda: hashing("NUS-WIDE size", 2100, 193734, 21, 0.1, 20),
    "million": lambda: large("a million codes", 1_000_000),
    "ten-million": lambda: large("ten million codes", 10_000_000),
    "coco": coco,
}

if __name__ == "__main__":
    for job in sys.argv[1:] or JOBS:
        JOBS[job]()
