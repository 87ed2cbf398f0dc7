"""Deep methods in the pipeline: read statically, trained on rows of any shape, encoded, selected and evaluated."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from toys import CPU

from cmrkit.errors import UsageError
from cmrkit.methods.inspect import find_method
from cmrkit.pipeline.checkpoint import load_checkpoint, save_checkpoint
from cmrkit.pipeline.encoding import encode_arrays
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import plan_run, selection_rule
from cmrkit.pipeline.resolve import resolve
from cmrkit.pipeline.scoring import score
from cmrkit.pipeline.training import trained_model
from cmrkit.recipe import library

MATCHER = '''
"""Words look for their best region."""
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from cmrkit.methods.deep import SetMatcher

@dataclass(kw_only=True)
class Words(SetMatcher):
    """Mean over words of the best region's inner product."""

    dim: int = 8
    epochs: int = 30
    batch_size: int = 20
    lr: float = 0.03

    def build(self, spec):
        net = nn.Module()
        net.image = nn.Linear(spec.image_shape[1], self.dim)
        net.text = nn.Embedding(spec.vocabulary, self.dim, padding_idx=0)
        return net

    def embed_image(self, net, x):
        return net.image(x)

    def embed_text(self, net, y):
        return net.text(y), (y != 0).sum(1)

    def match(self, net, images, texts):
        words, lengths = texts
        best = torch.einsum("ard,bld->abrl", images, words).amax(2)
        return best.sum(2) / lengths

    def loss(self, net, batch, loop):
        S = self.match(net, self.embed_image(net, batch.image), self.embed_text(net, batch.text))
        own = batch.images[:, None] == batch.images
        return nn.functional.cross_entropy(S.masked_fill(own & ~torch.eye(len(S), dtype=bool), -1e9),
                                           torch.arange(len(S)))
