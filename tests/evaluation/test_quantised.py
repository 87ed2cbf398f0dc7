"""Look-up distances against distances between explicit reconstructions, and against faiss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from cmrkit.errors import UsageError
from cmrkit.evaluation import blocks
from cmrkit.evaluation.quantised import asymmetric, reconstruct, squared_norms, symmetric, widen

KINDS = ["euclidean", "dot"]


def distances(x, y, kind):
    return cdist(x, y, "sqeuclidean") if kind == "euclidean" else -(x @ y.T)


def example(seed=0, books=3, words=5, dimensions=7, queries=6, items=20, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    codebooks = rng.normal(size=(books, words, dimensions))
    codes = rng.integers(words, size=(items, books)).astype(dtype)
    query_codes = rng.integers(words, size=(queries, books)).astype(dtype)
    return rng.normal(size=(queries, dimensions)), query_codes, codes, codebooks


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    books=st.integers(1, 4),
    words=st.integers(1, 6),
    dimensions=st.integers(1, 8),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
)
def test_distances_are_those_between_reconstructions(kind, seed, books, words, dimensions, dtype):
    query, query_codes, codes, codebooks = example(seed, books, words, dimensions, dtype=dtype)
    items = reconstruct(codes, codebooks)
    assert np.allclose(asymmetric(query, codes, codebooks, kind), distances(query, items, kind), atol=1e-12)
    quantised = distances(reconstruct(query_codes, codebooks), items, kind)
    assert np.allclose(symmetric(query_codes, codes, codebooks, kind), quantised, atol=1e-12)


def test_a_reconstruction_is_the_sum_of_its_codewords():
    _, _, codes, codebooks = example()
    for code, vector in zip(codes, reconstruct(codes, codebooks), strict=True):
        assert np.allclose(vector, codebooks[0, code[0]] + codebooks[1, code[1]] + codebooks[2, code[2]])


def test_norms_hold_the_cross_terms_between_books():
    codebooks = np.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    codes = np.zeros((1, 2), dtype=np.uint8)
    assert squared_norms(codes, codebooks).tolist() == [5.0]  # |(2, 1)|^2, not 1 + 2
    assert asymmetric(np.array([[2.0, 1.0]]), codes, codebooks).item() == 0


def test_a_product_quantiser_is_an_additive_one_with_disjoint_books():
    rng = np.random.default_rng(0)
    codebooks, codes = rng.normal(size=(3, 4, 2)), rng.integers(4, size=(9, 3))
    concatenated = np.hstack([codebooks[m, codes[:, m]] for m in range(3)])
    assert np.array_equal(reconstruct(codes, widen(codebooks)), concatenated)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_ready_norms_give_what_one_call_gives(kind, monkeypatch):
    query, query_codes, codes, codebooks = example()
    norms = squared_norms(codes, codebooks)
    monkeypatch.setattr(blocks, "MEMORY", 32 * 30)
    assert np.array_equal(squared_norms(codes, codebooks), norms)
    for compute, queries in ((asymmetric, query), (symmetric, query_codes)):
        whole = compute(queries, codes, codebooks, kind)
        parts = [compute(queries, codes, codebooks, kind, rows, norms) for rows in blocks.row_blocks(6, 20)]
        assert len(parts) > 1
        assert np.allclose(np.vstack(parts), whole, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_codes_tie_exactly(kind):
    query, query_codes, codes, codebooks = example(books=8, words=256, dimensions=65, items=333)
    twice = np.vstack([codes, codes])
    for found in (asymmetric(query, twice, codebooks, kind), symmetric(query_codes, twice, codebooks, kind)):
        assert np.array_equal(found[:, :333], found[:, 333:])


def test_squared_distances_are_never_negative():
    _, _, codes, codebooks = example(items=200)
    found = symmetric(codes, codes, codebooks * 1e3)
    assert found.min() == 0
    assert np.diag(found).max() < 1e-6


@pytest.fixture(scope="module")
def product():
    """faiss's product quantiser with given codebooks, the codes it makes, and the same codebooks widened."""
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: nothing to hold the distances against")
    rng = np.random.default_rng(0)
    books, width, items, queries = 4, 3, 300, 9
    codebooks = rng.normal(size=(books, 256, width)).astype(np.float32)
    database = rng.normal(size=(items, books * width)).astype(np.float32)
    query = rng.normal(size=(queries, books * width)).astype(np.float32)

    def index(metric):
        made = faiss.IndexPQ(books * width, books, 8, metric)
        faiss.copy_array_to_vector(codebooks.ravel(), made.pq.centroids)
        made.pq.compute_sdc_table()
        made.is_trained = True
        made.add(database)
        return made

    def search(made, symmetric_search=False):
        if symmetric_search:
            made.search_type = faiss.IndexPQ.ST_SDC
        values, places = made.search(query, items)
        found = np.empty_like(values)
        np.put_along_axis(found, places, values, axis=1)
        return found

    euclidean, dot = index(faiss.METRIC_L2), index(faiss.METRIC_INNER_PRODUCT)
    codes, query_codes = euclidean.pq.compute_codes(database), euclidean.pq.compute_codes(query)
    return {
        "query": query,
        "codes": codes,
        "query_codes": query_codes,
        "codebooks": widen(codebooks),
        "decoded": euclidean.pq.decode(codes),
        "euclidean": search(euclidean),
        "dot": -search(dot),
        "symmetric": search(euclidean, symmetric_search=True),
    }


