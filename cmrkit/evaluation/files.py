"""Codes or embeddings in an .npz file: reading what somebody else made, writing what they can read.

=================================================  ========================================================
query_image, query_text, database_image,           codes (n, bits) of -1/+1 or 0/1, or embeddings (n, d);
database_text, learned_image, learned_text,        any subset that gives a direction
unified
query_labels, database_labels                      multi-hot (n, classes) or class ids (n,)
pairs                                              (n_text,) the image row of each text, instead of labels
space                                              hamming (also where absent), cosine, dot or euclidean
bits                                               whole number: codes, all of that length, may then be packed:
                                                   uint8 (n, ceil(bits / 8)) as ``numpy.packbits(codes > 0, axis=1)``
                                                   gives them, first bit highest, padding bits zero
classes                                            the same for multi-hot labels
query_ids, database_ids                            names of the rows, (n,) whole numbers or strings, unique
=================================================  ========================================================

``inputs.KEYS`` has the rarer arrays that ``evaluate`` takes; they are read under the same names.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation.inputs import DATABASE, EMBEDDED, QUERY, SPACES, TRANSLATED, check_inputs
from cmrkit.evaluation.relevance import describe

LABELS = ("query_labels", "database_labels")
IDS = ("query_ids", "database_ids")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class CodeFile:
    """What an .npz file holds: unpacked ``arrays`` as ``evaluate`` takes them, ``space``, and ``ids`` of rows."""

    arrays: dict[str, np.ndarray]
    space: str
    ids: dict[str, np.ndarray]


def read_codes(path: str | Path) -> dict[str, np.ndarray | str]:
    """Read and check an .npz file, and return what ``evaluate`` takes: its arrays, unpacked, and ``space``.

    Nothing is ever unpickled. Raises UsageError naming the file, the array and the row.
    """
    file = load_codes(path)
    with _about(path):
        check_inputs(**file.arrays, space=file.space)
    return {**file.arrays, "space": file.space}


def load_codes(path: str | Path) -> CodeFile:
    """Read an .npz file that need not be evaluable: it may lack labels, or the codes of one side.

    Packed arrays come back as uint8 0/1 (n, bits). The layout and the ids are checked; the values of codes,
    embeddings and labels are left to who uses them. Raises UsageError as ``read_codes`` does.
    """
    path = Path(path)
    arrays = _load(path)
    with _about(path):
        space = _space(arrays.pop("space", np.array("hamming")))
        bits, classes = (_whole(name, arrays.pop(name, None)) for name in ("bits", "classes"))
        if bits and space != "hamming":
            raise UsageError(f"bits is given, but the space is {space}: only Hamming codes are packed")
        for name, array in arrays.items():
            if name in EMBEDDED and bits:
                arrays[name] = _unpacked(name, array, bits, "bits")
            elif name in LABELS and classes and array.ndim == 2:
                arrays[name] = _unpacked(name, array, classes, "classes")
        ids = {name: arrays.pop(name) for name in IDS if name in arrays}
        for name, array in ids.items():
            _check_ids(name, array, arrays)
    return CodeFile(arrays, space, ids)


def write_codes(path: str | Path, arrays: dict[str, np.ndarray], space: str) -> None:
    """Write ``arrays``, as ``evaluate`` takes them and with ids if wanted, in the smallest form of the format.

    Codes of one length and multi-hot labels are packed, so that codes of -1/+1 are read back as 0/1; codes of
    several lengths stay as they are. The file appears whole or not at all. Raises UsageError, before anything
    is written, for arrays that ``read_codes`` would refuse, and CmrkitError where the disk does.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    check_inputs(**{name: array for name, array in arrays.items() if name not in IDS}, space=space)
    lengths = {array.shape[1] for name, array in arrays.items() if name in EMBEDDED}
    stored = dict(arrays, space=np.array(space))
    for name, array in arrays.items():
        if name in IDS:
            _check_ids(name, array, arrays)
        elif name in EMBEDDED and space == "hamming" and len(lengths) == 1:
            stored |= {name: np.packbits(array > 0, axis=1), "bits": np.array(array.shape[1])}
        elif name in LABELS and array.ndim == 2:
            stored |= {name: np.packbits(array != 0, axis=1), "classes": np.array(array.shape[1])}
    with replacing(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **stored)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the block the name of a file to write, which becomes ``path`` in one step when the block succeeds.

    Raises UsageError where there is no such folder, CmrkitError where the disk refuses; either way nothing
    half-written is left and a file that was at ``path`` stays.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"{path}: " + ("is a folder" if path.is_dir() else f"there is no folder {path.parent}"))
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise CmrkitError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _about(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: not an .npz archive, or cut off; write it with numpy.savez")
    arrays = {}
    name = "its directory"
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except _BROKEN as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        if "allow_pickle" in cause:
            cause = "it holds pickled objects, which are never loaded; store plain numeric arrays"
        raise UsageError(f"{path}: cannot read {name}: {cause}") from None
    return {name: _plain(path, name, array) for name, array in arrays.items()}


def _plain(path: Path, name: str, array: object) -> np.ndarray:
    # A member that is not in NumPy's own format comes back as raw bytes.
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path}: {name!r} is not a NumPy array; write the file with numpy.savez")
    return array


def _space(space: np.ndarray) -> str:
    text = space.item() if space.size == 1 and space.dtype.kind in "US" else None
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if text not in SPACES:
        shown = describe(space) if text is None else repr(text)
        raise UsageError(f"space is {shown}; choose from {', '.join(SPACES)}")
    return text


def _whole(name: str, number: np.ndarray | None) -> int | None:
    if number is None:
        return None
    if number.size != 1 or number.dtype.kind not in "iu" or number.item() < 1:
        shown = number.item() if number.size == 1 else describe(number)
        raise UsageError(f"{name} is {shown}: it must be one whole number, at least 1")
    return int(number.item())


def _unpacked(name: str, array: np.ndarray, width: int, unit: str) -> np.ndarray:
    """Return the 0/1 columns of a packed array, and any other array of ``width`` columns as it is."""
    packed = -(-width // 8)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != packed:
        if array.ndim == 2 and array.shape[1] == width:
            return array
        raise UsageError(
            f"{name} is {describe(array)}, but {unit} is {width}: it needs {width} columns, "
            f"or {packed} of uint8 as numpy.packbits makes them"
        )
    padding = array[:, -1] & ((1 << (packed * 8 - width)) - 1)
    if padding.any():
        raise UsageError(
            f"{name} row {int(np.argmax(padding != 0))} sets padding bits: of its last byte only the highest "
            f"{(width - 1) % 8 + 1} bits are used, and the others must be zero"
        )
    return np.unpackbits(array, axis=1, count=width)


def _check_ids(name: str, ids: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise UsageError(f"{name} must be whole numbers or strings (n,), not {describe(ids)}")
    sides = {
        "query_ids": (*QUERY, *TRANSLATED.values(), "query_labels"),
        "database_ids": (*(name for names in DATABASE.values() for name in names), "database_labels"),
    }
    for other in sides[name]:
        if other in arrays and len(arrays[other]) != len(ids):
            raise UsageError(f"{name} has {len(ids)} entries, but {other} has {len(arrays[other])} rows")
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(again):
        at = again[np.argmin(order[again + 1])]  # the first row that repeats an earlier one
        raise UsageError(f"{name} rows {order[at]} and {order[at + 1]} both hold {ids[order[at]].item()!r}")
