"""HAT and VinVL against loops over pairs and against transformers' and timm's own modules."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, layer_norm, leaky_relu, linear
from transformers import BertConfig, BertModel

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Spec, TrainingSet
from cmrkit.methods.image_text_matching.hat import HAT
from cmrkit.methods.vision_language.vinvl import VinVL, joined, other_images, other_texts

PIXELS = Spec((64, 64, 3), (10,), 4, 8, None, 30)
CAPTIONS = torch.tensor(
    [[2, 5, 6, 3, 0, 0, 0, 0, 0, 0], [2, 7, 3, 0, 0, 0, 0, 0, 0, 0], [2, 9, 8, 7, 6, 5, 4, 3, 0, 0]]
)


def tiny_hat(**changes):
    sizes = {"size": 64, "patch": 8, "dim": 16, "depths": (1, 2, 1), "heads": (1, 2, 4), "window": 4, "text_dim": 12}
    sizes |= {"text_depth": 3, "text_heads": 3, "text_levels": (1, 2, 3), "projection": 8, "max_length": 10}
    return HAT(**sizes | {"frozen": (), "precision": "fp32"} | changes)


def randomized(net, seed=0):
    """The network in evaluation mode with weights large enough for every part to be felt."""
    torch.manual_seed(seed)
    for name, parameter in net.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name.lower() and name.endswith("weight")), 0.3)
    return net.eval()


def level_of_a_pair(V, E, smooth):
    """The mean cosine of regions V (k, d) with what they draw from the words E (m, d)."""
    A = leaky_relu(V @ E.T, 0.1)
    A = A / A.norm(dim=0, keepdim=True)
    drawn = torch.stack([sum(w * e for w, e in zip((smooth * row).softmax(0), E, strict=True)) for row in A])
    return cosine_similarity(V, drawn, dim=1).mean()


@torch.no_grad()
def test_hat_sums_over_three_levels_what_regions_find_in_the_words():
    method = tiny_hat()
    net = randomized(method.build(PIXELS))
    images = method.embed_image(net, torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    texts = method.embed_text(net, CAPTIONS)
    assert [V.shape[1] for V in images] == [64, 16, 4]
    got = method.match(net, images, texts)
    for i in range(2):
        for j, length in enumerate((4, 3, 8)):
            pairs = zip(images, texts[:3], strict=True)
            expected = sum(level_of_a_pair(V[i], E[j, :length], method.smooth) for V, E in pairs)
            torch.testing.assert_close(got[i, j], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_hat_takes_each_stage_of_swin_before_it_is_merged_and_bert_after_the_layers_named():
    from timm.models.swin_transformer import SwinTransformer

    method = tiny_hat()
    net = randomized(method.build(PIXELS))
    trunk = SwinTransformer(64, 8, embed_dim=16, depths=(1, 2, 1), num_heads=(1, 2, 4), window_size=4, num_classes=0)
    own = {n.removeprefix("image."): t for n, t in net.state_dict().items() if n.startswith("image.")}
    own["norm.weight"], own["norm.bias"] = own["norms.2.weight"], own["norms.2.bias"]
    trunk.load_state_dict({n: own[n] for n in trunk.state_dict()})
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    top = trunk.eval().forward_features(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).flatten(1, 2)
    torch.testing.assert_close(net["image"](pixels)[2], top, atol=1e-5, rtol=1e-4)

    bert = huggingface(net["text"], 30, 12, 3, 3)
    states = bert(CAPTIONS, attention_mask=CAPTIONS != 0, output_hidden_states=True).hidden_states
    for level in range(3):
        words = net["text_projections"][level](states[level + 1])
        got = method.embed_text(net, CAPTIONS)[level]
        torch.testing.assert_close(got[CAPTIONS != 0], words[CAPTIONS != 0], atol=1e-5, rtol=1e-4)


def huggingface(bert, vocabulary, dim, depth, heads):
    """Return transformers' BERT with the weights of ours."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
    )
    theirs = BertModel(config, add_pooling_layer=hasattr(bert, "pooler")).eval()
    weights = bert.state_dict()
    missing, _ = theirs.load_state_dict({n: weights[n] for n in theirs.state_dict() if n in weights}, strict=False)
    assert not [n for n in missing if not n.endswith("_ids")]
    return theirs


