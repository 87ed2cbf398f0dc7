"""MATLAB files that hold a dataset already divided: one array per part and modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.data.reading import mat_arrays, multi_hot, one_hot, rows_in_order
from cmrkit.errors import UsageError


class Part(NamedTuple):
    """The variables of one part: features are (n, d); labels multi-hot (n, c), or class numbers in any shape."""

    image: str
    text: str
    labels: str


def read_parts(
    name: str,
    path: Path,
    parts: Mapping[str, Part],
    *,
    image: str,
    text: str,
    classes: Sequence[str] = (),
) -> PairedData:
    """Return the parts of a MATLAB file as the splits of one dataset.

    Without a part "database" the training set is the database. Where the file lists training rows again in
    its database, they stay two rows. Class numbers may count from 0 or from 1; without ``classes`` the
    classes are named by number, from 1. Raises UsageError where the file is not of this form.
    """
    arrays = iter(mat_arrays(path, [variable for part in parts.values() for variable in part]))
    columns = {role: _upright(next(arrays), next(arrays), next(arrays)) for role in parts}
    for role, part in columns.items():
        if len({len(array) for array in part}) != 1:
            raise UsageError(f"{path}: {role} has {' / '.join(str(len(a)) for a in part)} images / texts / labels")
    X, Y, L = (_joined(path, [part[field] for part in columns.values()]) for field in range(3))
    labels = multi_hot(L, path) if L.shape[1] > 1 else _numbered(L, len(classes), path)
    rows = rows_in_order(**{role: len(part[0]) for role, part in columns.items()})
    return PairedData(
        name=name,
        pairs=np.arange(len(X), dtype=np.int64),
        splits={**rows, "database": rows.get("database", rows["train"])},
        image={image: X.astype(np.float32)},
        text={text: Y.astype(np.float32)},
        labels=labels,
        classes=tuple(classes) or tuple(str(number + 1) for number in range(labels.shape[1])),
    )


def _upright(images: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    # MATLAB also keeps class numbers as one row.
    lying = len(labels) == 1 and len(images) != 1
    return images, texts, labels.reshape(-1, 1) if lying else labels


def _joined(path: Path, arrays: list[np.ndarray]) -> np.ndarray:
    if len({array.shape[1] for array in arrays}) != 1:
        raise UsageError(f"{path}: parts have different widths: {', '.join(str(a.shape) for a in arrays)}")
    return np.concatenate(arrays)


def _numbered(labels: np.ndarray, n_classes: int, path: Path) -> np.ndarray:
    numbers = labels.astype(np.int64).ravel()
    numbers = numbers + (numbers.min() == 0)
    return one_hot(numbers, n_classes or int(numbers.max()), path)