def test_faiss_decodes_to_the_same_vectors(product):
    assert np.array_equal(reconstruct(product["codes"], product["codebooks"]).astype(np.float32), product["decoded"])


@pytest.mark.parametrize("kind", KINDS)
def test_faiss_finds_the_same_asymmetric_distances(product, kind):
    found = asymmetric(product["query"], product["codes"], product["codebooks"], kind)
    assert np.abs(found - product[kind]).max() < 1e-4


def test_faiss_finds_the_same_symmetric_distances(product):
    found = symmetric(product["query_codes"], product["codes"], product["codebooks"])
    assert np.abs(found - product["symmetric"]).max() < 1e-4


def test_faiss_decodes_additive_codes_to_the_same_vectors():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: nothing to hold the vectors against")
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(3, 256, 6)).astype(np.float32)
    codes = rng.integers(256, size=(40, 3)).astype(np.uint8)
    quantiser = faiss.ResidualQuantizer(6, 3, 8)
    faiss.copy_array_to_vector(codebooks.ravel(), quantiser.codebooks)
    quantiser.is_trained = True
    assert np.abs(quantiser.decode(codes) - reconstruct(codes, codebooks)).max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.array([[0, 1, 2], [0, 5, 0]])}, "codes row 1 holds 5 at column 1: codebook 1 has 5 codewords"),
        ({"codes": np.array([[0, 1, -1]])}, "codes row 0 holds -1 at column 2"),
        ({"codes": np.zeros((2, 3))}, "codes must be integers"),
        ({"codes": np.zeros((2, 4), dtype=int)}, "codes has 4 columns, but there are 3 codebooks"),
        ({"codebooks": np.ones((3, 5))}, "codebooks must be numeric"),
        (
            {"codebooks": np.where(np.arange(105).reshape(3, 5, 7) == 37, np.inf, 0)},
            "book 1 row 0 holds inf at column 2",
        ),
        ({"query": np.ones((2, 21))}, "query has 21 dimensions.*widen"),
        ({"query": np.full((2, 7), np.nan)}, "query row 0 holds nan"),
        ({"kind": "cosine"}, "unknown distance 'cosine'"),
        ({"norms": np.ones(3)}, "norms has shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(change, message):
    query, _, codes, codebooks = example()
    with pytest.raises(UsageError, match=message):
        asymmetric(**{"query": query, "codes": codes, "codebooks": codebooks} | change)


def test_query_codes_out_of_range_are_named_as_such():
    _, query_codes, codes, codebooks = example()
    query_codes[4, 2] = 9
    with pytest.raises(UsageError, match="query_codes row 4 holds 9 at column 2"):
        symmetric(query_codes, codes, codebooks)
