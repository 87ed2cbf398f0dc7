"""What ``cmrkit search`` does, as functions: a checkpoint, images and texts in, rankings out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import CmrkitError, UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def search(
    checkpoint: str | Path,
    *,
    texts: Sequence[str] = (),
    images: str | Path | None = None,
    image_files: Sequence[str | Path] = (),
    text_file: str | Path | None = None,
    top: int = 10,
    skip_bad: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Rank ``images`` (a folder or zip archive) for each of ``texts``, or lines of ``text_file`` for ``image_files``.

    Returns ``{"checkpoint", "direction", "queries": [{"query", "results": [{"result", "score", "path"?}]}],
    "notes"}``; scores are the method's own (cosine, negated distance up to a constant a query, matching logit),
    larger for nearer. ``path`` is where an image lies, ``archive:member`` inside an archive.

    Raises UsageError for a checkpoint that takes features instead of images and sentences, for empty texts and
    folders without images; CmrkitError naming an image that cannot be read, unless ``skip_bad``.
    """
    from cmrkit.pipeline.checkpoint import load_checkpoint

    model = load_checkpoint(Path(checkpoint), device or "cpu")
    require_raw(model, checkpoint)
    by_text = images is not None
    queries = list(texts) if by_text else [str(path) for path in image_files]
    found = list_images(Path(images)) if by_text else Photos([Path(path) for path in image_files])
    sentences = checked_texts(texts, "--text") if by_text else read_texts(Path(text_file))
    photos, skipped = readable_images(found, skip_bad)
    if not by_text:
        queries = [queries[i] for i in photos.kept]
    similarity = similarities(model, photos, sentences, "t2i" if by_text else "i2t")
    scores = similarity.T if by_text else similarity
    items = photos.names if by_text else sentences
    rows = []
    for query, row in zip(queries, scores, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        results = [{"result": items[i], "score": float(row[i])} for i in order]
        if by_text:
            results = [{**r, "path": photos.paths[i]} for r, i in zip(results, order, strict=True)]
        rows.append({"query": query, "results": results})
    return {"checkpoint": str(checkpoint), "direction": "t2i" if by_text else "i2t", "queries": rows,
            "notes": notes(model, sentences, skipped)}  # fmt: skip


def require_raw(model: Any, checkpoint: Any) -> None:
    """Raise UsageError where the model cannot take photographs and sentences as they are."""
    method = model.method
    if not (hasattr(method, "size") and hasattr(method, "tokenizer") and model.files):
        data = model.about["data"]
        raise UsageError(f"{checkpoint}: {type(method).__name__} was trained on features ({data['image']} and"
                         f" {data['text']}), not on images and sentences as they are: search needs a model such as"
                         " clip or vilt, trained with text feature 'captions'")  # fmt: skip


class Photos:
    """Images by name, each with the archive or folder it lies in."""

    def __init__(self, files: Sequence[Path], root: Path | None = None, members: Sequence[str] = ()):
        self.roots = {"0": root} if root else {str(i): path.parent for i, path in enumerate(files)}
        self.members = [f"0:{m}" for m in members] if root else [f"{i}:{p.name}" for i, p in enumerate(files)]
        self.names = list(members) if root else [str(path) for path in files]
        archive = root is not None and not root.is_dir()
        self.paths = [f"{root}:{m}" if archive else str(root / m) for m in members] if root else self.names
        self.kept = list(range(len(self.members)))

    def only(self, rows: Sequence[int]) -> Photos:
        """Return this collection with some images left out."""
        for name in ("members", "names", "paths"):
            setattr(self, name, [getattr(self, name)[i] for i in rows])
        self.kept = list(rows)
        return self

    @property
    def array(self) -> np.ndarray:
        """What a reader of photographs takes."""
        return np.array([member.encode() for member in self.members])


def list_images(root: Path) -> Photos:
    """Return the images of a folder, with its subfolders, or zip archive. Raises UsageError where there is none."""
    from cmrkit.data.archives import member_names

    if not root.exists():
        raise UsageError(f"{root}: no such folder or archive")
    members = [name for name in member_names(root) if Path(name).suffix.lower() in SUFFIXES]
    if not members:
        raise UsageError(f"{root}: no images ({', '.join(sorted(SUFFIXES))})")
    return Photos((), root, members)


def readable_images(photos: Photos, skip_bad: bool) -> tuple[Photos, list[str]]:
    """Return the images without those that cannot be read, and their names; raises CmrkitError unless ``skip_bad``."""
    from cmrkit.data.images import ImageFiles

    if missing := next((p for p in photos.paths if ":" not in p and not Path(p).is_file()), None):
        raise UsageError(f"{missing}: no such image")
    if not skip_bad:
        return photos, []
    files = ImageFiles(tuple(tuple(m.split(":", 1)) for m in photos.members), photos.roots)
    good, bad = [], []
    for row in range(len(files)):
        try:
            files[row]
            good.append(row)
        except CmrkitError:
            bad.append(photos.names[row])
    if not good:
        raise CmrkitError(f"none of the {len(bad)} images can be read; the first is {bad[0]}")
    return photos.only(good), bad


def read_texts(path: Path) -> list[str]:
    """Return the lines of a text file. Raises UsageError naming an empty one."""
    from cmrkit.data.reading import read_lines

    if not path.exists() or path.is_dir():
        raise UsageError(f"{path}: no such file")
    return checked_texts(read_lines(path), str(path))


def checked_texts(texts: Sequence[str], where: str) -> list[str]:
    """Return ``texts``. Raises UsageError naming the first that is empty, or where there is none."""
    if not texts:
        raise UsageError(f"{where}: no sentences")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UsageError(f"{where}:{number}: an empty sentence")
    return list(texts)


def similarities(model: Any, photos: Photos, sentences: Sequence[str], direction: str) -> np.ndarray:
    """Return how near each image is to each sentence, (n_images, n_texts), larger for nearer."""
    from cmrkit.evaluation.similarity import distance_rows
    from cmrkit.training.rows import Rows

    images = Rows(photos.array, None, photos.roots)
    texts = Rows(np.array([sentence.encode() for sentence in sentences]))
    if model.space == "similarity":
        scores = model.similarity(images, texts)
        return scores[direction] if isinstance(scores, dict) else scores
    sides = [np.float32(model.encode_image(images)), np.float32(model.encode_text(texts))]
    kind = "dot" if model.space == "hamming" else model.space
    if direction == "i2t":
        return -distance_rows(*sides, kind)(slice(None))
    return -distance_rows(*sides[::-1], kind)(slice(None)).T


def notes(model: Any, sentences: Sequence[str], skipped: Sequence[str]) -> list[str]:
    """Return what a reader of the ranking should know: images left out, sentences cut off."""
    from cmrkit.pipeline.reading import caption_reader

    out = [f"left out {len(skipped)} images that cannot be read, the first {skipped[0]}"] if skipped else []
    reader = caption_reader(model.method, model.files)
    reader(np.array([sentence.encode() for sentence in sentences]))
    if reader.truncated:
        out.append(f"{reader.truncated} sentences are longer than the model's {reader.max_length} tokens and were cut")
    return out
