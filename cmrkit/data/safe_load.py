"""Reading arrays from files that somebody else made, without running anything that they contain.

Pickled objects inside ``.npy`` and ``.npz`` files can execute code when loaded, so they are refused unless
the user trusts the file. Every failure is a UsageError that names the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmrkit.errors import UsageError


def load_mat(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file by name.

    Up to version 7.2 they are exactly what ``scipy.io.loadmat`` gives. Version 7.3 (HDF5) needs h5py: arrays
    come in MATLAB's shape, char arrays as str, sparse matrices as csc_matrix, cells as object arrays and
    structs as dicts.

    Raises UsageError where the file is missing, damaged, or is version 7.3 and h5py is not installed.
    """
    from scipy.io import loadmat

    with _explained(path, "a MATLAB file"):
        try:
            with open(path, "rb") as file:  # given a name, SciPy would also try it with ".mat" added
                variables = loadmat(file)
        except NotImplementedError:  # how SciPy declines version 7.3
            return _load_hdf5(path)
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def load_npy(path: Path, trust: bool = False) -> np.ndarray:
    """Return the array in a ``.npy`` file; pickled objects only where ``trust`` is set.

    Raises UsageError where the file is missing, damaged, or holds objects and is not trusted.
    """
    with _explained(path, "a .npy file"):
        _check_magic(path, b"\x93NUMPY", "a .npy file")
        return np.load(path, allow_pickle=trust)


def load_npz(path: Path, trust: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays in a ``.npz`` file by name; pickled objects only where ``trust`` is set.

    Raises UsageError where the file is missing, damaged, or holds objects and is not trusted.
    """
    with _explained(path, "a .npz file"):
        _check_magic(path, b"PK", "a .npz file")
        with np.load(path, allow_pickle=trust) as archive:
            return {name: archive[name] for name in archive.files}


@contextlib.contextmanager
def _explained(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # on damaged input these parsers raise nearly anything, down to TypeError
        if "allow_pickle=False" in str(error):
            raise UsageError(_pickled(path)) from None
        raise UsageError(f"{path}: not {kind}, or damaged or truncated ({_brief(error)}): fetch it again") from error


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _damaged(path: Path, kind: str, why: str) -> str:
    return f"{path}: not {kind}, or damaged or truncated ({why}): fetch it again"


def _pickled(path: Path) -> str:
    return (
        f"{path}: holds pickled Python objects, which can run code when loaded; "
        "if you trust where it came from, load it with trust=True"
    )


def _check_magic(path: Path, magic: bytes, kind: str) -> None:
    # NumPy takes whatever it does not recognise for a pickle, so a truncated file would be "not trusted".
    with open(path, "rb") as file:
        head = file.read(len(magic))
    if head != magic:
        raise UsageError(_damaged(path, kind, f"it begins with {head!r}"))


def _load_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise UsageError(f"{path}: is a MATLAB 7.3 file, which needs h5py: pip install h5py") from None
    with h5py.File(path, "r") as file:
        return _hdf5_members(file, file)


def _hdf5_members(group: Any, root: Any) -> dict[str, Any]:
    import h5py

    members = {}
    for name in group:
        # A soft or external link could make this file a window onto another one.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UsageError(f"{root.filename}: {group.name}/{name} is a link, which is refused")
        if not name.startswith("#"):  # MATLAB's own bookkeeping
            members[name] = _hdf5_value(group[name], root)
    return members


def _hdf5_value(node: Any, root: Any) -> Any:
    import h5py
    from scipy.sparse import csc_matrix

    kind = node.attrs.get("MATLAB_class", b"")
    if isinstance(node, h5py.Group):
        members = _hdf5_members(node, root)
        rows = node.attrs.get("MATLAB_sparse")
        if rows is None:
            return members
        indptr = members["jc"].ravel()
        entries = members["data"].ravel() if "data" in members else np.zeros(0)
        indices = members["ir"].ravel() if "ir" in members else np.zeros(0, dtype=indptr.dtype)
        return csc_matrix((entries, indices, indptr), shape=(int(rows), len(indptr) - 1))
    if node.external:
        raise UsageError(f"{root.filename}: {node.name} keeps its data in another file, which is refused")
    if node.attrs.get("MATLAB_empty", 0):  # the dataset then stores the shape
        return "" if kind == b"char" else np.zeros(tuple(int(n) for n in node[()]))
    value = node[()].T  # HDF5 is row-major, MATLAB column-major
    if kind == b"char":
        return "".join(map(chr, value.ravel()))
    if h5py.check_ref_dtype(node.dtype):  # a cell array, or one field of a struct array
        cells = np.empty(value.shape, dtype=object)
        for where, reference in np.ndenumerate(value):
            cells[where] = _hdf5_value(root[reference], root)
        return cells
    return value
