"""ALBEF, TCL and their parts. golden/vl_albef.npz holds the weights, inputs and outputs of one tiny random network
that the official code of both was run with (salesforce/ALBEF@b9727e4, uta-smile/TCL@74a3e4f), dropout off."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cmrkit.errors import CmrkitError
from cmrkit.methods.deep import Batch, Spec, TrainingSet
from cmrkit.methods.parts.bert import Bert, additive_mask
from cmrkit.methods.parts.contrastive import (
    MomentumQueue,
    contrast,
    distilled,
    hard_negatives,
    same_image,
    symmetric_contrast,
)
from cmrkit.methods.vision_language import albef, tcl
from cmrkit.methods.vision_language.albef import ALBEF
from cmrkit.methods.vision_language.tcl import TCL
from cmrkit.training.checkpoint import fill
from cmrkit.training.options import Options

SIZES = {"size": 16, "patch": 4, "dim": 8, "depth": 1, "heads": 2, "text_dim": 8, "text_depth": 1, "text_heads": 2,
         "fusion_depth": 1, "projection": 4, "queue": 12, "max_length": 8}  # fmt: skip
SPEC = Spec((16, 16, 3), (8,), 5, 6, None, 20)
ALONE = SimpleNamespace(
    gather=lambda x: x, log_value=lambda *_: None, autocast=contextlib.nullcontext, parts=1, step=9, steps_per_epoch=1
)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parent / "golden" / "vl_albef.npz"))


@pytest.fixture(scope="module")
def official(golden):
    return {k.removeprefix("w."): torch.from_numpy(v.copy()) for k, v in golden.items() if k.startswith("w.")}


@pytest.fixture(scope="module")
def batch(golden):
    ids, images = (torch.from_numpy(golden[name].astype(np.int64)) for name in ("ids", "images"))
    return Batch(torch.from_numpy(golden["pixels"]), ids, None, torch.arange(len(ids)), images)


def network(cls, weights, **more):
    method = cls(**SIZES, **more)
    net = method.build(SPEC)
    fill(net, method.convert(weights), "the official weights", may_lack=())
    return method, net.eval()


def tiny_network(cls=ALBEF, **more):
    torch.manual_seed(3)
    method = cls(**{**SIZES, **more})
    return method, method.build(SPEC).eval()


def fixed_negatives(monkeypatch, golden, name):
    images, texts = torch.from_numpy(golden[f"{name}.negatives"].astype(np.int64))
    drawn = iter([images, texts])
    monkeypatch.setattr(albef, "hard_negatives", lambda *_: next(drawn))


@pytest.mark.parametrize("cls", [ALBEF, TCL])
def test_published_weights_score_as_in_the_official_code(cls, golden, official, batch):
    method, net = network(cls, official)
    with torch.no_grad():
        images, texts = method.embed_image(net, batch.image), method.embed_text(net, batch.text)
        similarities = method.compare(net, images, texts)
        rows = torch.arange(6).repeat_interleave(6), torch.arange(6).repeat(6)
        logits = method.score_block(net, images, tuple(c[rows[1]] for c in texts), rows[0]).view(6, 6)
    np.testing.assert_allclose(similarities, golden["similarities"], atol=1e-6)
    np.testing.assert_allclose(logits, golden["logits"], atol=2e-6)


def test_albef_losses_and_queue_are_the_official_ones(golden, official, batch, monkeypatch):
    fixed_negatives(monkeypatch, golden, "albef")
    method, net = network(ALBEF, official, ema=0.9)
    albef.momentum_update(net.momentum, net.towers, 0.9)
    keys = albef.momentum_keys(net, batch, ALONE)
    loss = method.loss_of(net, batch, keys, batch.rows, ALONE)
    loss.backward()
    net.queue.push(keys.image, keys.text, keys.ids)
    assert loss.item() == pytest.approx(golden["albef.losses"].sum(), abs=1e-5)
    assert net.temperature.grad.item() == pytest.approx(golden["albef.temperature_gradient"].item(), rel=1e-5)
    assert net.queue.ids.tolist() == golden["queue_ids"].tolist()


def test_tcl_losses_are_the_official_ones(golden, official, batch, monkeypatch):
    fixed_negatives(monkeypatch, golden, "tcl")
    monkeypatch.setattr(tcl, "second_view", lambda *_: torch.from_numpy(golden["second"]))
    method, net = network(TCL, official)
    tcl.momentum_update(net.momentum, net.towers, 0.9)
    loss = method.loss_of(net, batch, tcl.local_keys(net, batch, ALONE, 0.5, 4), ALONE)
    loss.backward()
    assert loss.item() == pytest.approx(golden["tcl.losses"].sum(), abs=1e-5)
    assert net.temperature.grad.item() == pytest.approx(golden["tcl.temperature_gradient"].item(), rel=1e-5)


def test_pretrained_weights_lose_their_heads_and_keep_the_rest(official):
    def pretrained(name):
        part, _, rest = name.partition(".")
        return f"{part}.bert.{rest}" if part.startswith("text_encoder") else name

    weights = {pretrained(n): t for n, t in official.items() if n != "idx_queue"}
    more = {"text_encoder.cls.predictions.bias": torch.zeros(20),
            "text_encoder_m.cls.predictions.bias": torch.zeros(20),
            "text_encoder.bert.embeddings.position_ids": torch.arange(512)[None]}  # fmt: skip
    method = ALBEF(**SIZES)
    found, plain = method.convert({**weights, **more}), method.convert(official)
    assert set(plain) - set(found) == {"queue.ids"}
    assert all(torch.equal(found[name], plain[name]) for name in found)


def test_weights_without_momentum_give_twins_and_no_queue(official):
    published = {n: t for n, t in official.items() if "_m." not in n and "queue" not in n}
    method, net = ALBEF(**SIZES), ALBEF(**SIZES).build(SPEC)
    lacking = fill(net, method.convert(published), "weights", may_lack=method.training_only)
    assert lacking
    assert all(name.startswith("queue") for name in lacking)
    assert torch.equal(net.momentum.visual.pos_embed, net.towers.visual.pos_embed)


def test_a_queue_of_another_length_is_left_out(official):
    assert not any(n.startswith("queue") for n in ALBEF(**{**SIZES, "queue": 24}).convert(official))


def test_positions_of_a_smaller_image_are_interpolated_and_the_first_token_kept(official):
    old = official["visual_encoder.pos_embed"]
    new = ALBEF(**{**SIZES, "size": 32}).convert(official)["towers.visual.pos_embed"]
    assert new.shape == (1, 65, 8)
    assert torch.equal(new[:, 0], old[:, 0])
    flat = albef.resized_positions(torch.ones_like(old), 64)
    torch.testing.assert_close(flat, torch.ones(1, 65, 8))


def test_foreign_weights_are_refused_by_name(official):
    method = ALBEF(**SIZES)
    with pytest.raises(CmrkitError, match="alien"):
        fill(method.build(SPEC), {**method.convert(official), **method.convert({"alien": torch.zeros(1)})}, "w", ())


@pytest.mark.parametrize("cls", [ALBEF, TCL])
def test_padding_and_company_do_not_change_a_score(cls):
    method, net = tiny_network(cls)
    x = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    y = torch.tensor([[2, 5, 3, 0, 0, 0, 0, 0], [2, 5, 6, 7, 8, 9, 3, 0]])
    with torch.no_grad():
        images, texts = method.embed_image(net, x), method.embed_text(net, y)
        short = method.embed_text(net, y[:1, :3])
        scores = method.score(net, images, texts)
        alone = method.score(net, tuple(c[:1] for c in images), short)
    torch.testing.assert_close(scores[:1], alone)
    assert abs(scores[0] - scores[1]) > 1e-6


def test_all_captions_of_an_image_are_right_for_it():
    targets = same_image(torch.tensor([7, 8]), torch.tensor([7, 8, 7, -100]))
    assert targets.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0]]


def test_distilled_targets_go_from_hard_to_what_the_momentum_encoder_believes():
    torch.manual_seed(0)
    queries, keys = normalize(torch.randn(2, 4), dim=1), normalize(torch.randn(5, 4), dim=1)
    hard = same_image(torch.tensor([0, 1]), torch.arange(5))
    assert torch.equal(distilled(hard, queries, keys, 0.1, 0.0), hard)
    belief = distilled(hard, queries, keys, 0.1, 1.0)
    torch.testing.assert_close(belief, (queries @ keys.T / 0.1).softmax(1))
    # Cross-entropy is least where the prediction is the target.
    assert (contrast(belief.log(), belief) < contrast(hard * 9, belief)).all()


def test_symmetric_contrast_is_the_cross_entropy_of_both_directions():
    torch.manual_seed(0)
    image, text = normalize(torch.randn(4, 3), dim=1), normalize(torch.randn(4, 3), dim=1)
    logits, own = 5 * image @ text.T, torch.arange(4)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(symmetric_contrast(image, text, 5.0), expected)
    assert symmetric_contrast(image, text, 5.0, torch.tensor([0, 0, 1, 2])) != expected


def test_hard_negatives_are_never_of_the_same_image_and_prefer_the_similar():
    torch.manual_seed(0)
    ids = torch.tensor([0, 0, 1, 2])
    logits = torch.tensor([9.0, 9.0, 3.0, 0.0]).repeat(4, 1)
    drawn = torch.stack([hard_negatives(logits, ids, ids) for _ in range(400)])
    assert not (ids[drawn] == ids).any()
    share = (drawn[:, 0] == 2).float().mean().item()
    assert share == pytest.approx(1 / (1 + np.exp(-3)), abs=0.05)


def test_hard_negatives_survive_probabilities_that_underflow():
    logits = torch.tensor([[500.0, 0.0], [0.0, 500.0]])
    assert hard_negatives(logits, torch.tensor([0, 1]), torch.tensor([0, 1])).tolist() == [1, 0]


def test_a_group_of_a_single_image_has_no_negatives_and_says_so():
    with pytest.raises(CmrkitError, match="no negatives"):
        hard_negatives(torch.zeros(2, 2), torch.tensor([4, 4]), torch.tensor([4, 4]))


def test_the_queue_forgets_the_oldest_keys_first():
    queue = MomentumQueue(2, 5)
    assert (queue.ids < 0).all()
    torch.testing.assert_close(queue.image.norm(dim=1), torch.ones(5))
    for first in (0, 3, 6):
        ids = torch.arange(first, first + 3)
        queue.push(ids[:, None].repeat(1, 2).float(), torch.zeros(3, 2), ids)
    assert sorted(queue.ids.tolist()) == [4, 5, 6, 7, 8]
    assert queue.image[:, 0].tolist() == queue.ids.tolist()
    queue.push(torch.zeros(9, 2), torch.zeros(9, 2), torch.arange(20, 29))
    assert sorted(queue.ids.tolist()) == [24, 25, 26, 27, 28]


def test_local_contrast_is_infonce_over_the_parts_of_other_pairs():
    torch.manual_seed(0)
    vectors, parts = torch.randn(3, 4), torch.randn(3, 2, 4)
    present = torch.tensor([[True, True], [True, False], [True, True]])
    found = tcl.local_contrast(vectors, parts, parts, torch.arange(3), torch.tensor(0.5), present, present)
    for i in range(3):
        others = [parts[j, q] for j in range(3) for q in range(2) if j != i and present[j, q]]
        losses = []
        for own in parts[i][present[i]]:
            logits = torch.stack([vectors[i] @ p / 0.5 for p in (own, *others)])
            losses.append(-logits.log_softmax(0)[0])
        torch.testing.assert_close(found[i], torch.stack(losses).mean())


def test_second_views_are_drawn_image_by_image_from_the_seed():
    x = torch.randint(0, 256, (6, 24, 24, 3), dtype=torch.uint8)[:1].repeat(6, 1, 1, 1)
    torch.manual_seed(1)
    first = tcl.second_view(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(tcl.second_view(x, 0.5), first)
    assert first.shape == x.shape
    assert first.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in first}) == 6


def test_changes_of_a_view_keep_what_they_should():
    torch.manual_seed(0)
    flat = torch.full((4, 3, 16, 16), 0.6)
    torch.testing.assert_close(tcl.blurred(flat), flat)
    torch.testing.assert_close(tcl.random_part(flat, 0.5), flat)
    noise = torch.rand(4, 3, 16, 16)
    whole = tcl.random_part(noise, 1.0)
    assert tcl.blurred(noise).std() < noise.std()
    assert whole.mean() == pytest.approx(noise.mean().item(), abs=0.03)
    grey = tcl.grey(noise)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize("which", ["bert", "roberta"])
def test_bert_is_the_one_of_transformers(which):
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 20, "attn_implementation": "eager"}  # fmt: skip
    torch.manual_seed(0)
    if which == "bert":
        theirs, pad = BertModel(BertConfig(**sizes), add_pooling_layer=False), 0
        ours = Bert(30, 8, 2, 2, positions=20)
    else:
        config = RobertaConfig(**sizes, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
        theirs, pad = RobertaModel(config, add_pooling_layer=False), 1
        ours = Bert(30, 8, 2, 2, positions=20, types=1, first_position=2, eps=1e-5)
    for p in theirs.parameters():
        p.data += 0.2 * torch.randn_like(p)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.endswith("_ids")})
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, pad, pad]])
    present = ids != pad
    with torch.no_grad():
        expected = theirs.eval()(ids, attention_mask=present.long(), output_hidden_states=True).hidden_states
        states = ours.eval().states(ids, additive_mask(present))
    assert len(states) == 3
    for a, b in zip(states, expected, strict=True):
        torch.testing.assert_close(a[present], b[present], atol=1e-6, rtol=1e-5)


def test_cross_attention_projects_each_distinct_context_once_to_the_same_end():
    torch.manual_seed(0)
    net = Bert(30, 8, 2, 2, cross=(1,), context_dim=6, types=0).eval()
    ids, context, which = torch.randint(2, 30, (4, 5)), torch.randn(2, 7, 6), torch.tensor([0, 0, 1, 1])
    mask = additive_mask(torch.arange(7) < torch.tensor([[7], [4]]))
    shared = net(ids, None, context, mask, which)
    torch.testing.assert_close(shared, net(ids, None, context[which], mask[which]))
    context[1, 4:] = 9.0
    torch.testing.assert_close(shared, net(ids, None, context, mask, which))


def coloured(captions):
    """Eight images, each of a colour of its own, and ``captions`` texts for each, which name it."""
    rng = np.random.default_rng(0)
    colours = np.array([[r, g, b] for r in (20, 230) for g in (20, 230) for b in (20, 230)])
    x = colours[:, None, None] + rng.integers(-15, 16, (8, 16, 16, 3))
    y = np.array([[2, 4 + i, 12 + j % 8, 3, 0, 0, 0, 0] for i in range(8) for j in range(captions)])
    return x.astype(np.uint8), y, np.repeat(np.arange(8), captions)


@pytest.mark.parametrize("cls", [ALBEF, TCL])
def test_learns_to_rank_right_captions_before_wrong_ones(cls):
    x, y, pairs = coloured(8)
    sizes = {**SIZES, "dim": 16, "text_dim": 16, "projection": 8, "queue": 16, "shortlist": 2}
    method = cls(**sizes, initializer_range=0.15, dropout=0.0, ema=0.8, alpha=0.0, lr=0.005, final_lr=0.0,
                 batch_size=16, accumulate=1, epochs=1, steps=150, select="")  # fmt: skip
    method.fit_set(TrainingSet(x, y, pairs, None, 20), Options(device="cpu"))
    scores = method.similarity(x, y[::8])
    assert (scores["i2t"].argmax(1) == np.arange(8)).mean() >= 0.75
    assert (scores["t2i"].argmax(0) == np.arange(8)).mean() >= 0.75


def test_parts_of_a_batch_queue_all_of_its_keys():
    x, y, pairs = coloured(1)
    method = ALBEF(**{**SIZES, "queue": 12}, batch_size=8, accumulate=4, steps=1, shuffle=False, select="")
    method.fit_set(TrainingSet(x, y, pairs, None, 20), Options(device="cpu"))
    assert method.net_.queue.ids.tolist() == [*range(8), -100, -100, -100, -100]
    torch.testing.assert_close(method.net_.queue.image.norm(dim=1), torch.ones(12))


def test_initial_weights_have_the_deviation_asked_for():
    for deviation in (0.02, 0.1):
        _, net = tiny_network(initializer_range=deviation, dim=64, text_dim=64)
        for layer in (net.towers.visual.blocks[0].mlp.fc1, net.towers.text.encoder.layer[0].intermediate.dense,
                      net.fusion.layer[0].crossattention.self.query):  # fmt: skip
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)


def test_weight_decay_spares_vectors_alone():
    _, net = tiny_network()
    spared, decayed = albef.decayed_groups(net, 0.02)
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.02)
    assert all(p.ndim == 1 for p in spared["params"])
    assert any(p is net.temperature for p in decayed["params"])  # a scalar: the authors' code decays it
    assert len(spared["params"]) + len(decayed["params"]) == sum(p.requires_grad for p in net.parameters())
