"""Features that somebody else computed, in the layouts that papers ship.

An array may be a .npy or .npz file, a MATLAB file of any version, or HDF5. Matching papers ship one array for each
part of the split, ``train_ims.npy``, with one row per image or, repeated, one per caption, and the captions in
their order, one a line, in ``train_caps.txt`` (Lee et al. 2018, SCAN; Faghri et al. 2018, VSE++).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.data.paired import ROLES, PairedData
from cmrkit.data.reading import read_lines
from cmrkit.data.safe_load import load_mat, load_npy, load_npz
from cmrkit.errors import UsageError
from cmrkit.features.base import BLOCK, Extracted, Job, require_captions, require_finite
from cmrkit.features.rows import new_array

HDF5 = b"\x89HDF\r\n\x1a\n"


def extract(name: str, data: PairedData, job: Job) -> Extracted:
    """Return shipped features as rows of the images or texts of ``data``.

    Options: ``modality`` ("image"); ``train``, ``val``, ``query`` and ``database``, the assets with the arrays of
    these parts, or ``all``, one for all rows in order; ``train-captions`` and so on, the assets with the captions
    of the rows, by which images are then found whatever their order; ``key``, the array's name inside its file;
    ``columns``, whether items are columns.

    An array has one row per image or, of image features, one per text. Raises UsageError where it has another
    number, or where a part of the split is not covered.
    """
    parts = ("all", *ROLES)
    lists = [f"{part}-captions" for part in parts]
    options = job.choose(name, modality="image", key=None, columns=False, **dict.fromkeys((*parts, *lists)))
    given = [part for part in parts if options[part] is not None]
    if not given:
        raise UsageError(f"extractor {name!r} needs the assets of the parts: {', '.join(parts)}")
    grown: np.ndarray | None = None
    covered = np.zeros(data.n_images if options["modality"] == "image" else data.n_texts, dtype=bool)
    for part in given:
        path = job.asset(options[part])
        with open_array(path, options["key"], options["columns"]) as array:
            captions = options[f"{part}-captions"]
            rows, sources = _places(data, options["modality"], part, len(array), path, captions and job.asset(captions))
            if grown is None:
                shape, kind = (len(covered), *array.shape[1:]), np.dtype(array.dtype).newbyteorder("=")
                grown = new_array(job.work, options["modality"], shape, kind)
            if array.shape[1:] != grown.shape[1:]:
                raise UsageError(f"{path}: rows are {array.shape[1:]}, those before were {grown.shape[1:]}")
            _copy(array, sources, grown, rows)
            covered[rows] = True
    _require_covered(data, options["modality"], covered)
    require_finite(grown, f"{data.name}: {options['modality']} feature from {path.name}")
    return Extracted(options["modality"], grown, kind="regions" if grown.ndim == 3 else "vectors")


@contextmanager
def open_array(path: Path, key: str | None = None, columns: bool = False) -> Iterator[Any]:
    """Give the array in a .npy, .npz, .mat (any version) or HDF5 file; large ones are not read as a whole.

    ``key`` names it where the file holds several. With ``columns`` it is transposed. Raises UsageError naming the
    file where it is damaged or has no such array.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with open(path, "rb") as file:
        head = file.read(8)
    if path.suffix == ".npy":
        load = load_npy if columns else _mapped
        array = load(path)
        yield array.T if columns else array
    elif head == HDF5 and path.suffix != ".mat":
        import h5py

        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UsageError(f"{path}: not an HDF5 file, or damaged or truncated: {error}") from error
        with file:
            found = {name: value for name, value in file.items() if isinstance(value, h5py.Dataset)}
            array = _chosen(found, key, path)
            yield array[()].T if columns else array
    else:
        arrays = load_npz(path) if path.suffix == ".npz" else load_mat(path)
        numeric = {name: value for name, value in arrays.items() if getattr(value, "dtype", None) is not None}
        array = _chosen(numeric, key, path)
        array = np.asarray(array.toarray() if hasattr(array, "toarray") else array)
        yield array.T if columns else array


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return load_npy(path)  # which says what is wrong with it


