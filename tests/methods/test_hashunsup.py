"""Deep hashing without labels, and DCHMT: each loss is what its formula says."""

import math

import numpy as np
import pytest
import torch

from cmrkit.methods.base import Pairs
from cmrkit.methods.hashing_supervised_deep import dchmt
from cmrkit.methods.hashing_unsupervised_deep import dgcpn, jdsh, ugach
from cmrkit.methods.hashing_unsupervised_deep.djsrh import DJSRH
from cmrkit.methods.hashing_unsupervised_deep.dsah import DSAH
from cmrkit.methods.parts.cosines import affinity, cosines
from cmrkit.training.loop import Loop
from cmrkit.training.options import Options
from cmrkit.training.rows import Spec, TrainingSet

SPEC = Spec((5,), (4,), 20, 20)


def features(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator), torch.randn(n, 4, generator=generator)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


class TestDJSRH:
    def test_joint_semantics_fuse_both_modalities_and_those_who_are_alike_to_the_same_others(self):
        X, Y = features()
        S = DJSRH(beta=0.3, eta=0.4, mu=1.5).joint_semantics(X, Y)
        fused = [[0.3 * (2 * cosine(X[i], X[j]) - 1) + 0.7 * (2 * cosine(Y[i], Y[j]) - 1) for j in range(6)]
                 for i in range(6)]  # fmt: skip
        expected = 1.5 * (0.6 * fused[1][4] + 0.4 * sum(fused[1][k] * fused[4][k] for k in range(6)) / 6)
        assert float(S[1, 4]) == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(S, S.T)

    def test_learns_codes_that_keep_more_of_the_similarities(self):
        rng = np.random.default_rng(0)
        latent = np.eye(4)[rng.integers(4, size=160)]
        pairs = Pairs(latent @ rng.normal(size=(4, 10)), latent @ rng.normal(size=(4, 8)), None)

        def errors(lr):
            method = DJSRH(bits=16, hidden=32, epochs=8, lr=lr).fit(pairs)
            A, B = (
                torch.from_numpy(c).float() for c in (method.encode_image(pairs.image), method.encode_text(pairs.text))
            )
            S = method.joint_semantics(torch.tensor(pairs.image).float(), torch.tensor(pairs.text).float())
            return float((cosines(A, B) - S).square().mean())

        assert errors(0.01) < 0.8 * errors(1e-9)


class TestJDSH:
    def test_weights_only_the_tails_and_pushes_them_outwards(self):
        method = jdsh.JDSH(mu=1.0, L1=0.1, L2=0.2)
        S = torch.tensor([-0.9, -0.2, 0.1, 0.8])
        weighed = method.weigh(S, torch.tensor([-0.5, 0.4, -0.9, 0.8]))
        torch.testing.assert_close(weighed, torch.tensor([-0.9 * 1.1, -0.2, 0.1, 0.8 * 1.2]))

    def test_fitted_thresholds_leave_two_and_four_scales_on_either_flank_of_the_mode(self):
        values = torch.randn(300, 300, generator=torch.Generator().manual_seed(0)) * 0.1
        left, right, low, high = jdsh.thresholds(values).tolist()
        assert (left, right) == pytest.approx((-0.2, 0.4), abs=0.06)
        assert low < left < right < high


class TestDSAH:
    def test_reconstruction_trains_decoders_and_moves_no_code(self):
        torch.manual_seed(0)
        method = DSAH(bits=8, hidden=6)
        net = method.build(SPEC)
        X, Y = features()
        batch = type("B", (), {"image": X, "text": Y})
        B_I, B_T = torch.tanh(method.embed_image(net, X)), torch.tanh(method.embed_text(net, Y))
        method.reconstruction(net, B_I, B_T, batch).backward()
        assert net["text_of_image"].weight.grad.abs().sum() > 0
        assert not net["image"][0].weight.grad.any()

    def test_alignment_of_equal_codes_and_features_leaves_what_a_cosine_cannot_reach(self):
        X, _ = features()
        method = DSAH(k=1.0, alpha=0.5, eta=0.0)
        # cos(B) = C against 2 C - 1: what differs is 1 - C, thrice; pairs and symmetry are met.
        expected = 3 * float((1 - cosines(X, X)).square().mean())
        assert float(method.alignment(X, X, X, X)) == pytest.approx(expected, abs=1e-5)


