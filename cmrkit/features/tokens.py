"""Texts as numbered words, and pretrained vectors for those words.

Words are found without a tokenizer of another package: runs of letters and digits with the hyphens inside
them, and the part from an apostrophe on as a word of its own ("the dog's red t-shirt" gives the, dog, 's, red,
t-shirt). Everything is lower-case; punctuation is dropped. Papers that used NLTK's tokenizer kept punctuation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.data.safe_load import load_npz
from cmrkit.errors import UsageError
from cmrkit.features.base import Extracted, Job, require_captions

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(4)
WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’][^\W\d_]+")


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return the captions as token numbers, int32 (n, length), of the words of the training captions.

    Options: ``min_count``, how often a word must occur in the training captions (4, as VSE++'s vocabulary
    has it; Faghri et al. 2018); ``max_length``, the words kept of a caption, or None for all of them;
    ``vectors``, an asset with pretrained word vectors, which become the table "embedding".
    """
    options = job.choose(name, min_count=4, max_length=None, vectors=None)
    captions, skipped = require_captions(name, data, job.skip_bad)
    texts = [tokenize(caption)[: options["max_length"]] for caption in captions]
    vocabulary = build_vocabulary((texts[row] for row in data.text_rows("train")), options["min_count"])
    matrix, unknown = to_numbers(texts, vocabulary)
    meta = {"min_count": options["min_count"], "unknown_share": unknown}
    tables = {}
    if options["vectors"] is not None:
        tables["embedding"], meta["words_with_vector"] = embedding(vocabulary, job.asset(options["vectors"]))
    return Extracted("text", matrix, vocabulary, "tokens", meta, tables, skipped)


def tokenize(caption: str) -> list[str]:
    """Return the words of ``caption``."""
    return WORD.findall(caption.lower())


def build_vocabulary(texts: Iterable[Sequence[str]], min_count: int) -> tuple[str, ...]:
    """Return the special tokens and, sorted, the words that occur at least ``min_count`` times."""
    counts = Counter(word for words in texts for word in words)
    kept = sorted(word for word, count in counts.items() if count >= min_count)
    if not kept:
        raise UsageError(f"no word of the training captions occurs {min_count} times: lower min_count")
    return (*SPECIAL, *kept)


def to_numbers(texts: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> tuple[np.ndarray, float]:
    """Return int32 (n, longest + 2): <start>, the words' numbers, <end>, then <pad>; and the share of <unk>."""
    number = {word: i for i, word in enumerate(vocabulary)}
    matrix = np.full((len(texts), max(map(len, texts), default=0) + 2), PAD, dtype=np.int32)
    for row, words in enumerate(texts):
        matrix[row, : len(words) + 2] = [START, *(number.get(word, UNKNOWN) for word in words), END]
    words = (matrix > END).sum()
    return matrix, float((matrix == UNKNOWN).sum() / max(1, words))


def embedding(vocabulary: Sequence[str], path: Path) -> tuple[np.ndarray, int]:
    """Return float32 (len(vocabulary), d) of pretrained vectors, zero for words without, and how many have one.

    ``path`` is a .npz file with ``words`` and ``vectors``, or a text file as GloVe comes: a word and its numbers
    in each line. Raises UsageError where it is neither.
    """
    known = _npz_vectors(path) if path.suffix == ".npz" else _text_vectors(path, set(vocabulary))
    if not known:
        raise UsageError(f"{path}: has no vector for any word of the training captions")
    table = np.zeros((len(vocabulary), len(next(iter(known.values())))), dtype=np.float32)
    found = [(i, known[word]) for i, word in enumerate(vocabulary) if word in known]
    for i, vector in found:
        table[i] = vector
    return table, len(found)


def _npz_vectors(path: Path) -> dict[str, np.ndarray]:
    arrays = load_npz(path)
    if not {"words", "vectors"} <= set(arrays) or len(arrays["words"]) != len(arrays["vectors"]):
        raise UsageError(f"{path}: expected arrays 'words' and 'vectors' of one length, found {', '.join(arrays)}")
    return dict(zip(arrays["words"].tolist(), arrays["vectors"], strict=True))


def _text_vectors(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    vectors: dict[str, np.ndarray] = {}
    number = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - the error names it
                word, *values = line.rstrip("\n").split(" ")
                if word in wanted:
                    vectors[word] = np.array(values, dtype=np.float32)
    except ValueError as error:
        raise UsageError(f"{path}:{number}: expected a word and its numbers: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    widths = {len(vector) for vector in vectors.values()}
    if len(widths) > 1:
        raise UsageError(f"{path}: vectors have different lengths: {sorted(widths)}")
    return vectors


def require_vocabulary(trained: Sequence[str], given: Sequence[str], where: str) -> None:
    """Raise UsageError naming the first difference between a checkpoint's vocabulary and that of the data.

    ``where`` says whose vocabulary ``given`` is. Token numbers of another vocabulary mean other words.
    """
    if tuple(trained) == tuple(given):
        return
    pairs = enumerate(zip(trained, given, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(trained), len(given)))
    word = [words[first] if first < len(words) else "nothing" for words in (trained, given)]
    raise UsageError(
        f"{where}: its vocabulary ({len(given)} tokens) is not the one the model was trained with ({len(trained)});"
        f" token {first} is {word[1]!r} where the model has {word[0]!r}: extract the texts with the model's data"
    )
