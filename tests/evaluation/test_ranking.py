"""Closed forms against the plain definition, averaged over every order of the tied items."""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from by_hand import hamming_block, real_block
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cmrkit.evaluation.curves import along_ranks, rank_grid, within_radius
from cmrkit.evaluation.metrics import Ranked
from cmrkit.evaluation.ranking import (
    DENOMINATORS,
    TIES,
    average_precision,
    average_precision_at,
    interpolated_precision,
    precision_at,
    recall_at,
)

LEVELS = 4
ITEM = st.tuples(st.integers(0, LEVELS - 1), st.booleans())
TIED_LIST = st.lists(ITEM, min_size=1, max_size=9)


def block_of(items, integer=True):
    distances, relevance = [d for d, _ in items], [r for _, r in items]
    if integer:
        return hamming_block(distances, relevance, bits=LEVELS - 1)
    return real_block(np.array([distances]) * 0.3 - 0.5, [relevance])


def groups_of(block, ties="expected"):
    return Ranked(block, ties).groups


def orders(items):
    """Every order of relevance that the ties leave open, all equally likely."""
    groups = []
    for level in range(LEVELS):
        hits = [relevant for d, relevant in items if d == level]
        places = combinations(range(len(hits)), sum(hits))
        groups.append([tuple(i in chosen for i in range(len(hits))) for chosen in places])
    return [sum(order, ()) for order in product(*groups)]


