"""CLIP, BEiT-3 and ALIGN: the same numbers as the authors' or the library's networks, and what each adds to them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import AlignConfig, AlignModel, CLIPConfig, CLIPModel

from cmrkit.errors import UsageError
from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.vision_language.align import ALIGN, channels
from cmrkit.methods.vision_language.beit_3 import BEiT3, layer_of
from cmrkit.methods.vision_language.clip import CLIP
from cmrkit.training.checkpoint import fill

GOLDEN = Path(__file__).with_name("golden") / "vl_beit_3.npz"
LOOP = SimpleNamespace(gather=lambda x: x)
CLIP_SIZES = {"patch": 16, "dim": 32, "depth": 2, "heads": 2, "text_dim": 16, "text_depth": 2, "text_heads": 2,
              "projection": 8, "max_length": 10}  # fmt: skip
ALIGN_SIZES = {"size": 72, "crop": 64, "width": 0.1, "repeats": 0.1, "text_dim": 16, "text_depth": 1, "text_heads": 2,
               "dropout": 0.0, "drop_connect": 0.0}  # fmt: skip


def pixels(count, size, seed=0):
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))


def captions(count, length, start, end, padding, words):
    """Token ids (count, length) of captions of two words and more."""
    ids = torch.full((count, length), padding)
    ids[:, 0] = start
    for row in range(count):
        ids[row, 1 : 3 + row] = torch.randint(*words, (2 + row,), generator=torch.manual_seed(row))
        ids[row, 3 + row] = end
    return ids


def clip_captions(count):
    return captions(count, 10, 38, 39, 39, (0, 38))


def pairs(images, texts, rows=None):
    rows = torch.arange(len(texts)) if rows is None else torch.tensor(rows)
    return Batch(images[rows] if len(images) != len(texts) else images, texts, None, torch.arange(len(texts)), rows)


def spec(size, length=10, vocabulary=40, texts=0, images=0):
    return Spec((size, size, 3), (length,), images, texts, None, vocabulary)


def shaken(net, seed=0):
    """The network in evaluation mode, with no parameter at a value that hides a mistake."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture(scope="module")
def hub_clip():
    text = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 10, "bos_token_id": 38, "eos_token_id": 39,
            "pad_token_id": 39}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 128}  # fmt: skip
    return shaken(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)))


def converted(method, weights, **shape):
    net = method.build(spec(method.size, **shape))
    fill(net, method.convert(weights), "published", ())
    return net.eval()


def clip(size=32, **changes):
    return CLIP(size=size, **{**CLIP_SIZES, **changes})


def normalised(net, x):
    return (x.movedim(3, 1) / 255 - net.mean) / net.std


def test_clip_gives_the_cosines_and_the_loss_of_transformers(hub_clip):
    method, x, y = clip(), pixels(5, 32), clip_captions(5)
    net = converted(method, hub_clip.state_dict())
    with torch.no_grad():
        theirs = hub_clip(input_ids=y, pixel_values=normalised(net, x), return_loss=True)
        ours = method.embed_image(net, x) @ method.embed_text(net, y).T
        loss = method.loss(net, pairs(x, y), LOOP)
    torch.testing.assert_close(ours, theirs.logits_per_image / hub_clip.logit_scale.exp(), rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, theirs.loss, rtol=0, atol=1e-5)


def test_clip_takes_the_authors_archive_with_its_sizes_and_half_precision():
    method = clip()
    net = shaken(method.build(spec(32)))
    archive = {name: tensor.half() for name, tensor in net.state_dict().items()}
    sizes = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    kept = method.convert({**archive, **sizes})
    assert kept.keys() == net.state_dict().keys()
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_clip_at_a_larger_size_interpolates_its_position_table(hub_clip):
    method, x = clip(48), pixels(2, 48)
    net = converted(method, hub_clip.state_dict())
    with torch.no_grad():
        theirs = hub_clip.vision_model(normalised(net, x), interpolate_pos_encoding=True).pooler_output
        theirs = normalize(hub_clip.visual_projection(theirs), dim=1)
        torch.testing.assert_close(method.embed_image(net, x), theirs, rtol=0, atol=1e-5)


def test_clip_reads_a_text_up_to_its_first_end():
    method, y = clip(), clip_captions(3)
    net = shaken(method.build(spec(32)))
    other = y.clone()
    other[0, 5:] = 7  # its caption ends at place 3
    with torch.no_grad():
        torch.testing.assert_close(net.texts(other), net.texts(y))


