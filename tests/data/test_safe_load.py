"""Arrays are read without running anything that the file contains."""

import pickle

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from cmrkit.data.safe_load import load_mat, load_npy, load_npz
from cmrkit.errors import UsageError


class Trap:
    """Unpickling this calls print."""

    def __reduce__(self):
        return print, ("the trap went off",)


@pytest.fixture
def trap():
    array = np.empty(1, dtype=object)
    array[0] = Trap()
    return array


def test_matrices_come_by_name_without_matlabs_header(tmp_path):
    savemat(tmp_path / "a.mat", {"images": np.eye(3), "labels": csc_matrix(np.eye(2))})
    variables = load_mat(tmp_path / "a.mat")
    assert sorted(variables) == ["images", "labels"]
    assert np.array_equal(variables["images"], np.eye(3))


def test_arrays_come_back(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4))
    np.savez(tmp_path / "a.npz", x=np.arange(4), y=np.eye(2))
    assert np.array_equal(load_npy(tmp_path / "a.npy"), np.arange(4))
    assert {name: array.shape for name, array in load_npz(tmp_path / "a.npz").items()} == {"x": (4,), "y": (2, 2)}


@pytest.mark.parametrize(("load", "save", "name"), [(load_npy, np.save, "a.npy"), (load_npz, np.savez, "a.npz")])
def test_pickled_objects_are_loaded_only_on_trust(tmp_path, capsys, trap, load, save, name):
    save(tmp_path / name, trap)
    with pytest.raises(UsageError, match=rf"{name}: holds pickled Python objects.*trust=True"):
        load(tmp_path / name)
    assert capsys.readouterr().out == ""
    load(tmp_path / name, trust=True)
    assert capsys.readouterr().out == "the trap went off\n"


def test_a_bare_pickle_is_no_array_trusted_or_not(tmp_path, capsys):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap()))
    for trust in (False, True):
        with pytest.raises(UsageError, match=r"a\.npy: not a \.npy file"):
            load_npy(tmp_path / "a.npy", trust=trust)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("keep", [0, 3, 60, 150, -40])
@pytest.mark.parametrize("kind", ["mat", "npy", "npz"])
def test_a_truncated_file_is_named(tmp_path, kind, keep):
    path = tmp_path / f"a.{kind}"
    array = np.random.default_rng(0).random((20, 10))
    save = {"mat": lambda: savemat(path, {"x": array}), "npy": lambda: np.save(path, array)}
    save.get(kind, lambda: np.savez(path, x=array))()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=rf"a\.{kind}: not a .* damaged or truncated .*fetch it again"):
        {"mat": load_mat, "npy": load_npy, "npz": load_npz}[kind](path)


@pytest.mark.parametrize("load", [load_mat, load_npy, load_npz])
def test_a_page_or_nothing_at_all_is_named(tmp_path, load):
    with pytest.raises(UsageError, match="gone: no such file"):
        load(tmp_path / "gone")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "page").write_text("<!doctype html><html>please log in</html>" * 20)
    with pytest.raises(UsageError, match="page: not a"):
        load(tmp_path / "page")


def hdf5_header():
    return b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384)


def test_matlab_73_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.mat").write_bytes(hdf5_header())
    with pytest.raises(UsageError, match=r"a\.mat: is a MATLAB 7\.3 file, which needs h5py: pip install h5py"):
        load_mat(tmp_path / "a.mat")


@pytest.fixture
def matlab_73(tmp_path):
    """Write a version 7.3 file as MATLAB lays it out: a header of 512 bytes before HDF5 proper."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.mat"

    def write(fill):
        with h5py.File(path, "w", userblock_size=512) as file:
            fill(file, h5py)
        with open(path, "r+b") as file:
            file.write(hdf5_header()[:128])
        return path

    return write


def test_matlab_73_gives_what_matlab_shows(matlab_73):
    def fill(file, h5py):
        file["images"] = np.arange(6.0).reshape(2, 3)
        file["title"] = np.array([[104], [105]], dtype=np.uint16)
        file["title"].attrs["MATLAB_class"] = np.bytes_("char")
        file["#refs#/a"] = np.ones((1, 1))
        file["words"] = np.array([[file["#refs#/a"].ref, file["title"].ref]], dtype=h5py.ref_dtype)
        file["split/train"] = np.ones((1, 2))
        file["none"] = np.array([0, 3], dtype=np.uint64)
        file["none"].attrs["MATLAB_empty"] = 1
        group = file.create_group("tags")
        group.attrs["MATLAB_sparse"] = 2
        group["data"], group["ir"], group["jc"] = np.array([5.0]), np.array([1]), np.array([0, 0, 1])

    variables = load_mat(matlab_73(fill))
    assert sorted(variables) == ["images", "none", "split", "tags", "title", "words"]
    assert np.array_equal(variables["images"], np.arange(6.0).reshape(2, 3).T)
    assert variables["title"] == "hi"
    assert variables["words"].shape == (2, 1)
    assert variables["words"][1, 0] == "hi"
    assert variables["split"]["train"].shape == (2, 1)
    assert variables["none"].shape == (0, 3)
    assert np.array_equal(variables["tags"].toarray(), [[0, 0], [0, 5]])


def test_matlab_73_cannot_reach_into_other_files(matlab_73, tmp_path):
    def linked(file, h5py):
        file["x"] = h5py.ExternalLink("other.h5", "/secret")

    def stored_elsewhere(file, h5py):
        file.create_dataset("x", shape=(4,), dtype="u1", external=[(str(tmp_path / "secret"), 0, 4)])

    (tmp_path / "secret").write_bytes(b"1234")
    with pytest.raises(UsageError, match="is a link, which is refused"):
        load_mat(matlab_73(linked))
    with pytest.raises(UsageError, match="in another file, which is refused"):
        load_mat(matlab_73(stored_elsewhere))
