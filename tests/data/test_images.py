"""Images read in place from archives and folders."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from cmrkit.data.images import decode, find_images
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
    with pytest.raises(CmrkitError, match="not a zip or tar archive"):
        find_images(["a.png"], {"photos": tmp_path / "x.zip"})


# Odd images ------------------------------------------------------------------------------------------------


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_greys_are_repeated_in_three_channels():
    assert decode(encoded(Image.new("L", (2, 2), 77))).tolist() == [[[77] * 3] * 2] * 2
    assert decode(encoded(Image.new("1", (1, 1), 1))).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_greys_are_scaled_not_clipped(kind):
    deep = Image.fromarray(np.array([[0, 257 * 40, 65535]], dtype=np.uint16))
    assert decode(encoded(deep, kind))[0, :, 0].tolist() == [0, 40, 255]


def test_cmyk_is_converted_and_ink_is_dark():
    pixels = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = pixels[4, 4].astype(int)
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    content = encoded(image.convert(mode) if mode != "P" else image.quantize(4))
    assert decode(content)[0, :, 0].tolist() == [0, 255]


def test_a_photograph_is_turned_upright():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise
    pixels = decode(encoded(image, exif=exif))
    assert pixels.shape == (4, 2, 3)
    assert np.argwhere(pixels[:, :, 0] == 255).tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert decode(content)[0, 0].tolist() == [255, 0, 0]


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path, kind, share):
    content = encoded(Image.fromarray(NOISE), kind)
    (tmp_path / "cut.jpg").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CmrkitError, match=r"image cut\.jpg cannot be read"):
        find_images(["cut.jpg"], {"photos": tmp_path})[0]


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "bomb.png").write_bytes(encoded(Image.new("L", (200, 200))))
    with pytest.raises(CmrkitError, match=r"image bomb\.png cannot be read: .*decompression bomb"):
        find_images(["bomb.png"], {"photos": tmp_path})[0]


def test_a_damaged_archive_member_is_named(archive):
    content = bytearray(archive.read_bytes())
    start = content.index(b"\x89PNG")
    content[start + 20 : start + 30] = b"x" * 10
    archive.write_bytes(content)
    with pytest.raises(CmrkitError, match=r"Set/red\.png cannot be read"):
        find_images(["red.png"], {"photos": archive})[0]
