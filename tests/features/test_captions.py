import numpy as np
import pytest

from cmrkit.errors import CmrkitError
from cmrkit.features.captions import CaptionReader, clean, training_words

CAPTIONS = np.array([b"A red dog runs.", "A café, blue".encode(), b"dog"])
WORDS = {"words.txt": training_words(CAPTIONS)}
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "dog", "runs", "##s", "run", "blue", "."]


def test_words_are_those_of_the_captions_sorted():
    assert WORDS["words.txt"].decode().split("\n") == ["a", "blue", "café", "dog", "red", "runs"]


@pytest.mark.parametrize(
    ("tokenizer", "first", "expected"),
    [("bert", 4, [2, 7, 3, 0, 0]), ("blip", 4, [2, 7, 3, 0, 0]), ("roberta", 4, [0, 7, 2, 1, 1]),
     ("beit3", 4, [0, 7, 2, 1, 1]), ("clip", 1, [7, 4, 8, 8, 8])],
)  # fmt: skip
def test_special_tokens_stand_where_each_model_has_them(tokenizer, first, expected):
    reader = CaptionReader(tokenizer, 5, WORDS)
    assert reader(np.array([b"dog"])).tolist() == [expected]
    assert reader(np.array([b"a"]))[0, 1] == first
    assert reader.vocabulary == 6 + {"bert": 4, "blip": 6, "roberta": 4, "beit3": 4, "clip": 3}[tokenizer]


def test_unknown_words_have_one_id_and_long_captions_lose_their_end_and_are_counted():
    reader = CaptionReader("bert", 5, WORDS)
    assert reader(np.array([b"a zebra runs"])).tolist() == [[2, 4, 1, 9, 3]]
    assert reader.truncated == 0
    assert reader(CAPTIONS[:1]).tolist() == [[2, 4, 8, 7, 3]]
    assert reader.truncated == 1


def test_a_published_wordpiece_vocabulary_is_used_as_its_tokenizer_does():
    reader = CaptionReader("bert", 8, {"vocab.txt": "\n".join(BERT).encode()})
    assert reader(np.array([b"A Dog runs.", b"runss zebra"])).tolist() == [
        [2, 4, 6, 7, 11, 3, 0, 0], [2, 7, 8, 1, 3, 0, 0, 0]
    ]  # fmt: skip
    assert reader.vocabulary == len(BERT)
    assert CaptionReader("blip", 8, reader.files).vocabulary == len(BERT) + 2


def test_a_published_byte_pair_vocabulary_is_used_as_its_tokenizer_does():
    tokens = ["a", "a</w>", "d", "o", "g</w>", "do", "dog</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = "{" + ", ".join(f'"{t}": {i}' for i, t in enumerate(tokens)) + "}"
    files = {"vocab.json": vocabulary.encode(), "merges.txt": b"#version: 0.2\nd o\ndo g</w>\n"}
    assert CaptionReader("clip", 6, files)(np.array([b"A dog"])).tolist() == [[7, 1, 6, 8, 8, 8]]


def test_a_file_that_is_no_vocabulary_is_named():
    with pytest.raises(CmrkitError, match=r"vocab\.txt"):
        CaptionReader("bert", 5, {"vocab.txt": b"a\nb\n"})(CAPTIONS)


def test_cleaning_follows_the_published_code():
    text = "Two people's  dogs, well-fed; run/jump!\n"
    assert clean(text, "none") == text
    assert clean(text, "albef") == "two peoples dogs well fed run jump"
    assert clean(text, "blip") == "two people's dogs, well-fed run/jump"
    assert len(clean("word " * 50, "albef").split()) == 30


def test_a_prompt_comes_before_every_caption():
    plain, prompted = (CaptionReader("bert", 8, WORDS, prompt=p) for p in ("", "a red "))
    assert prompted(np.array([b"dog"])).tolist() == plain(np.array([b"a red dog"])).tolist()