def as_the_authors_named(weights):
    """HAT's weights under the names of the authors' repository, whose Swin merges at the end of a stage."""
    order, out = {"0": "_1", "1": "_2", "2": ""}, {}
    for name, tensor in weights.items():
        tower, _, rest = name.partition(".")
        if tower.endswith("_projections"):
            level, part = rest.split(".")
            out[f"cross_modal_{tower.split('_')[0]}_transform{order[level]}.{part}"] = tensor
        elif tower == "text":
            out[f"text_transformer.{rest}"] = tensor
        elif rest.startswith("norms."):
            _, level, part = rest.split(".")
            out[f"vit_model.norm{order[level]}.{part}"] = tensor
        elif "downsample" in rest:
            stage = int(rest.split(".")[1])
            out["vit_model." + rest.replace(f"layers.{stage}.", f"layers.{stage - 1}.")] = tensor
        else:
            out[f"vit_model.{rest}"] = tensor
    return out


def test_hat_reads_the_authors_weights_and_leaves_out_what_it_does_not_use():
    net = tiny_hat().build(PIXELS)
    published = as_the_authors_named(net.state_dict())
    published |= {"vit_model.norm_0.weight": torch.ones(8), "text_transformer.pooler.dense.bias": torch.ones(12)}
    published["vit_model.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    got = tiny_hat().convert(published)
    assert got.keys() == net.state_dict().keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in net.state_dict().items())


def test_hat_says_what_it_cannot_take():
    with pytest.raises(UsageError, match="pixels"):
        tiny_hat().build(Spec((36, 37), (10,), 4, 8, None, 30))
    with pytest.raises(UsageError, match="levels"):
        tiny_hat(text_levels=(1, 2, 4)).build(PIXELS)


def test_hat_learns_pairs():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    colours = np.array([[r, g, b] for r in (20, 230) for g in (20, 230) for b in (20, 230)])
    pixels = (colours[:, None, None] + rng.integers(-15, 16, (8, 64, 64, 3))).astype(np.uint8)
    ids = np.zeros((8, 10), np.int64)
    ids[:, :3] = [[2, 4 + row, 3] for row in range(8)]
    method = tiny_hat(epochs=60, batch_size=8, lr=3e-3, schedule="constant", select="", augment="", easy_epochs=60,
                      drop_path=0.0, dropout=0.0)  # fmt: skip
    method.fit_set(TrainingSet(pixels, ids, np.arange(8), None, 30))
    assert (method.similarity(pixels, ids).argmax(1) == np.arange(8)).mean() >= 0.75


REGIONS = Spec((6, 9), (12,), 4, 8, None, 40)


def tiny_vinvl(**changes):
    return VinVL(**{"max_length": 12, "dim": 12, "depth": 3, "heads": 3} | changes)


def regions_with_tags(count, kept, pieces, rng):
    """Regions (count, 6, 9 + pieces), of which the first ``kept`` are there, each with one or more tag pieces."""
    x = np.zeros((count, 6, 9 + pieces), np.float32)
    for row, n in enumerate(kept):
        x[row, :n, :9] = rng.normal(size=(n, 9))
        x[row, :n, 9 : 9 + pieces] = rng.integers(4, 40, (n, pieces))
        x[row, : n // 2, 10:] = 0
    return torch.from_numpy(x)


def reference_logits(net, caption, tags, regions, max_length):
    """The two logits of one pair, by transformers' layers: ids of caption and tags, regions (k, 9)."""
    words = list(caption)
    types = [0] * len(words)
    if tags:
        kept = tags[: max_length - len(words) - 1]
        words, types = [*words, *kept, 3], types + [1] * (len(kept) + 1)
    bert = huggingface(net.bert, 40, 12, 3, 3)
    x = bert.embeddings(torch.tensor([words]), token_type_ids=torch.tensor([types]))
    weights = net.bert.state_dict()
    seen = linear(regions, weights["img_embedding.weight"], weights["img_embedding.bias"])
    seen = layer_norm(seen, (12,), weights["LayerNorm.weight"], weights["LayerNorm.bias"], 1e-12)
    x = torch.cat([x, seen[None]], 1)
    for layer in bert.encoder.layer:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    return linear(bert.pooler(x)[0], net.classifier.weight, net.classifier.bias)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [0, 2])
