"""Texts through a transformer from local files."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cmrkit.data.paired import PairedData  # noqa: E402
from cmrkit.errors import CmrkitError, UsageError  # noqa: E402
from cmrkit.features import extract  # noqa: E402
from cmrkit.features.base import Job  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", "runs"]
CAPTIONS = ["a red dog runs", "a cat", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A very small BERT with random weights."""
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    transformers.BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(path)
    return path


@pytest.fixture
def data():
    return PairedData("toy", np.arange(3), {"query": np.arange(3)}, captions=CAPTIONS)


def alone(folder, caption):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    net = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return net(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0].numpy()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_text_is_pooled_as_if_it_were_alone(folder, data, batch):
    mean = extract("transformers", data, Job({"model": str(folder)}, batch=batch))
    first = extract("transformers", data, Job({"model": str(folder), "pooling": "first"}, batch=batch))
    assert (mean.kind, mean.matrix.dtype) == ("vectors", np.float32)
    for row, caption in enumerate(CAPTIONS):
        states = alone(folder, caption)
        np.testing.assert_allclose(mean.matrix[row], states.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(first.matrix[row], states[0], atol=1e-5)


def test_states_are_zero_after_the_end(folder, data):
    found = extract("transformers", data, Job({"model": str(folder), "layout": "states"}, batch=2))
    assert (found.kind, found.matrix.dtype, found.matrix.shape) == ("states", np.float16, (3, 6, 8))
    np.testing.assert_allclose(found.matrix[1, :4], alone(folder, "a cat"), atol=2e-3)
    assert not found.matrix[1, 4:].any()


def test_long_texts_are_cut(folder, data):
    found = extract("transformers", data, Job({"model": str(folder), "layout": "states", "max_length": 4}))
    assert found.matrix.shape == (3, 4, 8)


def test_a_model_that_cannot_be_had_is_named(data, tmp_path):
    with pytest.raises(CmrkitError, match=f"the text encoder '{tmp_path}' cannot be had"):
        extract("transformers", data, Job({"model": str(tmp_path)}))
    with pytest.raises(UsageError, match="needs the option 'model'"):
        extract("transformers", data)
    with pytest.raises(UsageError, match="pooling 'max' of 'transformers' is not one of mean, first"):
        extract("transformers", data, Job({"model": "x", "pooling": "max"}))
