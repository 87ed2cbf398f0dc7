"""SCM, both SMFH, DCH and SCRATCH: each step against what it claims to solve."""

from itertools import product

import numpy as np
import pytest
from scipy.linalg import solve_sylvester

from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.methods.hashing_supervised_shallow import dch, scm, scratch, smfh_ijcai16, smfh_tip16
from cmrkit.methods.parts.dcc import cyclic_descent, update_bit

METHODS = [
    scm.Scm(bits=8),
    scm.Scm(bits=8, variant="orthogonal"),
    smfh_ijcai16.SmfhIjcai16(bits=16, samples=50),
    smfh_tip16.SmfhTip16(bits=16),
    dch.Dch(bits=16),
    dch.Dch(bits=16, code_step="dcc", nu=1e-3),
    scratch.Scratch(bits=16, anchors=30),
]
LEARNING_CODES = [m for m in METHODS if not isinstance(m, scm.Scm)]


def label(method):
    return f"{type(method).__name__}-{getattr(method, 'variant', getattr(method, 'code_step', ''))}"


@pytest.fixture
def pairs():
    """Three classes, non-negative features of 12 and 9 dimensions, one of each constant; some items of two classes."""
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[rng.integers(3, size=90)]
    labels[::10, 0] = 1
    image = labels @ rng.random((3, 12)) + 0.2 * rng.random((90, 12))
    text = labels @ rng.random((3, 9)) + 0.2 * rng.random((90, 9))
    image[:, 5] = text[:, 5] = 0
    return Pairs(image, text, labels)


def centred(pairs):
    return Pairs(pairs.image - pairs.image.mean(axis=0), pairs.text - pairs.text.mean(axis=0), pairs.labels)


def prepared(method, pairs):
    return pairs if isinstance(method, smfh_ijcai16.SmfhIjcai16) else centred(pairs)


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_codes_are_signs_and_both_modalities_agree_on_classes(method, pairs):
    train = prepared(method, pairs)
    method.fit(train)
    image, text = method.encode_image(train.image), method.encode_text(train.text)
    assert image.shape == text.shape == (90, method.bits)
    assert image.dtype == np.int8
    assert set(np.unique([image, text])) <= {-1, 1}
    same = train.labels.astype(int) @ train.labels.T > 0
    similarity = image.astype(int) @ text.T
    assert similarity[same].mean() > similarity[~same].mean()


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_a_seed_fixes_the_result(method, pairs):
    train = prepared(method, pairs)
    first = {name: value.copy() for name, value in method.fit(train).state().items()}
    for name, value in method.fit(train).state().items():
        np.testing.assert_array_equal(value, first[name])


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_labels_are_required(method, pairs):
    with pytest.raises(UsageError, match="no labels"):
        method.fit(Pairs(pairs.image, pairs.text))


@pytest.mark.parametrize("method", LEARNING_CODES, ids=label)
def test_both_modalities_share_the_learned_codes(method, pairs):
    method.fit(prepared(method, pairs))
    assert method.image_codes_ is method.text_codes_
    assert method.image_codes_.shape == (90, 16)


def binary_quadratic(B, A, Q):
    return np.trace(B @ A @ B.T) - 2 * np.sum(B * Q)


def test_a_bit_update_is_the_best_of_all_columns():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((4, 3))
    A, Q = W @ W.T, rng.standard_normal((6, 4))
    B = np.where(rng.standard_normal((6, 4)) > 0, 1.0, -1.0)
    for k in range(4):
        update_bit(B, k, A, Q)
        others = [np.column_stack([B[:, :k], column, B[:, k + 1 :]]) for column in product((-1, 1), repeat=6)]
        assert binary_quadratic(B, A, Q) == pytest.approx(min(binary_quadratic(C, A, Q) for C in others))


def test_cyclic_descent_never_increases_the_objective_and_ends_at_a_fixed_point():
    rng = np.random.default_rng(2)
    W = rng.standard_normal((8, 5))
    A, Q = W @ W.T, rng.standard_normal((40, 8))
    B = np.where(rng.standard_normal((40, 8)) > 0, 1.0, -1.0)
    values = [binary_quadratic(cyclic_descent(B, A, Q, sweeps), A, Q) for sweeps in range(6)]
    assert (np.diff(values) <= 1e-9).all()
    end = cyclic_descent(B, A, Q, sweeps=100)
    np.testing.assert_array_equal(cyclic_descent(end, A, Q, sweeps=1), end)


def test_dch_discrete_step_never_increases_its_objective(pairs):
    method = dch.Dch(bits=8, code_step="dcc")
    Y = pairs.labels.astype(float)
    rng = np.random.default_rng(3)
    B, W = np.where(rng.standard_normal((90, 8)) > 0, 1.0, -1.0), rng.standard_normal((8, 3))
    after = method.update_codes(B, W, Y, 0.0)
    assert np.sum((Y - after @ W) ** 2) <= np.sum((Y - B @ W) ** 2)


