"""The Wikipedia dataset: 2,866 pairs of an article's section and its image, ten categories, official split.

All feature files list the pairs in one order, the training list and then the test list; `wiki_roph.mat`
brings its own division of the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmrkit.data.paired import PairedData
from cmrkit.data.reading import asset, dense, one_hot, read_lines, require, rows_in_order, stacked
from cmrkit.data.safe_load import load_mat
from cmrkit.errors import UsageError

IMAGE = {"sift-bovw-128": ("raw-features", "I_tr", "I_te"), "roph-128": ("roph", "X1")}
TEXT = {
    "lda-10": ("raw-features", "T_tr", "T_te"),
    "tfidf-1000": ("tfidf-features", "T_tfidf_tr", "T_tfidf_te"),
    "roph-100": ("roph", "X2"),
}


def read(assets: Mapping[str, Path], *, split: str, image: str, text: str) -> PairedData:
    """Return the pairs with one image and one text feature, under the split "official" or "roph"."""
    require("split", split, ("official", "roph"), "wikipedia")
    classes = tuple(read_lines(asset(assets, "categories", "wikipedia")))
    lists = [_labels(asset(assets, name, "wikipedia")) for name in ("train-list", "test-list")]
    n_train, n_test = map(len, lists)
    splits = (
        rows_of_roph(asset(assets, "roph", "wikipedia"))
        if split == "roph"
        else rows_in_order(train=n_train, query=n_test)
    )
    return PairedData(
        name="wikipedia",
        pairs=np.arange(n_train + n_test, dtype=np.int64),
        splits={**splits, "database": splits["train"]},
        image={image: _feature(IMAGE, "image feature", image, assets)},
        text={text: _feature(TEXT, "text feature", text, assets)},
        labels=one_hot(np.concatenate(lists), len(classes), asset(assets, "train-list", "wikipedia")),
        classes=classes,
    )


def rows_of_roph(path: Path) -> dict[str, np.ndarray]:
    """Return the 0-based training and query rows that `wiki_roph.mat` divides the pairs into."""
    division = _roph(path, "split")[0, 0]
    names = {"train": "ind_train", "query": "ind_test"}
    return {role: division[name].ravel().astype(np.int64) - 1 for role, name in names.items()}


def _feature(known: Mapping[str, tuple], kind: str, name: str, assets: Mapping[str, Path]) -> np.ndarray:
    require(kind, name, known, "wikipedia")
    source, *variables = known[name]
    path = asset(assets, source, "wikipedia")
    # RoPH keeps one column per pair, the official files one row.
    matrix = dense(_roph(path, variables[0])).T if source == "roph" else stacked(path, variables)
    return np.ascontiguousarray(matrix, dtype=np.float64)


def _roph(path: Path, member: str) -> np.ndarray:
    try:
        return load_mat(path)["data"][0, 0][member]
    except (KeyError, IndexError, ValueError, TypeError):
        raise UsageError(f"{path}: has no struct 'data' with a member {member!r}") from None


def _labels(path: Path) -> np.ndarray:
    rows = [line.split() for line in read_lines(path)]
    bad = next((i for i, row in enumerate(rows) if len(row) != 3 or not row[2].isdigit()), None)
    if bad is not None:
        raise UsageError(f"{path}:{bad + 1}: expected 'text image category', found {' '.join(rows[bad])!r}")
    return np.array([int(row[2]) for row in rows])
