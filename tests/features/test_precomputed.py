"""Features in the layouts that papers ship."""

import numpy as np
import pytest
from scipy.io import savemat

from cmrkit.data.paired import PairedData
from cmrkit.errors import UsageError
from cmrkit.features import extract
from cmrkit.features.base import Job
from cmrkit.features.precomputed import open_array

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)
REGIONS = RNG.random((6, 4, 3)).astype(np.float32)
CAPTIONS = [f"{'A man surfs.' if k == 0 else f'Photograph {i}, told in way {k}.'}" for i in range(6) for k in range(2)]


@pytest.fixture
def data():
    """Six images with two captions each, one of which all share."""
    return PairedData(
        "toy",
        np.repeat(np.arange(6), 2),
        {"train": np.array([0, 1, 2, 3]), "query": np.array([4, 5]), "database": np.array([4, 5])},
        captions=CAPTIONS,
    )


def ship(folder, name, array, captions=None):
    np.save(folder / f"{name}_ims.npy", array)
    if captions is not None:
        (folder / f"{name}_caps.txt").write_text("\n".join(captions) + "\n")


def shipped(folder, **options):
    assets = {path.stem: path for path in folder.iterdir()}
    return Job({"train": "train_ims", "query": "test_ims", **options}, assets)


def test_rows_of_each_part_come_in_the_order_of_its_images(data, tmp_path):
    ship(tmp_path, "train", REGIONS[:4])
    ship(tmp_path, "test", REGIONS[4:])
    found = extract("precomputed", data, shipped(tmp_path))
    assert (found.kind, found.matrix.dtype) == ("regions", np.float32)
    np.testing.assert_array_equal(found.matrix, REGIONS)


def test_rows_repeated_for_each_caption_are_taken_once(data, tmp_path):
    ship(tmp_path, "train", np.repeat(REGIONS[:4], 2, axis=0))
    ship(tmp_path, "test", REGIONS[4:])
    np.testing.assert_array_equal(extract("precomputed", data, shipped(tmp_path)).matrix, REGIONS)


@pytest.mark.parametrize("repeated", [1, 2])
def test_rows_are_found_by_their_captions_whatever_the_order_and_the_tokenizer(data, tmp_path, repeated):
    order = [2, 0, 3, 1]
    captions = [CAPTIONS[2 * i + k].lower().replace(",", " ,").replace(".", " .") for i in order for k in (0, 1)]
    ship(tmp_path, "train", np.repeat(REGIONS[order], repeated, axis=0), captions)
    ship(tmp_path, "test", REGIONS[4:])
    job = shipped(tmp_path, **{"train-captions": "train_caps"})
    np.testing.assert_array_equal(extract("precomputed", data, job).matrix, REGIONS)


def test_features_of_texts_have_one_row_each(data, tmp_path):
    texts = RNG.random((12, 5))
    ship(tmp_path, "all", texts)
    found = extract("precomputed", data, Job({"modality": "text", "all": "x"}, {"x": tmp_path / "all_ims.npy"}))
    np.testing.assert_array_equal(found.matrix, texts)
    assert found.modality == "text"


def test_an_array_grows_in_the_folder_of_the_job(data, tmp_path):
    ship(tmp_path, "train", REGIONS[:4])
    ship(tmp_path, "test", REGIONS[4:])
    job = shipped(tmp_path)
    found = extract("precomputed", data, Job(job.options, job.assets, work=tmp_path / "work"))
    np.testing.assert_array_equal(np.load(tmp_path / "work" / "image.npy"), REGIONS)
    assert found.matrix.dtype == np.float32


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        (REGIONS[:3], REGIONS[4:], "has 3 rows for the 4 images and 8 texts of 'train'"),
        (REGIONS[:4], REGIONS[4:, :2], r"rows are \(2, 3\), those before were \(4, 3\)"),
        (REGIONS[:4], REGIONS[4:] * np.nan, r"test_ims\.npy has NaN or infinity in row 4"),
    ],
)
def test_arrays_that_do_not_fit_are_named(data, tmp_path, train, test, reason):
    ship(tmp_path, "train", train)
    ship(tmp_path, "test", test)
    with pytest.raises(UsageError, match=reason):
        extract("precomputed", data, shipped(tmp_path))


def test_a_part_without_features_is_named(data, tmp_path):
    ship(tmp_path, "train", REGIONS[:4])
    with pytest.raises(UsageError, match=r"no shipped feature for image row 4 of 'query' \(2 of 2 such rows\)"):
        extract("precomputed", data, shipped(tmp_path, query=None))


def test_captions_of_other_images_are_named(data, tmp_path):
    ship(tmp_path, "train", REGIONS[:4], ["nothing of this"] * 8)
    ship(tmp_path, "test", REGIONS[4:])
    with pytest.raises(UsageError, match=r"no caption of image row 0 of 'train' is among its captions \(4 of 4"):
        extract("precomputed", data, shipped(tmp_path, **{"train-captions": "train_caps"}))


def test_no_part_at_all_is_refused(data):
    with pytest.raises(UsageError, match="needs the assets of the parts: all, train"):
        extract("precomputed", data)


# Files -----------------------------------------------------------------------------------------------------

MATRIX = np.arange(12.0).reshape(3, 4)


def files(folder):
    np.save(folder / "a.npy", MATRIX)
    np.savez(folder / "a.npz", x=MATRIX, y=MATRIX[0])
    savemat(folder / "a.mat", {"x": MATRIX, "y": MATRIX[:1]})
    with h5py.File(folder / "b.mat", "w", userblock_size=512) as file:
        file["x"], file["y"] = MATRIX.T, MATRIX[:1].T  # as MATLAB 7.3 lays them out
    header = b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM"
    with open(folder / "b.mat", "r+b") as file:
        file.write(header)
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"], file["y"] = MATRIX, MATRIX[0]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "b.mat", "a.h5"])
def test_every_kind_of_file_gives_the_same_array(tmp_path, name):
    files(tmp_path)
    key = None if name == "a.npy" else "x"
    with open_array(tmp_path / name, key) as array:
        np.testing.assert_array_equal(array[np.array([0, 2])], MATRIX[[0, 2]])
    with open_array(tmp_path / name, key, columns=True) as array:
        np.testing.assert_array_equal(array[:], MATRIX.T)


@pytest.mark.parametrize("name", ["a.npz", "a.mat", "b.mat", "a.h5"])
def test_the_arrays_of_a_file_are_listed_where_none_is_named(tmp_path, name):
    files(tmp_path)
    for key, reason in [(None, "several arrays, so 'key' must say which"), ("z", "no array 'z'")]:
        with pytest.raises(UsageError, match=rf"has {reason}; it holds x \(3, 4\)"), open_array(tmp_path / name, key):
            pass


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "a.h5"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(UsageError, match=f"{name}: no such file"), open_array(tmp_path / name):
        pass
    files(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=name), open_array(tmp_path / name, "x") as array:
        np.asarray(array)
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UsageError, match=name), open_array(tmp_path / name, "x"):
        pass
