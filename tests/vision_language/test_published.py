import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cmrkit as package
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.pipeline.resolve import resolve


@pytest.fixture
def offline_mirror(toy_mirror, monkeypatch):
    monkeypatch.setenv("CMRKIT_MIRROR", str(toy_mirror))
    return toy_mirror


def reproduce(**more):
    return package.reproduce("toypairs", "tiny30k", offline=True, **more)


def change_weights(mirror, change):
    path = mirror / "toy" / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_published_weights_are_converted_and_evaluated_without_training(toy_recipe, offline_mirror):
    document = reproduce()
    assert document["origin"] == "checkpoint"
    assert "the authors' weights" in document["protocol"]
    assert [s["name"] for s in document["steps"]] == [
        "download", "convert", "download", "prepare", "features", "encode", "evaluate"
    ]  # fmt: skip
    run = document["runs"][0]
    # Five images of each colour: the right one is among the nearest five, and first by chance alone.
    assert run["metrics"]["r@5"]["t2i"] == 100.0
    assert run["metrics"]["r@1"]["t2i"] < 100
    record = json.loads(Path(run["record"]).read_text())
    assert record["origin"] == "checkpoint"
    assert record["steps"]["weights"]
    assert record["history"] == []


def test_a_second_run_takes_everything_from_the_store(toy_recipe, offline_mirror):
    first, second = reproduce(), reproduce()
    assert all(s["cached"] for s in second["steps"])
    assert second["runs"][0]["metrics"] == first["runs"][0]["metrics"]


def test_a_converted_checkpoint_loads_and_scores_like_the_run(toy_recipe, offline_mirror, toy_mirror):
    model = package.load(reproduce()["runs"][0]["checkpoint"])
    assert set(model.files) == {"vocab.txt"}
    from cmrkit.training.rows import Rows

    images = Rows(np.array([b"i:flickr30k-images/0.jpg", b"i:flickr30k-images/1.jpg"]), None,
                  {"i": toy_mirror / "flickr30k" / "flickr30k-images.zip"})  # fmt: skip
    scores = model.similarity(images, Rows(np.array([b"red", b"green"])))
    assert scores.shape == (2, 2)
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]


def test_a_shortlist_that_holds_what_counts_changes_nothing(toy_recipe, offline_mirror):
    everything = reproduce()["runs"][0]["metrics"]
    listed = reproduce(overrides={"model.shortlist": 25})["runs"][0]["metrics"]  # the captions of a colour
    assert {m: listed[m] for m in ("r@1", "r@5")} == {m: everything[m] for m in ("r@1", "r@5")}


def test_a_shortlist_scores_only_what_is_listed(toy_recipe, offline_mirror, monkeypatch):
    from cmrkit.methods import pairs

    asked, score = [], pairs.Scorer._score

    def counting(self, net, image_rows, text_rows):
        asked.append(len(image_rows))
        return score(self, net, image_rows, text_rows)

    monkeypatch.setattr(pairs.Scorer, "_score", counting)
    reproduce(overrides={"model.shortlist": 3})
    assert max(20 * 3, 100 * 3) <= sum(asked) <= 20 * 3 + 100 * 3


def test_a_limit_looks_at_a_part_and_is_comparable_with_no_claim(toy_recipe, offline_mirror):
    document = reproduce(overrides={"eval.limit": 4})
    assert "only the first 4 query images" in document["protocol"]
    assert document["claims"] == []
    assert document["runs"][0]["metrics"]["r@1"] == {"i2t": 100.0, "t2i": 100.0}  # one image of each colour


def test_a_missing_tensor_is_named(toy_recipe, offline_mirror, toy_mirror):
    change_weights(toy_mirror, lambda w: w.pop("official.image.bias"))
    with pytest.raises(CmrkitError, match=r"weights\.safetensors.*image\.bias missing \(1 of"):
        reproduce()


def test_a_tensor_too_many_is_named(toy_recipe, offline_mirror, toy_mirror):
    change_weights(toy_mirror, lambda w: w.update({"official.head.weight": torch.zeros(2)}))
    with pytest.raises(CmrkitError, match=r"head\.weight not of this network"):
        reproduce()


def test_a_tensor_of_another_shape_is_named_with_both_shapes(toy_recipe, offline_mirror):
    with pytest.raises(CmrkitError, match=r"image\.weight is \[8, 3\] instead of \[5, 3\]"):
        reproduce(overrides={"model.dim": 5})


def test_weights_of_something_else_are_refused(toy_recipe, offline_mirror, toy_mirror):
    save_file({"encoder.layer.0.weight": torch.zeros(2, 2)}, toy_mirror / "toy" / "weights.safetensors")
    with pytest.raises(CmrkitError, match="none of the network's"):
        reproduce()


def test_truncated_weights_are_named(toy_recipe, offline_mirror, toy_mirror):
    path = toy_mirror / "toy" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CmrkitError, match=r"weights\.safetensors: cannot be read as weights"):
        reproduce()


