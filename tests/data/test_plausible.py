"""Extended positives of MS-COCO: their files by hand, and the real ones against the official metrics."""

import gzip
import json
import warnings
import zipfile

import numpy as np
import pytest

from cmrkit.data.plausible import ASSETS, caption_ids, first_captions, image_ids, instance_labels, read_relevant
from cmrkit.errors import UsageError
from cmrkit.evaluation import evaluate
from cmrkit.evaluation.positives import check_positives

IMAGES = np.array([7, 3])
CAPTIONS = np.array([70, 71, 30, 31])
PAIRS = np.array([0, 0, 1, 1])


def as_json(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_image_ids_are_read_from_names():
    names = ["val2014/COCO_val2014_000000391895.jpg", "COCO_train2014_000000000009.jpg"]
    assert image_ids(names).tolist() == [391895, 9]


def test_a_name_without_an_id_is_refused():
    with pytest.raises(UsageError, match=r"image row 1 is named 'dog\.jpg'"):
        image_ids(["COCO_val2014_000000391895.jpg", "dog.jpg"])


def test_the_captions_after_the_first_ones_of_an_image_are_left_out():
    assert first_captions(np.array([0, 0, 0, 1, 1, 2, 2, 2]), each=2).tolist() == [0, 1, 3, 4, 5, 6]
    assert first_captions(np.array([1, 0, 1, 0, 0]), each=2).tolist() == [0, 1, 2, 3]


def test_an_image_with_too_few_captions_is_refused():
    with pytest.raises(UsageError, match="image row 1 has 1 captions"):
        first_captions(np.array([0, 0, 1, 2, 2]), each=2)


def test_positives_are_rows_and_those_of_other_sets_are_counted(tmp_path):
    i2t = as_json(tmp_path / "i2t.json", {"3": [31, 70, 999], "7": [70]})
    t2i = as_json(tmp_path / "t2i.json", {"31": [3, 7]})
    relevant = read_relevant(i2t, t2i, IMAGES, CAPTIONS)
    assert relevant["i2t"].pairs.tolist() == [[0, 0], [1, 0], [1, 3]]
    assert relevant["i2t"].outside.tolist() == [0, 1]
    assert relevant["t2i"].pairs.tolist() == [[3, 0], [3, 1]]
    assert relevant["t2i"].outside.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"5": [70]}, "query 5 is none of the 2 given"),
        ({"7": [1, 2]}, "none of its items is one of the 4 given"),
        ({"7": [70, 70]}, "query 7 names an item twice"),
        ({"7": []}, "query 7 has no list"),
        ({"7": [70.5]}, "query 7 has no list of whole numbers"),
        ({"7": ["70"]}, "query 7 has no list of whole numbers"),
        ({"7": 70}, "query 7 has no list"),
        ({"seven": [70]}, "not lists of COCO's ids"),
        ([[7, 70]], "an object of lists"),
        ({}, "an object of lists"),
        ('{"7": [70', "not lists of COCO's ids"),
    ],
)
def test_a_bad_file_of_positives_is_refused_by_name(tmp_path, content, message):
    bad = as_json(tmp_path / "bad.json", content)
    good = as_json(tmp_path / "good.json", {"31": [3]})
    with pytest.raises(UsageError, match=message) as error:
        read_relevant(bad, good, IMAGES, CAPTIONS)
    assert "bad.json" in str(error.value)


def test_a_missing_file_of_positives_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: no such file"):
        read_relevant(tmp_path / "none.json", tmp_path / "none.json", IMAGES, CAPTIONS)


def test_an_id_that_stands_twice_is_refused(tmp_path):
    good = as_json(tmp_path / "good.json", {"31": [3]})
    with pytest.raises(UsageError, match="captions row 2 has the id 70, as row 0 has"):
        read_relevant(good, good, IMAGES, np.array([70, 71, 70, 31]))


def test_caption_ids_are_held_against_the_images_of_their_rows(tmp_path):
    owners = as_json(tmp_path / "owners.json", {"70": [7], "71": [7], "30": [3], "31": [3]})
    np.save(tmp_path / "ids.npy", CAPTIONS)
    assert caption_ids(tmp_path / "ids.npy", owners, IMAGES, PAIRS).tolist() == CAPTIONS.tolist()
    with pytest.raises(UsageError, match="caption row 0 would be COCO's caption 70 of image 3"):
        caption_ids(tmp_path / "ids.npy", owners, IMAGES[::-1], PAIRS)
    with pytest.raises(UsageError, match=r"ids\.npy: 4 caption ids for 3 captions"):
        caption_ids(tmp_path / "ids.npy", owners, IMAGES, PAIRS[:3])


