"""Captions as the token ids that vision-language models take.

The vocabulary is a model's own, from files its authors published, or the words of the training captions where a
model is trained from scratch. Both put special tokens where the model's tokenizer has them:

=================  ==========================  ===================  =======
tokenizer          a caption                   last ids             padding
=================  ==========================  ===================  =======
bert               [CLS] words [SEP]                                [PAD] 0
blip               [CLS] words [SEP]           [DEC], [ENC]         [PAD] 0
roberta, beit3     <s> (0) words </s> (2)                           <pad> 1
clip               <start> words <end>         <start>, <end>       <end>
=================  ==========================  ===================  =======
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features.base import Extracted, Job, require_captions
from cmrkit.features.tokens import tokenize

HEADS = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    "blip": ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>"),
    "beit3": ("<s>", "<pad>", "</s>", "<unk>"),
    "clip": ("<unk>",),
}
TAILS = {"blip": ("[DEC]", "[ENC]"), "clip": ("<start>", "<end>")}
MARKS = {"bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"), "roberta": ("<s>", "</s>", "<pad>", "<unk>"),
         "clip": ("<start>", "<end>", "<end>", "<unk>")}  # fmt: skip
MARKS |= {"blip": MARKS["bert"], "beit3": MARKS["roberta"]}
# What published code does to a caption before its tokenizer sees it: a pattern, what replaces it, words kept.
CLEANING = {
    "none": (None, "", None),
    "albef": (re.compile(r"[,.'!?\"()*#:;~]"), "", 30),  # ALBEF @b9727e4, dataset/utils.py; TCL alike
    "blip": (re.compile(r"[.!\"()*#:;~]"), " ", 30),  # BLIP @056a169, data/utils.py and the data sets' max_words
}
WORDS = "words.txt"  # one word a line: the vocabulary of a model trained from scratch


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return the captions themselves, an array of UTF-8 byte strings; a reader makes token ids of them."""
    job.choose(name)
    captions, skipped = require_captions(name, data, job.skip_bad)
    return Extracted("text", np.array([c.encode() for c in captions]), kind="captions", skipped=skipped)


def training_words(captions: Sequence[bytes], cleaning: str = "none", min_count: int = 1) -> bytes:
    """Return the content of ``words.txt``: the sorted words that occur ``min_count`` times in ``captions``."""
    from collections import Counter

    counts = Counter(word for caption in captions for word in tokenize(clean(caption.decode(), cleaning)))
    return "\n".join(sorted(word for word, count in counts.items() if count >= min_count)).encode()


def clean(caption: str, how: str) -> str:
    """Return ``caption`` as the published code named by ``how`` hands it to its tokenizer."""
    pattern, replacement, limit = CLEANING[how]
    if pattern is None:
        return caption
    caption = pattern.sub(replacement, caption.lower())
    if how == "albef":
        caption = caption.replace("-", " ").replace("/", " ").replace("<person>", "person")
    words = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:limit])


@dataclass
class CaptionReader:
    """Makes token ids of captions. ``files`` holds the content of the vocabulary's files by name.

    ``truncated`` counts the captions that were longer than ``max_length`` tokens, which lose their last words.
    """

    tokenizer: str
    max_length: int
    files: Mapping[str, bytes]
    cleaning: str = "none"
    prompt: str = ""
    truncated: int = field(default=0, compare=False)
    fixed = True
    dtype = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Trailing shape of what comes out."""
        return (self.max_length,)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.from_words(self.tokenizer, self.files[WORDS]) if WORDS in self.files else (
            _published(self.tokenizer, self.files))  # fmt: skip

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return self._vocabulary.size

    def __call__(self, captions: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Return int32 (n, max_length) of UTF-8 byte strings (n,)."""
        known = self._vocabulary
        out = np.full((len(captions), self.max_length), known.pad, np.int32)
        for row, caption in enumerate(captions):
            ids = known.ids(self.prompt + clean(caption.decode(), self.cleaning))
            self.truncated += len(ids) > self.max_length - 2
            ids = [known.start, *ids[: self.max_length - 2], known.end]
            out[row, : len(ids)] = ids
        return out


@dataclass(frozen=True)
class Vocabulary:
    """Ids without special tokens by ``ids(caption)``, the special ones, and the number of all."""

    ids: Callable[[str], list[int]]
    start: int
    end: int
    pad: int
    size: int

    @classmethod
    def from_words(cls, tokenizer: str, content: bytes) -> Vocabulary:
        """Return the vocabulary of whole words in the arrangement of ``tokenizer``."""
        tokens = [*HEADS[tokenizer], *content.decode().split("\n"), *TAILS.get(tokenizer, ())]
        number = {token: i for i, token in enumerate(tokens)}
        start, end, pad, unknown = (number[mark] for mark in MARKS[tokenizer])
        return cls(lambda text: [number.get(w, unknown) for w in tokenize(text)], start, end, pad, len(tokens))


def _published(tokenizer: str, files: Mapping[str, bytes]) -> Vocabulary:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            return _LOADERS[tokenizer](Path(folder))
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise CmrkitError(f"{', '.join(files)}: no vocabulary of a {tokenizer} tokenizer: {error}") from error


def _bert(folder: Path, more: int = 0) -> Vocabulary:
    from transformers import BertTokenizer

    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    number = {token: i for i, token in enumerate(tokens)}
    known = BertTokenizer(vocab=number)
    start, end, pad, unknown = (number[mark] for mark in MARKS["bert"])
    if known.convert_tokens_to_ids("[UNK]") != unknown:
        raise ValueError("its special tokens are not at their places")
    return Vocabulary(lambda text: known.encode(text, add_special_tokens=False), start, end, pad, len(tokens) + more)


def _byte_pairs(folder: Path, tokenizer: Any, marks: tuple[str, str, str]) -> Vocabulary:
    known = tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    start, end, pad = known.convert_tokens_to_ids(list(marks))
    return Vocabulary(lambda text: known.encode(text, add_special_tokens=False), start, end, pad, len(known))


def _roberta(folder: Path) -> Vocabulary:
    from transformers import RobertaTokenizer

    return _byte_pairs(folder, RobertaTokenizer, ("<s>", "</s>", "<pad>"))


def _clip(folder: Path) -> Vocabulary:
    from transformers import CLIPTokenizer

    return _byte_pairs(folder, CLIPTokenizer, ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>"))


def _beit3(folder: Path) -> Vocabulary:
    from sentencepiece import SentencePieceProcessor

    known = SentencePieceProcessor(model_file=str(next(folder.glob("*.spm"))))
    unknown = known.unk_id()
    # The ids of XLM-R's tokenizer: one more than the pieces', and <unk> behind the other special tokens.
    return Vocabulary(lambda text: [3 if p == unknown else p + 1 for p in known.encode(text)], 0, 2, 1,
                      known.get_piece_size() + 1)  # fmt: skip


_LOADERS = {"bert": _bert, "blip": lambda folder: _bert(folder, more=2), "roberta": _roberta, "clip": _clip,
            "beit3": _beit3}  # fmt: skip


def require_tokenizer(name: str) -> str:
    """Return ``name``. Raises UsageError where no tokenizer is called so."""
    if name not in HEADS:
        raise UsageError(f"no tokenizer {name!r}; there are {', '.join(HEADS)}")
    return name
