"""The mathematics of DECL, against loops and distributions, and which pairs it takes for clean."""

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.scenarios.decl import DECL, divergence_from_uniform, evidential_loss, hinge_loss
from cmrkit.training.loop import Loop
from cmrkit.training.options import Options
from cmrkit.training.rows import TrainingSet

SPEC = Spec((5, 8), (7,), 6, 6, None, 12)
SMALL = {"dim": 10, "word_dim": 6, "sim_dim": 4, "dropout": 0.0}


def evidence(count=5):
    torch.manual_seed(0)
    return torch.randn(count, count, dtype=torch.float64).exp()


def words(count=6):
    y = torch.randint(1, 12, (count, 7), generator=torch.Generator().manual_seed(1))
    y[torch.arange(7) >= torch.tensor([7, 3, 5, 1, 6, 4])[:, None]] = 0
    return y


def test_the_divergence_is_that_of_dirichlet_distributions():
    alpha = evidence() + 1
    expected = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
    torch.testing.assert_close(divergence_from_uniform(alpha), expected)


def test_the_evidential_loss_is_the_expected_square_of_a_dirichlet_and_noisy_rows_want_no_evidence():
    E, clean = evidence(), torch.tensor([True, False, True, True, False])
    for i in range(5):
        p, target = Dirichlet(E[i] + 1), torch.eye(5, dtype=E.dtype)[i] * clean[i]
        wrong = Dirichlet(1 + E[i] * (1 - target))
        square = ((target - p.mean) ** 2 + p.variance).sum()
        expected = square + 0.3 * kl_divergence(wrong, Dirichlet(torch.ones_like(E[i])))
        torch.testing.assert_close(evidential_loss(E, clean, 0.3)[i], expected)


@pytest.mark.parametrize("h", [1, 3, 4])
def test_the_hinge_loss_is_the_mean_over_the_hardest(h):
    T = evidence().log().tanh()
    for i, found in enumerate(hinge_loss(T, h, 0.2)):
        hinges = sorted((max(0.2 + T[i, j] - T[i, i], 0.0) for j in range(5) if j != i), reverse=True)
        torch.testing.assert_close(found, torch.as_tensor(hinges[:h]).mean())


def test_fewer_and_fewer_negatives_count():
    method = DECL(batch_size=128, eta=0.025, mu=5)
    assert [method.hardness(step, 128) for step in (1, 40, 41, 4920, 10_000)] == [127, 127, 126, 5, 5]
    assert method.hardness(1, 30) == 29


@torch.no_grad()
def test_a_pair_compares_alike_alone_and_in_company():
    torch.manual_seed(0)
    method = DECL(**SMALL)
    net, x, y = method.build(SPEC).eval(), torch.randn(6, 5, 8), words()
    together = method.match(net, method.embed_image(net, x), method.embed_text(net, y))
    for i, j in ((0, 0), (2, 3), (5, 1)):
        length = int((y[j] != 0).sum())
        image, text = method.embed_image(net, x[i : i + 1]), method.embed_text(net, y[j : j + 1, :length])
        torch.testing.assert_close(method.match(net, image, text)[0, 0], together[i, j])


def similar(S):
    """A method whose similarities of training pairs are given."""
    method = DECL(**SMALL, batch_size=len(S), warmup_epochs=1)
    method.similarities = lambda net, batch: S[batch.rows][:, batch.rows]
    return method


def loop_at(epoch, count):
    batch = lambda rows: Batch(None, None, None, rows, rows)  # noqa: E731
    return SimpleNamespace(epoch=epoch, spec=SimpleNamespace(n_texts=count), generator=None, batch=batch,
                           autocast=lambda: torch.autocast("cpu", enabled=False))  # fmt: skip


def test_a_pair_is_clean_where_both_directions_together_prefer_it():
    S = torch.zeros(6, 6).fill_diagonal_(0.5)
    S[1, 1], S[1, 4], S[4, 1] = 0.2, 0.3, -0.9  # image 1 prefers text 4
    S[3, 3] = -0.1  # below all others
    method, net = similar(S), DECL(**SMALL).build(SPEC)
    method.epoch_start(net, loop_at(0, 6))
    assert net.clean.all(), "all are, in the warm-up"
    method.epoch_start(net, loop_at(1, 6))
    assert net.clean.tolist() == [True, False, True, False, True, True]


def test_pairs_taken_for_noisy_teach_no_ranking():
    S = torch.zeros(6, 6, requires_grad=True)
    method, net = similar(S), DECL(**SMALL).build(SPEC)
    method.lambda2 = 0.0
    batch, loop = (
        Batch(None, None, None, torch.arange(6), torch.arange(6)),
        SimpleNamespace(step=0, log_value=lambda *_: None),
    )
    both = method.loss(net, batch, loop)
    net.clean.fill_(False)
    none = method.loss(net, batch, loop)
    alpha = torch.full((6,), 2.0)
    torch.testing.assert_close(none, 2 * (Dirichlet(alpha).mean.square() + Dirichlet(alpha).variance).sum())
    assert both - none > 0.8 * 6 * 2 * 0.2  # every hinge is the margin


def test_an_epoch_leaves_out_a_last_batch_too_small_for_its_negatives_and_training_runs():
    torch.manual_seed(0)
    x, y = torch.randn(13, 5, 8).numpy(), words(6).repeat(3, 1)[:13].numpy()
    data = TrainingSet(x, y, torch.arange(13).numpy(), None, 12)
    method = DECL(**SMALL, batch_size=6, mu=2, epochs=2, warmup_epochs=1, schedule="constant", select="")
    loop = Loop(method, data, Options(device="cpu"))
    loop.run()
    assert loop.step == 4
    assert len(method.order(loop)) == 12


def test_vectors_are_refused():
    with pytest.raises(UsageError, match="regions"):
        DECL(**SMALL).build(Spec((8,), (7,), 6, 6, None, 12))