def _chosen(arrays: Mapping[str, Any], key: str | None, path: Path) -> Any:
    listed = ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "no array"
    if key is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        wanted = "several arrays, so 'key' must say which" if key is None else f"no array {key!r}"
        raise UsageError(f"{path}: has {wanted}; it holds {listed}")
    return arrays[key]


def _places(
    data: PairedData, modality: str, part: str, n: int, path: Path, captions: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the data, and for each the row of the shipped array of ``n`` rows."""
    images = np.arange(data.n_images) if part == "all" else data.image_rows(part)
    texts = np.arange(data.n_texts) if part == "all" else data.text_rows(part)
    if captions is not None:
        return _by_captions(data, modality, part, n, path, read_lines(captions))
    if modality == "text":
        if n != len(texts):
            raise UsageError(f"{path}: has {n} rows for the {len(texts)} texts of {part!r}")
        return texts, np.arange(n)
    if n == len(images):
        return images, np.arange(n)
    if n == len(texts):  # the image's row is repeated for each of its texts
        first = np.concatenate([[True], data.pairs[texts][1:] != data.pairs[texts][:-1]])
        return data.pairs[texts][first], np.flatnonzero(first)
    raise UsageError(f"{path}: has {n} rows for the {len(images)} images and {len(texts)} texts of {part!r}")


def _by_captions(
    data: PairedData, modality: str, part: str, n: int, path: Path, lines: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    known, _ = require_captions("precomputed", data, skip_bad=True)
    if not lines or len(lines) % n:
        raise UsageError(f"{path}: has {n} rows for {len(lines)} captions")
    per_row = len(lines) // n
    if modality == "text" and per_row != 1:
        raise UsageError(f"{path}: has {n} rows for {len(lines)} captions, not one each")
    rows_of: dict[str, set[int]] = {}
    for number, line in enumerate(lines):
        rows_of.setdefault(_words(line), set()).add(number // per_row)
    texts = np.arange(data.n_texts) if part == "all" else data.text_rows(part)
    votes: dict[int, defaultdict[int, float]] = {}
    for text in texts.tolist():
        counts = votes.setdefault(text if modality == "text" else int(data.pairs[text]), defaultdict(float))
        found = rows_of.get(_words(known[text]), ())
        for row in found:  # a caption may stand beside several images; the rarest of an image's own decide
            counts[row] += 1 / len(found)
    lost = [row for row, counts in votes.items() if not counts]
    if lost:
        raise UsageError(
            f"{path}: no caption of {modality} row {lost[0]} of {part!r} is among its captions"
            f" ({len(lost)} of {len(votes)} such rows)"
        )
    sources = [max(sorted(counts), key=counts.__getitem__) for counts in votes.values()]
    return np.array(list(votes), dtype=np.int64), np.array(sources, dtype=np.int64)


def _words(caption: str) -> str:
    # Shipped captions are often tokenised, lower-cased or stripped of punctuation.
    return " ".join(re.findall(r"[^\W_]+", caption.lower()))


def _copy(array: Any, sources: np.ndarray, target: np.ndarray, rows: np.ndarray) -> None:
    order = np.argsort(sources, kind="stable")  # HDF5 reads increasing rows only
    step = max(1, BLOCK // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        distinct, inverse = np.unique(sources[chosen], return_inverse=True)
        target[rows[chosen]] = array[distinct][inverse]


def _require_covered(data: PairedData, modality: str, covered: np.ndarray) -> None:
    for role in data.splits:
        rows = data.image_rows(role) if modality == "image" else data.text_rows(role)
        bare = rows[~covered[rows]]
        if len(bare):
            raise UsageError(f"{data.name}: no shipped feature for {modality} row {bare[0]} of {role!r}"
                             f" ({len(bare)} of {len(rows)} such rows): give the asset of that part")  # fmt: skip