@pytest.mark.parametrize("ids", [CAPTIONS.astype(float), CAPTIONS[None]])
def test_a_bad_file_of_caption_ids_is_refused_by_name(tmp_path, ids):
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(UsageError, match=r"ids\.npy: expected caption ids"):
        caption_ids(tmp_path / "ids.npy", tmp_path / "owners.json", IMAGES, PAIRS)


def instances(path, annotations):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations/instances_val2014.json", json.dumps({"annotations": annotations}))
    return path


def test_instance_labels_say_which_categories_an_image_shows(tmp_path):
    shown = [(3, 1), (7, 90), (3, 1), (3, 18), (555, 2)]
    archive = instances(tmp_path / "a.zip", [{"image_id": i, "category_id": c} for i, c in shown])
    labels = instance_labels(archive, np.array([7, 3, 8]))
    assert labels.shape == (3, 90)
    assert [np.flatnonzero(row).tolist() for row in labels] == [[89], [0, 17], []]


@pytest.mark.parametrize("annotation", [{"image_id": 3, "category_id": 91}, {"image_id": 3}, 5])
def test_bad_instances_are_refused_by_name(tmp_path, annotation):
    with pytest.raises(UsageError, match=r"a\.zip: annotations/instances_val2014\.json cannot be read"):
        instance_labels(instances(tmp_path / "a.zip", [annotation]), IMAGES)


# The real files, and the official metrics on rankings of all 5,000 images and 25,000 captions.


class Coco:
    """Karpathy's test set as the benchmarks see it: ids and pairs of 5,000 images and 25,000 captions."""

    def __init__(self, root):
        entries = json.loads(gzip.decompress((root / "coco_karpathy_test.json.gz").read_bytes()))
        self.root = root / "eccv_caption"
        self.all_pairs = np.repeat(np.arange(len(entries)), [len(entry["captions"]) for entry in entries])
        self.pairs = self.all_pairs[first_captions(self.all_pairs)]
        self.images = image_ids([entry["image_name"] for entry in entries])
        ids, owners = self.root / "coco_test_ids.npy", self.root / "original_caption_to_image.json"
        self.captions = caption_ids(ids, owners, self.images, self.pairs)

    def relevant(self, source):
        i2t, t2i = (self.root / f"{asset.replace('-', '_')}.json" for asset in ASSETS[source])
        return read_relevant(i2t, t2i, self.images, self.captions)

    def positives(self, source):
        sizes = {"i2t": (5000, 25000), "t2i": (25000, 5000)}
        return {d: check_positives(d, r.pairs, *sizes[d], r.outside) for d, r in self.relevant(source).items()}


@pytest.fixture(scope="module")
def coco(mirror):
    return Coco(mirror / "mscoco")


def test_the_benchmarks_take_five_captions_of_each_of_the_5000_images(coco):
    assert np.bincount(coco.all_pairs).tolist().count(6) == 10
    assert np.bincount(coco.pairs).tolist() == [5] * 5000


def test_positives_of_coco_are_its_pairs(coco):
    relevant = coco.relevant("coco")
    rows = np.arange(25000)
    assert np.array_equal(relevant["i2t"].pairs, np.stack([coco.pairs, rows], 1))
    assert np.array_equal(relevant["t2i"].pairs, np.stack([rows, coco.pairs], 1))


@pytest.mark.parametrize(
    ("source", "pairs", "queries", "outside"),
    [
        ("coco", (25000, 25000), (5000, 25000), (0, 0)),
        ("cxc", (35585, 35585), (5000, 24972), (0, 0)),
        ("eccv", (22548, 11279), (1261, 1332), (2, 0)),
    ],
)
def test_sizes_of_the_real_positives(coco, source, pairs, queries, outside):
    relevant = coco.relevant(source)
    both = relevant["i2t"], relevant["t2i"]
    assert tuple(len(r.pairs) for r in both) == pairs
    assert tuple(len(np.unique(r.pairs[:, 0])) for r in both) == queries
    assert tuple(int(r.outside.sum()) for r in both) == outside


