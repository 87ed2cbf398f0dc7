"""Texts as numbered words, the vectors of those words, and vocabularies that must agree."""

import numpy as np
import pytest

from cmrkit.data.paired import PairedData
from cmrkit.errors import UsageError
from cmrkit.features import extract
from cmrkit.features.base import Job
from cmrkit.features.tokens import SPECIAL, embedding, require_vocabulary, tokenize


@pytest.fixture
def data():
    return PairedData(
        name="toy",
        pairs=np.array([0, 0, 1, 2]),
        splits={"train": np.array([0, 1]), "query": np.array([2])},
        captions=["A red dog.", "a dog, a dog", "the Red cat", "a unicorn and a dog"],
    )


def tokens(data, **options):
    return extract("tokens", data, Job({"min_count": 2, **options}))


def test_words_are_lower_case_without_punctuation_and_with_inner_hyphens():
    assert tokenize("The dog's RED t-shirt -- (wet), 2 cafés; don’t_go!") == (
        ["the", "dog", "'s", "red", "t-shirt", "wet", "2", "cafés", "don", "’t", "go"]
    )


def test_captions_become_numbers_between_start_and_end_padded_with_zero(data):
    found = tokens(data)
    assert found.vocabulary == ("<pad>", "<start>", "<end>", "<unk>", "a", "dog", "red")
    assert found.matrix.dtype == np.int32
    assert found.matrix.tolist() == [
        [1, 4, 6, 5, 2, 0, 0],
        [1, 4, 5, 4, 5, 2, 0],
        [1, 3, 6, 3, 2, 0, 0],
        [1, 4, 3, 3, 4, 5, 2],
    ]
    assert found.kind == "tokens"
    assert found.about()["vocabulary"] == list(found.vocabulary)
    assert found.about()["unknown_share"] == pytest.approx(4 / 15)


def test_the_vocabulary_is_that_of_training_captions_that_are_frequent_enough(data):
    assert tokens(data, min_count=3).vocabulary == (*SPECIAL, "a", "dog")
    assert "unicorn" not in tokens(data, min_count=1).vocabulary
    with pytest.raises(UsageError, match="no word of the training captions occurs 9 times"):
        tokens(data, min_count=9)


def test_long_captions_are_cut(data):
    assert tokens(data, max_length=2).matrix.tolist()[3] == [1, 4, 3, 2]


def test_each_token_gets_its_vector_and_zero_where_there_is_none(data, tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, words=np.array(["dog", "zebra", "a"]), vectors=np.arange(6, dtype=np.float32).reshape(3, 2) + 1)
    found = extract("tokens", data, Job({"min_count": 2, "vectors": "glove"}, {"glove": path}))
    assert found.tables["embedding"].tolist() == [[0, 0]] * 4 + [[5, 6], [1, 2], [0, 0]]
    assert found.about()["words_with_vector"] == 2
    assert found.about()["tables"] == {"embedding": [7, 2]}
    found.save(tmp_path)
    assert np.load(tmp_path / "text-embedding.npy").shape == (7, 2)


def test_vectors_are_read_from_glove_text_files(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2\ncat 3 4\n. 5 6\n")
    assert embedding(["<pad>", "cat"], path)[0].tolist() == [[0, 0], [3, 4]]
    path.write_text("dog 1 2\ncat 3 x\n")
    with pytest.raises(UsageError, match=r"glove\.txt:2: expected a word and its numbers"):
        embedding(["<pad>", "cat"], path)


def test_vectors_of_other_words_alone_are_refused(tmp_path):
    (tmp_path / "glove.txt").write_text("dog 1 2\n")
    with pytest.raises(UsageError, match="no vector for any word"):
        embedding(["<pad>", "cat"], tmp_path / "glove.txt")


def test_another_vocabulary_is_refused_at_its_first_difference():
    require_vocabulary(("<pad>", "a"), ["<pad>", "a"], "x")
    with pytest.raises(UsageError, match=r"flickr8k: .*token 1 is 'b' where the model has 'a'"):
        require_vocabulary(("<pad>", "a"), ("<pad>", "b"), "flickr8k")
    with pytest.raises(UsageError, match="token 2 is 'b' where the model has 'nothing'"):
        require_vocabulary(("<pad>", "a"), ("<pad>", "a", "b"), "flickr8k")


def test_flickr8k_has_the_words_it_has(mirror):
    from cmrkit.data.readers.flickr8k import read_captions

    captions = read_captions(mirror / "flickr8k" / "Flickr8k.token.txt")
    train = (mirror / "flickr8k" / "Flickr_8k.trainImages.txt").read_text().split()
    texts = [caption for name in train for caption in captions[name]]
    data = PairedData("f8k", np.repeat(np.arange(len(train)), 5), {"train": np.arange(len(train))}, captions=texts)
    found = extract("tokens", data, Job({"vectors": "g"}, {"g": mirror / "glove" / "glove6B-200d-flickr8k.npz"}))
    assert len(found.vocabulary) > 2000
    assert found.about()["words_with_vector"] > 1500
    assert 0 < found.about()["unknown_share"] < 0.03
    assert found.tables["embedding"].shape == (len(found.vocabulary), 200)
