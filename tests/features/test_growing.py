"""Encoders run over whole sets: ahead of time, in batches that fit, and on after a kill."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cmrkit.errors import CmrkitError
from cmrkit.features.base import Extracted, Job, require_finite
from cmrkit.features.growing import Halving, grow_from_images
from cmrkit.features.loading import load_batches
from cmrkit.features.rows import RowFile

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 3), dtype=np.uint8)


class Broken:
    """Images of which some cannot be read."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, row):
        if row in self.bad:
            raise CmrkitError(f"image {row}.jpg cannot be read")
        return IMAGES[row]


def means(pixels):
    return pixels.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


def grow(job, images=IMAGES, encode=means, dtype="float32", **about):
    return grow_from_images(images, np.asarray, encode, job, size=4, dtype=dtype, about=about)


def test_features_come_in_the_order_of_the_images_whatever_the_batch_and_the_workers():
    for batch, workers in [(1, 1), (5, 3), (64, 2)]:
        matrix, skipped, _ = grow(Job(batch=batch, workers=workers))
        np.testing.assert_array_equal(matrix, means(IMAGES))
        assert skipped == ()


def test_images_are_decoded_ahead_but_only_some_batches():
    asked = []
    batches = load_batches(IMAGES, lambda image: asked.append(1) or image, [(i, i + 1) for i in range(37)], workers=1)
    next(batches)
    time.sleep(0.05)
    assert 1 < len(asked) < 10
    batches.close()


def test_an_unreadable_image_is_named():
    with pytest.raises(CmrkitError, match=r"image 20\.jpg cannot be read"):
        grow(Job(batch=8), Broken({20}))


@pytest.mark.parametrize("bad", [{20, 21, 36}, set(range(8, 16))])
def test_unreadable_images_are_left_out_and_counted_when_asked(bad):
    matrix, skipped, _ = grow(Job(batch=8, skip_bad=True), Broken(bad))
    assert set(skipped) == bad
    good = np.setdiff1d(np.arange(37), list(bad))
    np.testing.assert_array_equal(matrix[good], means(IMAGES)[good])
    assert not matrix[list(bad)].any()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError()])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error):
    sizes = []

    def greedy(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise error
        return means(pixels)

    matrix, _, limit = grow(Job(batch=16), encode=greedy)
    np.testing.assert_array_equal(matrix, means(IMAGES))
    assert limit == 2
    assert sizes[1:4] == [16, 8, 4]
    assert max(sizes[4:]) == 2


def test_an_item_that_never_fits_is_an_error_and_other_errors_are_not_swallowed():
    def raising(error):
        def encode(pixels):
            raise error

        return encode

    with pytest.raises(CmrkitError, match="does not suffice for a single item: out of memory"):
        Halving(raising(RuntimeError("out of memory")), 8)(IMAGES)
    with pytest.raises(RuntimeError, match="shapes differ"):
        Halving(raising(RuntimeError("shapes differ")), 8)(IMAGES)


def test_numbers_that_half_precision_cannot_hold_are_named():
    with pytest.raises(CmrkitError, match="NaN or infinity as float16 for image row 0"):
        grow(Job(batch=8), encode=lambda pixels: means(pixels) * 1e6, dtype="float16")


# Continuing ------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
import numpy as np
from pathlib import Path
from cmrkit.features import rows
from cmrkit.features.base import Job
from cmrkit.features.growing import grow_from_images
rows.EVERY = 0.0
def means(pixels):
    time.sleep(0.05)
    return pixels.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
images = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 3), dtype=np.uint8)
grow_from_images(images, np.asarray, means, Job(work=Path(sys.argv[1]), batch=2), size=4, dtype="float32", about={})
"""


def test_a_killed_extraction_is_continued_where_it_was(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)])
    note = tmp_path / "image.progress.json"
    deadline = time.monotonic() + 60
    while not (note.exists() and json.loads(note.read_text())["done"] >= 6):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = json.loads(note.read_text())["done"]
    assert 6 <= done < 37

    seen = []
    matrix, _, _ = grow(Job(work=tmp_path, batch=2), encode=lambda pixels: seen.append(len(pixels)) or means(pixels))
    assert sum(seen) == 1 + 37 - done  # one to learn the width
    np.testing.assert_array_equal(matrix, means(IMAGES))


@pytest.fixture
def half(tmp_path):
    """A folder with half an extraction."""

    def stop(pixels):
        stop.left -= 1
        if stop.left < 0:
            raise KeyboardInterrupt
        return means(pixels)

    stop.left = 4
    file = RowFile(tmp_path, "image", (37, 3), "float32", {"batch": 5, "skip_bad": False})
    for start in (0, 5, 10):
        file.write(means(IMAGES[start : start + 5]))
    file.note()
    return tmp_path


def rows_encoded(job, **about):
    seen = []
    matrix, _, _ = grow(job, encode=lambda pixels: seen.append(len(pixels)) or means(pixels), **about)
    np.testing.assert_array_equal(matrix, means(IMAGES))
    return sum(seen) - 1


def test_rows_of_the_same_extraction_are_kept(half):
    assert rows_encoded(Job(work=half, batch=5)) == 22


def test_rows_of_another_extraction_are_not(half):
    assert rows_encoded(Job(work=half, batch=5), options={"crop": False}) == 37


def test_rows_without_their_array_are_not(half):
    (half / "image.npy").unlink()
    assert rows_encoded(Job(work=half, batch=5)) == 37


def test_a_damaged_note_means_starting_again(half):
    (half / "image.progress.json").write_text("{")
    assert rows_encoded(Job(work=half, batch=5)) == 37


# Keeping ---------------------------------------------------------------------------------------------------


def test_a_grown_array_is_moved_into_place_and_others_are_written(tmp_path):
    (tmp_path / "out").mkdir()
    matrix, _, _ = grow(Job(work=tmp_path / "work", batch=8))
    entry = Extracted("image", matrix, meta={"note": 1}).save(tmp_path / "out")
    assert entry == {"kind": "vectors", "shape": [37, 3], "dtype": "float32", "note": 1}
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "image.npy"), means(IMAGES))
    assert not (tmp_path / "work" / "image.npy").exists()


def test_a_part_of_a_grown_array_is_written_as_a_part(tmp_path):
    (tmp_path / "out").mkdir()
    matrix, _, _ = grow(Job(work=tmp_path / "work", batch=8))
    Extracted("image", matrix[5:9]).save(tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "image.npy"), means(IMAGES)[5:9])


def test_the_first_row_that_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr("cmrkit.features.base.BLOCK", 4)
    matrix = np.zeros((9, 2, 3), np.float16)
    require_finite(matrix, "x")
    matrix[7, 1, 1] = np.inf
    with pytest.raises(Exception, match="x has NaN or infinity in row 7"):
        require_finite(matrix, "x")
