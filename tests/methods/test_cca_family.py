"""The CCA family against closed forms, explicit pairs, scikit-learn and the eigenproblems as stated."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.linalg import block_diag, eigh, sqrtm
from sklearn.cross_decomposition import PLSCanonical, PLSRegression
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import chi2_kernel

from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.methods.parts.cca import canonical_subspace, cca
from cmrkit.methods.parts.eigen import top_eigenvectors, whitening
from cmrkit.methods.parts.fisher import between_class_means, between_class_pairs, within_class_neighbours
from cmrkit.methods.parts.kernels import cholesky_features, incomplete_cholesky, kernel
from cmrkit.methods.real_supervised_shallow.cluster_cca import ClusterCCA
from cmrkit.methods.real_supervised_shallow.gma import ALPHA, GMA, pls_bases, principal_axes
from cmrkit.methods.real_supervised_shallow.ml_cca import MLCCA
from cmrkit.methods.real_unsupervised.cca import CCA
from cmrkit.methods.real_unsupervised.kcca import KCCA


def pairs(n=150, classes=4, image=12, text=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    latent = rng.normal(size=(classes, 5))[labels] + rng.normal(size=(n, 5))
    X = latent @ rng.normal(size=(5, image)) + rng.normal(size=(n, image))
    Y = latent @ rng.normal(size=(5, text)) + rng.normal(size=(n, text))
    return Pairs(X, Y, np.eye(classes, dtype=np.uint8)[labels])


def histograms(data):
    return Pairs(*(np.abs(V) / np.abs(V).sum(axis=1, keepdims=True) for V in (data.image, data.text)), data.labels)


def multi_label(data, seed=1):
    extra = np.random.default_rng(seed).random(data.labels.shape) < 0.2
    return Pairs(data.image, data.text, (data.labels.astype(bool) | extra).astype(np.uint8))


def digit_halves():
    digits = load_digits()
    X, Y = (half.reshape(len(half), 32) for half in (digits.images[:, :, :4], digits.images[:, :, 4:]))
    return Pairs(X, Y, np.eye(10, dtype=np.uint8)[digits.target])


def same_up_to_sign(A, B, atol=1e-6):
    np.testing.assert_allclose(A * np.sign((A * B).sum(axis=0)), B, atol=atol)


def cosine_map(query, database, q_labels, d_labels):
    unit = lambda V: V / np.linalg.norm(V, axis=1, keepdims=True)  # noqa: E731
    order = np.argsort(-unit(query) @ unit(database).T, axis=1, kind="stable")
    hit = np.take_along_axis(q_labels.astype(int) @ d_labels.T > 0, order, axis=1)
    return (np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1) * hit).sum(1) / hit.sum(1)


def both_directions(method, data):
    half = len(data) // 2
    train = Pairs(data.image[:half], data.text[:half], data.labels[:half])
    method.fit(train)
    x, y = method.encode_image(data.image[half:]), method.encode_text(data.text[half:])
    rest = data.labels[half:]
    return cosine_map(x, y, rest, rest).mean(), cosine_map(y, x, rest, rest).mean()


CM = {"variant": "cm", "correlation": "cca"}
METHODS = [
    CCA(**CM, dim=3, ridge=0.0),
    CCA(variant="cm", correlation="pls", dim=3),
    CCA(variant="sm", correlation="cca", dim=3),
    CCA(variant="scm", correlation="cca", dim=3, regression="one-vs-rest"),
    KCCA(dim=3, image_kernel="rbf", text_kernel="linear", kappa=1e-3),
    ClusterCCA(variant="cluster", dim=3, ridge=0.1),
    ClusterCCA(variant="mean", dim=3, ridge=0.1),
    MLCCA(dim=3, neighbours=10, sigma=1.0),
    MLCCA(dim=3, neighbours=None, sigma=1.0),
    *[GMA(variant=v, dim=3) for v in ("lda", "mfa", "blm", "cca", "pls")],
]
NAMES = [f"{type(m).__name__}-{getattr(m, 'variant', '')}" for m in METHODS]


# Shared mathematics


def test_whitening_spans_the_range_of_a_singular_matrix_only():
    A = np.random.default_rng(0).normal(size=(6, 3))
    W = whitening(A @ A.T)
    assert W.shape == (6, 3)
    np.testing.assert_allclose(W.T @ A @ A.T @ W, np.eye(3), atol=1e-9)


def test_top_eigenvectors_solve_the_generalised_problem_largest_first():
    rng = np.random.default_rng(0)
    A, B = (M @ M.T for M in rng.normal(size=(2, 6, 6)))
    values, V = top_eigenvectors(A, B, 4)
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(A @ V, B @ V * values, atol=1e-6)
    np.testing.assert_allclose(values, np.sort(np.linalg.eigvals(np.linalg.solve(B, A)).real)[::-1][:4])


def test_a_singular_constraint_asks_for_more_ridge():
    with pytest.raises(UsageError, match="ridge"):
        top_eigenvectors(np.eye(3), np.diag([1.0, 1.0, 0.0]), 2)


def test_canonical_correlations_are_the_singular_values_of_the_whitened_cross_covariance():
    data = pairs()
    X, Y = data.image - data.image.mean(0), data.text - data.text.mean(0)
    n = len(X)
    T = np.linalg.inv(sqrtm(X.T @ X / n)) @ (X.T @ Y / n) @ np.linalg.inv(sqrtm(Y.T @ Y / n))
    found = cca(data.image, data.text, 8, 0.0)
    np.testing.assert_allclose(found.strength, np.linalg.svd(T, compute_uv=False), atol=1e-8)
    for k in range(8):
        r = np.corrcoef(X @ found.image[:, k], Y @ found.text[:, k])[0, 1]
        assert r == pytest.approx(found.strength[k])


def test_regularised_cca_solves_its_block_eigenproblem():
    data, ridge = pairs(), 0.3
    X, Y = data.image - data.image.mean(0), data.text - data.text.mean(0)
    n, p, q = len(X), X.shape[1], Y.shape[1]
    cross = np.block([[np.zeros((p, p)), X.T @ Y / n], [Y.T @ X / n, np.zeros((q, q))]])
    constraint = block_diag(X.T @ X / n, Y.T @ Y / n) + ridge * np.eye(p + q)
    found = cca(X, Y, 5, ridge)
    np.testing.assert_allclose(found.strength, eigh(cross, constraint, eigvals_only=True)[::-1][:5], atol=1e-9)


def test_dim_beyond_the_shared_rank_is_an_error_that_names_the_limit():
    data = pairs(text=3)
    with pytest.raises(UsageError, match="3 directions"):
        CCA(**CM, dim=4, ridge=0.0).fit(data)
    constant_sum = np.column_stack([data.text, 1 - data.text.sum(axis=1)])
    for ridge in (0.0, 1e-3):
        with pytest.raises(UsageError, match="from 1 to 3"):
            CCA(**CM, dim=4, ridge=ridge).fit(Pairs(data.image, constant_sum))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_method_refuses_more_directions_than_there_are(method):
    greedy = replace(method, dim=500)
    if getattr(method, "variant", "") == "sm":
        pytest.skip("semantic matching has one dimension per class")
    with pytest.raises(UsageError, match="dim is 500"):
        greedy.fit(pairs())


# CCA


def test_scikit_learn_agrees_on_canonical_mode_pls():
    data = pairs()
    ours = CCA(variant="cm", correlation="pls", dim=4).fit(data)
    X, Y = data.image - data.image.mean(0), data.text - data.text.mean(0)
    x, y = PLSCanonical(n_components=4, scale=False, tol=1e-14, max_iter=20000).fit(X, Y).transform(X, Y)
    same_up_to_sign(ours.encode_image(data.image), x, 1e-5)
    same_up_to_sign(ours.encode_text(data.text), y, 1e-5)


def test_cca_does_not_depend_on_the_units_of_the_features():
    data = pairs()
    scaled = Pairs(data.image * np.arange(1, 13) + 5, data.text * 0.01, None)
    ours, theirs = (CCA(**CM, dim=3, ridge=0.0).fit(d) for d in (data, scaled))
    same_up_to_sign(ours.encode_image(data.image), theirs.encode_image(scaled.image))


@pytest.mark.parametrize("regression", ["multinomial", "one-vs-rest"])
def test_semantic_matching_gives_class_posteriors(regression):
    data = pairs()
    posterior = CCA(variant="sm", correlation="cca", dim=3, regression=regression).fit(data).encode_text(data.text)
    np.testing.assert_allclose(posterior.sum(axis=1), 1)
    assert (posterior.argmax(1) == data.labels.argmax(1)).mean() > 0.5
    if regression == "multinomial":
        theirs = LogisticRegression(C=30, tol=0.01, max_iter=1000).fit(data.text, data.labels.argmax(1))
        np.testing.assert_allclose(posterior, theirs.predict_proba(data.text), atol=1e-12)


def test_semantic_correlation_matching_classifies_the_correlated_projections():
    data = pairs()
    cm = CCA(**CM, dim=3).fit(data)
    scm = CCA(variant="scm", correlation="cca", dim=3).fit(data)
    sm_on_projections = CCA(variant="sm", correlation="cca", dim=3).fit(
        Pairs(cm.encode_image(data.image), cm.encode_text(data.text), data.labels)
    )
    expected = sm_on_projections.encode_image(cm.encode_image(data.image))
    np.testing.assert_allclose(scm.encode_image(data.image), expected, atol=1e-12)


def test_semantic_matching_needs_labels_and_correlation_matching_does_not():
    data = pairs()
    unlabelled = Pairs(data.image, data.text)
    CCA(**CM, dim=3).fit(unlabelled)
    with pytest.raises(UsageError, match="labels"):
        CCA(variant="sm", correlation="cca", dim=3).fit(unlabelled)


# Kernel CCA


@pytest.mark.parametrize("name", ["linear", "rbf", "chi2", "intersection"])
def test_incomplete_cholesky_reproduces_the_kernel(name):
    x = histograms(pairs(n=60)).image
    K = kernel(name, x, x, 0.5)
    pivots, factor = incomplete_cholesky(name, x, 60, 1e-12, 0.5)
    R = cholesky_features(name, x, pivots, factor, 0.5)
    np.testing.assert_allclose(R @ R.T, K, atol=1e-8)
    few, L = incomplete_cholesky(name, x, 60, 0.05, 0.5)
    R = cholesky_features(name, x, few, L, 0.5)
    assert len(few) < 60
    assert 0 <= np.trace(K - R @ R.T) <= 0.05 * np.trace(K) + 1e-9


def test_kernels_are_what_they_say():
    x = histograms(pairs(n=9)).image
    np.testing.assert_allclose(kernel("intersection", x, x), np.minimum(x[:, None], x).sum(axis=2))
    np.testing.assert_allclose(kernel("chi2", x, x, 2.0), chi2_kernel(x, gamma=0.5))
    with pytest.raises(UsageError, match="negative"):
        kernel("chi2", x - 0.5, x)
    with pytest.raises(UsageError, match="unknown kernel"):
        kernel("rfb", x, x)


def test_kcca_with_linear_kernels_is_cca():
    data = pairs()
    kcca = KCCA(dim=4, image_kernel="linear", text_kernel="linear", kappa=0.1, tolerance=0.0).fit(data)
    linear = CCA(**CM, dim=4, ridge=0.1).fit(data)
    other = pairs(seed=5)
    same_up_to_sign(kcca.encode_image(other.image), linear.encode_image(other.image))
    same_up_to_sign(kcca.encode_text(other.text), linear.encode_text(other.text))


def test_kcca_solves_the_dual_problem_of_full_kernel_matrices():
    data, kappa = histograms(pairs(n=50)), 0.01
    n, J = 50, np.eye(50) - 1 / 50
    model = KCCA(dim=3, image_kernel="rbf", text_kernel="chi2", kappa=kappa, rank=50, tolerance=0.0).fit(data)
    Kx = J @ kernel("rbf", data.image, data.image, float(model.image_width_)) @ J
    Ky = J @ kernel("chi2", data.text, data.text, 1.0) @ J
    cross = np.block([[np.zeros((n, n)), Kx @ Ky], [Ky @ Kx, np.zeros((n, n))]])
    constraint = block_diag(Kx @ Kx + n * kappa * Kx, Ky @ Ky + n * kappa * Ky) + 1e-12 * np.eye(2 * n)
    _, vectors = eigh(cross, constraint)
    x, y = model.encode_image(data.image), model.encode_text(data.text)
    for k in range(3):
        a, b = vectors[:n, -1 - k], vectors[n:, -1 - k]
        assert abs(np.corrcoef(Kx @ a, x[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)
        assert abs(np.corrcoef(Ky @ b, y[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)


# Cluster-CCA


@pytest.mark.parametrize("data", [pairs(n=40), multi_label(pairs(n=40))], ids=["single", "multi-label"])
def test_cluster_cca_is_cca_on_all_pairs_within_a_class(data):
    shared = data.labels.astype(int) @ data.labels.T
    i, j = np.nonzero(shared)
    times = shared[i, j]
    i, j = np.repeat(i, times), np.repeat(j, times)
    explicit = CCA(**CM, dim=3, ridge=0.2).fit(Pairs(data.image[i], data.text[j]))
    ours = ClusterCCA(variant="cluster", dim=3, ridge=0.2).fit(data)
    same_up_to_sign(ours.encode_image(data.image), explicit.encode_image(data.image))
    same_up_to_sign(ours.encode_text(data.text), explicit.encode_text(data.text))


def test_cluster_cca_is_cca_when_every_pair_is_its_own_class():
    data = pairs(n=40)
    single = Pairs(data.image, data.text, np.eye(40, dtype=np.uint8))
    ours = ClusterCCA(variant="cluster", dim=3, ridge=0.2).fit(single)
    same_up_to_sign(ours.encode_image(data.image), CCA(**CM, dim=3, ridge=0.2).fit(data).encode_image(data.image))


def test_mean_cca_is_cca_of_the_class_means_and_has_few_directions():
    data = pairs(classes=4)
    X, Y = (np.stack([V[data.labels[:, c] == 1].mean(0) for c in range(4)]) for V in (data.image, data.text))
    expected, ours = cca(X, Y, 3, 0.1), ClusterCCA(variant="mean", dim=3, ridge=0.1).fit(data)
    same_up_to_sign(ours.image_projection_, expected.image)
    with pytest.raises(UsageError, match="from 1 to 3"):
        ClusterCCA(variant="mean", dim=4, ridge=0.1).fit(data)


# ml-CCA


@pytest.mark.parametrize("neighbours", [None, 1, 7])
def test_ml_cca_sums_over_label_weighted_pairs(neighbours):
    data, sigma, kappa = multi_label(pairs(n=40)), 0.7, 0.25
    n, L = 40, data.labels.astype(float)
    Cxx, Cyy, Cxy = np.zeros((12, 12)), np.zeros((8, 8)), np.zeros((12, 8))
    for i in range(n):
        distance = np.sqrt(((L[i] - L) ** 2).sum(axis=1))
        for j in np.argsort(distance, kind="stable")[:neighbours]:
            w = np.exp(-distance[j] / sigma) / (n * (neighbours or n))
            Cxx += w * np.outer(data.image[i], data.image[i])
            Cyy += w * np.outer(data.text[j], data.text[j])
            Cxy += w * np.outer(data.image[i], data.text[j])
    Cxx += kappa * np.trace(Cxx) / 12 * np.eye(12)
    Cyy += kappa * np.trace(Cyy) / 8 * np.eye(8)
    expected = canonical_subspace(Cxx, Cyy, Cxy, 3)
    ours = MLCCA(dim=3, neighbours=neighbours, sigma=sigma, kappa=kappa).fit(data)
    same_up_to_sign(ours.image_projection_, expected.image / np.linalg.norm(expected.image, axis=0))
    same_up_to_sign(ours.text_projection_, expected.text / np.linalg.norm(expected.text, axis=0))


def test_ml_cca_refuses_impossible_settings():
    for settings in (
        {"neighbours": 0, "sigma": 1.0},
        {"neighbours": 151, "sigma": 1.0},
        {"neighbours": 5, "sigma": 0.0},
    ):
        with pytest.raises(UsageError, match="ml-CCA needs"):
            MLCCA(dim=3, **settings).fit(pairs())


# GMA


def block_problem(keep, suppress, cross, dim):
    A = np.block([[keep[0], cross], [cross.T, keep[1]]])
    return eigh(A, block_diag(*suppress))[1][:, ::-1][:, :dim]


def test_gma_blm_and_cca_solve_the_stated_block_problem():
    data = pairs()
    X, Y = data.image, data.text
    moments = X.T @ X, Y.T @ Y
    V = block_problem(moments, (np.eye(12), np.eye(8)), 500 * X.T @ Y, 4)
    ours = GMA(variant="blm", dim=4).fit(data)
    same_up_to_sign(np.vstack([ours.image_projection_, ours.text_projection_]), V)
    ridged = [C + 0.02 * np.eye(len(C)) for C in moments]
    V = block_problem(moments, ridged, 10 * X.T @ Y, 4)
    ours = GMA(variant="cca", dim=4, ridge=0.01).fit(data)
    same_up_to_sign(np.vstack([ours.image_projection_, ours.text_projection_]), V)


@pytest.mark.parametrize("variant", ["lda", "mfa"])
def test_supervised_gma_solves_the_stated_block_problem(variant):
    data = pairs()
    groups = [data.labels[:, c] == 1 for c in range(4)]
    views, axes = [], []
    for V in (data.image, data.text):
        centred = V - V.mean(0)
        axes.append(principal_axes(centred, 0.95))
        views.append(centred @ axes[-1])
    means = [np.stack([V[g].mean(0) for g in groups]) for V in views]
    if variant == "lda":
        keep = [sum(g.sum() * np.outer(m, m) for g, m in zip(groups, M, strict=True)) for M in means]
        suppress = [
            sum((V[g] - m).T @ (V[g] - m) for g, m in zip(groups, M, strict=True))
            for V, M in zip(views, means, strict=True)
        ]
    else:
        keep = [between_class_pairs(V, data.labels, 20) for V in views]
        suppress = [within_class_neighbours(V, data.labels, 5) for V in views]
    suppress[0] = suppress[0] * np.trace(suppress[1]) / np.trace(suppress[0])
    suppress = [C + 0.01 * np.eye(len(C)) for C in suppress]
    V = block_problem(keep, suppress, ALPHA[variant] * means[0].T @ means[1], 3)
    ours = GMA(variant=variant, dim=3, neighbours=5, margin_pairs=20).fit(data)
    p = axes[0].shape[1]
    same_up_to_sign(ours.image_projection_, axes[0] @ V[:p])
    same_up_to_sign(ours.text_projection_, axes[1] @ V[p:])


def test_gma_pls_predicts_the_image_from_the_text_as_pls_regression_does():
    data = pairs()
    R, Q = pls_bases(data.text, data.image, 4)
    X, Y = ((V - V.mean(0)) / np.sqrt(V.std(0)) for V in (data.text, data.image))
    model = PLSRegression(n_components=4, scale=False, tol=1e-14, max_iter=9999).fit(X, Y)
    np.testing.assert_allclose(np.linalg.norm(R, axis=0), 1)
    np.testing.assert_allclose(X @ R @ Q.T + Y.mean(0), model.predict(X), atol=1e-5)


def test_principal_axes_hold_the_energy_asked_for():
    X = pairs().image - pairs().image.mean(0)
    P = principal_axes(X, 0.9)
    held = np.square(X @ P).sum() / np.square(X).sum()
    assert held >= 0.9
    assert np.square(X @ P[:, :-1]).sum() / np.square(X).sum() < 0.9
    np.testing.assert_allclose(P.T @ P, np.eye(P.shape[1]), atol=1e-9)


def test_between_and_within_class_scatter_add_up_for_items_of_several_classes():
    data = multi_label(pairs())
    X = data.image - data.image.mean(0)
    between = between_class_means(X, data.labels)
    within = X.T @ X - between
    assert np.linalg.eigvalsh(between).min() > -1e-8
    assert np.linalg.eigvalsh(within).min() > -1e-8


def test_marginal_fisher_graphs_hold_near_items_of_a_class_and_the_closest_strangers():
    data = pairs(n=30)
    X, label = data.image, data.labels.argmax(1)
    distance = ((X[:, None] - X) ** 2).sum(axis=2)
    within, between = np.zeros((30, 30)), np.zeros((30, 30))
    for i in range(30):
        own = np.flatnonzero(label == label[i])
        for j in own[np.argsort(distance[i, own])[1:4]]:
            within[i, j] = within[j, i] = 1
    i, j = np.triu_indices(30, 1)
    strangers = label[i] != label[j]
    i, j = i[strangers], j[strangers]
    closest = np.argsort(distance[i, j])[:12]
    between[i[closest], j[closest]] = between[j[closest], i[closest]] = 1
    scatter = lambda S: X.T @ (np.diag(S.sum(1)) - S) @ X  # noqa: E731
    np.testing.assert_allclose(within_class_neighbours(X, data.labels, 3), scatter(within))
    np.testing.assert_allclose(between_class_pairs(X, data.labels, 12), scatter(between))


# Every method


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_retrieves_far_above_chance_on_halves_of_digits(method):
    i2t, t2i = both_directions(method, digit_halves())
    assert i2t > 0.14
    assert t2i > 0.14


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_state_is_arrays_that_encode_alike_after_loading(method):
    data = multi_label(pairs())
    method.fit(data)
    state = method.state()
    assert all(isinstance(v, np.ndarray) and v.dtype == np.float64 for v in state.values())
    again = replace(method).load_state(state)
    np.testing.assert_array_equal(again.encode_image(data.image), method.encode_image(data.image))
    np.testing.assert_array_equal(again.encode_text(data.text), method.encode_text(data.text))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_rank_deficient_text_is_no_trouble(method):
    data = pairs()
    text = np.column_stack([data.text, data.text[:, :3], np.zeros(len(data))])
    method.fit(Pairs(data.image, text, data.labels))
    assert np.isfinite(method.encode_text(text)).all()


# The published code's and the reference numbers on Wikipedia, 693 test items against each other


def wikipedia(mirror):
    folder = mirror / "wikipedia"
    data = loadmat(folder / "wikiData.mat")
    train, test = (Pairs(data[f"I_{s}"], data[f"T_{s}"], data[f"L_{s}"].astype(np.uint8)) for s in ("tr", "te"))
    return train, test


REFERENCES = [
    (CCA(**CM, dim=7, ridge=1e-4), 0.24994, 0.19932),
    (CCA(**CM, dim=9, ridge=1e-4), 0.24385, 0.19526),
    (CCA(**CM, dim=9, ridge=1e-3), 0.23947, 0.18607),
    (CCA(**CM, dim=9, ridge=0.0), 0.24166, 0.19661),
    (GMA(variant="blm"), 0.20968, 0.16733),
    (GMA(variant="cca"), 0.2363, 0.19289),
    (GMA(variant="pls"), 0.22305, 0.18102),
    (GMA(variant="lda", alpha=10.0, ridge=1e-6), 0.16018, 0.14364),
    (GMA(variant="mfa", alpha=10.0, ridge=1e-6), 0.20863, 0.15318),
]


@pytest.mark.parametrize(("method", "i2t", "t2i"), REFERENCES)
def test_equals_published_or_reference_code_on_wikipedia(method, i2t, t2i, mirror):
    train, test = wikipedia(mirror)
    method.fit(train)
    x, y = method.encode_image(test.image), method.encode_text(test.text)
    assert cosine_map(x, y, test.labels, test.labels).mean() == pytest.approx(i2t, abs=2e-5)
    assert cosine_map(y, x, test.labels, test.labels).mean() == pytest.approx(t2i, abs=2e-5)


def test_ml_cca_equals_the_authors_code_on_wikipedia(mirror):
    train, test = wikipedia(mirror)
    centred = Pairs(train.image - train.image.mean(0), train.text - train.text.mean(0), train.labels)
    method = MLCCA(dim=9, neighbours=20, sigma=1.0).fit(centred)
    x, y = (method.encode_image(test.image - train.image.mean(0)), method.encode_text(test.text - train.text.mean(0)))
    assert cosine_map(x, y, test.labels, test.labels).mean() == pytest.approx(0.26455, abs=2e-5)
    assert cosine_map(y, x, test.labels, test.labels).mean() == pytest.approx(0.21048, abs=2e-5)
