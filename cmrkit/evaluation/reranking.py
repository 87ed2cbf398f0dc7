"""Cross-encoder protocols: score (image, text) pairs one by one, over all of them or over shortlists.

A scorer ``scorer(image_rows, text_rows) -> scores`` takes two int64 arrays (b,) and returns b logits of
image-text matching, larger for a better match. Pairs reach it in image-major order, ``block`` at a time
and cut the same way in every run, so that it can reuse the image side and resumed results are bit-identical.

What the public code of the shortlist papers does, read at ALBEF @b9727e4, BLIP @056a169 and LAVIS @506965b:

=========================  ==================================  =======================================
code                       shortlist k                         score of a listed pair
=========================  ==================================  =======================================
ALBEF                      256 COCO, 128 Flickr30k             ITM logit
BLIP                       256 COCO, 128 Flickr30k             ITM logit + ITC cosine
BLIP-2 (LAVIS)             128 both                            mean ITM logit of the 32 query tokens
                                                               + ITC cosine
ALBEF, BLIP (LAVIS)        256 COCO (ALBEF's evaluation        ITM logit + ITC cosine, for ALBEF too
                           config: 128), 128 Flickr30k
=========================  ==================================  =======================================

In all of them the logit is that of the class "match", before any softmax; the first stage is the ITC
cosine without its temperature (BLIP-2: the largest over the query tokens); images list texts and texts list
images, separately; and whatever is not listed gets -100. With several processes the filled matrices are
summed, which moves all scores of a row alike. ViLT and METER score all pairs and list nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation.blocks import row_blocks

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Pairs = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # (start, stop) -> their image and text rows

COMBINATIONS = ("logit", "logit+similarity")
UNLISTED = -100.0  # what published code gives to pairs off the shortlist; lowered here where a score lies below
SAVE_EVERY = 5.0  # seconds between two savings: each waits for the disk, some tens of milliseconds
BLOCK = 256


def score_all_pairs(
    scorer: Scorer,
    images: int,
    texts: int,
    *,
    block: int = BLOCK,
    resume: str | Path | None = None,
    key: str | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Score every pair of ``images`` x ``texts`` and return the similarity (images, texts), float32.

    ``block`` is the number of pairs per call of the scorer (fewer in the last). ``resume`` names a folder
    that keeps the finished blocks, at most five seconds behind; the same call on it goes on from there and
    gives the bits that an uninterrupted run gives. ``key`` says which model and data the scorer stands for,
    and is needed with ``resume``. ``progress`` shows a bar on stderr where that is a terminal.

    Raises UsageError for sizes below 1 and a folder that holds another computation, CmrkitError where the
    scorer returns another number of scores than pairs, or one that is not finite.
    """
    _check_sizes(images=images, texts=texts, block=block)

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return np.divmod(np.arange(start, stop), texts)

    what = {"pairs": "all", "shape": [images, texts], "block": block}
    with _open_scores(images * texts, what, resume, key) as scores:
        _score(scorer, pairs, scores, block, progress)
        return scores.result().reshape(images, texts)


