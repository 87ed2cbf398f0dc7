"""The mathematics of IMRAM, VSRN and LEMON, against loops and closed forms."""

import numpy as np
import torch

from cmrkit.data.settings import rounds
from cmrkit.methods.base import Pairs
from cmrkit.methods.deep import Spec
from cmrkit.methods.image_text_matching.imram import IMRAM
from cmrkit.methods.image_text_matching.vsrn import VSRN, Captioner, RegionGraph
from cmrkit.methods.parts.word_region import triplet
from cmrkit.methods.scenarios.lemon import Lemon, Sums

SPEC = Spec((5, 7), (6,), 4, 4, None, 20)
WORDS = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 4, 9, 8, 11, 2]])


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def one_direction(Q, C, memory, count, smooth):
    """IMRAM's rounds for one query set (q, d) and one context set (s, d), as the paper writes them."""
    first, total = Q, 0.0
    for _ in range(count):
        A = torch.nn.functional.leaky_relu(Q @ C.T, 0.1)
        drawn = (smooth * A / A.norm(dim=0, keepdim=True)).softmax(dim=1) @ C
        total += (unit(first) * unit(drawn)).sum(1).mean()
        joined = torch.cat([Q, drawn], dim=1)
        g = torch.sigmoid(memory.gate(joined))
        Q = g * Q + (1 - g) * torch.tanh(memory.update(joined))
    return total


def test_imram_sums_the_rounds_of_both_directions_as_a_loop_over_pairs_does():
    torch.manual_seed(0)
    method = IMRAM(rounds=3, dim=8, word_dim=4)
    net = method.build(SPEC).double()
    images = method.embed_image(net, torch.randn(2, 5, 7, dtype=torch.float64))
    words, lengths = method.embed_text(net, WORDS)
    S = method.match(net, images, (words, lengths))
    for i, V in enumerate(images):
        for j, n in enumerate(lengths):
            T = words[j, :n]
            expected = one_direction(T, V, net.text_memory, 3, 9.0) + one_direction(V, T, net.image_memory, 3, 9.0)
            torch.testing.assert_close(S[i, j], expected, rtol=1e-6, atol=1e-6)


def test_imram_does_not_see_padding():
    torch.manual_seed(0)
    method = IMRAM(rounds=2, dim=8, word_dim=4)
    net = method.build(SPEC)
    images = method.embed_image(net, torch.randn(2, 5, 7))
    alone = method.match(net, images, method.embed_text(net, WORDS[1:2, :3]))
    torch.testing.assert_close(method.match(net, images, method.embed_text(net, WORDS))[:, 1:2], alone)


def test_triplet_loss_of_a_small_matrix_by_hand():
    S = torch.tensor([[0.5, 0.4, 0.4], [0.2, 0.6, 0.7], [0.0, 0.1, 0.9]])
    # Rows, for the texts of an image: 0.1 and 0.1; 0.3; none. Columns, for the images of a text: none above 0.
    torch.testing.assert_close(triplet(S, 0.2), torch.tensor(0.4))
    torch.testing.assert_close(triplet(S, 0.2, hardest=False), torch.tensor(0.5))


def test_vsrn_graph_begins_as_the_identity_and_relates_every_pair_of_regions():
    torch.manual_seed(0)
    graph, V = RegionGraph(4).double().eval(), torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(graph(V), V, rtol=0, atol=0)
    torch.nn.init.ones_(graph.norm.weight)
    for n in range(2):
        for i in range(3):
            message = sum(graph.theta(V[n, i]) @ graph.phi(V[n, j]) / 3 * graph.g(V[n, j]) for j in range(3))
            scale = (graph.norm.running_var + graph.norm.eps).sqrt()
            torch.testing.assert_close(graph(V)[n, i], V[n, i] + graph.W(message) / scale)


def test_vsrn_captioner_is_asked_for_each_word_and_one_padding():
    torch.manual_seed(0)
    captioner, V = Captioner(20, 4, 3, 6, 0.0), torch.randn(1, 3, 4)
    torch.nn.init.zeros_(captioner.out.weight)
    torch.nn.init.zeros_(captioner.out.bias)
    # A uniform guess costs log 20 a word: <start> w w <end> asks for w, w, <end>, <pad>.
    torch.testing.assert_close(captioner(V, WORDS[:1]), torch.tensor(4 * np.log(20.0), dtype=torch.float32))


def test_vsrn_takes_the_state_at_the_last_word():
    torch.manual_seed(0)
    method = VSRN(dim=8, word_dim=4, caption_hidden=4)
    net = method.build(SPEC)
    alone = method.embed_text(net, WORDS[1:2, :3])
    torch.testing.assert_close(method.embed_text(net, WORDS)[1:2], alone)
    torch.testing.assert_close(alone[0], unit(net.text.rnn(net.text.embed(WORDS[1:2, :3]))[1][0, 0]))


def labelled(n=300, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    x = np.eye(classes)[labels] @ rng.normal(size=(classes, 8)) + 0.3 * rng.normal(size=(n, 8))
    return Pairs(x, x @ rng.normal(size=(8, 6)), np.eye(classes, dtype=np.uint8)[labels])


def in_rounds(pairs, chunk=60):
    return [pairs.take(rows) for rows in rounds(np.arange(len(pairs)), chunk, seed=0)]


def test_lemon_remembers_a_stream_by_its_sums_alone():
    rng = np.random.default_rng(0)
    L = np.eye(3)[rng.integers(3, size=40)]
    V, B = rng.normal(size=(40, 4)), np.sign(rng.normal(size=(40, 4)))
    halves = Sums.of(V[:25], B[:25], L[:25], L[:25]) + Sums.of(V[25:], B[25:], L[25:], L[25:])
    for a, b in zip(vars(halves).values(), vars(Sums.of(V, B, L, L)).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_lemon_hash_functions_are_the_ridge_regression_over_all_rounds():
    parts = in_rounds(labelled())
    method = Lemon(bits=8, xi=2.0).fit_rounds(parts)
    X = np.concatenate([part.image for part in parts])
    expected = np.linalg.solve(X.T @ X + 2.0 * np.eye(8), X.T @ method.image_codes_)
    np.testing.assert_allclose(method.image_hash_, expected, atol=1e-10)


def test_lemon_gives_a_class_similar_codes_in_every_round():
    parts = in_rounds(labelled())
    codes = Lemon(bits=16).fit_rounds(parts).image_codes_.astype(float)
    labels = np.concatenate([part.labels for part in parts])
    agreement, same = codes @ codes.T / 16, labels @ labels.T > 0
    assert agreement[same].mean() > 0.9
    assert agreement[~same].mean() < 0.1
