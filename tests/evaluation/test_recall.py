"""Recall at K and first ranks, counted, against plain sorting."""

from itertools import permutations

import numpy as np
import pytest
from by_hand import real_block
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrkit.errors import UsageError
from cmrkit.evaluation import evaluate, evaluate_matrix
from cmrkit.evaluation.metrics import Ranked
from cmrkit.evaluation.recall import first_hits, rank, recall

ITEMS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5)


def hits_of(items, ties="expected"):
    return first_hits(Ranked(real_block([[d for d, _ in items]], [[r for _, r in items]]), ties).groups)


def first_rank(items, order):
    ranked = sorted(order, key=lambda i: items[i][0])
    return next((place for place, i in enumerate(ranked, 1) if items[i][1]), len(items) + 1)


@settings(max_examples=80, deadline=None)
@given(items=ITEMS, k=st.integers(1, 5))
def test_expected_recall_and_rank_are_means_over_all_orders(items, k):
    k = min(k, len(items))
    ranks = [first_rank(items, order) for order in permutations(range(len(items)))]
    hits = hits_of(items)
    assert rank(hits)[0] == pytest.approx(np.mean(ranks))
    assert recall(hits, k)[0] == pytest.approx(np.mean([r <= k for r in ranks]))


@settings(max_examples=80, deadline=None)
@given(items=ITEMS, k=st.integers(1, 5))
def test_best_worst_and_stable_name_one_order(items, k):
    k = min(k, len(items))
    ranks = [first_rank(items, order) for order in permutations(range(len(items)))]
    wanted = {"best": min(ranks), "worst": max(ranks), "stable": first_rank(items, range(len(items)))}
    for ties, place in wanted.items():
        hits = hits_of(items, ties)
        assert rank(hits)[0] == pytest.approx(place), ties
        assert recall(hits, k)[0] == float(place <= k), ties


def five_captions(images=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((images, 5 * images)), np.repeat(np.arange(images), 5)


def test_five_captions_an_image_as_the_matching_papers_count_them():
    similarity, pairs = five_captions()
    found = evaluate_matrix(similarity, pairs=pairs)
    by_image = np.argsort(-similarity, axis=1)
    i2t = np.array([min(np.flatnonzero(pairs[row] == i)) for i, row in enumerate(by_image)])
    by_text = np.argsort(-similarity.T, axis=1)
    t2i = np.array([np.flatnonzero(row == pairs[j])[0] for j, row in enumerate(by_text)])
    for direction, ranks in (("i2t", i2t), ("t2i", t2i)):
        for k in (1, 5, 10):
            assert found[f"r@{k}"][direction] == pytest.approx(100 * np.mean(ranks < k))
        assert found["medr"][direction] == pytest.approx(np.median(ranks + 1))
        assert found["meanr"][direction] == pytest.approx(np.mean(ranks + 1))
    parts = [found[f"r@{k}"][d] for k in (1, 5, 10) for d in ("i2t", "t2i")]
    assert found["rsum"] == pytest.approx(sum(parts))
    assert found["queries"] == {"i2t": 30, "t2i": 150}


def test_embeddings_and_their_similarity_matrix_give_the_same_recall():
    rng = np.random.default_rng(1)
    image, text = rng.standard_normal((20, 8)), rng.standard_normal((60, 8))
    pairs = np.repeat(np.arange(20), 3)
    assert evaluate(query_image=image, query_text=text, pairs=pairs, space="dot") == evaluate_matrix(
        image @ text.T, pairs=pairs
    )


def test_an_encoder_that_maps_everything_to_one_point_gets_chance_and_not_full_marks():
    given = {"query_image": np.ones((20, 4)), "query_text": np.ones((20, 4)), "pairs": np.arange(20), "space": "dot"}
    assert evaluate(**given)["r@1"]["t2i"] == pytest.approx(5)
    assert evaluate(**given)["meanr"]["t2i"] == pytest.approx(10.5)
    assert evaluate(**given, ties="best")["r@1"]["t2i"] == 100
    assert evaluate(**given, ties="worst")["r@10"]["t2i"] == 0


def test_recall_works_by_labels_and_on_codes_too():
    codes = np.array([[1, 1, 1], [1, -1, 1], [-1, -1, -1]])
    found = evaluate(
        query_image=codes, query_text=codes, query_labels=[0, 1, 2], protocol="recall", metrics=["r@1", "medr"]
    )
    assert found["r@1"] == {"i2t": 100.0, "t2i": 100.0}
    assert found["medr"] == {"i2t": 1.0, "t2i": 1.0}


def test_pairs_that_do_not_fit_are_named():
    image, text = np.eye(3), np.eye(3)[[0, 0, 1, 2]]
    with pytest.raises(UsageError, match=r"pairs row 3 holds 7: there are 3 images"):
        evaluate(query_image=image, query_text=text, pairs=[0, 0, 1, 7], space="dot")
    with pytest.raises(UsageError, match="pairs has 3 entries for 4 texts"):
        evaluate(query_image=image, query_text=text, pairs=[0, 1, 2], space="dot")
    with pytest.raises(UsageError, match="similarity row 1 holds nan"):
        evaluate_matrix(np.array([[1.0, 0.0], [np.nan, 1.0]]), pairs=[0, 1])
