"""DCMH, SSAH, AGAH, DADH, CPAH, DCHUC: their own mathematics, against loops and closed forms."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.hashing_supervised_deep.agah import update_code_map
from cmrkit.methods.hashing_supervised_deep.cpah import CPAH
from cmrkit.methods.hashing_supervised_deep.dadh import DADH, gain_weights
from cmrkit.methods.hashing_supervised_deep.dchuc import update_codes
from cmrkit.methods.hashing_supervised_deep.dcmh import DCMH
from cmrkit.methods.hashing_supervised_deep.ssah import SSAH, Response, Scales
from cmrkit.methods.parts.adversarial import gradient_penalty
from cmrkit.methods.parts.triplets import cosine_triplets


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def some_labels(n, classes=4):
    labels = (torch.rand(n, classes) < 0.3).double()
    labels[labels.sum(dim=1) == 0, 0] = 1
    return labels


def test_triplet_sum_is_that_of_a_loop():
    A, B, L = torch.randn(7, 5).double(), torch.randn(7, 5).double(), some_labels(7)
    weights = torch.rand(7, 7, 7).double()
    total = 0.0
    for a, p, n in itertools.product(range(7), repeat=3):
        if L[a] @ L[p] > 0 and L[a] @ L[n] == 0:
            d = [max(0.0, 1 - float(A[a] @ B[j] / (A[a].norm() * B[j].norm()))) for j in (p, n)]
            total += float(weights[a, p, n]) * max(0.0, d[0] - d[1] + 0.3)
    assert float(cosine_triplets(A, B, L, 0.3, weights)) == pytest.approx(total)


def test_a_linear_critic_of_norm_three_is_penalised_by_four():
    w = torch.tensor([3.0, 0.0])
    penalty = gradient_penalty(lambda x: x @ w, torch.randn(5, 2), torch.randn(5, 2))
    assert float(penalty) == pytest.approx(4.0)


def test_dcmh_gradient_is_the_one_that_the_authors_write_out():
    n, b, bits = 12, 5, 6
    method, labels = DCMH(bits=bits), some_labels(n)
    own, other = torch.randn(n, bits).double(), torch.randn(n, bits).double()
    B, rows = torch.randn(n, bits).sign().double(), torch.randperm(n)[:b]
    codes = torch.randn(b, bits).double().requires_grad_()
    method.objective(codes, own, other, B, rows, labels).backward()
    S = (labels[rows] @ labels.T > 0).double()
    assert torch.equal(own[rows], codes.detach())
    likelihood = 0.5 * (torch.sigmoid(own[rows] @ other.T / 2) - S) @ other
    expected = (likelihood + 2 * (own[rows] - B[rows]) + 2 * own.sum(dim=0)) / (b * n)
    torch.testing.assert_close(codes.grad, expected)


def test_ssah_response_divides_by_the_sum_over_five_neighbours():
    x = torch.randn(2, 9).double() * 30
    padded = torch.nn.functional.pad(x.square(), (2, 2))
    around = sum(padded[:, i : i + 9] for i in range(5))
    torch.testing.assert_close(Response()(x), x / (2 + 1e-4 * around) ** 0.75)


def test_ssah_scales_leave_out_windows_wider_than_the_text():
    scales = Scales(12)
    with torch.no_grad():
        scales.weights.fill_(1.0)
    y = torch.rand(3, 12)
    out = scales(y)
    assert out.shape == (3, 36)  # the text and windows of 5 and 10
    torch.testing.assert_close(out[:, 12], y[:, :5].mean(dim=1))
    torch.testing.assert_close(out[:, 24:], y[:, :10].mean(dim=1, keepdim=True).expand(3, 12))


def test_ssah_round_trains_labels_before_what_they_teach():
    stages = SSAH(label_passes=10, passes=15).stages()
    assert len(stages) == 44
    names = [name for name, _ in itertools.groupby(name for name, _ in stages)]
    assert names == ["label", "critic", "towers"]


def test_agah_code_map_update_lowers_its_objective():
    n, bits, classes = 20, 8, 5
    U, V, C = (torch.randn(m, bits).sign().double() for m in (n, n, classes))
    L = some_labels(n, classes)

    def objective(C):  # codes agree with the maps of their labels, and maps with themselves only
        return sum((C @ Z.T - bits * T).square().sum() for Z, T in ((U, L.T), (V, L.T)))

    before = objective(C)
    update_code_map(C, U, V, L)
    assert objective(C) < before
    assert set(C.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_dadh_gains_rank_by_the_number_of_shared_labels():
    L = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    w = gain_weights(L)
    ideal = 3 / 1 + 3 / torch.log2(torch.tensor(3.0)) + 1 / 2
    assert float(w[0, 1, 3]) == pytest.approx(float(3 / ideal))
    assert float(w[0, 2, 3]) == pytest.approx(float(1 / ideal))


def test_dadh_codes_follow_labels_when_networks_weigh_little():
    L = torch.eye(3).repeat_interleave(10, dim=0)
    method = DADH(bits=4, hidden=16)
    net = method.build(Spec((5,), (5,), 30, 30, 3, None))
    method.epoch_end(net, SimpleNamespace(labels=L, pairs=torch.arange(30)))
    assert all(len(net.B[L[:, c] == 1].unique(dim=0)) == 1 for c in range(3))


def test_cpah_parts_add_up_and_b_is_the_sign_of_both():
    method = CPAH(bits=4, hidden=16)
    net = method.build(Spec((5,), (6,), 9, 9, 3, None)).eval()
    x = torch.randn(9, 5)
    torch.testing.assert_close(sum(net.image(x)), net.image.tower(x))
    batch = Batch(x, torch.randn(9, 6), torch.eye(3).repeat(3, 1), torch.arange(9), torch.arange(9))
    descend = lambda part, loss, name="main": loss(part).detach()  # noqa: E731
    method.step(net, batch, SimpleNamespace(descend=descend))
    method.epoch_end(net, None)
    expected = torch.sign(method.embed_image(net, x) + method.embed_text(net, batch.text))
    assert torch.equal(net.B, expected)


def test_dchuc_code_update_lowers_its_objective():
    n, m, bits, classes = 30, 12, 6, 4
    L, rows = some_labels(n, classes), torch.randperm(n)[:m]
    U, G = (torch.tanh(torch.randn(m, bits)).double() for _ in range(2))
    V, W = torch.randn(n, bits).sign().double(), torch.randn(bits, classes).double()
    S = torch.where(L[rows] @ L.T > 0, 1.0, -0.4).double()

    def objective():
        fit = sum((Z @ V.T - bits * S).square().sum() for Z in (U, G))
        return fit + 2.0 * (V @ W - L).square().sum() + 50.0 * (V[rows] - (U + G) / 2).square().sum()

    values = [objective()]
    for _ in range(3):
        update_codes(V, U, G, W, S, rows, L, beta=2.0, quantization=50.0)
        values.append(objective())
    assert values[1] < values[0]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))
