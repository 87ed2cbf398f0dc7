"""BLIP and BLIP-2: published weights give the published scores, and training has the parts that the papers name."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
)

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.vision_language.blip import BLIP, MEAN, STD
from cmrkit.methods.vision_language.blip_2 import BLIP2, best_query, smoothed
from cmrkit.recipe.library import load_recipe
from cmrkit.training.checkpoint import fill

SIZE, WORDS, LENGTH, PAIRS = 32, 30, 9, 6
ENC = WORDS - 1
TOWERS = {"size": SIZE, "patch": 8, "dim": 24, "depth": 2, "heads": 4, "projection": 10, "max_length": LENGTH,
          "dropout": 0.0, "augment": "", "batch_size": PAIRS, "accumulate": 1}  # fmt: skip
FUSION = {"mlp_dim": 48, "fusion_dim": 16, "fusion_depth": 3, "fusion_heads": 4, "queries": 5}


def blip(**changes):
    sizes = {**TOWERS, "text_dim": 16, "text_depth": 2, "text_heads": 4, "queue": 12}
    return BLIP(**{**sizes, **changes})


def blip2(**changes):
    return BLIP2(**{**TOWERS, **FUSION, **changes})


def built(method, n=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return method.build(Spec((SIZE, SIZE, 3), (LENGTH,), n, n, None, WORDS)).eval()


def shaken(module):
    """Random weights large enough that every one of them matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim > 1 else 0.2) + (p.ndim == 1))
    return module.eval()


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (PAIRS, SIZE, SIZE, 3), dtype=np.uint8))


@pytest.fixture
def captions():
    ids = torch.from_numpy(np.random.default_rng(1).integers(4, WORDS - 2, (PAIRS, LENGTH)))
    ids[:, 0] = 2
    for row, length in enumerate((3, 9, 5, 7, 2, 6)):
        ids[row, length:] = 0
    return ids


def standardised(images):
    return (images.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def every_pair(method, net, images, captions):
    """Similarities and logits (images, texts), as evaluation obtains them."""
    with torch.inference_mode():
        x, y = method.embed_image(net, images), method.embed_text(net, captions)
        rows = torch.arange(len(images)).repeat_interleave(len(captions))
        texts = tuple(column.repeat(len(images), *[1] * (column.ndim - 1)) for column in y)
        return method.compare(net, x, y), method.score_block(net, x, texts, rows).view(len(images), -1)


@pytest.fixture(scope="module")
def hub_blip():
    vision = BlipVisionConfig(hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                              image_size=SIZE, patch_size=8, layer_norm_eps=1e-6)  # fmt: skip
    text = BlipTextConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=4, bos_token_id=ENC - 1, sep_token_id=3)  # fmt: skip
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=10)
    return shaken(BlipForImageTextRetrieval(config))


@pytest.fixture(scope="module")
def hub_blip2():
    vision = Blip2VisionConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                               image_size=SIZE, patch_size=8, layer_norm_eps=1e-6)  # fmt: skip
    qformer = Blip2QFormerConfig(vocab_size=WORDS + 1, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
                                 intermediate_size=64, encoder_hidden_size=24, use_qformer_text_input=True)  # fmt: skip
    config = Blip2Config(vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), num_query_tokens=5,
                         image_text_hidden_size=10)  # fmt: skip
    return shaken(Blip2ForImageTextRetrieval(config))


