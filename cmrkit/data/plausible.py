"""The captions and images of MS-COCO's test set that answer a query besides its own pair.

Three lists of positives go with Karpathy's 5,000 test images, and the ECCV Caption paper publishes all of them in one
form, ``{query id: [item ids]}`` in COCO's ids, a file for each direction:

=====  ==============================================================================================
coco   the pairs of MS-COCO: five captions an image, one image a caption
cxc    Parekh et al., Crisscrossed Captions, EACL 2021: pairs rated 3 or more; 28 captions have none
eccv   Chun et al., ECCV Caption, ECCV 2022: verified by people, for 1,261 images and 1,332 captions
=====  ==============================================================================================

They rank 25,000 captions, the first five of each image; ten images have a sixth. Two of the positives of ``eccv`` are
such sixth captions: no ranking of the 25,000 finds them, yet they belong to their query's number of relevant items.
``Relevant.outside`` counts them.

``instance_labels`` gives the object categories by which PCME (Chun et al., CVPR 2021) calls a match plausible.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmrkit.data.safe_load import load_npy
from cmrkit.errors import UsageError

CAPTIONS_PER_IMAGE = 5
CATEGORIES = 90  # COCO numbers its 80 object categories 1 to 90
INSTANCES = "annotations/instances_val2014.json"
ASSETS = {
    "coco": ("original-image-to-caption", "original-caption-to-image"),
    "cxc": ("cxc-image-to-caption", "cxc-caption-to-image"),
    "eccv": ("eccv-image-to-caption", "eccv-caption-to-image"),
}


class Relevant(NamedTuple):
    """What is relevant in one direction.

    ``pairs`` int64 (m, 2): query row and item row, sorted. ``outside`` int64 (queries,): the relevant items of each
    query that are not among the items.
    """

    pairs: np.ndarray
    outside: np.ndarray


def image_ids(names: Sequence[str]) -> np.ndarray:
    """Return COCO's image ids, int64 (n,), of names such as "COCO_val2014_000000391895.jpg", with or without a folder.

    Raises UsageError naming the row whose name holds no id.
    """
    ids = np.empty(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        match = re.search(r"(\d{12})\.jpg$", name)
        if not match:
            raise UsageError(f"image row {row} is named {name!r}: it should end in COCO's id of 12 digits and .jpg")
        ids[row] = int(match.group(1))
    return ids


def first_captions(pairs: np.ndarray, each: int = CAPTIONS_PER_IMAGE) -> np.ndarray:
    """Return the rows of the first ``each`` captions of every image, ascending int64.

    ``pairs`` int64 (captions,) is the image row of each caption, and images are numbered from 0 without gaps.
    Raises UsageError naming an image with fewer.
    """
    counts = np.bincount(pairs)
    if counts.min() < each:
        row = int(np.argmin(counts))
        raise UsageError(f"image row {row} has {counts[row]} captions, but the benchmark takes {each} of every image")
    order = np.argsort(pairs, kind="stable")
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < each])


def caption_ids(path: Path, owners: Path, images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return COCO's caption ids, int64 (captions,), of the rows that ``pairs`` (captions,) gives an image row.

    ``path`` is coco_test_ids.npy, which has the order of Karpathy's test set and within an image that of its
    captions; ``images`` are ``image_ids``. ``owners`` is original_caption_to_image.json: it says which image each id
    belongs to, and each row is held against it. Raises UsageError naming the file and the row that disagrees.
    """
    ids = _read_ids(path)
    if len(ids) != len(pairs):
        raise UsageError(f"{path}: {len(ids)} caption ids for {len(pairs)} captions; see first_captions")
    owner = _read_lists(owners)
    for row, (caption, image) in enumerate(zip(ids.tolist(), images[pairs].tolist(), strict=True)):
        if owner.get(caption) != [image]:
            raise UsageError(
                f"{path}: caption row {row} would be COCO's caption {caption} of image {image}, but {owners} has that "
                f"of image {owner.get(caption, 'none')}: images or captions are not in the order of Karpathy's test set"
            )
    return ids


def read_relevant(
    image_to_caption: Path, caption_to_image: Path, images: np.ndarray, captions: np.ndarray
) -> dict[str, Relevant]:
    """Return what is relevant in the directions "i2t" and "t2i", by rows of ``images`` and ``captions``.

    ``images`` and ``captions`` are COCO's ids in row order, as ``image_ids`` and ``caption_ids`` give. The two files
    are those of one of ASSETS. Raises UsageError naming the file that is not of its form or has an unknown query,
    and where an id stands twice in ``images`` or ``captions``.
    """
    image_rows, caption_rows = _rows("images", images), _rows("captions", captions)
    return {
        "i2t": _relevant(image_to_caption, image_rows, caption_rows),
        "t2i": _relevant(caption_to_image, caption_rows, image_rows),
    }


