"""The mathematics of VSE++, SCAN, PVSE and PCME, against loops and closed forms."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity, leaky_relu, normalize

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.image_text_matching.pcme import PCME, bottleneck, matching_loss
from cmrkit.methods.image_text_matching.pvse import PVSE, discrepancy, diversity
from cmrkit.methods.image_text_matching.scan import SCAN, Standard
from cmrkit.methods.image_text_matching.vse import VSE

ALONE = SimpleNamespace(gather=lambda x: x, epoch=0)
REGIONS = Spec((5, 8), (7,), 6, 6, None, 12)
TEMPERATURES = {"t2i": (9.0, 6.0), "i2t": (4.0, 5.0)}


def pairs(image_shape, count=6):
    torch.manual_seed(1)
    y = torch.randint(1, 12, (count, 7))
    y[torch.arange(7) >= torch.tensor([7, 3, 5, 1, 6, 4])[:, None]] = 0
    return Batch(torch.randn(count, *image_shape), y, None, torch.arange(count), torch.arange(count))


def built(method, spec):
    torch.manual_seed(0)
    return method.build(spec).eval()


def scan_of_a_pair(V, E, attention, pooling):
    """SCAN's equations for regions V (k, d) and words E (L, d), attended vectors formed one by one."""
    smooth, sharpness = TEMPERATURES[attention]
    queries, context = (E, V) if attention == "t2i" else (V, E)
    cut = leaky_relu(queries @ context.T, 0.1)  # (queries, context)
    scaled = cut / cut.norm(dim=0, keepdim=True)  # each part of the context, over the queries
    relevances = []
    for query, weights in zip(queries, (smooth * scaled).softmax(dim=1), strict=True):
        attended = sum(w * c for w, c in zip(weights, context, strict=True))
        relevances.append(cosine_similarity(query, attended, dim=0))
    R = torch.stack(relevances)
    return (sharpness * R).exp().sum().log() / sharpness if pooling == "lse" else R.mean()


@pytest.mark.parametrize("attention", ["t2i", "i2t"])
@pytest.mark.parametrize("pooling", ["lse", "avg"])
@torch.no_grad()
def test_scan_scores_every_pair_as_its_equations_do_one_by_one(attention, pooling):
    method = SCAN(attention=attention, pooling=pooling, dim=10, word_dim=6)
    net, batch = built(method, REGIONS), pairs((5, 8))
    V, (E, lengths) = method.embed_image(net, batch.image), method.embed_text(net, batch.text)
    S = method.match(net, V, (E, lengths))
    expected = [[scan_of_a_pair(v, e[:n], attention, pooling) for e, n in zip(E, lengths, strict=True)] for v in V]
    torch.testing.assert_close(S, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scan_pays_no_attention_to_padding():
    method = SCAN(attention="i2t", dim=10, word_dim=6)
    net, batch = built(method, REGIONS), pairs((5, 8))
    V, longer = method.embed_image(net, batch.image), torch.nn.functional.pad(batch.text, (0, 4))
    short, long = (method.match(net, V, method.embed_text(net, y)) for y in (batch.text, longer))
    torch.testing.assert_close(short, long)


def test_scan_standardises_by_all_regions_of_all_images():
    regions = torch.randn(300, 3, 4) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 7
    standard = Standard(4)
    standard.fit(regions.numpy())
    flat = standard(regions).flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("hardest", [True, False])
@torch.no_grad()
def test_the_loss_of_vse_is_its_equation(hardest):
    method = VSE(dim=10, word_dim=6, hardest=hardest)
    net, batch = built(method, Spec((8,), (7,), 6, 6, None, 12)), pairs((8,))
    S = method.embed_image(net, batch.image) @ method.embed_text(net, batch.text).T
    expected = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        captions = torch.stack([(0.2 + S[i, j] - S[i, i]).clamp(min=0) for j in others])
        images = torch.stack([(0.2 + S[j, i] - S[i, i]).clamp(min=0) for j in others])
        expected += captions.max() + images.max() if hardest else captions.sum() + images.sum()
    torch.testing.assert_close(method.loss(net, batch, ALONE), expected)


@torch.no_grad()
def test_vse_reads_a_caption_up_to_its_last_word():
    method = VSE(dim=10, word_dim=6)
    net = built(method, Spec((8,), (7,), 6, 6, None, 12))
    caption = torch.tensor([[1, 5, 9, 2, 0, 0, 0]])
    state = net["text"].rnn(net["text"].embed(caption[:, :4]))[1][0]
    torch.testing.assert_close(method.embed_text(net, caption), normalize(state, dim=1))


@torch.no_grad()
def test_pvse_takes_the_best_of_all_its_cosines():
    method = PVSE(heads=3, dim=10, word_dim=6)
    net, batch = built(method, REGIONS), pairs((5, 8))
    X, Y = method.embed_image(net, batch.image), method.embed_text(net, batch.text)
    expected = torch.stack([torch.stack([(x @ y.T).max() for y in Y]) for x in X])
    torch.testing.assert_close(method.match(net, X, Y), expected)
    torch.testing.assert_close(X.norm(dim=2), torch.ones(6, 3))


def test_pvse_measures_diversity_and_discrepancy():
    R = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]]])
    # orthogonal residuals cost nothing; parallel ones sqrt(2) / K^2
    assert diversity(R).item() == pytest.approx((0 + 2**0.5 / 4) / 2)
    X, Y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert discrepancy(X, Y).item() == pytest.approx(2 - 2 * torch.tensor(-2.5).exp().item())
    assert discrepancy(X, X).item() == 0


def test_pcme_sums_log_probabilities_of_matching_over_pairs_of_samples():
    torch.manual_seed(0)
    X, Y, scale, shift = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor(1.5), torch.tensor(0.5)
    expected = 0.0
    for i in range(3):
        for j in range(3):
            distances = torch.stack([(x - y).norm() for x in X[i] for y in Y[j]])
            p = (2 * (shift - scale * distances)).sigmoid().mean()
            expected -= p.log() if i == j else (1 - p).log()
    torch.testing.assert_close(matching_loss(X, Y, scale, shift), expected, atol=1e-4, rtol=1e-4)


def test_pcme_bottleneck_is_least_at_the_unit_gaussian():
    assert bottleneck(torch.zeros(3, 2, 4), torch.zeros(3, 4)).item() == 0
    assert bottleneck(torch.zeros(3, 2, 4), torch.ones(3, 4)).item() > 0
    assert bottleneck(torch.ones(3, 2, 4), torch.zeros(3, 4)).item() == pytest.approx(6)


@torch.no_grad()
def test_pcme_embeds_an_item_without_chance():
    method = PCME(dim=10, word_dim=6)
    net, batch = built(method, REGIONS), pairs((5, 8))
    torch.testing.assert_close(method.embed_text(net, batch.text), method.embed_text(net, batch.text), atol=0, rtol=0)
    assert method.loss(net, batch, ALONE) != method.loss(net, batch, ALONE)


@pytest.mark.parametrize("method", [VSE(), SCAN(), PVSE(), PCME()])
def test_images_and_texts_of_another_kind_are_refused(method):
    with pytest.raises(UsageError, match="tokens as text"):
        method.build(Spec((8, 8, 3), (300,), 6, 6, None, None))