def test_blip_gives_the_scores_of_the_hubs_weights(hub_blip, images, captions):
    method = blip()
    net = built(method)
    fill(net, method.convert(hub_blip.state_dict()), "hub", may_lack=method.training_only)
    similarity, logits = every_pair(method, net, images, captions)
    marked = captions.clone()
    marked[:, 0] = ENC
    mask = (captions != 0).long()
    with torch.no_grad():
        pixels = standardised(images)
        wanted = hub_blip(input_ids=captions, pixel_values=pixels, attention_mask=mask, use_itm_head=False).itm_score
        rows = [hub_blip(input_ids=marked, pixel_values=p.expand(PAIRS, -1, -1, -1), attention_mask=mask).itm_score
                for p in pixels]  # fmt: skip
    torch.testing.assert_close(similarity, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, torch.stack(rows)[:, :, 1], atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.01


def test_blip_2_gives_the_scores_of_the_hubs_weights(hub_blip2, images, captions):
    method = blip2()
    net = built(method)
    fill(net, method.convert(hub_blip2.state_dict()), "hub", may_lack=method.training_only)
    similarity, logits = every_pair(method, net, images, captions)
    given = {"input_ids": captions, "attention_mask": (captions != 0).long()}
    with torch.no_grad():
        pixels = standardised(images)
        wanted = hub_blip2(pixel_values=pixels, **given).logits_per_image
        rows = [hub_blip2(pixel_values=p.expand(PAIRS, -1, -1, -1), **given, use_image_text_matching_head=True)
                for p in pixels]  # fmt: skip
    torch.testing.assert_close(similarity, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, torch.stack([r.logits_per_image[:, 1] for r in rows]), atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.01


def authors_blip(net):
    """The same weights as salesforce/BLIP names them, with what retrieval does not need."""
    weights = {}
    for name, value in net.state_dict().items():
        tower, _, rest = name.partition(".")
        if tower in ("encoders", "momentum"):
            part, _, rest = rest.partition(".")
            weights[f"{part}{'_m' if tower == 'momentum' else ''}.{rest}"] = value
        elif tower != "queue":
            weights[name] = value
    weights |= {"image_queue": net.queue.image.T, "text_queue": net.queue.text.T, "ptr_queue": torch.zeros(1)}
    return weights | {"idx_queue": torch.zeros(1, 12), "text_decoder.cls.bias": torch.zeros(3),
                      "text_encoder.embeddings.position_ids": torch.zeros(1, 512)}  # fmt: skip


def test_blip_takes_its_authors_weights_momentum_encoders_and_queue_included():
    method = blip()
    net = shaken(built(method))
    converted = method.convert(authors_blip(net))
    for name, value in net.state_dict().items():
        if name not in ("queue.ids", "queue.position"):
            torch.testing.assert_close(converted.pop(name), value)
    assert not converted


def test_blip_leaves_a_queue_of_another_length_behind():
    weights = blip(queue=8).convert(authors_blip(built(blip())))
    assert not any(name.startswith("queue") for name in weights)


def lavis_blip2(net):
    """The same weights as LAVIS names them."""
    weights = {}
    for name, value in net.state_dict().items():
        for ours, theirs in (("qformer.query_tokens", "query_tokens"), ("qformer.layer", "Qformer.bert.encoder.layer"),
                             ("qformer.", "Qformer.bert."), ("vision_model.post_layernorm", "ln_vision"),
                             ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
                             ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
                             ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
                             ("vision_model.encoder.layers", "visual_encoder.blocks"), ("layer_norm", "norm"),
                             ("self_attn.projection", "attn.proj"), ("self_attn", "attn")):  # fmt: skip
            name = name.replace(ours, theirs)
        if name.endswith("qkv.bias"):
            q, _, v = value.chunk(3)
            weights |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
        else:
            weights[name] = value
    return weights | {"Qformer.cls.predictions.bias": torch.zeros(3),
                      "Qformer.bert.embeddings.position_ids": torch.zeros(1, 512)}  # fmt: skip


def test_blip_2_takes_laviss_weights_whose_keys_have_no_bias():
    method = blip2()
    net = shaken(built(method))
    for layer in net.vision_model.encoder.layers:
        layer.self_attn.qkv.bias.data[24:48] = 0
    converted = method.convert(lavis_blip2(net))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(converted.pop(name), value)
    assert not converted


@pytest.mark.parametrize(("make", "source"), [(blip, "hub_blip"), (blip2, "hub_blip2")])
def test_weights_of_smaller_images_fit_after_interpolation(make, source, request, images):
    method = make(size=2 * SIZE)
    with torch.random.fork_rng([]):
        net = method.build(Spec((2 * SIZE, 2 * SIZE, 3), (LENGTH,), 0, 0, None, WORDS)).eval()
    fill(net, method.convert(request.getfixturevalue(source).state_dict()), "hub", may_lack=method.training_only)
    tokens = method.embed_image(net, images.repeat(1, 2, 2, 1))[1]
    assert tokens.shape == (PAIRS, 65, 24)


@pytest.mark.parametrize("make", [blip, blip2])
def test_sharing_an_images_keys_and_values_changes_no_score(make, images, captions):
    method = make()
    net = shaken(built(method))
    which = torch.tensor([0, 0, 2, 1, 2, 0])
    with torch.inference_mode():
        x, y = method.embed_image(net, images), method.embed_text(net, captions)
        shared = method.score_block(net, tuple(c[:3] for c in x), y, which)
        single = [method.score(net, tuple(c[w : w + 1] for c in x), tuple(c[i : i + 1] for c in y))
                  for i, w in enumerate(which)]  # fmt: skip
    torch.testing.assert_close(shared, torch.cat(single), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [blip, blip2])
def test_padding_changes_no_score(make, images, captions):
    method = make()
    net = shaken(built(method))
    longer = torch.cat([captions, torch.zeros(PAIRS, 4, dtype=torch.int64)], 1)
    for a, b in zip(*(every_pair(method, net, images, ids) for ids in (captions, longer)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [blip, blip2])
def test_the_final_score_adds_the_similarity_to_the_logit(make, images, captions):
    method = make(shortlist=PAIRS)
    net = shaken(built(method))
    similarity, logits = every_pair(method, net, images, captions)
    method.adopt(net, Spec((SIZE, SIZE, 3), (LENGTH,), 0, 0, None, WORDS))
    scores = method.similarity(images.numpy(), captions.numpy())
    for each in scores.values():
        np.testing.assert_allclose(each.reshape(logits.shape), (similarity + logits).numpy(), atol=1e-4)


def test_the_best_query_stands_for_the_image():
    queries = normalize(torch.randn(2, 3, 4), dim=-1)
    text = queries[1, 2:]
    np.testing.assert_allclose(best_query(queries, text)[1], 1, rtol=1e-6)
    assert best_query(queries, text)[0] == (queries[0] @ text[0]).max()


def test_targets_share_what_smoothing_leaves_among_captions_of_one_image():
    targets = smoothed(torch.tensor([7, 7, 8]), torch.tensor([7, 7, 8]), 0.3)
    torch.testing.assert_close(targets[0], torch.tensor([0.45, 0.45, 0.1]))
    torch.testing.assert_close(targets.sum(1), torch.ones(3))


class OneStep(SimpleNamespace):
    """As much of the training loop as a step needs."""

    def __init__(self, method, net):
        optimizer = method.optimizers(net)["main"]
        super().__init__(step=0, steps_per_epoch=4, parts=1, logged={}, autocast=nullcontext, optimizer=optimizer)

    def descend(self, batch, loss):
        self.optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        self.optimizer.step()
        return value.detach()

    def gather(self, x):
        return x

    def log_value(self, name, value):
        self.logged[name] = float(value)


def batch_of(images, captions, owners):
    return Batch(images, captions, None, torch.arange(len(captions)), torch.tensor(owners))


def test_a_step_of_blip_moves_its_copy_slowly_and_queues_what_it_made(images, captions):
    method = blip(ema=0.75)
    net = built(method, PAIRS)
    loop = OneStep(method, net)
    with torch.no_grad():
        net.encoders.vision_proj.weight.add_(1.0)
    slow, fast = net.momentum.vision_proj.weight.clone(), net.encoders.vision_proj.weight.clone()
    method.step(net, batch_of(images, captions, [0, 1, 2, 3, 4, 4]), loop)
    torch.testing.assert_close(net.momentum.vision_proj.weight, 0.75 * slow + 0.25 * fast)
    assert net.queue.ids[:PAIRS].tolist() == [0, 1, 2, 3, 4, 4]
    assert (net.queue.ids[PAIRS:] < 0).all()
    made = net.momentum.image_vectors(net.momentum.images(images)[:, 0])
    torch.testing.assert_close(net.queue.image[:PAIRS], made)
    assert set(loop.logged) == {"itc", "itm"}


def test_blip_keeps_its_temperature_within_bounds(images, captions):
    method = blip()
    net = built(method, PAIRS)
    with torch.no_grad():
        net.temp.fill_(9.0)
    method.step(net, batch_of(images, captions, list(range(PAIRS))), OneStep(method, net))
    assert net.temp.item() == pytest.approx(0.5, abs=2 * method.lr)  # bounded before the step


@pytest.mark.parametrize("make", [blip, blip2])
def test_captions_of_one_image_are_never_negatives(make, images, captions):
    method = make()
    net = built(method, PAIRS)
    with pytest.raises(CmrkitError, match="one image alone"):
        method.step(net, batch_of(images, captions, [5] * PAIRS), OneStep(method, net))


@pytest.mark.parametrize("make", [blip, blip2])
def test_training_lowers_the_loss_of_pairs_seen_again(make, images, captions):
    torch.manual_seed(0)
    method = make(lr=3e-3, layer_decay=1.0) if make is blip2 else make(lr=3e-3)
    net = built(method, PAIRS).train()
    loop, batch = OneStep(method, net), batch_of(images, captions, list(range(PAIRS)))
    losses = [float(method.step(net, batch, loop)["loss"]) for _ in range(12)]
    assert losses[-1] < losses[0]


def test_lower_image_layers_of_blip_2_learn_more_slowly_and_norms_do_not_decay():
    method = blip2(layer_decay=0.5, lr=1.0)
    net = built(method)
    groups = method.optimizers(net)["main"].param_groups
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(rates) == len(list(net.parameters()))
    vision = net.vision_model
    assert rates[id(vision.embeddings.position_embedding)] == (0.125, method.weight_decay)
    assert rates[id(vision.encoder.layers[0].mlp.fc1.weight)] == (0.25, method.weight_decay)
    assert rates[id(vision.encoder.layers[1].mlp.fc1.bias)] == (0.5, 0.0)
    assert rates[id(net.qformer.query_tokens)] == (1.0, method.weight_decay)
    assert rates[id(vision.post_layernorm.weight)] == (1.0, 0.0)


@pytest.mark.parametrize("make", [blip, blip2])
def test_other_images_than_pixels_of_the_declared_size_are_refused(make):
    with pytest.raises(UsageError, match="pixels"):
        make().build(Spec((2048,), (LENGTH,), 4, 4, None, WORDS))


@pytest.mark.parametrize(("key", "heads"), [("blip", 12), ("blip-2", 16)])
def test_recipes_hold_the_published_sizes_and_sources_of_weights(key, heads):
    recipe = load_recipe(key)
    assert recipe.model["heads"] == heads
    assert {"flickr30k", "mscoco"} <= set(recipe.checkpoints)
    assert {claim.dataset for claim in recipe.claims} == {"flickr30k", "mscoco"}