def test_clip_encodes_an_image_of_several_texts_once_and_takes_all_of_them_for_right():
    method, x, y = clip(), pixels(2, 32), clip_captions(4)
    net = shaken(method.build(spec(32)))
    seen = []
    net.visual.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    rows = torch.tensor([1, 0, 1, 1])
    loss = method.loss(net, pairs(x, y, rows.tolist()), LOOP)
    assert seen == [2]
    logits = net.logit_scale.exp() * net.images(x[rows]) @ net.texts(y).T
    right = (rows[:, None] == rows).float()
    right /= right.sum(1, keepdim=True)
    torch.testing.assert_close(loss, (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2)


def test_clip_may_put_all_texts_of_an_image_into_the_same_batch():
    owner = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    loop = SimpleNamespace(spec=spec(32, texts=9, images=3), generator=torch.Generator().manual_seed(0), pairs=owner)
    order = clip(together=True).order(loop)
    assert sorted(order.tolist()) == list(range(9))
    assert all(len(owner[part].unique()) == 1 for part in order.split(3))


def test_clip_keeps_its_scale_at_100_at_most():
    method = clip()
    net = method.build(spec(32))
    torch.nn.init.constant_(net.logit_scale, 9.0)
    method.step(
        net, pairs(pixels(2, 32), clip_captions(2)), SimpleNamespace(descend=lambda batch, loss: torch.tensor(0))
    )
    assert net.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_clip_does_not_decay_gains_and_biases_and_slows_its_image_tower_where_asked():
    method = clip(lr=1e-3, tower_lr=0.1, weight_decay=0.2)
    net = method.build(spec(32))
    groups = {id(p): g for g in method.optimizers(net)["main"].param_groups for p in g["params"]}
    assert len(groups) == len(list(net.parameters()))
    found = {n: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"]) for n, p in net.named_parameters()}
    assert found["visual.conv1.weight"] == (pytest.approx(1e-4), 0.2)
    assert found["visual.ln_pre.weight"] == (pytest.approx(1e-4), 0.0)
    assert found["text_projection"] == (1e-3, 0.2)
    assert found["logit_scale"] == (1e-3, 0.0)


def test_clip_trains_a_network_of_timm_whose_batch_statistics_stay():
    method = clip(64, image_tower="timm:mobilenetv2_050?pad_type=same")
    net = method.build(spec(64)).train()
    before = {n: t.clone() for n, t in net.state_dict().items() if "running" in n}
    method.loss(net, pairs(pixels(2, 64), clip_captions(2)), LOOP).backward()
    assert net.visual.trunk.conv_stem.weight.grad.abs().sum() > 0
    assert before
    for name, value in before.items():
        torch.testing.assert_close(net.state_dict()[name], value)


def test_clip_starts_from_the_published_weights_of_that_network_without_its_classifier():
    method = clip(64, image_tower="timm:mobilenetv2_050")
    net = method.build(spec(64))
    published = {n: t + 1 for n, t in net.visual.trunk.state_dict().items()}
    lacking = fill(net, method.convert({**published, "classifier.weight": torch.ones(3)}), "published")
    assert not [name for name in lacking if name.startswith("visual.trunk.")]
    torch.testing.assert_close(net.visual.trunk.conv_stem.weight, published["conv_stem.weight"])


@pytest.mark.parametrize("tower", ["timm:no_such_network", "timm:mobilenetv2_050?colour=red", "resnet"])
def test_clip_names_an_image_tower_that_there_is_not(tower):
    with pytest.raises(UsageError, match="image_tower"):
        clip(image_tower=tower).build(spec(32))


@pytest.fixture(scope="module")
def authors_beit():
    """A tiny model of the authors' code (unilm @768a3c8 on torchscale @4d1e0e8), with its inputs and outputs."""
    return {name: torch.from_numpy(np.array(value)) for name, value in np.load(GOLDEN).items()}


def beit(authors):
    method = BEiT3(size=32, dim=16, depth=2, heads=2, max_length=8, vocabulary=12, drop_path=0.0)
    weights = {n.removeprefix("weights/"): t for n, t in authors.items() if n.startswith("weights/")}
    return method, converted(method, weights, length=8, vocabulary=10)


def test_beit_3_gives_the_vectors_and_the_loss_of_the_authors_code(authors_beit):
    method, net = beit(authors_beit)
    x, y = authors_beit["pixels"], authors_beit["ids"]
    with torch.no_grad():
        torch.testing.assert_close(method.embed_image(net, x), authors_beit["image"], rtol=0, atol=1e-5)
        torch.testing.assert_close(method.embed_text(net, y), authors_beit["text"], rtol=0, atol=1e-5)
        torch.testing.assert_close(method.loss(net, pairs(x, y), LOOP), authors_beit["loss"], rtol=0, atol=1e-5)


def test_beit_3_reads_a_text_alike_alone_and_beside_a_longer_one(authors_beit):
    method, net = beit(authors_beit)
    ids = authors_beit["ids"]
    with torch.no_grad():
        alone = torch.cat([method.embed_text(net, row[None]) for row in ids])
        torch.testing.assert_close(alone, method.embed_text(net, ids), rtol=0, atol=1e-5)


def test_beit_3_learns_the_slower_the_deeper_a_layer_lies():
    method = BEiT3(size=32, dim=16, depth=2, heads=2, max_length=8, vocabulary=0, lr=1.0, layer_decay=0.5)
    net = method.build(spec(32))
    groups = {id(p): g for g in method.optimizers(net)["main"].param_groups for p in g["params"]}
    rates = {n: groups[id(p)]["lr"] for n, p in net.named_parameters()}
    assert len(groups) == len(rates)
    assert rates["text_embed.weight"] == rates["vision.embed_positions.weight"] == rates["cls_token"] == 0.125
    assert rates["language.layers.0.self_attn.q_proj.weight"] == 0.25
    assert rates["vision.layers.1.self_attn_layer_norm.weight"] == 0.5
    assert rates["vision.layer_norm.weight"] == rates["language_head.weight"] == rates["logit_scale"] == 1.0
    still = {n for n, p in net.named_parameters() if groups[id(p)]["weight_decay"] == 0}
    assert {"cls_token", "logit_scale", "vision.embed_positions.weight", "patch_embed.bias"} <= still
    assert not {"text_embed.weight", "language.embed_positions.weight"} & still


def test_beit_3_counts_layers_from_the_embeddings_up():
    names = (
        "patch_embed.bias",
        "vision.layers.0.ffn.fc1.weight",
        "language.layers.11.ffn.fc1.weight",
        "vision_head.weight",
    )
    assert [layer_of(name, 12) for name in names] == [0, 1, 12, 13]


def test_beit_3_has_word_vectors_that_its_tokenizer_has_no_words_for():
    sizes = {"size": 32, "dim": 16, "depth": 1, "heads": 2, "max_length": 8}
    assert BEiT3(vocabulary=50, **sizes).build(spec(32)).text_embed.num_embeddings == 50
    assert BEiT3(vocabulary=0, **sizes).build(spec(32)).text_embed.num_embeddings == 40


@pytest.fixture(scope="module")
def hub_align():
    text = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 64}  # fmt: skip
    vision = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": channels(0.1)}
    net = AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=channels(0.1)))
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return shaken(net)


