"""Significance over queries and intervals over seeds, held against SciPy."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from cmrkit.errors import UsageError
from cmrkit.evaluation.statistics import Summary, paired_bootstrap, randomisation_test, summary


def two_runs(queries, effect=0.02, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.beta(2, 3, queries)
    return a, np.clip(a - effect + rng.normal(0, 0.1, queries), 0, 1)


def mean_difference(a, b, axis=-1):
    return a.mean(axis) - b.mean(axis)


def test_the_bootstrap_interval_is_scipys_percentile_interval():
    a, b = two_runs(200)
    ours = paired_bootstrap(a, b, resamples=40_000)
    theirs = stats.bootstrap((a, b), mean_difference, paired=True, method="percentile", n_resamples=40_000, rng=1)
    assert ours.difference == pytest.approx(a.mean() - b.mean(), abs=1e-15)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02 * width)


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.02])
def test_all_three_tests_agree_on_many_queries(effect):
    a, b = two_runs(300, effect)
    t = stats.ttest_rel(a, b).pvalue
    p = stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=1
    ).pvalue
    ours = randomisation_test(a, b, permutations=20_000)
    assert not ours.exact
    spread = 4 * np.sqrt(2 * p * (1 - p) / 20_000) + 1e-4  # two samples of 20,000
    assert ours.p == pytest.approx(p, abs=spread)
    assert ours.p == pytest.approx(t, abs=0.02)
    assert paired_bootstrap(a, b, resamples=20_000).p == pytest.approx(t, abs=0.02)


@pytest.mark.parametrize("queries", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("levels", [None, 4])
def test_few_queries_are_enumerated_and_equal_scipy(queries, levels):
    a, b = two_runs(queries, 0.1, seed=queries)
    if levels:  # few different values, hence many swaps exactly as far from zero as the observed difference
        a, b = np.round(a * levels) / levels, np.round(b * levels) / levels
    ours = randomisation_test(a, b)
    theirs = stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert ours.exact
    assert ours.p == theirs.pvalue
    assert ours.difference == pytest.approx(theirs.statistic, abs=1e-15)


def test_enumeration_may_take_several_blocks(monkeypatch):
    a, b = two_runs(11)
    whole = randomisation_test(a, b)
    monkeypatch.setattr("cmrkit.evaluation.statistics.ELEMENTS", 100)
    assert randomisation_test(a, b) == whole


def test_equal_runs_do_not_differ():
    a, _ = two_runs(50)
    assert randomisation_test(a, a).p == 1
    assert paired_bootstrap(a, a) == paired_bootstrap(a, a.copy())
    same = paired_bootstrap(a, a)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_swapping_the_runs_mirrors_the_answer():
    a, b = two_runs(400)
    there, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (back.difference, back.p) == (-there.difference, there.p)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert randomisation_test(a, b).p == randomisation_test(b, a).p


def test_a_clear_difference_has_the_least_p_that_so_many_samples_can_show():
    a, b = two_runs(300, 0.2)
    assert randomisation_test(a, b, permutations=999).p == 1 / 1000
    assert paired_bootstrap(a, b, resamples=999).p == 1 / 1000
    assert paired_bootstrap(a, b).low > 0


def test_the_seed_decides():
    a, b = two_runs(100, 0.0)
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)
    assert randomisation_test(a, b, seed=3) == randomisation_test(a, b, seed=3) != randomisation_test(a, b, seed=4)


def test_under_no_difference_few_tests_reject():
    p = [randomisation_test(*np.random.default_rng(s).random((2, 30)), permutations=500).p for s in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_five_thousand_queries_stay_within_memory():
    a, b = two_runs(5000)
    tracemalloc.start()
    paired_bootstrap(a, b, resamples=2000)
    randomisation_test(a, b, permutations=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_a_summary_has_students_interval():
    values = [0.61, 0.64, 0.60, 0.66, 0.63]
    ours = summary(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (ours.mean, ours.std, ours.n) == (np.mean(values), pytest.approx(np.std(values, ddof=1)), 5)
    assert (ours.low, ours.high) == pytest.approx((low, high))


def test_one_seed_says_nothing_about_spread():
    assert summary([0.5]) == Summary(0.5, None, 1, None, None)


@pytest.mark.parametrize("test", [paired_bootstrap, randomisation_test])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0.1, 0.2], [0.1, 0.2, 0.3], "a has 2 queries, but b has 3"),
        ([0.1, 0.2, np.nan], [0.1, 0.2, 0.3], "a row 2 holds nan"),
        ([0.1, 0.2], [np.inf, 0.2], "b row 0 holds inf"),
        ([0.1], [0.2], "have 1 queries"),
        ([], [], "have 0 queries"),
        ([[0.1, 0.2]], [[0.1, 0.2]], "a must be 1-d numbers"),
        (["x", "y"], [0.1, 0.2], "a must be 1-d numbers"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(test, a, b, message):
    with pytest.raises(UsageError, match=message):
        test(a, b)


def test_a_summary_needs_finite_values_and_a_test_some_samples():
    with pytest.raises(UsageError, match="values is empty"):
        summary([])
    with pytest.raises(UsageError, match="values row 1 holds nan"):
        summary([0.5, np.nan])
    with pytest.raises(UsageError, match="resamples is 0"):
        paired_bootstrap([1, 2], [3, 4], resamples=0)
