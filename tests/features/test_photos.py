import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from cmrkit.data.images import ImageFiles
from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features import extract
from cmrkit.features.base import Job
from cmrkit.features.photos import PhotoReader, aspect_size, longest_side
from cmrkit.training.rows import ReadRows, Rows


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three photographs of different sizes and modes, and one file that is none."""
    path = tmp_path_factory.mktemp("photos") / "images.zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for name, size in {"wide.png": (90, 60), "tall.png": (40, 100), "grey.png": (50, 50)}.items():
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert("L" if name == "grey.png" else "RGB")
            content = io.BytesIO()
            image.save(content, "PNG")
            file.writestr(name, content.getvalue())
        file.writestr("broken.png", b"no image")
    return path


def rows(archive, reader, names=("wide.png", "tall.png", "grey.png")):
    reader.roots = {"images": archive}
    return ReadRows(np.array([f"images:{name}".encode() for name in names]), None, reader.roots, reader)


def test_squashing_gives_what_pillow_gives(archive):
    got = rows(archive, PhotoReader(32))[:]
    assert got.shape == (3, 32, 32, 3)
    with zipfile.ZipFile(archive) as file:
        image = Image.open(io.BytesIO(file.read("wide.png")))
        assert np.array_equal(got[0], np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))


def test_cropping_keeps_the_middle(archive):
    got = rows(archive, PhotoReader(60, "crop"), ["wide.png"])[0:1]
    with zipfile.ZipFile(archive) as file:
        image = np.asarray(Image.open(io.BytesIO(file.read("wide.png"))))
    assert np.array_equal(got[0], image[:, 15:75])


def test_images_kept_in_proportion_are_marked_and_padded_to_the_largest_of_the_batch(archive):
    read = rows(archive, PhotoReader(64, "aspect"))
    assert read.shape == (3, 96, 96, 4)
    got = read[0:2]
    assert got.shape == (2, 96, 96, 4)
    assert (got[0, :64, :96, 3] == 255).all()
    assert (got[0, 64:] == 0).all()  # 90 x 60 became 96 x 64
    assert (got[1, :96, :32, 3] == 255).all()
    assert (got[1, :, 32:] == 0).all()  # 40 x 100, whose longer side is bounded: 96 x 32


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(500, 375, (512, 384)), (640, 480, (512, 384)), (333, 500, (384, 576)), (1000, 300, (608, 192))],
)  # fmt: skip
def test_sizes_follow_the_published_transform(width, height, expected):
    # Shorter side 384, longer at most int(1333 / 800 * 384) = 639, rounded to the nearest, then down to 32s.
    assert aspect_size(width, height, 384) == expected
    assert max(expected) <= longest_side(384) == 608


def test_random_changes_depend_on_seed_epoch_and_row_alone(archive):
    def read(epoch=0, seed=0, names=("wide.png", "tall.png")):
        reader = PhotoReader(32, augment="crop:0.5:1.0,flip,randaug:2:7", seed=seed, epoch=epoch)
        return rows(archive, reader, names)

    assert np.array_equal(read()[:], read()[:])
    assert np.array_equal(read()[1:2], read()[:][1:])
    assert not np.array_equal(read()[:], read(epoch=1)[:])
    assert not np.array_equal(read()[:], read(seed=1)[:])
    assert not read().fixed
    assert rows(archive, PhotoReader(32)).fixed


def test_every_operation_of_randaugment_keeps_the_size():
    from cmrkit.data.augment import OPERATIONS

    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for operation in OPERATIONS:
        for sign in (-1, 1):
            assert operation(image, 0.7, sign).size == image.size


@pytest.mark.parametrize("chain", ["crop", "crop:1", "flip:2", "spin", "randaug:2:x"])
def test_an_unknown_change_is_named(archive, chain):
    with pytest.raises(UsageError, match=chain):
        rows(archive, PhotoReader(32, augment=chain))[:]


def test_an_unreadable_photograph_is_named_or_left_out_when_asked(archive):
    with pytest.raises(CmrkitError, match=r"broken\.png"):
        rows(archive, PhotoReader(32), ["wide.png", "broken.png"])[:]
    items = ImageFiles((("images", "wide.png"), ("images", "broken.png")), {"images": archive})
    data = PairedData("toy", np.arange(2), {"query": np.arange(2)}, image_items=items, captions=["a", "b"])
    assert extract("photos", data).skipped == ()
    assert extract("photos", data, Job(skip_bad=True)).skipped == (1,)


def test_a_selection_reads_only_its_rows(archive):
    read = rows(archive, PhotoReader(16), ["broken.png", "tall.png", "wide.png"])
    chosen = read.take(np.array([2, 1]))
    assert np.array_equal(chosen[:], rows(archive, PhotoReader(16), ["wide.png", "tall.png"])[:])
    assert len(chosen) == 2
    assert chosen.nbytes == 2 * 16 * 16 * 3
    assert isinstance(chosen, Rows)
