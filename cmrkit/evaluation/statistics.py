"""Whether two runs differ, and by how much: tests over per-query values, intervals over seeds.

``a`` and ``b`` are one value per query, e.g. the average precisions of the same queries under two methods.

* ``paired_bootstrap``: queries are drawn with replacement. The interval is the percentile interval of the
  difference of means (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). The p-value
  is that of the shift method (Smucker, Allan & Carterette, A comparison of statistical significance tests for
  information retrieval evaluation, CIKM 2007): the resampled differences are moved to mean zero, and p is the
  share of them at least as far from zero as the observed difference.
* ``randomisation_test``: under the null hypothesis the two labels of a query can be swapped (Fisher's
  randomisation; Smucker et al.); p is the share of swaps whose difference is at least as far from zero.

Both tests are two-sided. A sampled p-value is (count + 1) / (samples + 1), so that it is never zero
(Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from cmrkit.errors import UsageError

ELEMENTS = 1 << 20  # of resampled values held at once: about 30 MB with their indices
CONFIDENCE = 0.95
SLACK = 1e-12  # relative: sums of the same values in another order are equal, not nearly so


@dataclass(frozen=True)
class Bootstrap:
    """``mean(a) - mean(b)``, its 95 % interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Randomisation:
    """``mean(a) - mean(b)`` and its two-sided p-value; ``exact`` where every swap was counted."""

    difference: float
    p: float
    exact: bool


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of ``n`` values, and the 95 % interval of their mean.

    ``std``, ``low`` and ``high`` are None for a single value, which says nothing about spread.
    """

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None


def paired_bootstrap(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Bootstrap:
    """Compare two runs over the same queries by resampling these; ``a`` and ``b`` are float (queries,).

    Raises UsageError where the two differ in length, hold NaN or infinity, or hold fewer than 2 queries.
    """
    values = _differences(a, b)
    _check_count("resamples", resamples)
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.concatenate([values[rng.integers(0, n, (rows, n))].mean(1) for rows in _rows(resamples, n)])
    difference = float(values.mean())
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    as_far = np.abs(means - difference) >= abs(difference) - SLACK * np.abs(values).mean()
    return Bootstrap(difference, float(low), float(high), float((as_far.sum() + 1) / (resamples + 1)))


def randomisation_test(a: np.ndarray, b: np.ndarray, permutations: int = 10_000, seed: int = 0) -> Randomisation:
    """Compare two runs over the same queries by swapping the two values of queries; float (queries,) each.

    Where there are no more than ``permutations`` different swaps, each is counted once and p is exact;
    otherwise so many are drawn. Queries on which the runs agree change nothing and are not counted.
    Raises UsageError as ``paired_bootstrap`` does.
    """
    values = _differences(a, b)
    _check_count("permutations", permutations)
    moving = values[values != 0]
    n = len(moving)
    exact = 2**n <= permutations
    swaps = _every_swap(n) if exact else _some_swaps(n, permutations, np.random.default_rng(seed))
    total = moving.sum()
    at_least = abs(total) - SLACK * np.abs(moving).sum()
    count = sum(int((np.abs(total - 2 * (swapped @ moving)) >= at_least).sum()) for swapped in swaps)
    p = count / 2**n if exact else (count + 1) / (permutations + 1)
    return Randomisation(float(values.mean()), p, exact)


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Summarise one number over seeds: the interval is Student's, mean +- t(n-1) std / sqrt(n).

    Raises UsageError for an empty list, NaN or infinity.
    """
    values = _check_values("values", values)
    n = len(values)
    if n == 0:
        raise UsageError("values is empty: a summary needs the number of at least one seed")
    mean = float(values.mean())
    if n == 1:
        return Summary(mean, None, 1, None, None)
    std = float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / n**0.5
    return Summary(mean, std, n, mean - half, mean + half)


def _rows(samples: int, n: int) -> Iterator[int]:
    step = max(1, ELEMENTS // max(n, 1))
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _every_swap(n: int) -> Iterator[np.ndarray]:
    start = 0
    for rows in _rows(2**n, n):
        numbers = np.arange(start, start + rows)[:, None]
        yield ((numbers >> np.arange(n)) & 1).astype(np.float64)
        start += rows


def _some_swaps(n: int, permutations: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for rows in _rows(permutations, n):
        packed = rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8)
        yield np.unpackbits(packed, axis=1, count=n).astype(np.float64)


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = _check_values("a", a), _check_values("b", b)
    if len(a) != len(b):
        raise UsageError(f"a has {len(a)} queries, but b has {len(b)}: the two runs must answer the same queries")
    if len(a) < 2:
        raise UsageError(f"a and b have {len(a)} queries: a test over queries needs at least 2")
    return a - b


def _check_values(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "biuf"):
        raise UsageError(f"{name} must be 1-d numbers, not {values.dtype} of shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UsageError(f"{name} row {bad[0]} holds {values[bad[0]]}: values must be finite numbers")
    return values.astype(np.float64)


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UsageError(f"{name} is {count}: at least 1 is needed (10000 is usual)")