'''


def write_features(folder, image, text, pairs, splits, kind="vectors", vocabulary=None, labels=None):
    for name, array in {"image": image, "text": text, "pairs": pairs}.items():
        np.save(folder / f"{name}.npy", array)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    for role, rows in splits.items():
        np.save(folder / f"split-{role}.npy", np.asarray(rows))
    entry = {"kind": kind} | ({"vocabulary": vocabulary} if vocabulary else {})
    (folder / "meta.json").write_text(json.dumps({"image": {"kind": "vectors"}, "text": entry, "skipped": []}))
    return FeatureSet.load(folder)


@pytest.fixture
def scenes(tmp_path):
    """60 images of three regions, each region one of ten things; two texts each name two of its things."""
    rng = np.random.default_rng(0)
    things = np.stack([rng.permutation(10)[:3] for _ in range(60)])
    look = rng.normal(size=(10, 6))
    image = (look[things] + 0.1 * rng.normal(size=(60, 3, 6))).astype(np.float16)
    text = np.zeros((120, 4), np.int32)
    text[0::2, :2], text[1::2, :3] = things[:, :2] + 1, things + 1
    splits = {"train": range(40), "query": range(40, 60), "database": range(40, 60)}
    vocabulary = ["<pad>", *(f"thing{i}" for i in range(10))]
    folder = tmp_path / "scenes"
    folder.mkdir()
    return write_features(folder, image, text, np.repeat(np.arange(60), 2), splits, "tokens", vocabulary)


@pytest.fixture
def matcher(tmp_path, monkeypatch):
    path = tmp_path / "methods" / "image_text_matching"
    path.mkdir(parents=True)
    (path / "words.py").write_text(MATCHER)
    monkeypatch.setattr(library, "roots", lambda: (library.home(), library.Root(tmp_path, tmp_path / "methods")))
    return {
        "recipe": "words", "family": "image_text_matching", "method": "words", "dataset": "scenes", "data": {},
        "preprocess": {"image": [], "text": []}, "params": {"seed": 0},
    }  # fmt: skip


@pytest.fixture
def trained(matcher, scenes, tmp_path):
    return trained_model(matcher, scenes, "words", replace(CPU, directory=tmp_path / "work"))


def test_a_matcher_of_sets_trains_saves_loads_and_answers(trained, scenes, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(tmp_path / "checkpoint", trained)
    model = load_checkpoint(tmp_path / "checkpoint")
    arrays = encode_arrays(model, scenes)
    assert arrays["similarity"].shape == (20, 40)
    np.testing.assert_allclose(arrays["similarity"], encode_arrays(trained, scenes)["similarity"], rtol=1e-6)
    metrics = score(arrays, model.space, {"protocol": "recall", "ties": "expected"})["metrics"]
    assert metrics["r@1"]["t2i"] > 20, "chance is 5"


def test_similarities_do_not_depend_on_the_blocks(trained, scenes):
    images, texts, *_ = scenes.parts("query")
    whole = trained.method.similarity(images, texts)
    np.testing.assert_allclose(trained.method.similarity(images, texts, block=7), whole, rtol=1e-5)


def test_a_matcher_has_no_vectors_to_give(trained, scenes):
    with pytest.raises(UsageError, match="Words compares images and texts as sets"):
        trained.encode_image(scenes.image)


def test_an_image_enters_once_however_many_texts_it_has(scenes):
    images, texts, pairs, _ = scenes.parts("train")
    assert (len(images), len(texts)) == (40, 80)
    assert isinstance(images.array, np.memmap)
    assert images.dtype == np.float16
    np.testing.assert_array_equal(np.bincount(pairs), 2)


def test_texts_of_another_vocabulary_are_refused(trained, scenes):
    words = list(scenes.vocabulary)
    words[3], words[4] = words[4], words[3]
    meta = {**scenes.meta, "text": {**scenes.meta["text"], "vocabulary": words}}
    with pytest.raises(UsageError, match="token 3 is 'thing3' where the model has 'thing2'"):
        encode_arrays(trained, replace(scenes, meta=meta))
    with pytest.raises(UsageError, match="token ids from 0 to 10"):
        trained.similarity(scenes.image, np.full((2, 4), 11, np.int32))


def test_token_ids_are_not_preprocessed(matcher, scenes, tmp_path):
    matcher["preprocess"]["text"] = ["zscore"]
    with pytest.raises(UsageError, match=r"preprocess\.text is zscore, but the features are tokens"):
        trained_model(matcher, scenes, "words", replace(CPU, directory=tmp_path / "work"))


def test_features_of_another_shape_are_refused(trained, scenes):
    with pytest.raises(UsageError, match=r"image features have shape \(60, 3, 5\); this checkpoint takes \(n, 3, 6\)"):
        trained.similarity(scenes.image[:, :, :5], scenes.text)


def labelled(tmp_path, roles):
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=90)
    image, text = (np.eye(3)[y] @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(90, d)) for d in (6, 5))
    splits = {role: np.arange(i * 15, i * 15 + 15) for i, role in enumerate(roles)}
    return write_features(tmp_path, image, text, np.arange(90), splits, labels=np.eye(3, dtype=np.uint8)[y])


RULE = {"metric": "map@all", "split": "val",
        "eval": {"protocol": "real-map", "database": "hashed", "items": "query", "ties": "expected"}}  # fmt: skip
DSCMR = {"recipe": "dscmr", "family": "real_supervised_deep", "method": "dscmr", "dataset": "labelled", "data": {},
         "preprocess": {"image": ["zscore"], "text": []}, "selection": RULE,
         "params": {"seed": 0, "hidden": 16, "dim": 8, "epochs": 4, "lr": 0.01, "select": "map@all"}}  # fmt: skip


def test_the_best_epoch_is_chosen_on_the_declared_split(tmp_path):
    data = labelled(tmp_path, ["train", "val", "query", "database"])
    model = trained_model(DSCMR, data, "x", replace(CPU, directory=tmp_path / "work"))
    chosen = [json.loads(line)["selection"] for line in (tmp_path / "work" / "history.jsonl").read_text().splitlines()]
    arrays = encode_arrays(model, data, query="val")
    found = score(arrays, "cosine", RULE["eval"])["metrics"]["map@all"]
    assert np.mean(list(found.values())) == pytest.approx(max(chosen))
    assert len(set(chosen)) > 1


def test_a_split_that_selection_needs_is_missed_before_training(tmp_path):
    data = labelled(tmp_path, ["train", "query", "database"])
    with pytest.raises(UsageError, match="no 'val' part; it has train, query, database"):
        trained_model(DSCMR, data, "x", replace(CPU, directory=tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_the_selection_rule_is_part_of_the_training_and_the_query_set_must_be_declared():
    last = resolve("dscmr", "digits", seeds=[0])[0]
    best = resolve("dscmr", "digits", seeds=[0], overrides={"train.select": "map@all"})[0]
    assert selection_rule(last) is None
    assert selection_rule(best)["split"] == "val"
    on_queries = replace(best, eval=best.eval.model_copy(update={"selection": "query"}))
    assert selection_rule(on_queries)["split"] == "query"
    keys = {plan_run(run).inputs[0].inputs[0].key for run in (last, best, on_queries)}
    assert len(keys) == 3
    with pytest.raises(UsageError, match=r"eval.selection is 'query', but train.select names no metric"):
        plan_run(replace(last, eval=on_queries.eval))


def test_fields_are_inherited_without_importing_torch():
    program = (
        "import sys; from cmrkit.methods.inspect import find_method as f; m = f('real_supervised_deep', 'dscmr');"
        "assert m.deep and m.fields['lr'] == (float, 1e-4) and m.fields['clip'] == (float, 0.0);"
        "assert m.class_attribute('space') == 'cosine' and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert not find_method("real_unsupervised", "cca").deep


@pytest.mark.parametrize(
    ("key", "message"),
    [("dscmr", "'cuda:99' was asked for"), ("cca", "cca is not a deep method: it runs on the CPU")],
)
def test_a_device_that_cannot_be_is_refused_before_anything_starts(cmrkit, own_cache, key, message):
    done = cmrkit("reproduce", key, "--dataset", "digits", "--device", "cuda:99")
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(own_cache.glob("artifacts/*"))
