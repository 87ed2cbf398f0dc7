"""How long evaluation takes, beside the loop that published scripts use, in one run on one machine.

Random codes of the size of the Wikipedia benchmark: 693 queries, 2173 database items, 10 classes.
Run with ``python benchmarks/evaluation.py [bits]``. Seconds are of processor time; only the ratios
carry over to another machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from cmrkit.evaluation import evaluate, evaluate_variants

QUERIES, ITEMS, CLASSES = 693, 2173, 10


def random_arrays(bits: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"query_image": QUERIES, "query_text": QUERIES, "database_image": ITEMS, "database_text": ITEMS}
    codes = {name: rng.choice([-1, 1], (n, bits)).astype(np.int8) for name, n in sizes.items()}
    labels = {"query_labels": rng.integers(0, CLASSES, QUERIES), "database_labels": rng.integers(0, CLASSES, ITEMS)}
    return codes | labels


def plain_loop(query: np.ndarray, database: np.ndarray, query_labels: np.ndarray, labels: np.ndarray) -> float:
    """Mean average precision, one query at a time: distances by a product, argsort, cumulative precision."""
    total = 0.0
    query, database = query.astype(np.float32), database.astype(np.float32)
    for code, label in zip(query, query_labels, strict=True):
        distances = 0.5 * (database.shape[1] - database @ code)
        hits = (labels == label)[np.argsort(distances, kind="stable")]
        ranks = np.flatnonzero(hits) + 1
        total += np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0
    return total / len(query)


def plain_both(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    labels = arrays["query_labels"], arrays["database_labels"]
    return {
        "i2t": plain_loop(arrays["query_image"], arrays["database_text"], *labels),
        "t2i": plain_loop(arrays["query_text"], arrays["database_image"], *labels),
    }


def best_of(work: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main(bits: int = 32) -> None:
    arrays = random_arrays(bits)
    ours = evaluate(**arrays, metrics=["map@all"], ties="stable")["map@all"]
    plain = plain_both(arrays)
    difference = max(abs(ours[d] - plain[d]) for d in plain)
    base = best_of(lambda: plain_both(arrays))
    print(f"{QUERIES} queries, {ITEMS} items, {bits} bits, both directions; plain loop {base:.3f} s")
    print(f"{'':34}{'seconds':>10}{'plain / ours':>14}")
    jobs = {
        "map@all, ties stable": lambda: evaluate(**arrays, metrics=["map@all"], ties="stable"),
        "map@all, ties expected": lambda: evaluate(**arrays, metrics=["map@all"]),
        "hamming-map with its curve": lambda: evaluate(**arrays),
        "all variants (8 x 6 metrics)": lambda: evaluate_variants(**arrays),
    }
    for name, job in jobs.items():
        seconds = best_of(job)
        print(f"{name:34}{seconds:10.3f}{base / seconds:14.2f}")
    print(f"largest difference of map@all, ties stable: {difference:.1e}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
