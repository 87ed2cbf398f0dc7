"""Images read in place from archives and folders."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from cmrkit.data.images import find_images
from cmrkit.errors import CmrkitError, UsageError


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("Set/red.png", png("red"))
        file.writestr("Set/train/blue.png", png("blue"))
        file.writestr("__MACOSX/Set/._red.png", b"not an image")
        file.writestr("Set/broken.png", b"not an image")
    return path


def test_images_are_found_whatever_folder_the_archive_puts_them_in(archive):
    images = find_images(["train/blue.png", "red.png"], {"photos": archive})
    assert len(images) == 2
    assert images[0].shape == (2, 3, 3)
    assert images[0].dtype == np.uint8
    assert [image[0, 0].tolist() for image in images] == [[0, 0, 255], [255, 0, 0]]


def test_a_folder_serves_as_an_archive_does(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "folder")
    images = find_images(["red.png"], {"photos": tmp_path / "folder"})
    assert images[0][0, 0].tolist() == [255, 0, 0]


def test_missing_images_are_counted_and_the_first_is_named(archive):
    with pytest.raises(UsageError, match=r"no image a\.png \(2 of 3 are missing\)"):
        find_images(["a.png", "red.png", "b.png"], {"photos": archive})


def test_an_image_that_cannot_be_decoded_is_named(archive):
    with pytest.raises(CmrkitError, match=r"Set/broken\.png cannot be read"):
        find_images(["broken.png"], {"photos": archive})[0]


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(CmrkitError, match="not a zip archive"):
        find_images(["a.png"], {"photos": tmp_path / "x.zip"})
