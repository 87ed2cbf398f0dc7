"""Prepared data is held against its manifest."""

import numpy as np
import pytest

from cmrkit.data.paired import PairedData
from cmrkit.data.statistics import check_statistics
from cmrkit.errors import CmrkitError
from cmrkit.recipe.manifest import Manifest

DECLARED = {
    "key": "toy",
    "title": "Toy",
    "citation": "nobody",
    "embedded": True,
    "features": {"image": {"f": {"dim": 2}}, "text": {"g": {}}},
    "splits": {"default": {"counts": {"train": 2, "query": 1}}, "other": {"counts": {"train": 2}}},
    "statistics": {"items": 3, "texts": 3, "labels": 2, "label_counts": {"train": [1, 1], "query": [1, 0]}},
}


@pytest.fixture
def data():
    return PairedData(
        name="toy",
        pairs=np.arange(3),
        splits={"train": np.array([0, 1]), "query": np.array([2])},
        image={"f": np.zeros((3, 2))},
        text={"g": np.zeros((3, 5))},
        labels=np.array([[1, 0], [0, 1], [1, 0]], dtype=np.uint8),
        classes=("x", "y"),
    )


def test_data_that_agrees_with_its_manifest_passes(data):
    check_statistics(data, Manifest(**DECLARED), "default")


def test_every_difference_is_listed_with_what_was_expected_and_found(data):
    changed = data.replace(
        image={"f": np.zeros((3, 4))},
        splits={"train": np.array([0]), "query": np.array([2])},
        labels=np.ones((3, 2), dtype=np.uint8),
    )
    with pytest.raises(CmrkitError) as error:
        check_statistics(changed, Manifest(**DECLARED), "default")
    lines = str(error.value).splitlines()
    assert "toy (split default) is not what its manifest says" in lines[0]
    assert lines[1:] == [
        "  size of train: expected 2, found 1",
        "  width of image f: expected 2, found 4",
        "  label counts of query: expected [1, 0], found [1, 1]",
    ]


def test_a_missing_part_and_missing_labels_are_differences(data):
    changed = data.replace(splits={"train": np.array([0, 1])}, labels=None, classes=())
    with pytest.raises(CmrkitError) as error:
        check_statistics(changed, Manifest(**DECLARED), "default")
    assert "size of query: expected 1, found nothing" in str(error.value)
    assert "labels: expected 2, found 0" in str(error.value)


def test_label_counts_are_those_of_the_default_split_only(data):
    changed = data.replace(splits={"train": np.array([0, 2])})
    check_statistics(changed, Manifest(**DECLARED), "other")


def test_what_a_manifest_does_not_say_is_not_checked(data):
    silent = {**DECLARED, "statistics": {}, "splits": {"default": {}}}
    check_statistics(data, Manifest(**silent), "default")
