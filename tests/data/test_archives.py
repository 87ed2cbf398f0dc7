"""Files read in place from every kind of store."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from cmrkit.data.archives import member_names, read_member
from cmrkit.data.images import find_images
from cmrkit.errors import CmrkitError

COLOURS = {"000000.png": (250, 0, 0), "000001.png": (0, 250, 0), "000002.png": (0, 0, 250)}


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


def folder_of(path):
    for name, colour in COLOURS.items():
        (path / "folder").mkdir(exist_ok=True)
        (path / "folder" / name).write_bytes(png(colour))
    return path / "folder"


def zip_of(path):
    with zipfile.ZipFile(path / "images.zip", "w") as archive:
        for name, colour in COLOURS.items():
            archive.writestr(name, png(colour))
    return path / "images.zip"


def webdataset_of(path):
    """A shard as the hub's wds_ datasets have them: an image and its captions under one number."""
    with tarfile.open(path / "shard-0.tar", "w") as archive:
        for name, colour in COLOURS.items():
            for member, content in ((name, png(colour)), (name.replace(".png", ".txt"), b"a caption")):
                about = tarfile.TarInfo(member)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return path / "shard-0.tar"


def parquet_of(path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png(colour), "path": name} for name, colour in COLOURS.items()]
    table = pa.table({"image": images, "caption": [["a"], ["b"], ["c"]]})
    parquet.write_table(table, path / "test.parquet", row_group_size=2)
    return path / "test.parquet"


@pytest.mark.parametrize("store", [folder_of, zip_of, webdataset_of, parquet_of])
def test_images_are_read_from_any_store(store, tmp_path):
    root = store(tmp_path)
    assert set(COLOURS) <= set(member_names(root))
    images = find_images(list(COLOURS)[::-1], {"images": root})
    assert [tuple(image[0, 0]) for image in images] == list(COLOURS.values())[::-1]
    assert read_member(root, "000001.png") == png(COLOURS["000001.png"])


def test_a_parquet_image_without_a_path_goes_by_its_place(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png(colour), "path": None} for colour in COLOURS.values()]
    parquet.write_table(pa.table({"image": images}), tmp_path / "x.parquet", row_group_size=2)
    assert member_names(tmp_path / "x.parquet") == ["0-0", "0-1", "1-0"]
    assert read_member(tmp_path / "x.parquet", "1-0") == png((0, 0, 250))


def test_a_parquet_file_without_images_and_a_damaged_one_are_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "words.parquet")
    with pytest.raises(CmrkitError, match=r"words\.parquet: has no column 'image'"):
        member_names(tmp_path / "words.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(CmrkitError, match=r"broken\.parquet: not a Parquet file"):
        member_names(tmp_path / "broken.parquet")


def test_a_truncated_tar_archive_names_the_image_that_is_cut(tmp_path):
    root = webdataset_of(tmp_path)
    with tarfile.open(root) as archive:
        end = archive.getmember("000002.png").offset_data + 10
    cut = tmp_path / "cut.tar"
    cut.write_bytes(root.read_bytes()[:end])
    with pytest.raises(CmrkitError, match=r"cut\.tar"):
        np.asarray(find_images(["000002.png"], {"images": cut})[0])
