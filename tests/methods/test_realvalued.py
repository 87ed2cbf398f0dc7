"""The mathematics of ACMR, MRL, DCCA, Corr-AE and deep-SM, and of the noise that settings put into training data."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from cmrkit.data.settings import noisy_labels, noisy_pairs
from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.parts.cca import cca
from cmrkit.methods.real_supervised_deep.acmr import closest_strangers, contrastive_loss, reverse_gradient, triplet_loss
from cmrkit.methods.real_supervised_deep.deep_sm import DeepSM
from cmrkit.methods.real_unsupervised.corr_ae import CorrAE
from cmrkit.methods.real_unsupervised.dcca import DCCA, TotalCorrelation
from cmrkit.methods.scenarios.mrl import multimodal_contrastive_loss, robust_clustering_loss
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import resolve
from cmrkit.pipeline.training import _training_pairs


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def correlation_by_definition(H, G, r):
    H, G = H - H.mean(0), G - G.mean(0)
    ridge = r * torch.eye(H.shape[1], dtype=H.dtype)
    S11, S22, S12 = H.T @ H / (len(H) - 1) + ridge, G.T @ G / (len(G) - 1) + ridge, H.T @ G / (len(H) - 1)
    A, B = (torch.linalg.inv(torch.linalg.cholesky(S)) for S in (S11, S22))
    return torch.linalg.svdvals(A @ S12 @ B.T).sum()


class TestACMR:
    def test_reversed_gradient_leaves_the_value_and_turns_the_gradient(self):
        Z = drawn(3, 2).requires_grad_()
        turned = reverse_gradient(Z, 0.5)
        assert torch.equal(turned, Z)
        turned.sum().backward()
        assert torch.allclose(Z.grad, torch.full_like(Z, -0.5))

    def test_strangers_share_no_label_and_are_the_closest_such(self):
        X, L = drawn(12, 5), one_hot(torch.arange(12) % 3, 3).double()
        C = normalize(X, dim=1) @ normalize(X, dim=1).T
        for i, j in enumerate(closest_strangers(X, L).tolist()):
            others = [k for k in range(12) if k % 3 != i % 3]
            assert j == max(others, key=lambda k: C[i, k])

    def test_triplets_share_one_hinge(self):
        V, W, strangers = drawn(4, 3), drawn(4, 3), torch.tensor([1, 2, 3, 0])
        near = sum(((V[i] - W[i]) ** 2).sum() / 2 for i in range(4))
        far = sum(((V[i] - W[strangers[i]]) ** 2).sum() / 2 for i in range(4))
        assert torch.isclose(triplet_loss(V, W, strangers, 0.1, 5.0), (0.1 + 5 * near - far).clamp(min=0))
        assert triplet_loss(V, V, strangers, 0.1, 5.0) == 0

    def test_contrastive_loss_is_the_double_sum(self):
        V, W, L = drawn(5, 3), drawn(5, 3), one_hot(torch.tensor([0, 1, 0, 2, 1]), 3).double()
        hinges = [max(0.0, 0.1 - float(V[i].sum() - V[i] @ W[j] + W[j].sum()) * float(L[i] @ L[j] == 0))
                  for i in range(5) for j in range(5)]  # fmt: skip
        expected = (V - W).square().sum().sqrt() + 0.02 * np.mean(hinges)
        assert torch.isclose(contrastive_loss(V, W, L, 0.1, 0.02), expected)


class TestMRL:
    def test_contrast_of_a_pair_with_all_others(self):
        U, V = normalize(drawn(4, 3), dim=1), normalize(drawn(4, 3), dim=1)
        Z, expected = torch.cat([U, V]), 0.0
        for i in range(8):
            others = sum(torch.exp(Z[i] @ Z[j]) for j in range(8) if j != i)
            expected -= torch.log(torch.exp(Z[i] @ Z[(i + 4) % 8]) / others) / 4
        assert torch.isclose(multimodal_contrastive_loss(U, V, 1.0), expected)

    def test_clustering_pulls_hardest_at_the_labels_that_the_model_believes(self):
        C = torch.eye(3, dtype=torch.float64)
        pulls = []
        for p in (0.1, 0.5, 0.9):
            z = torch.tensor([[np.log(2 * p / (1 - p)), 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
            loss = robust_clustering_loss(z, C, C[:1], 1.0)
            assert torch.isclose(loss, torch.tensor(1 - p, dtype=torch.float64).log())
            loss.backward()
            pulls.append(-z.grad[0, 0].item())
        assert pulls == pytest.approx([0.1, 0.5, 0.9])  # d log(1 - p) / d logit = -p; cross-entropy has p - 1

    def test_an_item_of_every_class_has_a_finite_loss(self):
        assert torch.isfinite(robust_clustering_loss(drawn(2, 3), drawn(3, 4), torch.ones(2, 4).double(), 1.0))


class TestDCCA:
    def test_value_and_gradient_are_those_of_the_definition(self):
        H = drawn(60, 4).requires_grad_()
        G = (H.detach() @ drawn(4, 4) + drawn(60, 4)).requires_grad_()
        ours = TotalCorrelation.apply(H, G, 1e-3)
        found = torch.autograd.grad(ours, (H, G))
        plain = correlation_by_definition(H, G, 1e-3)
        assert torch.isclose(ours, plain, atol=1e-10)
        for a, b in zip(found, torch.autograd.grad(plain, (H, G)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)

    def test_value_is_that_of_closed_form_cca(self):
        H, G = drawn(50, 3), drawn(50, 3)
        strength = cca(H.numpy(), G.numpy(), 3, 1e-3 * 49 / 50).strength
        assert TotalCorrelation.apply(H, G, 1e-3).item() == pytest.approx(strength.sum(), abs=1e-10)

    def test_embeddings_of_the_training_set_are_canonical_variates(self):
        x = drawn(120, 6).numpy()
        method = DCCA(hidden=(16,), dim=3, r=1e-6, epochs=3, batch_size=60).fit(Pairs(x, np.tanh(x[:, ::-1]), None))
        X, Y = method.encode_image(x), method.encode_text(np.tanh(x[:, ::-1]))
        np.testing.assert_allclose(X.T @ X / 120, np.eye(3), atol=1e-2)
        cross = X.T @ Y / 120
        np.testing.assert_allclose(cross, np.diag(np.diag(cross)), atol=1e-2)

    def test_a_batch_below_the_dimension_is_refused(self):
        with pytest.raises(UsageError, match="batch_size"):
            DCCA(hidden=(8,), dim=10, batch_size=8).fit(Pairs(np.ones((20, 4)), np.ones((20, 4)), None))


class TestAutoencoders:
    @pytest.mark.parametrize(("variant", "decoders"), [("corr", 2), ("cross", 2), ("full", 4)])
    def test_variants_read_what_they_say(self, variant, decoders):
        method = CorrAE(variant=variant, hidden_image=(8,), hidden_text=(8,), dim=4, dropout=0.0, alpha=0.25)
        net = method.build(Spec((6,), (5,), 9, 9)).eval()
        x, y = torch.randn(9, 6), torch.randn(9, 5)
        f, g = net.image(x), net.text(y)
        assert len([n for n, _ in net.named_children() if "_from_" in n]) == decoders
        expected = 0.25 * ((f - g) ** 2).mean()
        for name, child in net.named_children():
            if "_from_" in name:
                target, source = name.split("_from_")
                truth, own, other = (x, f, g) if target == "image" else (y, g, f)
                expected = expected + 0.75 * ((truth - child(own if source == "own" else other)) ** 2).mean()
        assert torch.isclose(method.loss(net, Batch(x, y, None, torch.arange(9), torch.arange(9)), None), expected)

    def test_deep_sm_embeds_into_class_probabilities(self):
        x, L = np.random.default_rng(0).normal(size=(60, 4)), np.eye(3, dtype=np.uint8)[np.arange(60) % 3]
        x[:, :3] += 3 * L
        method = DeepSM(hidden_image=(8,), hidden_text=(8,), epochs=40, batch_size=20, lr=0.05).fit(Pairs(x, -x, L))
        P = method.encode_image(x)
        np.testing.assert_allclose(P.sum(1), 1, atol=1e-6)
        assert (P.argmax(1) == np.arange(60) % 3).mean() > 0.9


class TestSettings:
    labels = np.eye(10, dtype=np.uint8)[np.arange(2000) % 10]

    @pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
    def test_symmetric_noise_draws_a_share_of_the_labels_from_all_classes(self, rate):
        noisy = noisy_labels(self.labels, rate, seed=0)
        assert (noisy.sum(1) == 1).all()
        assert (noisy != self.labels).any(1).mean() == pytest.approx(0.9 * rate, abs=0.03)

    def test_an_item_of_several_labels_keeps_their_number(self):
        labels = (np.random.default_rng(0).random((300, 8)) < 0.4).astype(np.uint8)
        np.testing.assert_array_equal(noisy_labels(labels, 1.0, seed=0).sum(1), labels.sum(1))

    def test_a_higher_rate_keeps_the_noise_of_a_lower_one_and_another_seed_does_not(self):
        low, high = noisy_labels(self.labels, 0.2, 0), noisy_labels(self.labels, 0.6, 0)
        touched = (low != self.labels).any(1)
        np.testing.assert_array_equal(high[touched], low[touched])
        assert (noisy_labels(self.labels, 0.2, 1) != low).any()

    def test_noisy_pairs_permute_a_share_of_the_texts(self):
        pairs = np.repeat(np.arange(400), 5)
        noisy = noisy_pairs(pairs, 0.5, seed=0)
        np.testing.assert_array_equal(np.bincount(noisy), np.bincount(pairs))
        assert (noisy != pairs).mean() == pytest.approx(0.5, abs=0.01)
        np.testing.assert_array_equal(noisy_pairs(pairs, 0.0, seed=0), pairs)

    def test_a_setting_changes_the_train_step_and_nothing_before_it(self):
        keys = []
        for overrides in ({}, {"setting.label_noise": 0.0}, {"setting.label_noise": 0.4}, {"setting.pair_noise": 0.4}):
            run = resolve("dscmr", "digits", seeds=[0], overrides=overrides)[0]
            steps = {s.name: s.key for s in plan_run(run).ancestry()}
            keys.append((steps["features"], steps["train"]))
        assert len({features for features, _ in keys}) == 1
        assert keys[0] == keys[1]
        assert len({train for _, train in keys}) == 3

    @pytest.mark.parametrize("name", ["setting.label_noise", "setting.labels_noise"])
    def test_a_rate_above_1_and_an_unknown_name_are_refused(self, name):
        with pytest.raises(UsageError):
            resolve("dscmr", "digits", overrides={name: 1.5})

    def test_noise_meets_the_training_split_alone(self):
        labels = np.eye(4, dtype=np.uint8)[np.arange(80) % 4]
        splits = {"train": np.arange(60), "query": np.arange(60, 80)}
        data = FeatureSet(np.zeros((80, 3)), np.zeros((160, 3)), labels, np.repeat(np.arange(80), 2), splits)
        setting = {"label_noise": 0.5, "pair_noise": 0.5, "seed": 0}
        texts, pairs, distinct, noisy = _training_pairs(data, setting)
        np.testing.assert_array_equal(texts, np.arange(120))
        np.testing.assert_array_equal(distinct, splits["train"])
        assert (pairs != np.repeat(np.arange(60), 2)).any()
        assert (noisy != labels[:60]).any()
        np.testing.assert_array_equal(data.labels, np.eye(4, dtype=np.uint8)[np.arange(80) % 4])
        np.testing.assert_array_equal(data.pairs, np.repeat(np.arange(80), 2))
