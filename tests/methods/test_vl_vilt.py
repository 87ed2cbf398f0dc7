"""ViLT and METER: the same scores whatever is shared between pairs, and as the authors' library has them."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmrkit.methods.deep import Batch, Spec
from cmrkit.methods.vision_language.meter import METER
from cmrkit.methods.vision_language.vilt import ViLT

VOCABULARY, LENGTH = 30, 10
SMALL = {
    ViLT: {"size": 64, "dim": 32, "depth": 3, "heads": 4, "max_length": LENGTH, "dropout": 0.0, "seed": 0},
    METER: {"size": 48, "patch": 16, "image_dim": 32, "image_depth": 2, "image_heads": 2, "text_dim": 32,
            "text_depth": 2, "text_heads": 2, "dim": 32, "fusion_depth": 2, "fusion_heads": 4, "max_length": LENGTH,
            "dropout": 0.0, "seed": 0},
}  # fmt: skip
PADDING = {ViLT: 0, METER: 1}


def built(cls, shape=None):
    torch.manual_seed(1)
    method = cls(**SMALL[cls])
    size = method.size
    net = method.build(Spec(shape or (size, size, 3), (LENGTH,), 0, 0, None, VOCABULARY)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method, net


def pixels(count, size, channels=3):
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8)


def captions(count, padding):
    ids = torch.randint(4, VOCABULARY, (count, LENGTH))
    for row, length in enumerate(torch.randint(3, LENGTH + 1, (count,)).tolist()):
        ids[row, length:] = padding
    return ids


@pytest.mark.parametrize("cls", [ViLT, METER])
def test_pairs_score_alike_alone_together_and_in_any_order(cls):
    method, net = built(cls)
    with torch.no_grad():
        images = method.embed_image(net, pixels(3, method.size))
        texts = method.embed_text(net, captions(8, PADDING[cls]))
        which = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0])
        together = method.score_block(net, images, texts, which)
        order = torch.randperm(8)
        shuffled = method.score_block(net, images, tuple(c[order] for c in texts), which[order])
        alone = [method.score(net, tuple(c[which[i], None] for c in images), tuple(c[i, None] for c in texts))
                 for i in range(8)]  # fmt: skip
    assert together.std() > 1e-3
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-5)


def test_padding_of_images_changes_no_score():
    method, net = built(ViLT, (96, 96, 4))
    image = torch.zeros(2, 96, 96, 4, dtype=torch.uint8)
    image[0, :64, :96, :3], image[0, :64, :96, 3] = pixels(1, 96)[0, :64], 255
    image[1, :, :64, :3], image[1, :, :64, 3] = pixels(1, 96)[0, :, :64], 255
    texts = method.embed_text(net, captions(2, 0))
    with torch.no_grad():
        both = method.score(net, method.embed_image(net, image), texts)
        cut = method.score(net, method.embed_image(net, image[:1, :64]), tuple(c[:1] for c in texts))
    torch.testing.assert_close(cut[0], both[0], rtol=0, atol=1e-5)


def official():
    from transformers import ViltConfig, ViltForImageAndTextRetrieval

    torch.manual_seed(2)
    config = ViltConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        image_size=64, patch_size=32, max_position_embeddings=LENGTH, initializer_range=0.2,
    )  # fmt: skip
    return ViltForImageAndTextRetrieval(config).eval()


def test_vilt_scores_as_the_hubs_model_does():
    theirs, (method, net) = official(), built(ViLT)
    net.load_state_dict(method.convert(theirs.state_dict()))
    x, ids = pixels(3, 64), captions(3, 0)
    with torch.no_grad():
        ours = method.score(net, method.embed_image(net, x), method.embed_text(net, ids))
        expected = theirs(input_ids=ids, attention_mask=(ids != 0).long(), pixel_mask=torch.ones(3, 64, 64).long(),
                          pixel_values=(x.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).logits[:, 0]  # fmt: skip
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_vilt_begins_the_rank_head_with_the_matching_heads_row_and_cuts_long_position_tables():
    method, net = built(ViLT)
    weights = {n: v for n, v in official().state_dict().items() if not n.startswith("rank_output")}
    weights["itm_score.fc.weight"], weights["itm_score.fc.bias"] = torch.randn(2, 32), torch.randn(2)
    name = "vilt.embeddings.text_embeddings.position_embeddings.weight"
    weights[name] = torch.cat([weights[name], torch.zeros(5, 32)])
    found = method.convert(weights)
    assert torch.equal(found["rank_output.weight"], weights["itm_score.fc.weight"][1:])
    assert set(found) == set(net.state_dict())
    assert found["text_embeddings.position_embeddings.weight"].shape == (LENGTH, 32)


def test_vilts_loss_is_the_cross_entropy_of_the_own_caption_among_drawn_ones(monkeypatch):
    from cmrkit.methods.vision_language import vilt

    method, net = built(ViLT)
    own, drawn = captions(2, 0), captions(2 * method.false_texts, 0).unflatten(0, (2, -1))
    monkeypatch.setattr(vilt, "draw_texts", lambda *_: drawn)
    x = pixels(2, 64)
    with torch.no_grad():
        loss = method.loss(net, Batch(x, own, None, torch.arange(2), torch.arange(2)), None)
        images = method.embed_image(net, x)
        logits = [[method.score(net, tuple(c[i, None] for c in images), method.embed_text(net, t[None])).item()
                   for t in (own[i], *drawn[i])] for i in range(2)]  # fmt: skip
    torch.testing.assert_close(loss, cross_entropy(torch.tensor(logits), torch.zeros(2).long()), rtol=0, atol=1e-5)


def test_meter_grows_its_table_of_patches_to_larger_images():
    method, net = built(METER)
    small = METER(**{**SMALL[METER], "size": 32})
    weights = small.build(Spec((32, 32, 3), (LENGTH,), 0, 0, None, VOCABULARY)).state_dict()
    found = method.convert(dict(weights))
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in net.state_dict().items()}