def rerank(
    scorer: Scorer,
    similarity: np.ndarray,
    k: int,
    *,
    combine: str = "logit",
    block: int = BLOCK,
    resume: str | Path | None = None,
    key: str | None = None,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Re-rank each image's ``k`` most similar texts, and each text's ``k`` most similar images.

    ``similarity`` (n_images, n_texts) is the first stage's, larger for nearer. ``combine`` scores a listed
    pair by its logit, or by logit + similarity. A side with fewer than ``k`` items lists all; equal
    similarities list the lower row first. A pair on both shortlists is scored once.

    Returns ``{"i2t": .., "t2i": ..}``, each (n_images, n_texts) float32 and each good for its direction
    only: all unlisted pairs share one finite value below every listed score (-100 wherever that is below).

    The other arguments and errors are those of ``score_all_pairs``; UsageError also for a similarity that
    is not a finite matrix (naming the row), an unknown ``combine``, and ``k`` below 1. ``resume`` refuses
    shortlists other than those that it was begun with.
    """
    similarity = check_similarity("similarity", similarity)
    _check_sizes(k=k, block=block)
    if combine not in COMBINATIONS:
        raise UsageError(f"unknown combination {combine!r}; there are {', '.join(COMBINATIONS)}")
    listed = {"i2t": shortlist(similarity, k), "t2i": shortlist(similarity.T, k).T}
    image_rows, text_rows = np.nonzero(listed["i2t"] | listed["t2i"])  # row by row: image-major

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return image_rows[start:stop], text_rows[start:stop]

    what = {"pairs": _digest(image_rows, text_rows), "shape": [*similarity.shape], "k": k, "combine": combine}
    with _open_scores(len(image_rows), what | {"block": block}, resume, key) as scores:
        _score(scorer, pairs, scores, block, progress)
        values = scores.result()
    if combine == "logit+similarity":
        values += similarity[image_rows, text_rows].astype(np.float32)
    return {direction: _direction(mask, image_rows, text_rows, values) for direction, mask in listed.items()}


def shortlist(similarity: np.ndarray, k: int) -> np.ndarray:
    """Mark the ``k`` largest of each row: bool, of the shape (queries, items) of ``similarity``.

    Where equal values compete for the last places the lower columns win; rows of fewer than ``k`` items
    are marked whole.
    """
    queries, items = similarity.shape
    if k >= items:
        return np.ones((queries, items), dtype=bool)
    listed = np.empty((queries, items), dtype=bool)
    for rows in row_blocks(queries, items):
        part = np.ascontiguousarray(similarity[rows])
        last = np.partition(part, items - k, axis=1)[:, items - k, None]
        above = part > last
        level = part == last
        room = k - above.sum(1, keepdims=True)
        listed[rows] = above | (level & (np.cumsum(level, axis=1) <= room))
    return listed


def check_similarity(name: str, similarity: np.ndarray) -> np.ndarray:
    """Check a matrix (queries, items); float32 and float64 stay, other numbers become float64.

    Raises UsageError naming the array and the first row with a NaN or an infinity.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or similarity.dtype.kind not in "biuf" or similarity.size == 0:
        shape = f"{similarity.dtype} of shape {similarity.shape}"
        raise UsageError(f"{name} must be a numeric matrix (queries, items) that is not empty, not {shape}")
    if similarity.dtype not in (np.float32, np.float64):
        similarity = similarity.astype(np.float64)
    for rows in row_blocks(*similarity.shape):
        finite = np.isfinite(similarity[rows])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            row += rows.start
            raise UsageError(f"{name} row {row} holds {similarity[row, column]} at column {column}")
    return similarity


def _direction(mask: np.ndarray, image_rows: np.ndarray, text_rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    here = mask[image_rows, text_rows]
    values = values[here]
    below = np.nextafter(values.min(), np.float32(-np.inf))
    matrix = np.full(mask.shape, min(np.float32(UNLISTED), below), dtype=np.float32)
    matrix[image_rows[here], text_rows[here]] = values
    return matrix


def _score(scorer: Scorer, pairs: Pairs, scores: _Scores, block: int, progress: bool) -> None:
    """Fill ``scores`` block by block from where they stand; what is finished is saved even on an error."""
    total = len(scores.values)
    shown = progress and sys.stderr.isatty()
    with tqdm(total=total, initial=scores.done, unit=" pairs", unit_scale=True, disable=not shown) as bar:
        try:
            for start in range(scores.done, total, block):
                stop = min(start + block, total)
                image_rows, text_rows = pairs(start, stop)
                scores.values[start:stop] = _checked(scorer(image_rows, text_rows), image_rows, text_rows)
                scores.finish(stop)
                bar.update(stop - start)
        finally:
            scores.save()


def _checked(scores: np.ndarray, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != image_rows.shape:
        raise CmrkitError(f"the scorer got {len(image_rows)} pairs, but returned scores of shape {scores.shape}")
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        pair = f"image {image_rows[first]} with text {text_rows[first]}"
        raise CmrkitError(f"the scorer returned {scores[first]} for {pair}: no ranking can hold it")
    return scores


class _Scores:
    """Scores of a sequence of pairs, float32: the first ``done`` of ``values`` are final."""

    def __init__(self, total: int):
        self.values = np.empty(total, dtype=np.float32)
        self.done = 0

    def finish(self, done: int) -> None:
        self.done = done

    def save(self) -> None:
        """Nothing outlives the process."""

    def result(self) -> np.ndarray:
        return self.values


class _KeptScores(_Scores):
    """Scores in a folder: ``scores.npy``, and ``progress.json`` with what they are and how far they are final.

    The count is written, by replacing the file, only after the scores before it have reached the disk: at
    whatever moment a process is killed, the folder never promises a score that is not there.
    """

    def __init__(self, folder: Path, total: int, what: dict):
        self.note, self.data = folder / "progress.json", folder / "scores.npy"
        self.what = json.loads(json.dumps(what, default=int))  # NumPy integers become plain ones
        self.digest = hashlib.sha256(json.dumps(self.what, sort_keys=True).encode()).hexdigest()
        self.done = self._read_note(total)
        if self.done == 0:
            self._write_note()  # before the scores: a folder with scores and no note is somebody else's
        self.values = self._map(total)
        self.saved, self.when = self.done, time.monotonic()

    def finish(self, done: int) -> None:
        self.done = done
        if time.monotonic() - self.when >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Put the finished scores on the disk, then their count."""
        if self.done > self.saved:
            self.values.flush()
            self._write_note()
            self.saved = self.done
        self.when = time.monotonic()

    def result(self) -> np.ndarray:
        return np.array(self.values)  # a copy: what the caller does to it must not reach the file

    def _read_note(self, total: int) -> int:
        if not self.note.exists():
            if self.data.exists():
                raise UsageError(f"{self.data} has no {self.note.name} beside it: resume in another folder")
            return 0
        try:
            note = json.loads(self.note.read_text())
            found, digest, done = dict(note["what"]), note["digest"], int(note["done"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self.note} is not a progress file of cmrkit: resume in another folder") from None
        if digest != self.digest:
            names = [name for name in self.what if found.get(name) != self.what[name]] or ["digest"]
            differ = ", ".join(f"{name} {found.get(name)!r}, not {self.what.get(name)!r}" for name in names)
            raise UsageError(f"{self.note.parent} holds another computation ({differ}): resume in another folder")
        if not 0 <= done <= total:
            raise UsageError(f"{self.note} counts {done} of {total} pairs: delete the folder and start again")
        return done

    def _write_note(self) -> None:
        fresh = self.note.with_suffix(".fresh")
        with open(fresh, "w") as file:
            json.dump({"what": self.what, "digest": self.digest, "done": self.done}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.note)

    def _map(self, total: int) -> np.ndarray:
        if self.done == 0:
            return np.lib.format.open_memmap(self.data, mode="w+", dtype=np.float32, shape=(total,))
        try:  # for reading first: opened for writing, a file that lost its end is filled up with zeros
            kept = np.lib.format.open_memmap(self.data, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"cannot read {self.data} ({error}): delete the folder and start again") from None
        if kept.dtype != np.float32 or kept.shape != (total,):
            wrong = f"{self.data} is {kept.dtype} of shape {kept.shape}, not {total} float32 scores"
            raise UsageError(f"{wrong}: delete the folder and start again")
        return np.lib.format.open_memmap(self.data, mode="r+")


@contextlib.contextmanager
def _open_scores(total: int, what: dict, resume: str | Path | None, key: str | None) -> Iterator[_Scores]:
    if resume is None:
        yield _Scores(total)
        return
    if not key:
        raise UsageError("resume needs a key that names the model and the data, so as never to mix two of them")
    folder = Path(resume)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another process is scoring in {folder}: wait for it, or resume in another folder") from None
    try:
        yield _KeptScores(folder, total, what | {"key": key})
    finally:
        lock.release()


def _digest(*arrays: np.ndarray) -> str:
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(np.ascontiguousarray(array, dtype="<i8"))
    return hasher.hexdigest()[:16]


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, not {size!r}")
