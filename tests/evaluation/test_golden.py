"""Codes that the papers' own code produced, scored by an independent evaluator."""

import json
from pathlib import Path

import numpy as np
import pytest

from cmrkit.evaluation import evaluate, evaluate_variants

FILES = (
    *("BATCH__author_dbB__b16__s1", "BATCH__author_dbB__b32__s1", "BATCH__author_dbhash__b16__s1"),
    *("CMFH__cmhr_dbB__b32__s1", "FSH__author__b16__s1", "MTFH__author__b16__s1", "RFDH__author__b16__s1"),
    *("SCRATCH__cmhr_dbB__b32__s1", "SCRATCH__cmhr_dbhash__b32__s1"),
)
EXACT = {
    "map_all_stable": ("stable", "map@all"),
    "map_all_tieavg": ("expected", "map@all"),
    "map50_stable": ("stable", "map@50"),
    "map100_stable": ("stable", "map@100"),
    "map50_min_stable": ("stable", "map@50:min"),
}
SAMPLED = {"map50_tieavg": ("expected", "map@50"), "map100_tieavg": ("expected", "map@100")}
ITEMS = {"db_train": "database=hashed,items=database", "db_test": "items=query"}


@pytest.fixture(scope="module")
def golden(mirror):
    folder = Path(mirror).parent / "oracle" / "codes"
    if not (folder / "expected.json").is_file():
        pytest.skip("no oracle codes beside CMRKIT_MIRROR")
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def labels(mirror):
    def column(split):
        return np.loadtxt(mirror / "wikipedia" / f"{split}set_txt_img_cat.list", dtype=str)[:, 2].astype(int)

    return {"query_labels": column("test"), "database_labels": column("train")}


def unpack(archive, name):
    return np.unpackbits(archive[name], axis=1)[:, : int(archive["nbits"])]


def arrays_by_direction(archive):
    """One set of arrays per direction: some methods hash the database anew for each."""
    if str(archive["kind"]) == "hash":
        names = {"query_image": "BI_te", "query_text": "BT_te", "database_image": "BI_tr", "database_text": "BT_tr"}
        both = {name: unpack(archive, source) for name, source in names.items()}
        return {"i2t": both, "t2i": both}
    names = {
        "i2t": {"query_image": "q_i2t", "database_text": "db_i2t_tr", "query_text": "db_i2t_te"},
        "t2i": {"query_text": "q_t2i", "database_image": "db_t2i_tr", "query_image": "db_t2i_te"},
    }
    return {d: {name: unpack(archive, source) for name, source in each.items()} for d, each in names.items()}


@pytest.mark.parametrize("stem", FILES)
def test_metrics_of_published_codes_agree_with_the_independent_evaluator(stem, golden, labels):
    folder, expected = golden
    with np.load(folder / f"{stem}.npz") as archive:
        arrays = arrays_by_direction(archive)
    for direction, given in arrays.items():
        variants = evaluate_variants(**given, **labels)
        for suffix, key in ITEMS.items():
            wanted = expected[f"{stem}.npz"][f"{direction}_{suffix}"]
            for field, (ties, metric) in (EXACT | SAMPLED).items():
                obtained = variants[f"{key},ties={ties}"][metric][direction]
                tolerance = 1e-9 if field in EXACT else 5e-3
                assert obtained == pytest.approx(wanted[field], abs=tolerance), (direction, suffix, field)


def test_reversed_database_order_is_the_other_stable_order(golden, labels):
    folder, expected = golden
    stem = FILES[0]
    with np.load(folder / f"{stem}.npz") as archive:
        given = arrays_by_direction(archive)["i2t"]
    turned = {k: v[::-1] if k.startswith("database") else v for k, v in (given | labels).items()}
    obtained = evaluate(**turned, ties="stable", metrics=["map@all"])["map@all"]
    for direction in ("i2t", "t2i"):
        wanted = expected[f"{stem}.npz"][f"{direction}_db_train"]["map_all_revidx"]
        assert obtained[direction] == pytest.approx(wanted, abs=1e-9)
