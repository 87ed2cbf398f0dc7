"""Readers of captioned photographs: each file layout in miniature, and real files where a mirror has them."""

import gzip
import io
import json
import zipfile

import pytest
from PIL import Image

from cmrkit.data.readers import flickr8k, flickr30k, mscoco
from cmrkit.errors import UsageError


def photos(path, names):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, buffer.getvalue())
    return path


def text_file(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def flickr(tmp_path):
    lines = [f"{name}.jpg#{i}\tcaption {i} of {name}" for name in "abc" for i in range(2)]
    return {
        "images-224": photos(tmp_path / "f.zip", [f"Set/{name}.jpg" for name in "abc"]),
        "captions": text_file(tmp_path / "tokens", *lines, "d.jpg.1#0\tlost", "d.jpg#1\tlost too"),
        "train-list": text_file(tmp_path / "train", "b.jpg"),
        "dev-list": text_file(tmp_path / "dev", "c.jpg"),
        "test-list": text_file(tmp_path / "test", "a.jpg"),
    }


def read_flickr8k(assets, image="pixels-224"):
    return flickr8k.read(assets, split="official", image=image, text="captions")


def test_flickr8k_keeps_the_images_of_the_split_with_all_their_captions(flickr):
    data = read_flickr8k(flickr).validate()
    assert data.n_images == 3
    assert [data.captions[row] for row in data.text_rows("query")] == ["caption 0 of a", "caption 1 of a"]
    assert data.splits["database"].tolist() == data.splits["query"].tolist()
    assert data.image_items[0].shape == (4, 4, 3)


def test_a_misnamed_image_of_the_caption_file_is_one_image(flickr):
    assert flickr8k.read_captions(flickr["captions"])["d.jpg"] == ["lost", "lost too"]


def test_resized_photographs_never_stand_in_for_the_official_archive(flickr):
    with pytest.raises(UsageError, match="'images' is needed"):
        read_flickr8k(flickr, image="pixels")


def test_an_image_without_caption_is_named(flickr, tmp_path):
    with pytest.raises(UsageError, match=r"has no caption for z\.jpg \(1 such"):
        read_flickr8k({**flickr, "dev-list": text_file(tmp_path / "dev", "z.jpg")})


def test_a_broken_caption_line_is_named(flickr, tmp_path):
    with pytest.raises(UsageError, match=r"tokens:1: expected 'image#number<TAB>caption'"):
        read_flickr8k({**flickr, "captions": text_file(tmp_path / "tokens", "a.jpg no number")})


def annotations(path, *entries, **more):
    data = json.dumps([{"image_name": name, "captions": captions, **more} for name, captions in entries]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_flickr30k_joins_training_captions_line_by_line(tmp_path):
    columns = {}
    for number in range(1, 6):
        path = tmp_path / f"train.{number}.gz"
        path.write_bytes(gzip.compress(f"  one {number}\ntwo {number}\n".encode()))
        columns[f"train-captions-{number}"] = path
    assets = {
        "images": photos(tmp_path / "i.zip", [f"flickr30k-images/{n}.jpg" for n in (1, 2, 3, 4)]),
        "test-captions": annotations(tmp_path / "test.json", ("3.jpg", ["x", "y"])),
        "val-captions": annotations(tmp_path / "val.json", ("4.jpg", ["z"])),
        "train-images": text_file(tmp_path / "names", "2.jpg", "1.jpg"),
        **columns,
    }
    data = flickr30k.read(assets, split="karpathy", image="pixels", text="captions").validate()
    assert data.captions == [*(f"one {i}" for i in range(1, 6)), *(f"two {i}" for i in range(1, 6)), "z", "x", "y"]
    assert data.splits["query"].tolist() == [3]
    assert data.image_items.members[0] == ("images", "flickr30k-images/2.jpg")
    test = flickr30k.read(assets, split="test-1k", image="pixels", text="captions").validate()
    assert (test.n_images, test.captions) == (1, ["x", "y"])


def test_captions_that_do_not_fit_their_images_are_refused(tmp_path):
    names = text_file(tmp_path / "names", "1.jpg", "2.jpg")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"only one\n"))
    with pytest.raises(UsageError, match="1 captions for the 2 images"):
        flickr30k.read_aligned(names, [tmp_path / "c.gz"])


def test_mscoco_counts_restval_as_training_and_finds_photographs_in_both_archives(tmp_path):
    images = [
        {"filepath": folder, "filename": name, "split": split, "sentences": [{"raw": f"about {name}"}]}
        for folder, name, split in [
            ("val2014", "r.jpg", "restval"),
            ("val2014", "v.jpg", "val"),
            ("train2014", "t.jpg", "train"),
            ("val2014", "q.jpg", "test"),
        ]
    ]
    with zipfile.ZipFile(tmp_path / "k.zip", "w") as archive:
        archive.writestr("dataset_coco.json", json.dumps({"images": images}))
    assets = {
        "karpathy": tmp_path / "k.zip",
        "train2014": photos(tmp_path / "t.zip", ["train2014/t.jpg"]),
        "val2014": photos(tmp_path / "v.zip", ["val2014/r.jpg", "val2014/v.jpg", "val2014/q.jpg"]),
    }
    data = mscoco.read(assets, split="karpathy", image="pixels", text="captions").validate()
    assert data.captions == ["about r.jpg", "about t.jpg", "about v.jpg", "about q.jpg"]
    assert {role: len(rows) for role, rows in data.splits.items()} == {"train": 2, "val": 1, "query": 1, "database": 1}
    assert data.image_items.members[1] == ("train2014", "train2014/t.jpg")


def test_mscocos_compressed_captions_read_like_the_plain_ones(tmp_path):
    entry = ("q.jpg", ["a", "b", "c", "d", "e", "f"])
    assets = {
        "val2014": photos(tmp_path / "v.zip", ["val2014/q.jpg"]),
        "test-captions-gz": annotations(tmp_path / "t.json.gz", entry, file_path="val2014"),
    }
    data = mscoco.read(assets, split="test-5k-gz", image="pixels", text="captions").validate()
    assert data.captions == list("abcdef")


def test_captions_that_are_not_json_are_named(tmp_path):
    (tmp_path / "t.json").write_text("<html>moved</html>")
    with pytest.raises(UsageError, match=r"t\.json: not the captions that are expected"):
        flickr30k.read_annotations(tmp_path / "t.json")


def test_real_captions_of_flickr30k_and_mscoco(mirror):
    folder = mirror / "flickr30k"
    test = flickr30k.read_annotations(folder / "flickr30k_test.json")
    assert {len(image.captions) for image in test} == {5}
    columns = [folder / "multi30k" / f"train.{number}.en.gz" for number in range(1, 6)]
    train = flickr30k.read_aligned(folder / "multi30k" / "train_images.txt", columns)
    assert (len(test), len(train)) == (1000, 29000)
    coco = mscoco.read_annotations(mirror / "mscoco" / "coco_karpathy_test.json.gz")
    assert (len(coco), sum(len(image.captions) for image in coco)) == (5000, 25010)
