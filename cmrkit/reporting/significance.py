"""Which of several rows differ: paired tests corrected for their number, and letters for the groups that do not.

Two rows are told apart by Fisher's randomisation test over the queries; the p-values of one column are corrected by
Holm (A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979). Letters are
found by insertion and absorption (Piepho, An algorithm for a letter-based representation of all-pairwise comparisons,
Journal of Computational and Graphical Statistics, 2004).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cmrkit.evaluation.statistics import randomisation_test

LEVEL = 0.05
PERMUTATIONS = 10_000
ELEMENTS = 1 << 20  # of swaps held at once: 8 MB


def paired_tests(values: Mapping[int, np.ndarray], pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Test ``pairs`` of rows, whose numbers per query ``values`` holds as float (queries,).

    A test has a, b, difference (of means, a - b), p, p_holm (corrected for the number of pairs) and differ.
    """
    if not pairs:
        return []
    differences = np.stack([values[a] - values[b] for a, b in pairs], axis=1)
    p = randomised(differences)
    tests = [{"a": a, "b": b, "difference": float(d), "p": float(each)}
             for (a, b), d, each in zip(pairs, differences.mean(axis=0), p, strict=True)]  # fmt: skip
    for test, corrected in zip(tests, holm([t["p"] for t in tests]), strict=True):
        test |= {"p_holm": corrected, "differ": corrected < LEVEL}
    return tests


def randomised(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the two-sided p-value of each column of float (queries, pairs) as ``randomisation_test`` defines it.

    The same swaps serve all pairs, which makes many tests cost little more than one; where so few queries differ that
    every swap can be counted, that is done.
    """
    n, rng = len(differences), np.random.default_rng(seed)
    total = differences.sum(axis=0)
    least = np.abs(total) - 1e-12 * np.abs(differences).sum(axis=0)  # sums in another order are equal, not nearly so
    count = np.zeros(differences.shape[1])
    step = max(1, ELEMENTS // n)
    for start in range(0, PERMUTATIONS, step):
        rows = min(step, PERMUTATIONS - start)
        swaps = np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        count += (np.abs(total - 2 * (swaps.astype(np.float64) @ differences)) >= least).sum(axis=0)
    p = (count + 1) / (PERMUTATIONS + 1)
    for i in np.flatnonzero(np.count_nonzero(differences, axis=0) <= np.log2(PERMUTATIONS)):
        p[i] = randomisation_test(differences[:, i], np.zeros(n), PERMUTATIONS).p
    return p


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure, in the order given."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def letters(means: Mapping[int, float], differ: Collection[frozenset[int]]) -> dict[int, str]:
    """Return letters for each row: two share one exactly where their pair is not in ``differ``; ``a`` is the best.

    ``means`` orders the letters, the largest first. After ``z`` come ``(26)``, ``(27)`` ..
    """
    groups = [frozenset(means)]
    for pair in differ:
        split = dict.fromkeys(part for g in groups for part in ((g - {i} for i in pair) if pair <= g else (g,)))
        groups = [g for g in split if not any(g < other for other in split)]
    order = sorted(means, key=lambda i: -means[i])
    groups.sort(key=lambda g: sorted(order.index(i) for i in g))
    names = [chr(ord("a") + n) if n < 26 else f"({n})" for n in range(len(groups))]
    return {i: "".join(name for name, g in zip(names, groups, strict=True) if i in g) for i in means}
