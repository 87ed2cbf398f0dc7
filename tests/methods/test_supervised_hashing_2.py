"""BATCH, MDBE, DLFH and SePH: each step solves its own problem, and together they learn."""

import itertools

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.methods.hashing_supervised_shallow import mdbe as mdbe_steps
from cmrkit.methods.hashing_supervised_shallow.batch import Batch, balanced_latent
from cmrkit.methods.hashing_supervised_shallow.dlfh import Dlfh, update_codes
from cmrkit.methods.hashing_supervised_shallow.mdbe import Mdbe
from cmrkit.methods.hashing_supervised_shallow.seph import Seph, cross_entropy
from cmrkit.methods.parts.anchors import (
    kmeans_anchors,
    mean_squared_distance,
    random_anchors,
    rbf_features,
    squared_distances,
)
from cmrkit.methods.parts.kernel_logistic import kernel_logistic

METHODS = {
    "batch": Batch(bits=16, anchors=(60, 60)),
    "mdbe": Mdbe(bits=16),
    "dlfh": Dlfh(bits=16),
    "kdlfh": Dlfh(bits=16, hash_function="kernel", anchors=60),
    "seph-km": Seph(bits=16, anchors=60),
    "seph-rnd": Seph(bits=16, anchors=60, anchor_choice="random"),
}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def classes(rng, n=240, multi=False):
    """Pairs of three classes, shifted in both views, with one constant column each."""
    labels = np.eye(3, dtype=np.uint8)[rng.integers(3, size=n)]
    if multi:
        labels[::5, 0] = 1
    image = labels @ rng.normal(size=(3, 9)) * 2 + rng.normal(size=(n, 9))
    text = labels @ rng.normal(size=(3, 6)) * 2 + rng.normal(size=(n, 6))
    image[:, 0] = text[:, 0] = 0
    return Pairs(image - image.mean(axis=0), text - text.mean(axis=0), labels)


def map_at_all(query, database, relevant):
    """Tie-blind mean average precision, good enough to tell learning from chance."""
    order = np.argsort(-query.astype(int) @ database.astype(int).T, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("multi", [False, True])
def test_codes_retrieve_the_right_class_across_modalities(name, multi, rng):
    train, method = classes(rng, multi=multi), METHODS[name]
    method.fit(train)
    image, text = method.encode_image(train.image), method.encode_text(train.text)
    assert image.dtype == text.dtype == method.image_codes_.dtype == np.int8
    assert image.shape == text.shape == method.image_codes_.shape == method.text_codes_.shape == (240, 16)
    relevant = train.labels.astype(int) @ train.labels.T.astype(int) > 0
    assert map_at_all(image, method.text_codes_, relevant) > 0.8
    assert map_at_all(text, image, relevant) > 0.75


@pytest.mark.parametrize("name", METHODS)
def test_the_state_alone_encodes_and_the_seed_alone_decides(name, rng):
    train, method = classes(rng), METHODS[name]
    method.fit(train)
    codes = method.encode_image(train.image)
    fresh = type(method)(**{k: v for k, v in vars(method).items() if not k.endswith("_")})
    fresh.load_state({k: np.array(v) for k, v in method.state().items()})
    assert np.array_equal(fresh.encode_image(train.image), codes)
    assert np.array_equal(fresh.fit(train).encode_image(train.image), codes)


@pytest.mark.parametrize("name", METHODS)
def test_without_labels_there_is_nothing_to_learn(name, rng):
    with pytest.raises(UsageError, match="has no labels"):
        METHODS[name].fit(Pairs(rng.normal(size=(9, 3)), rng.normal(size=(9, 3))))


def test_mean_squared_distance_needs_no_distance_matrix(rng):
    x, y = rng.normal(size=(40, 3)), rng.normal(loc=2, size=(25, 3))
    assert mean_squared_distance(x, y) == pytest.approx(squared_distances(x, y).mean())
    assert mean_squared_distance(x) == pytest.approx(squared_distances(x, x).mean())
    assert mean_squared_distance(np.ones((4, 2))) == 1


def test_anchors_are_rows_or_centres_and_never_more_than_rows(rng):
    x = rng.normal(size=(30, 2))
    drawn = random_anchors(x, 10, rng)
    assert len(np.unique(drawn, axis=0)) == 10
    assert all((x == a).all(axis=1).any() for a in drawn)
    assert random_anchors(x, 99, rng).shape == kmeans_anchors(x, 99, rng).shape == (30, 2)
    spread = squared_distances(x, kmeans_anchors(x, 10, rng)).min(axis=1).mean()
    assert spread < squared_distances(x, drawn).min(axis=1).mean()


def test_batch_latent_is_balanced_uncorrelated_and_best(rng):
    Z = rng.normal(size=(50, 4))
    V = balanced_latent(Z, rng)
    assert np.allclose(V.T @ V, 50 * np.eye(4))
    assert np.allclose(V.sum(axis=0), 0)
    singular = np.linalg.svd(Z - Z.mean(axis=0), compute_uv=False)
    assert np.trace(V.T @ Z) == pytest.approx(np.sqrt(50) * singular.sum())


def test_batch_latent_fills_directions_that_are_missing(rng):
    Z = np.repeat(rng.normal(size=(50, 1)), 3, axis=1)
    V = balanced_latent(Z, rng)
    assert np.isfinite(V).all()
    assert np.linalg.matrix_rank(V) == 3


def test_mdbe_objective_falls_with_every_iteration(rng):
    train = classes(rng)
    L = train.labels.astype(float)

    def reached(iterations):
        method = Mdbe(bits=8, iterations=iterations, gamma=1e-9)
        views = train.image[:, 1:], train.text[:, 1:]
        P, _ = method._solve(views, L)
        Z = [X @ p for X, p in zip(views, P, strict=True)]
        D = np.linalg.solve(L.T @ L, L.T @ (Z[0] + Z[1]) / 2)
        W = [np.linalg.lstsq(z, L, rcond=None)[0] for z in Z]
        return mdbe_steps.objective(views, L, P, W, D, (0.5, 0.5), method.beta, method.gamma)

    values = [reached(i) for i in (1, 2, 3, 5, 8)]
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(values))


