"""Readers: each file layout in miniature, and real files where a mirror has them."""

import importlib
import importlib.util

import numpy as np
import pytest
from scipy.io import savemat

from cmrkit.data.readers import (
    iaprtc12,
    inria_websearch,
    mirflickr25k,
    nuswide_tc10,
    uci_digits,
    wikipedia,
    xmedia,
    xmedianet,
)
from cmrkit.data.statistics import check_statistics
from cmrkit.errors import UsageError
from cmrkit.recipe.library import dataset_keys, load_manifest

RNG = np.random.default_rng(0)


def text_file(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def mat(path, **variables):
    savemat(path, variables)
    return path


def part(names, n, labels):
    image, text, label = names
    return {image: RNG.random((n, 6)), text: RNG.random((n, 4)), label: labels}


# Manifests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", dataset_keys())
def test_every_feature_of_a_manifest_is_known_to_its_reader(key):
    manifest = load_manifest(key)
    if importlib.util.find_spec(f"cmrkit.data.readers.{manifest.reader}") is None:
        assert any("There is no reader yet" in note for note in manifest.notes)
        return
    if manifest.embedded:
        return  # read for real elsewhere
    reader = importlib.import_module(f"cmrkit.data.readers.{manifest.reader}")

    def refusal(split, image, text):
        with pytest.raises(UsageError) as error:
            reader.read({}, split=split, image=image, text=text)
        return str(error.value)

    accepted = {
        (modality, name)
        for split in manifest.splits
        for image in manifest.features.image
        for text in manifest.features.text
        if "is needed for this choice" in refusal(split, image, text)
        for modality, name in (("image", image), ("text", text))
    }
    declared = {("image", n) for n in manifest.features.image} | {("text", n) for n in manifest.features.text}
    assert accepted == declared
    (image, *_), (text, *_) = manifest.features.image, manifest.features.text
    assert "has no split 'nonsense'" in refusal("nonsense", image, text)


def declared_assets(manifest, split, image, text):
    names = {
        *manifest.splits[split].assets,
        *manifest.features.image[image].assets,
        *manifest.features.text[text].assets,
    }
    return {name: manifest.assets[name] for name in names}


REAL = [
    ("wikipedia", "official", "sift-bovw-128", "lda-10"),
    ("wikipedia", "official", "sift-bovw-128", "tfidf-1000"),
    ("wikipedia", "roph", "roph-128", "roph-100"),
    ("uci-digits", "fsh", "fourier-76", "karhunen-64"),
    ("flickr8k", "official", "pixels-224", "captions"),
]


@pytest.mark.parametrize(("key", "split", "image", "text"), REAL)
def test_real_files_are_what_the_manifest_says(mirror, key, split, image, text):
    manifest = load_manifest(key)
    assets = {name: mirror / a.path for name, a in declared_assets(manifest, split, image, text).items()}
    reader = importlib.import_module(f"cmrkit.data.readers.{manifest.reader}")
    data = reader.read(assets, split=split, image=image, text=text).validate()
    check_statistics(data, manifest, split)


# Wikipedia -------------------------------------------------------------------------------------------------


@pytest.fixture
def wiki(tmp_path):
    rows = {"I_tr": 3, "I_te": 2, "T_tr": 3, "T_te": 2}
    return {
        "raw-features": mat(tmp_path / "raw.mat", **{name: RNG.random((n, 4)) for name, n in rows.items()}),
        "train-list": text_file(tmp_path / "train", "t\ti\t2", "t\ti\t1", "t\ti\t2"),
        "test-list": text_file(tmp_path / "test", "t\ti\t1", "t\ti\t2"),
        "categories": text_file(tmp_path / "cat", "art", "biology"),
    }


def read_wiki(assets):
    return wikipedia.read(assets, split="official", image="sift-bovw-128", text="lda-10")


def test_wikipedia_takes_labels_from_the_lists_and_trains_on_the_database(wiki):
    data = read_wiki(wiki).validate()
    assert data.labels.argmax(axis=1).tolist() == [1, 0, 1, 0, 1]
    assert {role: rows.tolist() for role, rows in data.splits.items()} == {
        "train": [0, 1, 2],
        "query": [3, 4],
        "database": [0, 1, 2],
    }


def test_a_broken_line_of_a_list_is_named(wiki, tmp_path):
    with pytest.raises(UsageError, match=r"train:2: expected 'text image category'"):
        read_wiki({**wiki, "train-list": text_file(tmp_path / "train", "t\ti\t1", "t i")})


def test_a_category_that_does_not_exist_is_named(wiki, tmp_path):
    with pytest.raises(UsageError, match=r"row 1 has class 3, not one of 1 to 2"):
        read_wiki({**wiki, "train-list": text_file(tmp_path / "train", "t\ti\t1", "t\ti\t3", "t\ti\t1")})


def test_a_file_without_the_variables_says_what_it_holds(wiki, tmp_path):
    with pytest.raises(UsageError, match=r"has no I_tr, I_te; it holds X"):
        read_wiki({**wiki, "raw-features": mat(tmp_path / "other.mat", X=np.zeros((2, 2)))})


def test_features_that_do_not_fit_the_lists_are_refused(wiki, tmp_path):
    with pytest.raises(UsageError, match=r"rows differ: image feature 'sift-bovw-128' 4, labels 5"):
        read_wiki({**wiki, "test-list": wiki["test-list"], "raw-features": mat(
            tmp_path / "short.mat", I_tr=np.zeros((3, 4)), I_te=np.zeros((1, 4)), T_tr=np.zeros((3, 4)),
            T_te=np.zeros((2, 4)))}).validate()  # fmt: skip


def test_rophs_division_counts_from_zero_here(tmp_path):
    division = {"ind_train": np.array([[3, 1]]), "ind_test": np.array([[2]])}
    path = mat(tmp_path / "roph.mat", data={"X1": np.zeros((4, 3)), "split": division})
    assert {r: rows.tolist() for r, rows in wikipedia.rows_of_roph(path).items()} == {"train": [2, 0], "query": [1]}


# MIRFlickr -------------------------------------------------------------------------------------------------


def test_mirflickr_splits_are_of_dcmhs_sizes_and_tags_are_columns(tmp_path, monkeypatch):
    n = 12_500
    names = [f"mirflickr/im{row}.jpg" for row in range(n)]
    monkeypatch.setattr(mirflickr25k, "find_images", lambda images, roots: np.zeros((n, 1, 1, 3), np.uint8))
    assets = {
        "images": tmp_path / "unused.zip",
        "image-list": text_file(tmp_path / "imgs", *names),
        "tags": text_file(tmp_path / "tags", *["sea,sky"] * (n - 1), "sky"),
        "labels": text_file(tmp_path / "labels", *[" ".join(["1"] + ["0"] * 23)] * n),
        "tag-list": text_file(tmp_path / "taglist", "sky", "sea"),
    }
    data = mirflickr25k.read(assets, split="seeded", image="pixels", text="tags-1386").validate()
    assert {role: len(rows) for role, rows in data.splits.items()} == {
        "train": 10_000,
        "query": 2_000,
        "database": 10_500,
    }
    assert set(data.splits["train"]) < set(data.splits["database"])
    assert not set(data.splits["query"]) & set(data.splits["database"])
    assert data.text["tags-1386"][[0, -1]].tolist() == [[1, 1], [1, 0]]


def test_a_tag_that_is_not_listed_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"tags:2: the tag 'cloud' is not in the list"):
        mirflickr25k.tag_matrix(["sky", "sky,cloud"], ["sky"], tmp_path / "tags")


