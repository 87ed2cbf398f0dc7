"""What the readers share: naming what is missing, and turning common encodings into ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmrkit.data.safe_load import load_mat
from cmrkit.errors import UsageError


def require(kind: str, name: str, known: Collection[str], dataset: str) -> str:
    """Return ``name`` where it is known. Raises UsageError listing what is, e.g. for kind "image feature"."""
    if name not in known:
        raise UsageError(f"{dataset} has no {kind} {name!r}; known: {', '.join(known)}")
    return name


def asset(assets: Mapping[str, Path], name: str, dataset: str) -> Path:
    """Return the path of asset ``name``. Raises UsageError where it was not handed over."""
    if name not in assets:
        raise UsageError(f"{dataset}: the asset {name!r} is needed for this choice of features and split")
    return assets[name]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without their ends. Raises UsageError naming the file."""
    try:
        # Not str.splitlines: captions may hold characters that it, unlike the files' authors, takes for line ends.
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return text.split("\n") if text else []


def mat_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Return variables of a MATLAB file as dense arrays. Raises UsageError naming those that it lacks."""
    variables = load_mat(path)
    missing = [name for name in names if name not in variables]
    if missing:
        raise UsageError(f"{path}: has no {', '.join(missing)}; it holds {', '.join(sorted(variables))}")
    return [dense(variables[name]) for name in names]


def dense(matrix: object) -> np.ndarray:
    """Return a dense array for a dense or a sparse one."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


def stacked(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return arrays of a MATLAB file, such as a training and a test part, one below the other."""
    parts = mat_arrays(path, names)
    if len({part.shape[1] for part in parts}) != 1:
        shapes = ", ".join(f"{n} {p.shape}" for n, p in zip(names, parts, strict=True))
        raise UsageError(f"{path}: {shapes} do not have the same number of columns")
    return np.concatenate(parts)


def one_hot(labels: np.ndarray, n_classes: int, path: Path) -> np.ndarray:
    """Return 1-based class numbers (n,) as uint8 (n, n_classes). Raises UsageError for a number outside."""
    numbers = np.asarray(labels, dtype=np.int64).ravel()
    outside = np.flatnonzero((numbers < 1) | (numbers > n_classes))
    if len(outside):
        row = outside[0]
        raise UsageError(f"{path}: row {row} has class {numbers[row]}, not one of 1 to {n_classes}")
    return (numbers[:, None] == np.arange(1, n_classes + 1)).astype(np.uint8)


def multi_hot(labels: np.ndarray, path: Path) -> np.ndarray:
    """Return a 0/1 matrix of any type as uint8. Raises UsageError for any other value."""
    labels = dense(labels)
    if not np.isin(labels, (0, 1)).all():
        raise UsageError(f"{path}: labels are {np.unique(labels)[:5]}.., expected 0 and 1")
    return labels.astype(np.uint8)


def rows_in_order(**sizes: int) -> dict[str, np.ndarray]:
    """Return consecutive int64 rows for each role in turn, e.g. ``train=2173, query=693``."""
    ends = np.cumsum(list(sizes.values()))
    return {
        role: np.arange(end - size, end, dtype=np.int64) for (role, size), end in zip(sizes.items(), ends, strict=True)
    }