def test_vinvl_scores_pairs_as_bert_over_caption_tags_and_regions_does(pieces):
    method = tiny_vinvl(tag_pieces=pieces)
    net = randomized(method.build(Spec((6, 9 + pieces), (12,), 4, 8, None, 40)))
    x = regions_with_tags(2, (4, 6), pieces, np.random.default_rng(0))
    captions = [[2, 7, 8, 3], [2, 9, 3], [2, 5, 6, 7, 8, 9, 10, 3]]
    ids = torch.tensor([c + [0] * (12 - len(c)) for c in captions])
    images, texts = method.embed_image(net, x), method.embed_text(net, ids)
    which = torch.tensor([0, 0, 0, 1, 1, 1])
    rows = torch.tensor([0, 1, 2, 0, 1, 2])
    got = method.score_block(net, images, tuple(c[rows] for c in texts), which)
    for place, (i, j) in enumerate(zip(which.tolist(), rows.tolist(), strict=True)):
        there = (x[i, :, :9] != 0).any(1)
        tags = [int(t) for t in x[i, :, 9:].flatten() if t]
        no, yes = reference_logits(net, captions[j], tags, x[i, there, :9], 12)
        torch.testing.assert_close(got[place], yes - no, atol=1e-5, rtol=1e-4)


def test_tags_follow_the_caption_and_give_way_to_it():
    ids = torch.tensor([[2, 7, 3, 0, 0, 0], [2, 7, 8, 9, 3, 0], [2, 7, 8, 9, 5, 3]])
    tags = torch.tensor([[21, 22, 0], [21, 22, 23], [21, 0, 0]])
    whole, types, present = joined(ids, torch.tensor([3, 5, 6]), tags, 7)
    assert whole.tolist() == [[2, 7, 3, 21, 22, 3, 0], [2, 7, 8, 9, 3, 21, 3], [2, 7, 8, 9, 5, 3, 3]]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1]]
    assert present.sum(1).tolist() == [6, 7, 7]


def test_negatives_never_belong_and_reach_all_others():
    torch.manual_seed(0)
    own = torch.arange(4).repeat(60)
    images = other_images(own, 4)
    assert (images != own).all()
    pairs = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    rows = other_texts(own, pairs)
    assert (pairs[rows] != own).all()
    for image in range(4):
        assert set(images[own == image].tolist()) == set(range(4)) - {image}
        assert set(rows[own == image].tolist()) == set((pairs != image).nonzero()[:, 0].tolist())


def test_vinvl_reads_the_authors_weights_and_draws_a_classifier_for_pretrained_ones():
    net = tiny_vinvl().build(REGIONS)
    own = net.state_dict()
    got = tiny_vinvl().convert(own | {"bert.embeddings.position_ids": torch.arange(3), "cls.x": torch.ones(1)})
    assert got.keys() == own.keys()
    pretrained = {n: t for n, t in own.items() if n.startswith("bert.")} | {"cls.x": torch.ones(1)}
    net.load_state_dict(tiny_vinvl().convert(pretrained), strict=True)


def test_vinvl_says_what_it_cannot_take():
    with pytest.raises(UsageError, match="regions"):
        tiny_vinvl().build(PIXELS)
    with pytest.raises(UsageError, match="tag_pieces"):
        tiny_vinvl(tag_pieces=9).build(REGIONS)


def test_vinvl_learns_which_pairs_belong():
    rng = np.random.default_rng(0)
    regions = np.repeat(np.eye(6, 9, dtype=np.float32)[:, None], 4, axis=1) + 0.05 * rng.normal(size=(6, 4, 9))
    regions = regions.astype(np.float32)
    ids = np.array([[2, 4 + row, 3] + [0] * 9 for row in range(6)])
    method = tiny_vinvl(depth=2, dropout=0.0, epochs=150, batch_size=6, lr=1e-2, weight_decay=0.0, select="", clip=0.0)
    method.fit_set(TrainingSet(regions, ids, np.arange(6), None, 40))
    assert (method.similarity(regions, ids).argmax(1) == np.arange(6)).mean() >= 0.8