def test_real_tags_and_labels_of_mirflickr(mirror):
    folder = mirror / "mirflickr25k"
    tags, vocabulary, labels = (
        mirflickr25k.read_lines(folder / f"{name}.txt") for name in ("all_tags", "TagList", "all_labels")
    )
    matrix = mirflickr25k.tag_matrix(tags, vocabulary, folder / "all_tags.txt")
    assert matrix.shape == (20015, 1386)
    assert matrix.sum() / len(matrix) == pytest.approx(4.64, abs=0.01)
    assert len(labels[0].split()) == len(mirflickr25k.CLASSES) == 24


def test_dcmhs_split_goes_by_position_in_its_file(tmp_path):
    n = 2003
    path = mat(
        tmp_path / "FLICKR-25K.mat",
        images=np.arange(n, dtype=np.uint8)[None, None, None, :] * np.ones((2, 2, 3, 1), np.uint8),
        YAll=np.ones((n, 5), np.uint8),
        LAll=np.ones((n, 24), np.uint8),
    )
    data = mirflickr25k.read({"dcmh": path}, split="dcmh", image="dcmh-pixels", text="dcmh-tags-1386").validate()
    assert data.splits["query"].tolist() == list(range(2000))
    assert data.splits["database"].tolist() == data.splits["train"].tolist() == [2000, 2001, 2002]
    assert data.image_items.shape == (n, 2, 2, 3)
    assert data.image_items[7, 0, 0, 0] == 7