def test_mdbe_gives_one_database_code_per_label_vector(rng):
    train = classes(rng)
    assert len(np.unique(Mdbe(bits=32).fit(train).text_codes_, axis=0)) == 3


def test_mdbe_axes_leave_out_directions_without_variance(rng):
    x = rng.normal(size=(60, 4)) @ np.diag([3, 2, 1, 0])
    axes = mdbe_steps.principal_axes(x - x.mean(axis=0), 128)
    assert axes.shape == (4, 3)
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert mdbe_steps.principal_axes(x, 2).shape == (4, 2)


def log_likelihood(U, V, S, scale):
    theta = scale / U.shape[1] * U @ V.T
    return (S * theta - np.logaddexp(0, theta)).sum()


def test_dlfh_step_maximises_the_lower_bound_of_each_bit(rng):
    U, V = np.where(rng.normal(size=(4, 2)) < 0, -1.0, 1.0), np.where(rng.normal(size=(6, 2)) < 0, -1.0, 1.0)
    S, step, before = (rng.random((4, 6)) < 0.5).astype(float), 8 / 2, U.copy()
    update_codes(U, V, S, 8)
    p = step * (S - expit(step * before @ V.T)) @ V[:, 0] + 6 * step**2 / 4 * before[:, 0]
    best = max(itertools.product((-1, 1), repeat=4), key=lambda u: np.dot(p, u))
    assert np.array_equal(U[:, 0], best)


def test_dlfh_steps_never_lower_the_likelihood(rng):
    n, bits = 60, 8
    labels = np.eye(4)[rng.integers(4, size=n)]
    S = (labels @ labels.T > 0).astype(float)
    U, V = np.where(rng.standard_normal((2, n, bits)) < 0, -1.0, 1.0)
    values = [log_likelihood(U, V, S, 8)]
    for _ in range(5):
        update_codes(U, V, S, 8)
        values.append(log_likelihood(U, V, S, 8))
        update_codes(V, U, S.T, 8)
        values.append(log_likelihood(U, V, S, 8))
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0]


def pairwise_cross_entropy(H, G):
    """The same quantity with every n x n matrix written out."""
    P = G @ G.T
    np.fill_diagonal(P, 0)
    P /= P.sum()
    t = 1 / (1 + np.square(H[:, None] - H[None]).sum(axis=2) / 4)
    np.fill_diagonal(t, 0)
    Q = t / t.sum()
    return -(P[P > 0] * np.log(Q[P > 0])).sum()


def test_seph_gradient_agrees_with_finite_differences(rng):
    L = (rng.random((150, 4)) < 0.4).astype(float)
    G = L / np.maximum(np.sqrt(L.sum(axis=1, keepdims=True)), 1)
    H, direction, h = rng.normal(size=(150, 5)), rng.normal(size=(150, 5)), 1e-5
    value, gradient = cross_entropy(H, G)
    assert value == pytest.approx(pairwise_cross_entropy(H, G))
    ahead, behind = (pairwise_cross_entropy(H + s * direction, G) for s in (h, -h))
    assert (gradient * direction).sum() == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_seph_unified_code_follows_the_surer_view(rng):
    train = classes(rng)
    method = Seph(bits=8, anchors=60).fit(train)
    unified = method.encode_pair(train.image, train.text)
    image, text = method.encode_image(train.image), method.encode_text(train.text)
    assert unified.dtype == np.int8
    balanced = np.abs(method.prior_ - 0.5) < 1e-9
    agree = (image == text) & balanced
    assert np.array_equal(unified[agree], image[agree])
    assert (unified == method.image_codes_).mean() >= (image == method.image_codes_).mean()


def test_seph_on_a_subsample_learns_no_codes_for_the_rest(rng):
    train = classes(rng)
    method = Seph(bits=8, anchors=40, samples=120).fit(train)
    assert not hasattr(method, "image_codes_")
    assert method.encode_pair(train.image, train.text).shape == (240, 8)


def test_kernel_logistic_agrees_with_sklearn_on_whitened_features(rng):
    x = rng.normal(size=(200, 3))
    anchors = x[:15]
    K, K0 = rbf_features(x, anchors, 4.0), rbf_features(anchors, anchors, 4.0)
    codes = np.where(np.c_[x[:, 0] + x[:, 1] ** 2 > 1, x[:, 2] > 0], 1, -1)
    W = kernel_logistic(K, K0, codes, penalty=0.5)
    features = K @ np.linalg.inv(np.linalg.cholesky(K0).T)
    for k in range(2):
        reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000)
        reference.fit(features, codes[:, k])
        assert np.allclose(K @ W[:, k], features @ reference.coef_[0], atol=2e-3)


def test_kernel_logistic_survives_repeated_anchors(rng):
    x = rng.normal(size=(80, 2))
    anchors = np.repeat(x[:10], 2, axis=0)
    K, K0 = rbf_features(x, anchors, 2.0), rbf_features(anchors, anchors, 2.0)
    W = kernel_logistic(K, K0, np.where(x[:, :1] > 0, 1, -1), 0.01)
    assert np.isfinite(W).all()
    assert ((K @ W > 0) == (x[:, :1] > 0)).mean() > 0.9
