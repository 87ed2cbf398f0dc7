"""Unsupervised shallow hashing: each step does what its formula says, and every method keeps the contract."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.methods.hashing_unsupervised_shallow import cmfh, fsh, imh, lssh, rfdh, stmh
from cmrkit.methods.hashing_unsupervised_shallow.cmfh import Cmfh
from cmrkit.methods.hashing_unsupervised_shallow.cvh import Cvh
from cmrkit.methods.hashing_unsupervised_shallow.fsh import Fsh
from cmrkit.methods.hashing_unsupervised_shallow.imh import Imh
from cmrkit.methods.hashing_unsupervised_shallow.lssh import Lssh
from cmrkit.methods.hashing_unsupervised_shallow.rfdh import Rfdh
from cmrkit.methods.hashing_unsupervised_shallow.stmh import Stmh
from cmrkit.methods.parts.graph import knn_laplacian
from cmrkit.methods.parts.linear import ridge


def paired(n=120, d_image=20, d_text=12, classes=4, noise=0.3, seed=0):
    """Centred views of shared class centres."""
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=n)
    image = rng.standard_normal((classes, d_image))[label] + noise * rng.standard_normal((n, d_image))
    text = rng.standard_normal((classes, d_text))[label] + noise * rng.standard_normal((n, d_text))
    return Pairs(image - image.mean(axis=0), text - text.mean(axis=0))


METHODS = [
    Cvh(bits=16),
    Cvh(bits=16, text_metric="plain"),
    Imh(bits=16),
    Imh(bits=16, threshold="batch", exclude_self=False),
    Cmfh(bits=16),
    Cmfh(bits=16, projection="shipped"),
    Lssh(bits=16, atoms=30, iterations=2),
    Stmh(bits=16),
    Rfdh(bits=16),
    Rfdh(bits=16, weight_by="fit"),
    Fsh(bits=16),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: str(m).split("bits")[0] + str(METHODS.index(m)))
class TestEveryMethod:
    def test_gives_signs_repeatably_from_finite_arrays(self, method):
        train = paired()
        codes = method.fit(train).encode_image(train.image), method.encode_text(train.text)
        again = type(method)(**vars_of(method)).fit(train)
        for code, repeated in zip(codes, (again.encode_image(train.image), again.encode_text(train.text)), strict=True):
            assert code.shape == (120, 16)
            assert code.dtype == np.int8
            assert set(np.unique(code)) <= {-1, 1}
            np.testing.assert_array_equal(code, repeated)
        assert all(np.isfinite(value).all() for value in method.state().values())

    def test_brings_pairs_closer_than_strangers(self, method):
        train = paired()
        image, text = method.fit(train).encode_image(train.image), method.encode_text(train.text)
        agreement = image.astype(float) @ text.T
        assert np.diag(agreement).mean() > agreement.mean() + 2

    def test_survives_constant_columns_and_repeated_images(self, method):
        train = paired()
        image = np.hstack([np.repeat(train.image[:24], 5, axis=0), np.zeros((120, 3))])
        text = np.hstack([train.text, np.zeros((120, 2))])
        method.fit(Pairs(image, text))
        assert all(np.isfinite(value).all() for value in method.state().values())

    def test_keeps_codes_over_a_saved_state(self, method):
        train = paired()
        copy = type(method)(**vars_of(method)).load_state(method.fit(train).state())
        np.testing.assert_array_equal(copy.encode_image(train.image), method.encode_image(train.image))
        np.testing.assert_array_equal(copy.encode_text(train.text), method.encode_text(train.text))


def vars_of(method):
    return {k: v for k, v in vars(method).items() if not k.endswith("_")}


class TestRidge:
    def test_zeroes_the_gradient(self):
        train = paired()
        W = ridge(train.image, train.text, 0.7)
        gradient = train.image.T @ (train.image @ W - train.text) + 0.7 * W
        np.testing.assert_allclose(gradient, 0, atol=1e-9)


class TestGraph:
    def test_measures_disagreement_over_edges(self):
        x = np.array([[0.0], [1.0], [1.5], [9.0]])
        L = knn_laplacian(x, 1).toarray()
        f = np.array([3.0, 5.0, 1.0, 7.0])
        # 0 -> 1 and 3 -> 2 one way (1/2), 1 <-> 2 both ways (1)
        assert f @ L @ f == pytest.approx(0.5 * (3 - 5) ** 2 + 0.5 * (7 - 1) ** 2 + (5 - 1) ** 2)
        np.testing.assert_allclose(L.sum(axis=1), 0)

    def test_of_two_equal_rows_the_second_can_be_its_own_neighbour(self):
        x = np.array([[0.0], [0.0], [5.0]])
        assert knn_laplacian(x, 1).toarray()[0, 1] == -1
        assert knn_laplacian(x, 1, exclude_self=False).toarray()[0, 1] == -0.5

    def test_refuses_too_few_rows(self):
        with pytest.raises(UsageError, match="needs more than 2"):
            knn_laplacian(np.zeros((2, 3)), 2)


class TestCvh:
    def test_has_the_directions_of_canonical_correlation(self):
        train = paired(noise=1.0)
        method = Cvh(bits=3).fit(train)
        image, text = train.image @ method.image_hash_, train.text @ method.text_hash_
        correlations = np.corrcoef(image.T, text.T)
        X, Y = (np.linalg.qr(v)[0] for v in (train.image, train.text))
        expected = np.linalg.svd(X.T @ Y, compute_uv=False)[:3]
        np.testing.assert_allclose(np.diag(correlations[:3, 3:]), expected, atol=1e-4)

    def test_refuses_more_bits_than_image_features(self):
        with pytest.raises(UsageError, match="21 bits, 20 features"):
            Cvh(bits=21).fit(paired())


class TestImh:
    def test_embedding_is_the_limit_of_a_large_pair_weight(self):
        train, method, w = paired(n=60), Imh(bits=4), 1e7
        A = [np.eye(60) - X @ np.linalg.inv(X.T @ X + np.eye(X.shape[1])) @ X.T for X in (train.image, train.text)]
        M = [a + knn_laplacian(X, 1).toarray() for a, X in zip(A, (train.image, train.text), strict=True)]
        C = w * np.linalg.inv(M[1] + w * np.eye(60))
        D = M[0] + C @ M[1] @ C + w * (np.eye(60) - C) @ (np.eye(60) - C)
        vectors = np.linalg.eigh((D + D.T) / 2)[1]
        Y = method.embed(train.image, train.text)
        np.testing.assert_allclose(np.abs(np.linalg.det(Y.T @ vectors[:, :4])), 1, atol=1e-4)

    def test_hat_matrix_factor(self):
        X = paired().image
        Z = imh.predictable_part(X, 2.0)
        np.testing.assert_allclose(Z @ Z.T, X @ np.linalg.inv(X.T @ X + 2 * np.eye(20)) @ X.T, atol=1e-10)

    def test_batch_threshold_splits_any_batch_in_half(self):
        train = paired()
        method = Imh(bits=8, threshold="batch").fit(train)
        np.testing.assert_array_equal((method.encode_text(train.text[:40]) > 0).sum(axis=0), 20)

    def test_a_sample_bounds_the_eigenproblem(self):
        train = paired()
        method = Imh(bits=4, sample=50)
        seen = []
        embed = method.embed
        method.embed = lambda image, text: seen.append(len(image)) or embed(image, text)
        method.fit(train)
        assert seen == [50]


class TestCmfh:
    def test_every_step_lowers_the_objective(self):
        train, method = paired(), Cmfh(bits=6)
        views, rng = (train.image, train.text), np.random.default_rng(0)
        Y, W = rng.random((120, 6)), [rng.random((X.shape[1], 6)) for X in views]
        U = [ridge(Y, X, method.gamma) for X in views]
        values = [method.objective(views, Y, U, W)]
        for _ in range(5):
            Y = method.shared_latent(views, U, W)
            values.append(method.objective(views, Y, U, W))
            W = [method.project(X, Y) for X in views]
            values.append(method.objective(views, Y, U, W))
            U = [ridge(Y, X, method.gamma) for X in views]
            values.append(method.objective(views, Y, U, W))
        assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(values))

    def test_the_shipped_projection_has_the_same_signs(self):
        train, Y = paired(), np.random.default_rng(1).standard_normal((120, 3))
        right, shipped = (cmfh.Cmfh(bits=3, projection=p).project(train.image, Y) for p in ("ridge", "shipped"))
        np.testing.assert_allclose(shipped * 100**2, right)


class TestLssh:
    def test_sparse_codes_approach_the_lasso(self):
        rng = np.random.default_rng(0)
        A, Y = rng.standard_normal((8, 12)), rng.standard_normal((8, 3))
        S = lssh.sparse_codes(A, Y, 0.3, 800)
        penalty = 0.3 * np.abs(A.T @ Y).max(axis=0)
        slope = A.T @ (Y - A @ S)  # optimal where |slope| <= penalty, with equality and the sign of S where S != 0
        assert (np.abs(slope) <= penalty + 1e-6).all()
        np.testing.assert_allclose(slope[S != 0], (np.sign(S) * penalty)[S != 0], atol=1e-6)

    def test_sparse_codes_do_not_depend_on_batching(self):
        rng = np.random.default_rng(0)
        A, Y = rng.standard_normal((8, 12)), rng.standard_normal((8, 200))
        np.testing.assert_allclose(lssh.sparse_codes(A, Y, 0.5, 30)[:, 150:], lssh.sparse_codes(A, Y[:, 150:], 0.5, 30))

    def test_basis_solves_the_norm_bounded_regression(self):
        rng = np.random.default_rng(0)
        S = rng.standard_normal((3, 30))
        X = np.array([[2.0, 0.1, 0.5], [0.0, 0.2, 1.5]]) @ S + 0.1 * rng.standard_normal((2, 30))
        B = lssh.bounded_basis(X, S, rng.standard_normal((2, 3)))
        bound = {"type": "ineq", "fun": lambda b: 1 - np.square(b.reshape(2, 3)).sum(axis=0)}
        best = optimize.minimize(lambda b: np.square(X - b.reshape(2, 3) @ S).sum(), np.zeros(6), constraints=bound)
        np.testing.assert_allclose(B, best.x.reshape(2, 3), atol=1e-3)

    def test_an_unused_atom_becomes_zero(self):
        S = np.vstack([np.ones(5), np.zeros(5)])
        assert not lssh.bounded_basis(np.ones((2, 5)), S, np.ones((2, 2)))[:, 1].any()


class TestStmh:
    def test_weighted_rows_match_one_solve_each(self):
        rng = np.random.default_rng(0)
        left, weights, root = rng.standard_normal((5, 3)), rng.random(5), rng.standard_normal((3, 3))
        A, B = root @ root.T, np.eye(3) + np.ones((3, 3))
        expected = [row @ np.linalg.inv(w * A + B) for row, w in zip(left, weights, strict=True)]
        np.testing.assert_allclose(stmh.solve_weighted(left, weights, A, B), expected)

    def test_a_text_has_exactly_half_of_the_topics(self):
        train = paired()
        for bits, active in ((16, 8), (7, 4)):
            method = Stmh(bits=bits).fit(train)
            assert set((method.encode_text(train.text) > 0).sum(axis=1)) == {active}
            assert set((method.text_codes_ > 0).sum(axis=1)) == {active}


class TestRfdh:
    def test_a_bit_takes_the_cheapest_balanced_half(self):
        rng = np.random.default_rng(0)
        views = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
        F = [rng.standard_normal((1, X.shape[1])) for X in views]
        D, weights = [rng.random(6), rng.random(6)], [0.3, 0.6]

        def loss(b):
            pairs = zip(weights, D, views, F, strict=True)
            return sum(w * d @ np.square(X - b[:, None] @ f).sum(axis=1) for w, d, X, f in pairs)

        balanced = [np.array(b, float) for b in itertools.product((0, 1), repeat=6) if sum(b) == 3]
        best = min(balanced, key=loss)
        B = rfdh.set_bits(np.zeros((6, 1)), views, F, D, weights)
        np.testing.assert_array_equal(B[:, 0], best)

    def test_sweeps_never_raise_the_reweighted_loss(self):
        train, rng = paired(), np.random.default_rng(0)
        views = (train.image, train.text)
        B = np.argsort(rng.random((120, 5)), axis=0) < 60
        B = B.astype(float)
        F = [ridge(B, X, 1e-4) for X in views]
        D = [rfdh.reweighting(X, B, f) for X, f in zip(views, F, strict=True)]

        def loss(B):
            return sum(d @ np.square(X - B @ f).sum(axis=1) for d, X, f in zip(D, views, F, strict=True))

        losses = [loss(B)]
        for _ in range(4):
            B = rfdh.set_bits(B, views, F, D, [1.0, 1.0])
            losses.append(loss(B))
        assert all(after <= before + 1e-9 for before, after in itertools.pairwise(losses))

    def test_every_learned_bit_is_balanced(self):
        np.testing.assert_array_equal((Rfdh(bits=8).fit(paired()).image_codes_ > 0).sum(axis=0), 60)

    def test_weights_follow_the_error_as_shipped_and_the_fit_in_the_minimiser(self):
        errors = [4.0, 1.0]
        shipped, right = (Rfdh(bits=1, weight_by=by).view_weights(errors) for by in ("error", "fit"))
        assert shipped[0] > shipped[1]
        best = optimize.minimize_scalar(lambda w: w**3 * errors[0] + (1 - w) ** 3 * errors[1], bounds=(0, 1)).x
        assert right[0] == pytest.approx(best**3, rel=1e-3)


class TestFsh:
    def test_similarity_is_the_mean_over_both_neighbourhoods(self):
        train = paired(n=15)
        views, anchors, k = (train.image, train.text), (train.image[:6], train.text[:6]), 2
        S, K = fsh.fusion_similarities(views, anchors, k)
        distances = [np.linalg.norm(X[:, None] - X[:6], axis=2) for X in views]
        order = [np.argsort(d, axis=1)[:, :k] for d in distances]
        # rows 0 to 5 of the items are the anchors themselves
        for i, j in itertools.product(range(15), range(6)):
            assert S[0][i, j] == pytest.approx(K[0][np.ix_(order[0][i], order[1][j])].mean())
            assert S[1][i, j] == pytest.approx(K[1][np.ix_(order[1][i], order[0][j])].mean())

    def test_refuses_fewer_anchors_than_neighbours(self):
        with pytest.raises(UsageError, match="neighbours <= anchors"):
            Fsh(bits=4, anchors=5).fit(paired())