def test_both_directions_of_cxc_say_the_same(coco):
    relevant = coco.relevant("cxc")
    assert {(i, c) for i, c in relevant["i2t"].pairs.tolist()} == {(i, c) for c, i in relevant["t2i"].pairs.tolist()}


DEPTH = 50  # no query of CxC or ECCV Caption has more positives


def rankings(coco):
    """Return the similarity of all queries and items in both directions, a vector an image and a caption each.

    A caption lies near its image, or near an image of which ECCV Caption says that it is one too.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal((5000, 24))
    towards = coco.pairs.copy()
    also = rng.permutation(coco.relevant("eccv")["i2t"].pairs)
    towards[also[:, 1]] = also[:, 0]
    text = image[towards] + 1.2 * rng.standard_normal((25000, 24))
    return {"i2t": (image, text), "t2i": (text, image)}


def nearest(query, items, k):
    """Return the k nearest items, the nearest first: int64 (queries, k)."""
    found = []
    for start in range(0, len(query), 1000):
        similarity = query[start : start + 1000] @ items.T
        top = np.argpartition(-similarity, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarity, top, 1), axis=1)
        found.append(np.take_along_axis(top, order, 1))
    return np.concatenate(found)


def ours(coco, vectors):
    """Return our numbers under the package's names, each protocol through ``evaluate``."""
    image, text = vectors["i2t"]
    arrays = {"query_image": image, "query_text": text, "space": "dot"}
    recalls = [f"r@{k}" for k in (1, 5, 10)]
    names = {"coco_5k": "recall", "coco_1k": "recall-folds", "cxc": "cxc", "eccv": "eccv-caption"}
    found = {}
    for prefix, protocol in names.items():
        if prefix in ("cxc", "eccv"):
            listed = coco.relevant(prefix)
            own = {f"positives_{d}": r.pairs for d, r in listed.items()}
            own |= {f"outside_{d}": r.outside for d, r in listed.items()}
        else:
            own = {"pairs": coco.pairs}
        metrics = ("map@r", "r-precision", "r@1") if prefix == "eccv" else recalls
        values = evaluate(**arrays, **own, protocol=protocol, metrics=metrics)
        for metric in metrics:
            scale = 100 if metric in recalls else 1
            name = {"map@r": "map_at_r", "r-precision": "rprecision"}.get(metric, metric.replace("@", ""))
            found[f"{prefix}_{name}"] = {d: v / scale for d, v in values[metric].items()}
    return found


def for_official(coco, vectors, ranked, direction):
    """Return ranked ids by query id: the DEPTH first items of all, then the first ones within the query's fold."""
    query_ids, item_ids = (coco.images, coco.captions) if direction == "i2t" else (coco.captions, coco.images)
    query, items = vectors[direction]
    lists = {}
    for fold in range(5):
        rows = slice(len(query) // 5 * fold, len(query) // 5 * (fold + 1))
        start = len(items) // 5 * fold
        near = nearest(query[rows], items[start : start + len(items) // 5], 10) + start
        for q, first, own in zip(query_ids[rows].tolist(), ranked[rows].tolist(), near.tolist(), strict=True):
            lists[q] = item_ids[first + [item for item in own if item not in first]].tolist()
    return lists


def test_the_positives_give_the_numbers_of_the_official_metrics(coco):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a faster JSON library
        official = pytest.importorskip("eccv_caption").Metrics()
    vectors = rankings(coco)
    ranked = {d: nearest(*v, DEPTH) for d, v in vectors.items()}
    expected = official.compute_all_metrics(
        *(for_official(coco, vectors, ranked[d], d) for d in ("i2t", "t2i")),
        target_metrics=(
            *("eccv_r1", "eccv_map_at_r", "eccv_rprecision"),
            *("coco_1k_recalls", "coco_5k_recalls", "cxc_recalls"),
        ),
        Ks=(1, 5, 10),
    )
    found = ours(coco, vectors)
    assert len(expected) == 12
    for name, by_direction in expected.items():
        for direction, value in by_direction.items():
            assert found[name][direction] == pytest.approx(value, abs=1e-9), (name, direction)
            assert 0.01 < value < 0.99, (name, direction)  # a ranking that tells one definition from another