def karpathy_positives(
    kind: str, paths: Mapping[str, Path], pairs: np.ndarray
) -> tuple[dict[str, Relevant], np.ndarray]:
    """Return what ``kind`` (of ASSETS) calls relevant among Karpathy's test images and the captions that are ranked.

    ``pairs`` (captions,) gives the image row of each caption, images in Karpathy's order; ``paths`` has the files of
    the manifest's assets by name. Also returns the rows of the captions that take part, the first five of an image.
    Raises UsageError where images or captions are not those of the test set.
    """
    ids, owners = paths["coco-test-ids"], paths[ASSETS["coco"][1]]
    captions = first_captions(pairs)
    owner = _read_lists(owners)
    images = np.array([owner[i][0] for i in _read_ids(ids)[::CAPTIONS_PER_IMAGE].tolist()], dtype=np.int64)
    if pairs.max() + 1 != len(images):
        raise UsageError(f"the arrays hold {pairs.max() + 1} images: Karpathy's test set of MS-COCO has {len(images)}")
    numbers = caption_ids(ids, owners, images, pairs[captions])
    return read_relevant(*(paths[name] for name in ASSETS[kind]), images, numbers), captions


def instance_labels(archive: Path, images: np.ndarray) -> np.ndarray:
    """Return which object categories each image shows: uint8 (n, 90), column c for COCO's category c + 1.

    ``archive`` is annotations_trainval2014.zip. An image without annotated objects has an empty row; PCME leaves it
    out, as a query and as an item. Raises UsageError naming the archive where its INSTANCES are not of COCO's form.
    """
    rows = _rows("images", images)
    labels = np.zeros((len(rows), CATEGORIES), dtype=np.uint8)
    try:
        with zipfile.ZipFile(archive) as files:
            annotations = json.loads(files.read(INSTANCES))["annotations"]
        for annotation in annotations:
            row, category = rows.get(annotation["image_id"]), annotation["category_id"]
            if not 1 <= category <= CATEGORIES:
                raise ValueError(f"category {category} is not one of 1 to {CATEGORIES}")
            if row is not None:
                labels[row, category - 1] = 1
    except FileNotFoundError:
        raise UsageError(f"{archive}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{archive}: {INSTANCES} cannot be read ({type(error).__name__}: {error})") from error
    return labels


def _relevant(path: Path, queries: dict[int, int], items: dict[int, int]) -> Relevant:
    pairs, outside = [], np.zeros(len(queries), dtype=np.int64)
    for query, relevant in _read_lists(path).items():
        if query not in queries:
            raise UsageError(f"{path}: query {query} is none of the {len(queries)} given: it belongs to another set")
        row = queries[query]
        found = [items[item] for item in relevant if item in items]
        pairs += [(row, item) for item in found]
        outside[row] = len(relevant) - len(found)
    if not pairs:
        raise UsageError(f"{path}: none of its items is one of the {len(items)} given: it belongs to another set")
    return Relevant(np.array(sorted(pairs), dtype=np.int64), outside)


def _rows(name: str, ids: np.ndarray) -> dict[int, int]:
    rows: dict[int, int] = {}
    for row, one in enumerate(np.asarray(ids).tolist()):
        if rows.setdefault(one, row) != row:
            raise UsageError(f"{name} row {row} has the id {one}, as row {rows[one]} has")
    return rows


def _read_ids(path: Path) -> np.ndarray:
    ids = load_npy(path)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UsageError(f"{path}: expected caption ids, whole numbers (captions,), not {ids.dtype} of {ids.shape}")
    return ids.astype(np.int64)


def _read_lists(path: Path) -> dict[int, list[int]]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(lists, dict) or not lists:
            raise TypeError("an object of lists is expected")
        return {int(query): _whole(query, items) for query, items in lists.items()}
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not lists of COCO's ids by id ({type(error).__name__}: {error})") from error


def _whole(query: str, items: Any) -> list[int]:
    if not isinstance(items, list) or not items or any(type(item) is not int for item in items):
        raise TypeError(f"query {query} has no list of whole numbers")
    if len(set(items)) < len(items):
        raise ValueError(f"query {query} names an item twice")
    return items