def test_dch_as_published_gives_equal_codes_to_equal_labels(pairs):
    codes = dch.Dch(bits=16).fit(centred(pairs)).image_codes_
    for row in np.unique(pairs.labels, axis=0):
        assert len(np.unique(codes[(pairs.labels == row).all(axis=1)], axis=0)) == 1


def test_scm_similarity_covariance_is_that_of_the_explicit_similarity(pairs):
    X, Y, L = pairs.image, pairs.text, pairs.labels.astype(float)
    G = L / np.linalg.norm(L, axis=1, keepdims=True)
    np.testing.assert_allclose(scm.similarity_covariance(X, Y, L), X.T @ (2 * G @ G.T - 1) @ Y)


def test_scm_pairs_solve_the_generalised_eigenproblem(pairs):
    train = centred(pairs)
    Cxx = train.image.T @ train.image + 1e-6 * np.eye(12)
    Cyy = train.text.T @ train.text + 1e-6 * np.eye(9)
    Cxy = train.image.T @ train.text
    wx, wy, value = scm.leading_pair(Cxx, Cyy, Cxy)
    np.testing.assert_allclose(Cxy @ np.linalg.solve(Cyy, Cxy.T @ wx), value * Cxx @ wx, atol=1e-8)
    Wx, Wy = scm.canonical_directions(Cxx, Cyy, Cxy, 3)
    for w, W in ((wx, Wx[:, 0]), (wy, Wy[:, 0])):
        cosine = w @ W / np.linalg.norm(w) / np.linalg.norm(W)
        assert abs(cosine) == pytest.approx(1)


def test_scm_refuses_more_orthogonal_bits_than_image_dimensions(pairs):
    with pytest.raises(UsageError, match="only 12"):
        scm.Scm(bits=13, variant="orthogonal").fit(centred(pairs))


def test_smfh_tip_latent_step_solves_the_dense_sylvester_equation(pairs):
    rng = np.random.default_rng(4)
    graph = smfh_tip16.Graph(smfh_tip16.neighbour_laplacian(pairs.image, 5), pairs.labels.astype(float))
    W = pairs.labels.astype(float) @ pairs.labels.T
    dense = graph.neighbours.toarray() + np.diag(W.sum(axis=1)) - W
    root = rng.standard_normal((6, 6))
    A, C = root @ root.T + 3 * np.eye(6), rng.standard_normal((90, 6))
    S = smfh_tip16.solve_latent(A, graph, 0.7, C, np.zeros_like(C))
    np.testing.assert_allclose(S, solve_sylvester(0.7 * dense, A, C), atol=1e-7)
    np.testing.assert_allclose(graph @ C, dense @ C)
    np.testing.assert_allclose(graph.diagonal()[:, 0], np.diag(dense))


def test_smfh_tip_objective_never_increases(pairs):
    train = centred(pairs)
    views = (train.image, train.text)
    method = smfh_tip16.SmfhTip16(bits=6)
    graph = smfh_tip16.Graph(smfh_tip16.neighbour_laplacian(train.image, 5), train.labels.astype(float))
    rng = np.random.default_rng(5)
    S, P, objectives = rng.random((90, 6)), [rng.random((x.shape[1], 6)) for x in views], []
    for _ in range(8):
        S, P, objective = method.step(views, graph, S, P)
        objectives.append(objective)
    assert (np.diff(objectives) <= 1e-6).all()


def test_smfh_ijcai_graph_parts_equal_their_dense_form(pairs):
    X, G = pairs.image, pairs.labels / np.linalg.norm(pairs.labels, axis=1, keepdims=True)
    W = G @ G.T
    D = W.sum(axis=1)
    np.testing.assert_allclose(smfh_ijcai16.graph_term(X, G), X.T @ (np.diag(D) - W) @ X, atol=1e-9)
    normalised = np.eye(90) - W / np.sqrt(np.outer(D, D))
    np.testing.assert_allclose(smfh_ijcai16.sampled_laplacian(X, G), X.T @ normalised @ X, atol=1e-9)


def test_smfh_ijcai_refuses_negative_features(pairs):
    with pytest.raises(UsageError, match="non-negative"):
        smfh_ijcai16.SmfhIjcai16(bits=8).fit(centred(pairs))


def test_scratch_factor_step_is_stationary(pairs):
    rng = np.random.default_rng(6)
    V = rng.standard_normal((90, 5))
    U = scratch.factor(V, pairs.image, 2.0, 3.0)
    np.testing.assert_allclose(2.0 * V.T @ (V @ U - pairs.image) + 3.0 * U, 0, atol=1e-8)


def test_scratch_returns_an_orthogonal_rotation(pairs):
    method = scratch.Scratch(bits=6)
    train = centred(pairs)
    R = method.learn_codes(train.image, train.text, train.labels.astype(float), np.random.default_rng(7))[2]
    np.testing.assert_allclose(R @ R.T, np.eye(6), atol=1e-9)