def test_an_origin_that_the_recipe_lacks_is_refused_with_those_it_has(toy_recipe):
    with pytest.raises(UsageError, match=r"no published weights 'pretrained'.*tiny30k"):
        resolve("toypairs", "tiny30k", origin="pretrained")
    assert [r.origin for r in resolve("toypairs", "tiny30k")] == ["checkpoint"]
    assert resolve("toypairs", "tiny30k", origin="scratch")[0].origin == "scratch"


def test_training_starts_from_the_weights_that_a_recipe_names_for_the_dataset(toy_recipe, offline_mirror, tmp_path):
    """``pretrained-DATASET`` is what training there starts from unless told otherwise, before ``pretrained``."""
    recipe = tmp_path / "tree" / "recipes" / "vision_language" / "toypairs.yaml"
    changes = {
        "data: {": "data: {shapes: {image: pixels, text: captions, split: default}, ",
        "  tiny30k:\n    weights": "  pretrained-shapes:\n    weights",
        "checkpoints:": "checkpoints:\n  pretrained: {weights: {path: toy/none.bin, urls: [https://example.org/none]}}",
    }
    text = recipe.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    recipe.write_text(text)
    (run,) = resolve("toypairs", "shapes")
    assert (run.origin, run.published) == ("pretrained", "pretrained-shapes")
    assert resolve("toypairs", "shapes", origin="scratch")[0].published is None
    still = {"model.size": 64, "train.lr": 1e-9, "train.steps": 2, "eval.limit": 4}
    document = package.reproduce("toypairs", "shapes", overrides=still, offline=True)
    assert document["origin"] == "pretrained"
    learned = load_file(Path(document["runs"][0]["checkpoint"]) / "model.safetensors")
    given = load_file(offline_mirror / "toy" / "weights.safetensors")["official.image.weight"]
    assert any(t.shape == given.shape and torch.allclose(t, given, atol=1e-6) for t in learned.values())


def test_a_killed_scoring_goes_on_where_it_stood(toy_recipe, offline_mirror, own_cache, monkeypatch):
    """The scores of pairs survive an interruption: the second run asks only for those that are missing."""
    from cmrkit.evaluation import reranking
    from cmrkit.methods import pairs

    monkeypatch.setattr(reranking, "SAVE_EVERY", 0.0)
    whole = reproduce(cache=own_cache / "whole")["runs"][0]["metrics"]
    asked, score = [], pairs.Scorer._score

    def failing(self, net, image_rows, text_rows):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(image_rows))
        return score(self, net, image_rows, text_rows)

    monkeypatch.setattr(pairs.Scorer, "_score", failing)
    with pytest.raises(KeyboardInterrupt):
        reproduce()
    rest = []

    def counting(self, net, image_rows, text_rows):
        rest.append(len(image_rows))
        return score(self, net, image_rows, text_rows)

    monkeypatch.setattr(pairs.Scorer, "_score", counting)
    again = reproduce()["runs"][0]["metrics"]
    assert again == whole
    assert sum(asked) + sum(rest) == 20 * 100
    assert rest


def test_training_starts_from_published_weights_when_asked(toy_recipe, offline_mirror, toy_mirror):
    from cmrkit.methods.deep import TrainingSet
    from cmrkit.methods.inspect import load_method
    from cmrkit.training.options import Options

    run = resolve("toypairs", "tiny30k", origin="scratch")[0]
    method = load_method(run.method)(**{**run.params, "epochs": 1, "lr": 1e-12, "betas": (0.9, 0.999), "milestones": (),
                                        "frozen": ()})  # fmt: skip
    pixels = np.full((4, 16, 16, 3), 90, np.uint8)
    data = TrainingSet(pixels, np.array([[2, 4, 5, 3]] * 4), np.arange(4), None, 13)
    initial = method.convert(load_file(toy_mirror / "toy" / "weights.safetensors"))
    method.fit_set(data, Options(device="cpu"), None, initial)
    torch.testing.assert_close(method.net_.image.weight, initial["image.weight"], rtol=0, atol=1e-9)


def test_a_plan_counts_the_pairs_and_estimates_the_hours(toy_recipe, offline_mirror, cmrkit):
    plan = json.loads(cmrkit("plan", "toypairs", "--dataset", "tiny30k", "--json").stdout)
    assert plan["pairs"]["count"] == 20 * 100
    assert plan["pairs"]["all"]
    assert plan["pairs"]["cpu_hours"] > 0
    names = {f["name"]: f for f in plan["files"]}
    assert names["weights"]["licence"] == "MIT"
    assert names["weights"]["found"]
    text = cmrkit("plan", "toypairs", "--dataset", "tiny30k").stdout
    assert "2,000 all pairs" in text
    short = json.loads(cmrkit("plan", "toypairs", "--set", "model.shortlist=4", "--json").stdout)
    assert short["pairs"]["count"] == 20 * 4 + 100 * 4