def plain_ap(order, k, denominator):
    ranks = [i for i, relevant in enumerate(order, 1) if relevant]
    precisions = [(j, rank, j / rank) for j, rank in enumerate(ranks, 1)]
    if denominator == "first-relevant":
        kept = [p for j, _, p in precisions if j <= k]
    else:
        kept = [p for _, rank, p in precisions if rank <= k]
    divisor = {"retrieved": len(kept), "min": min(k, len(ranks)), "total": len(ranks)}.get(denominator, len(kept))
    return sum(kept) / divisor if divisor else 0.0


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("integer", [True, False], ids=["hamming", "real"])
@settings(max_examples=80, deadline=None)
@given(items=TIED_LIST, k=st.integers(1, 10))
def test_expected_average_precision_is_the_mean_over_all_orders(denominator, integer, items, k):
    groups = groups_of(block_of(items, integer))
    mean = np.mean([plain_ap(order, k, denominator) for order in orders(items)])
    assert average_precision_at(groups, k, denominator)[0] == pytest.approx(mean, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(items=TIED_LIST, k=st.integers(1, 9))
def test_expected_precision_recall_and_full_average_precision_are_means_over_all_orders(items, k):
    groups = groups_of(block_of(items))
    possible, n = orders(items), len(items)
    k = min(k, n)
    relevant = max(sum(possible[0]), 1)
    assert average_precision(groups)[0] == pytest.approx(np.mean([plain_ap(o, n, "total") for o in possible]))
    assert precision_at(groups, k)[0] == pytest.approx(np.mean([sum(o[:k]) / k for o in possible]))
    assert recall_at(groups, k)[0] == pytest.approx(np.mean([sum(o[:k]) / relevant for o in possible]))


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("integer", [True, False], ids=["hamming", "real"])
@settings(max_examples=40, deadline=None)
@given(items=TIED_LIST, k=st.integers(1, 10))
def test_every_other_rule_scores_the_one_order_it_names(denominator, integer, items, k):
    block = block_of(items, integer)
    keys = {
        "worst": lambda i: (items[i][0], items[i][1]),
        "best": lambda i: (items[i][0], not items[i][1]),
        "stable": lambda i: items[i][0],
    }
    for ties, key in keys.items():
        order = [items[i][1] for i in sorted(range(len(items)), key=key)]
        groups = groups_of(block, ties)
        value = average_precision_at(groups, k, denominator)[0]
        assert value == pytest.approx(plain_ap(order, k, denominator), abs=1e-12), ties


@settings(max_examples=50, deadline=None)
@given(items=TIED_LIST, k=st.integers(1, 10), denominator=st.sampled_from(["min", "total", "first-relevant"]))
def test_worst_and_best_bound_the_expectation_where_the_denominator_is_fixed(items, k, denominator):
    block = block_of(items)
    low, middle, high = (
        average_precision_at(groups_of(block, rule), k, denominator)[0] for rule in ("worst", "expected", "best")
    )
    assert low - 1e-12 <= middle <= high + 1e-12


def test_without_ties_all_rules_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, relevance = rng.standard_normal((20, 60)), rng.random((20, 60)) < 0.2
    relevance[:, 0] = True
    block = real_block(-scores, relevance)
    reference = [average_precision_score(r, s) for r, s in zip(relevance, scores, strict=True)]
    for rule in TIES:
        np.testing.assert_allclose(average_precision(groups_of(block, rule)), reference)


def test_queries_of_one_block_do_not_touch_each_other():
    rng = np.random.default_rng(1)
    distances, relevance = rng.integers(LEVELS, size=(8, 12)), rng.random((8, 12)) < 0.3
    for ties in TIES:
        together = groups_of(real_block(distances, relevance), ties)
        for denominator in DENOMINATORS:
            alone = [
                average_precision_at(groups_of(real_block([d], [r]), ties), 5, denominator)[0]
                for d, r in zip(distances, relevance, strict=True)
            ]
            np.testing.assert_allclose(average_precision_at(together, 5, denominator), alone)


@settings(max_examples=80, deadline=None)
@given(items=TIED_LIST)
def test_eleven_points_are_the_largest_precisions_at_or_beyond_each_recall(items):
    for ties, key in (("stable", lambda i: items[i][0]), ("worst", lambda i: items[i]),
                      ("best", lambda i: (items[i][0], not items[i][1]))):  # fmt: skip
        order = [items[i][1] for i in sorted(range(len(items)), key=key)]
        hits, total = np.cumsum(order), max(sum(order), 1)
        precision, recall = hits / np.arange(1, len(order) + 1), hits / total
        points = [max(precision[recall >= point / 10 - 1e-12], default=0) for point in range(11)]
        expected = np.mean(points) if any(order) else 0
        assert interpolated_precision(groups_of(block_of(items), ties))[0] == pytest.approx(expected), ties


def test_large_tie_groups_keep_their_precision():
    # One group of t items, r of them relevant, with exact binomials for the law of each random quantity.
    t, r, k = 600, 180, 50
    groups = groups_of(hamming_block(np.zeros(t), np.arange(t) < r, bits=8))

    def cut_sum(length, hits):
        return sum(hits / length * (1 + (i - 1) * (hits - 1) / (length - 1)) / i for i in range(1, length + 1))

    chances = [comb(r, h) * comb(t - r, k - h) / comb(t, k) for h in range(k + 1)]
    retrieved = sum(p * cut_sum(k, h) / h for h, p in enumerate(chances) if h)
    minimum = sum(p * cut_sum(k, h) / k for h, p in enumerate(chances))
    first = 0.0
    for j in range(1, k + 1):
        places = range(j, t - r + j + 1)
        first += sum(j / x * (comb(x - 1, j - 1) * comb(t - x, r - j) / comb(t, r)) for x in places) / k
    assert average_precision_at(groups, k, "retrieved")[0] == pytest.approx(retrieved, rel=1e-10)
    assert average_precision_at(groups, k, "min")[0] == pytest.approx(minimum, rel=1e-10)
    assert average_precision_at(groups, k, "first-relevant")[0] == pytest.approx(first, rel=1e-10)


def test_a_hand_made_ranking_under_the_four_denominators():
    order = [True, False, True, False, True, True]
    groups = groups_of(real_block([range(6)], [order]))
    found = 1 + 2 / 3
    assert average_precision_at(groups, 3, "retrieved")[0] == pytest.approx(found / 2)
    assert average_precision_at(groups, 3, "min")[0] == pytest.approx(found / 3)
    assert average_precision_at(groups, 3, "total")[0] == pytest.approx(found / 4)
    assert average_precision_at(groups, 3, "first-relevant")[0] == pytest.approx((found + 3 / 5) / 3)


def test_a_query_without_relevant_items_scores_zero_everywhere():
    groups = groups_of(block_of([(0, False), (1, False), (1, False)]))
    assert average_precision(groups)[0] == 0
    assert all(average_precision_at(groups, 2, d)[0] == 0 for d in DENOMINATORS)


@settings(max_examples=40, deadline=None)
@given(items=TIED_LIST)
def test_the_curve_by_radius_counts_what_lies_within_it(items):
    block = block_of(items)
    hits, retrieved = within_radius(block)
    for radius in range(LEVELS):
        inside = [relevant for d, relevant in items if d <= radius]
        assert (hits[0, radius], retrieved[0, radius]) == (sum(inside), len(inside))


def test_the_curve_by_rank_ends_at_the_whole_database():
    rng = np.random.default_rng(3)
    relevance = rng.random((4, 300)) < 0.1
    groups = groups_of(real_block(rng.random((4, 300)).round(2), relevance))
    hits = along_ranks(groups)
    assert rank_grid(300)[0] == 1
    assert rank_grid(300)[-1] == 300
    np.testing.assert_allclose(hits[:, -1], relevance.sum(1))
    for column, k in enumerate(rank_grid(300)):
        np.testing.assert_allclose(hits[:, column] / k, precision_at(groups, k))
