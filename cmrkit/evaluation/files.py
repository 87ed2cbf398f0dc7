"""Codes or embeddings that somebody else made: reading ``FILE.npz`` for ``cmrkit eval --codes``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from cmrkit.errors import UsageError
from cmrkit.evaluation.inputs import SPACES, check_inputs
from cmrkit.evaluation.relevance import describe

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, NotImplementedError, MemoryError)


def read_codes(path: str | Path) -> dict[str, np.ndarray | str]:
    """Read and check an .npz file of the arrays that ``evaluate`` takes, and return them by name.

    ``query_image``, ``query_text``, ``database_image``, ``database_text``, and optionally
    ``learned_image``, ``learned_text``, ``unified``: (n, bits) of -1/+1 or 0/1, or (n, d) real-valued.
    ``query_labels`` and ``database_labels``: multi-hot (n, c) or class ids (n,); or ``pairs`` (n_text,),
    the image row of each text. ``space``: hamming (also where it is absent), cosine, dot or euclidean.

    Nothing is ever unpickled. Raises UsageError naming the file, the array and the row.
    """
    path = Path(path)
    arrays = _load(path)
    arrays["space"] = _space(path, arrays.get("space", np.array("hamming")))
    try:
        check_inputs(**arrays)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return arrays


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


def _space(path: Path, space: np.ndarray) -> str:
    text = space.item() if space.size == 1 and space.dtype.kind in "US" else None
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if text not in SPACES:
        shown = describe(space) if text is None else repr(text)
        raise UsageError(f"{path}: space is {shown}; choose from {', '.join(SPACES)}")
    return text
