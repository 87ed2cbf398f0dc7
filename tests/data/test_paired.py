"""What every dataset must be, and that it survives storing."""

import json

import numpy as np
import pytest

from cmrkit.data.images import ImageFiles
from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError


@pytest.fixture
def data():
    """Four images; the third has two texts, stored apart."""
    return PairedData(
        name="toy",
        pairs=np.array([2, 0, 1, 2, 3]),
        splits={"train": np.array([2, 0]), "query": np.array([3]), "database": np.array([2, 0])},
        image={"f": np.arange(8.0).reshape(4, 2)},
        text={"g": np.arange(15.0).reshape(5, 3)},
        captions=["a", "b", "c", "d", "é"],
        labels=np.eye(4, 2, dtype=np.uint8) + np.eye(4, 2, -2, dtype=np.uint8),
        classes=("x", "y"),
    )


def with_value(array, where, value):
    array = array.copy()
    array[where] = value
    return array


def test_text_rows_follow_the_images_of_the_split_and_keep_the_order_of_an_images_texts(data):
    assert data.text_rows("train").tolist() == [0, 3, 1]
    assert data.text_rows("query").tolist() == [4]


def test_an_unknown_split_is_named_with_the_known_ones(data):
    with pytest.raises(UsageError, match=r"no split 'val'; it has train, query, database"):
        data.text_rows("val")


def test_a_feature_that_is_no_matrix_is_explained(data):
    assert data.matrix("text", "g") is data.text["g"]
    with pytest.raises(UsageError, match=r"no matrix of image feature 'pixels'; there is f"):
        data.matrix("image", "pixels")
    with pytest.raises(UsageError, match="raw items, which need an extractor"):
        data.replace(image={}).matrix("image", "pixels")


def test_good_data_validates(data):
    assert data.validate() is data


def test_without_labels_or_items_the_features_count_the_images(data):
    assert data.replace(labels=None, classes=()).validate().n_images == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"image": {"f": with_value(d.image["f"], (1, 0), np.nan)}}, r"image feature 'f'.*row 1"),
        (lambda d: {"text": {"g": with_value(d.text["g"], (4, 2), np.inf)}}, r"text feature 'g'.*row 4"),
        (lambda d: {"text": {"g": d.text["g"][:4]}}, r"text feature 'g' 4, pairs 5, captions 5"),
        (lambda d: {"image": {"f": d.image["f"][0]}}, r"2-d numeric"),
        (lambda d: {"pairs": np.array([2, 0, 1, 2, 4])}, r"text row 4 belongs to image row 4 of 4"),
        (lambda d: {"pairs": d.pairs.astype(float)}, r"1-d int64"),
        (lambda d: {"splits": {"train": np.array([9])}}, r"'train' names image row 9 of 4"),
        (lambda d: {"splits": {"train": np.array([-1])}}, r"'train' names image row -1"),
        (lambda d: {"splits": {"val": np.array([], dtype=np.int64)}}, r"'val' is empty"),
        (lambda d: {"splits": {"query": np.array([1, 0, 1])}}, r"'query' names image row 1 twice"),
        (lambda d: {"splits": {"train": np.array([0, 1]), "query": np.array([1])}}, r"row 1 is in both"),
        (lambda d: {"splits": {"test": np.array([0])}}, r"unknown split 'test'"),
        (lambda d: {"labels": d.labels[:3]}, r"rows differ: image feature 'f' 4, labels 3"),
        (lambda d: {"labels": with_value(d.labels, (3, 1), 7)}, r"0 or 1, but row 3 has 7"),
        (lambda d: {"labels": with_value(d.labels, (3, 1), 0)}, r"row 3 of split 'query' has no label"),
        (lambda d: {"classes": ("x",)}, r"2 columns for 1 classes"),
        (lambda d: {"captions": ["a"]}, r"pairs 5, captions 1"),
        (lambda d: {"image_items": np.zeros((4, 2, 2), np.uint8)}, r"uint8 \(n, height, width, 3\)"),
        (lambda d: {"image_items": np.zeros((3, 2, 2, 3), np.uint8)}, r"image feature 'f' 4, image items 3"),
    ],
)
def test_bad_data_is_refused_with_what_is_wrong_and_where(data, change, message):
    with pytest.raises(UsageError, match=message):
        data.replace(**change(data)).validate()


def test_an_image_without_text_may_not_be_in_a_split(data):
    bad = data.replace(pairs=np.array([2, 0, 2, 2, 3]), splits={"train": np.array([1])})
    with pytest.raises(UsageError, match="image row 1 has no text"):
        bad.validate()


def test_saved_data_comes_back_equal_and_memory_mapped(data, tmp_path):
    stored = data.replace(image_items=np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3))
    stored.save(tmp_path / "d")
    back = PairedData.load(tmp_path / "d").validate()
    assert isinstance(back.image["f"], np.memmap)
    assert (back.name, back.captions, back.classes) == (stored.name, stored.captions, stored.classes)
    for mine, theirs in [
        (back.pairs, stored.pairs),
        (back.labels, stored.labels),
        (back.image["f"], stored.image["f"]),
        (back.text["g"], stored.text["g"]),
        (back.image_items, stored.image_items),
        *((back.splits[role], rows) for role, rows in stored.splits.items()),
    ]:
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


def test_saving_twice_gives_the_same_bytes(data, tmp_path):
    for name in "ab":
        data.save(tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_what_is_stored_does_not_name_places_on_this_machine(data, tmp_path):
    items = ImageFiles(tuple(("photos", f"{i}.jpg") for i in range(4)), {"photos": tmp_path / "secret"})
    data.replace(image_items=items).save(tmp_path / "d")
    assert "secret" not in (tmp_path / "d" / "data.json").read_text()
    back = PairedData.load(tmp_path / "d", {"photos": tmp_path / "elsewhere"})
    assert back.image_items == items
    assert back.image_items.roots == {"photos": tmp_path / "elsewhere"}


def test_a_damaged_store_is_an_error_that_says_so(data, tmp_path):
    data.save(tmp_path)
    index = json.loads((tmp_path / "data.json").read_text())
    del index["splits"]
    (tmp_path / "data.json").write_text(json.dumps(index))
    with pytest.raises(CmrkitError, match="prepare it again"):
        PairedData.load(tmp_path)