class TestDGCPN:
    def test_rows_of_neighbour_probabilities_keep_the_largest_but_for_the_item_itself(self):
        C = torch.tensor([[1.0, 0.5, 0.3, 0.1], [0.5, 1.0, 0.2, 0.4]])
        P = dgcpn.neighbour_probabilities(C, torch.tensor([0, 1]), 3)
        torch.testing.assert_close(P, torch.tensor([[0, 0.625, 0.375, 0], [5 / 9, 0, 0, 4 / 9]]))

    def test_a_network_whose_codes_enter_as_signs_stays_where_it_is(self):
        rng = np.random.default_rng(0)
        data = TrainingSet(rng.normal(size=(40, 5)), rng.normal(size=(40, 4)), np.arange(40))
        method = dgcpn.DGCPN(bits=8, hidden=6, neighbours=10, scale=5.0, steps=1)
        moved = []
        descend = Loop.descend

        def watched(self, batch, loss, optimizer="main"):
            before = [self.net.image[0].weight.clone(), self.net.text[0].weight.clone()]
            value = descend(self, batch, loss, optimizer)
            moved.append(
                tuple(
                    not torch.equal(a, b.weight)
                    for a, b in zip(before, (self.net.image[0], self.net.text[0]), strict=True)
                )
            )
            return value

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "descend", watched)
            Loop(method, data, Options(device="cpu")).run()
        assert moved == [(True, True), (True, False), (False, True)]


class TestUGACH:
    def test_discriminator_never_draws_a_positive_while_another_candidate_is_there(self):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        data = TrainingSet(rng.normal(size=(40, 5)), rng.normal(size=(40, 4)), np.arange(40))
        method = ugach.UGACH(bits=8, hidden=6, neighbours=3, pretrain_epochs=0, epochs=1, sample_ratio=2)
        seen = []
        hinges = method.hinges

        def watched(net, batch, candidates, drawn, query, loop):
            seen.extend(
                (net.positives[batch.rows][:, :, None] == candidates.rows[drawn][:, None, :]).any((1, 2)).tolist()
            )
            return hinges(net, batch, candidates, drawn, query, loop)

        method.hinges = watched
        Loop(method, data, Options(device="cpu")).run()
        assert len(seen) == 80
        assert not any(seen)

    def test_the_graph_counts_each_item_among_its_own_neighbours(self):
        X, _ = features(12)
        found = ugach.neighbours_of(X, 3)
        assert found[:, 0].tolist() == list(range(12))
        assert sorted(found[4].tolist()) == sorted((X - X[4]).norm(dim=1).argsort()[:3].tolist())


class TestDCHMT:
    def test_similar_pairs_pay_their_distance_and_others_what_they_lack_of_the_far_one(self):
        A = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        S = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        # Distances to B: 0 and sqrt(2) in the first row, sqrt(2) and 0 in the second.
        loss = dchmt.similarity_loss(A, A, S, far=1.5)
        assert float(loss) == pytest.approx((2 + (1.5 - math.sqrt(2)) ** 2 + 1.5**2) / 4, abs=1e-5)

    def test_a_bit_is_1_where_its_second_value_is_more_probable(self):
        choices = torch.tensor([[[0.2, 0.8], [0.8, 0.2], [0.5, 0.5]]])
        assert torch.sign(dchmt.chosen(choices)).tolist() == [[1, -1, -1]]


def test_affinity_is_1_of_equal_directions_and_minus_1_of_orthogonal_ones():
    X = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(affinity(X), torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))