def test_bmcs_file_keeps_its_three_parts_apart(tmp_path):
    names = {"tr": 3, "te": 2, "db": 4}
    variables = {}
    for end, n in names.items():
        variables |= part((f"I_{end}", f"T_{end}", f"L_{end}"), n, np.ones((n, 24), np.uint8))
    data = mirflickr25k.read(
        {"bmc": mat(tmp_path / "mir_cnn.mat", **variables)}, split="bmc", image="bmc-cnn", text="bmc-tags"
    ).validate()
    assert {role: len(rows) for role, rows in data.splits.items()} == {"train": 3, "query": 2, "database": 4}
    np.testing.assert_allclose(data.image["bmc-cnn"][5], variables["I_db"][0], rtol=1e-6)


# Files already divided -------------------------------------------------------------------------------------


def test_iaprtc12_offers_two_image_features(tmp_path):
    variables = {}
    for end, n in (("tr", 3), ("te", 2)):
        variables |= part((f"I_{end}", f"T_{end}", f"L_{end}"), n, np.ones((n, 3), np.uint8))
        variables[f"V_{end}"] = RNG.random((n, 9))
    path = mat(tmp_path / "i.mat", **variables)
    for image, width in (("file-shallow", 6), ("file-deep", 9)):
        data = iaprtc12.read({"mat": path}, split="file", image=image, text="file-text").validate()
        assert data.image[image].shape == (5, width)
        assert data.classes == ("1", "2", "3")


def test_nuswide_trains_on_its_database(tmp_path):
    variables = part(("I_tr", "T_tr", "L_tr"), 3, np.ones((3, 2))) | part(("I_te", "T_te", "L_te"), 1, np.ones((1, 2)))
    path = mat(tmp_path / "n.mat", **variables)
    data = nuswide_tc10.read({"mat": path}, split="file", image="file-image", text="file-tags").validate()
    assert data.splits["database"].tolist() == data.splits["train"].tolist() == [0, 1, 2]


def test_inria_counts_its_classes_from_one_whatever_the_file_does(tmp_path):
    variables = {}
    for short, n in (("tr", 3), ("val", 2), ("te", 2)):
        variables |= part((f"{short}_img", f"{short}_txt", f"{short}_img_lab"), n, np.arange(n))
    path = mat(tmp_path / "w.mat", **variables)
    data = inria_websearch.read({"mat": path}, split="file", image="file-image", text="file-text").validate()
    assert data.labels.argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert data.splits["database"].tolist() == data.splits["query"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("reader", "names", "image", "text"),
    [
        (xmedia, {"I_tr_CNN T_tr_BOW trImgCat": 3, "I_te_CNN T_te_BOW teImgCat": 2}, "cnn", "bow"),
        (
            xmedianet,
            {f"img_{p} text_{p} label_{p}": n for p, n in (("train", 3), ("valid", 2), ("test", 2))},
            "file-image",
            "doc2vec",
        ),
    ],
)
def test_xmedia_files_retrieve_within_their_test_part(tmp_path, reader, names, image, text):
    variables = {}
    for variable, n in names.items():
        variables |= part(variable.split(), n, np.arange(1, n + 1)[:, None])
    data = reader.read({"mat": mat(tmp_path / "x.mat", **variables)}, split="file", image=image, text=text).validate()
    assert len(data.splits["query"]) == 2
    assert data.splits["database"].tolist() == data.splits["query"].tolist()


def test_parts_whose_sizes_disagree_are_refused(tmp_path):
    variables = part(("I_tr", "T_tr", "L_tr"), 3, np.ones((2, 2))) | part(("I_te", "T_te", "L_te"), 1, np.ones((1, 2)))
    with pytest.raises(UsageError, match="train has 3 / 3 / 2 images / texts / labels"):
        nuswide_tc10.read(
            {"mat": mat(tmp_path / "n.mat", **variables)}, split="file", image="file-image", text="file-tags"
        )


def test_uci_digits_are_1500_to_train_on_and_the_rest(tmp_path):
    n = {"tr": 1500, "te": 20}
    variables = {f"{v}_{end}": RNG.random((rows, 3)) for end, rows in n.items() for v in "IT"}
    variables |= {f"L_{end}": RNG.integers(1, 11, (rows, 1)) for end, rows in n.items()}
    data = uci_digits.read(
        {"uci-all": mat(tmp_path / "u.mat", **variables)}, split="fsh", image="fourier-76", text="karhunen-64"
    ).validate()
    assert len(data.splits["query"]) == 20