def test_align_gives_the_cosines_and_the_loss_of_transformers_on_the_middle_of_images(hub_align):
    method, x, y = ALIGN(**ALIGN_SIZES), pixels(5, 72), captions(5, 10, 2, 3, 0, (4, 40))
    net = converted(method, hub_align.state_dict())
    with torch.no_grad():
        middle = x[:, 4:68, 4:68].movedim(3, 1) / 127.5 - 1
        theirs = hub_align(input_ids=y, attention_mask=(y > 0).long(), pixel_values=middle, return_loss=True)
        torch.testing.assert_close(method.embed_image(net, x), theirs.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(method.embed_text(net, y), theirs.text_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(method.loss(net, pairs(x, y), LOOP), theirs.loss, rtol=0, atol=1e-5)


def test_align_ignores_the_rim_of_an_image(hub_align):
    method, x = ALIGN(**ALIGN_SIZES), pixels(2, 72)
    net = converted(method, hub_align.state_dict())
    black = x.clone()
    black[:, :4], black[:, 68:], black[:, :, :4], black[:, :, 68:] = 0, 0, 0, 0
    with torch.no_grad():
        torch.testing.assert_close(method.embed_image(net, black), method.embed_image(net, x))


def test_align_has_the_vectors_of_efficientnets_last_block():
    assert [channels(width) for width in (2.0, 1.0, 1.1, 0.1)] == [640, 320, 352, 32]


def test_align_trains_with_lamb_or_what_is_asked_for_instead():
    net = torch.nn.Linear(2, 2)
    kinds = [type(ALIGN(**ALIGN_SIZES, **o).optimizers(net)["main"]).__name__ for o in ({}, {"optimizer": "AdamW"})]
    assert kinds == ["Lamb", "AdamW"]


@pytest.mark.parametrize("method", [clip(), BEiT3(size=32), ALIGN(**ALIGN_SIZES)])
def test_features_in_the_place_of_pixels_are_refused(method):
    with pytest.raises(UsageError, match="takes pixels"):
        method.build(Spec((128,), (10,), 4, 4, None, 40))
