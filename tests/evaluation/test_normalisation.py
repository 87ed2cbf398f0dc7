"""Hubness corrections against loops written straight from their formulas."""

from math import exp, log

import numpy as np
import pytest

from cmrkit.errors import UsageError
from cmrkit.evaluation import blocks, evaluate_matrix
from cmrkit.evaluation.normalisation import KINDS, normalise

QUERIES, BANK, ITEMS = 13, 17, 11


def cosines(rows, items, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, 6)), np.random.default_rng(99).normal(size=(items, 6))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T


@pytest.fixture(params=[np.float32, np.float64])
def matrices(request):
    return cosines(QUERIES, ITEMS, 1).astype(request.param), cosines(BANK, ITEMS, 2).astype(request.param)


def tolerance(similarity):
    return 2e-6 if similarity.dtype == np.float32 else 1e-12


def loop_inverted_softmax(similarity, bank, beta):
    out = np.empty(similarity.shape)
    for q, row in enumerate(similarity.tolist()):
        for j, s in enumerate(row):
            out[q, j] = log(exp(beta * s) / sum(exp(beta * b) for b in bank[:, j].tolist())) / beta
    return out


def mean_of_largest(values, k):
    return sum(sorted(values, reverse=True)[:k]) / k


def test_inverted_softmax_is_the_logarithm_of_the_printed_one(matrices):
    similarity, bank = matrices
    for beta in (0.5, 20.0):
        expected = loop_inverted_softmax(similarity, bank, beta)
        assert np.abs(normalise(similarity, "is", bank=bank, beta=beta) - expected).max() < tolerance(similarity)


def test_dynamic_inverted_softmax_touches_only_queries_whose_nearest_item_the_bank_retrieves(matrices):
    similarity, bank = matrices[0], matrices[1][:3]
    for k in (1, 2):
        retrieved = {int(j) for row in bank for j in np.argsort(-row)[:k]}
        expected = loop_inverted_softmax(similarity, bank, 20.0)
        unchanged = [q for q, row in enumerate(similarity) if int(np.argmax(row)) not in retrieved]
        expected[unchanged] = similarity[unchanged]
        assert 0 < len(unchanged) < QUERIES
        found = normalise(similarity, "dis", bank=bank, k=k)
        assert np.abs(found - expected).max() < tolerance(similarity)
        assert np.array_equal(found[unchanged], similarity[unchanged])


def test_csls_takes_both_neighbourhoods_off_twice_the_similarity(matrices):
    similarity, bank = matrices
    k = 3
    expected = np.empty(similarity.shape)
    for q, row in enumerate(similarity.tolist()):
        for j, s in enumerate(row):
            expected[q, j] = 2 * s - mean_of_largest(row, k) - mean_of_largest(bank[:, j].tolist(), k)
    assert np.abs(normalise(similarity, "csls", bank=bank, k=k) - expected).max() < tolerance(similarity)


def test_global_correction_ranks_the_query_among_the_bank(matrices):
    similarity, bank = matrices
    expected = np.empty(similarity.shape)
    for q, row in enumerate(similarity):
        for j, s in enumerate(row):
            expected[q, j] = float(s) - (1 + sum(b > s for b in bank[:, j]))
    found = normalise(similarity, "gc", bank=bank)
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() < 1e-12


def test_bank_queries_as_near_as_the_query_do_not_outrank_it():
    assert normalise(np.array([[0.5]]), "gc", bank=np.array([[0.5], [0.7], [0.5]])).item() == 0.5 - 2


def test_defaults_are_the_published_ones(matrices):
    similarity, bank = matrices
    for kind, options in {"is": {"beta": 20}, "dis": {"beta": 20, "k": 1}, "csls": {"k": 10}}.items():
        default = normalise(similarity, kind, bank=bank)
        assert np.array_equal(default, normalise(similarity, kind, bank=bank, **options))
        assert default.dtype == similarity.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_going_block_by_block_changes_nothing_and_the_input_is_left_alone(kind, matrices, monkeypatch):
    similarity, bank = matrices
    whole, before = normalise(similarity, kind, bank=bank), similarity.copy()
    monkeypatch.setattr(blocks, "MEMORY", 4 * 32 * ITEMS)
    assert np.allclose(normalise(similarity, kind, bank=bank), whole, rtol=0, atol=tolerance(similarity))
    assert np.array_equal(similarity, before)


@pytest.mark.parametrize("kind", ["is", "dis"])
def test_large_logits_neither_overflow_nor_vanish(kind):
    similarity, bank = 1e4 * cosines(QUERIES, ITEMS, 1), 1e4 * cosines(BANK, ITEMS, 2)
    scaled = normalise(similarity / 1e4, kind, bank=bank / 1e4, beta=20 * 1e4) * 1e4
    assert np.allclose(normalise(similarity, kind, bank=bank, beta=20), scaled, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_no_longer_hides_the_right_items(kind):
    rng = np.random.default_rng(0)
    n = 40
    right = np.vstack([np.eye(n), np.eye(n)]) * 0.4 + rng.normal(0, 0.02, (2 * n, n))
    right[:, 7] += 0.6  # item 7 lies near every query
    similarity, bank = right[:n], right[n:]

    def recall(matrix):
        return evaluate_matrix(matrix, pairs=np.arange(n))["r@1"]["i2t"]

    assert recall(similarity) < 10
    assert recall(normalise(similarity, kind, bank=bank)) > 90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "softmax"}, "unknown normalisation 'softmax'"),
        ({"kind": "csls", "beta": 20}, "beta does not apply to csls"),
        ({"kind": "is", "k": 1}, "k does not apply to is"),
        ({"kind": "is", "beta": 0}, "beta must be a positive number"),
        ({"kind": "is", "beta": float("nan")}, "beta must be a positive number"),
        ({"kind": "csls", "k": 12}, "from 1 to 11, not 12"),
        ({"kind": "dis", "k": 0}, "from 1 to 11, not 0"),
        ({"kind": "dis", "k": 1.5}, "not 1.5"),
        ({"bank": np.zeros((3, 4))}, "similarity has 11 items, but bank has 4"),
        ({"bank": np.zeros((0, 11))}, "bank must be"),
        ({"bank": np.where(np.arange(22).reshape(2, 11) == 14, np.nan, 0)}, "bank row 1 holds nan at column 3"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(change, message):
    arguments = {"kind": "is", "bank": cosines(BANK, ITEMS, 2)} | change
    with pytest.raises(UsageError, match=message):
        normalise(cosines(QUERIES, ITEMS, 1), arguments.pop("kind"), **arguments)
