"""Reading codes that somebody else made: good files, and every way in which one is refused."""

import pickle

import numpy as np
import pytest

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation import evaluate, read_codes
from cmrkit.evaluation.files import load_codes, write_codes


def arrays():
    rng = np.random.default_rng(0)
    return {
        "query_image": rng.choice([-1, 1], (5, 16)),
        "database_text": rng.choice([-1, 1], (30, 16)),
        "query_labels": rng.integers(0, 3, 5),
        "database_labels": rng.integers(0, 3, 30),
    }


@pytest.fixture
def write(tmp_path):
    def save(**changes):
        path = tmp_path / "codes.npz"
        np.savez_compressed(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
        return path

    return save


def test_a_file_evaluates_like_the_arrays_in_it(write):
    assert evaluate(**read_codes(write())) == evaluate(**arrays())
    assert read_codes(write())["space"] == "hamming"


def test_a_file_may_hold_embeddings_and_pairs(write, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "matching.npz"
    np.savez(path, query_image=rng.random((4, 3)), query_text=rng.random((8, 3)), pairs=np.arange(8) // 2, space="dot")
    assert set(evaluate(**read_codes(path))) == {"r@1", "r@5", "r@10", "medr", "meanr", "rsum", "queries"}


REFUSED = {
    "query_image row 2 holds 3 at bit 1": {"query_image": np.where(np.arange(80).reshape(5, 16) == 33, 3, 1)},
    "real-valued embeddings need another space": {"query_image": np.full((5, 16), 0.25)},
    "database_text has 16 bits, but query_image has 8": {"query_image": np.ones((5, 8))},
    "query_labels are 3 classes, but database_labels are 4": {
        "query_labels": np.eye(3)[[0, 1, 2, 0, 1]],
        "database_labels": np.eye(4)[np.zeros(30, int)],
    },
    "query_image row 0 holds nan at column 0": {"query_image": np.full((5, 16), np.nan), "space": "cosine"},
    "database_text row 1 holds inf at column 3": {
        "database_text": np.where(np.arange(480).reshape(30, 16) == 19, np.inf, 1.0),
        "space": "dot",
    },
    "query_image is empty": {"query_image": np.ones((0, 16)), "query_labels": np.ones(0)},
    "database_text is empty": {"database_text": np.ones((0, 16))},
    "neither query_labels nor pairs": {"query_labels": None},
    r"unknown array 'query_img' \(did you mean 'query_image'\?\)": {"query_img": np.ones((5, 16))},
    "space is 'euclid'; choose from hamming": {"space": "euclid"},
    "space is float64 of shape": {"space": np.ones(3)},
    "cannot read query_image: it holds pickled objects": {"query_image": np.array([{}, []], dtype=object)},
    "query_image must be numeric codes": {"query_image": np.array([["a"] * 16] * 5)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_file_that_cannot_be_evaluated_is_refused_by_name(message, write):
    path = write(**REFUSED[message])
    with pytest.raises(UsageError, match=message) as refusal:
        read_codes(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file_is_refused(keep, write):
    path = write()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(UsageError, match=r"codes\.npz: not an \.npz archive, or cut off"):
        read_codes(path)


def test_a_damaged_array_is_named(write):
    path = write()
    damaged = bytearray(path.read_bytes())
    damaged[100:140] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="cannot read query_image"):
        read_codes(path)


def test_pickles_bare_arrays_and_missing_files_are_refused(tmp_path):
    (tmp_path / "codes.pkl").write_bytes(pickle.dumps({"query_image": 1}))
    np.save(tmp_path / "codes.npy", np.ones((3, 3)))
    for name in ("codes.pkl", "codes.npy"):
        with pytest.raises(UsageError, match=r"not an \.npz archive"):
            read_codes(tmp_path / name)
    with pytest.raises(UsageError, match="there is no such file"):
        read_codes(tmp_path / "absent.npz")


def packed(**changes):
    """The arrays as a file of packed codes: 12 of the 16 bits, so that there is padding."""
    codes = {name: a[:, :12] for name, a in arrays().items() if a.ndim == 2}
    return arrays() | {name: np.packbits(a > 0, axis=1) for name, a in codes.items()} | {"bits": 12} | changes


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 64, 129])
def test_written_codes_are_packed_and_read_back_the_same(bits, tmp_path):
    rng = np.random.default_rng(bits)
    before = {
        "query_image": rng.choice(np.array([-1, 1], np.int8), (5, bits)),
        "database_text": rng.choice([-1.0, 1.0], (30, bits)),
        "query_labels": np.eye(10)[rng.integers(0, 10, 5)],
        "database_labels": np.eye(10, dtype=bool)[rng.integers(0, 10, 30)],
    }
    write_codes(tmp_path / "codes.npz", before, "hamming")
    after = read_codes(tmp_path / "codes.npz")
    assert after.pop("space") == "hamming"
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name] > 0) for name in before)
    assert evaluate(**after) == evaluate(**before)
    with np.load(tmp_path / "codes.npz") as stored:
        assert stored["database_text"].shape == (30, -(-bits // 8))
        assert stored["query_labels"].shape == (5, 2)
        assert (int(stored["bits"]), int(stored["classes"])) == (bits, 10)


def test_written_embeddings_class_ids_and_row_ids_stay_as_they_are(tmp_path):
    before = arrays() | {"query_image": np.random.default_rng(2).normal(size=(5, 16)).astype(np.float32)}
    ids = {"query_ids": np.array(list("abcde")), "database_ids": np.arange(30)[::-1]}
    write_codes(tmp_path / "x.npz", before | ids, "cosine")
    file = load_codes(tmp_path / "x.npz")
    assert file.space == "cosine"
    for held, name in [(file.arrays, n) for n in before] + [(file.ids, n) for n in ids]:
        assert np.array_equal(held[name], (before | ids)[name])
        assert held[name].dtype == (before | ids)[name].dtype
    assert read_codes(tmp_path / "x.npz").keys() == {*before, "space"}


def test_codes_of_two_lengths_are_written_as_they_are(tmp_path):
    rng = np.random.default_rng(4)
    before = {"query_image": rng.choice([-1, 1], (5, 9)), "database_text": rng.choice([-1, 1], (30, 12))}
    before |= {
        "translated_image": rng.choice([-1, 1], (5, 12)),
        "query_labels": np.arange(5),
        "query_ids": np.arange(5),
    }
    before["database_labels"] = np.arange(30) % 5
    write_codes(tmp_path / "codes.npz", before, "hamming")
    file = load_codes(tmp_path / "codes.npz")
    assert all(np.array_equal({**file.arrays, **file.ids}[name], before[name]) for name in before)


def test_a_file_of_packed_codes_may_hold_unpacked_ones_beside_them(write):
    unpacked = {name: a[:, :12] for name, a in arrays().items() if a.ndim == 2}
    assert evaluate(**read_codes(write(**packed()))) == evaluate(**arrays() | unpacked)
    mixed = packed(query_image=unpacked["query_image"])
    assert evaluate(**read_codes(write(**mixed))) == evaluate(**arrays() | unpacked)


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    path = tmp_path / "codes.npz"
    write_codes(path, arrays(), "hamming")
    before = path.read_bytes()
    for bad, message in (
        ({"query_image": np.full((5, 16), 0.5)}, "query_image row 0 holds 0.5"),
        ({"query_ids": [1, 2, 3, 4, 2]}, "query_ids rows 1 and 4 both hold 2"),
        ({"database_labels": np.zeros(29, int)}, "database_text has 30 rows"),
    ):
        with pytest.raises(UsageError, match=message):
            write_codes(path, arrays() | bad, "hamming")
    with pytest.raises(UsageError, match="there is no folder"):
        write_codes(tmp_path / "absent" / "codes.npz", arrays(), "hamming")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["codes.npz"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "codes.npz"
    path.write_text("before")

    def full(file, **stored):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(CmrkitError, match=r"codes\.npz: cannot be written: No space left on device"):
        write_codes(path, arrays(), "hamming")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["codes.npz"]


PACKED_REFUSED = {
    "query_image row 3 sets padding bits: of its last byte only the highest 4 bits are used": {
        "query_image": np.where(np.arange(10).reshape(5, 2) == 7, 8, 0).astype(np.uint8)
    },
    r"database_text is uint8 of shape \(30, 3\), but bits is 12: it needs 12 columns, or 2 of uint8": {
        "database_text": np.zeros((30, 3), np.uint8)
    },
    r"query_image is int64 of shape \(5, 2\), but bits is 12": {"query_image": np.zeros((5, 2), np.int64)},
    r"query_image is uint8 of shape \(5,\), but bits is 12": {"query_image": np.zeros(5, np.uint8)},
    "bits is 0: it must be one whole number": {"bits": 0},
    r"bits is 12\.5: it must be one whole number": {"bits": 12.5},
    r"bits is int64 of shape \(2,\): it must be one": {"bits": [12, 12]},
    "bits is given, but the space is cosine": {"space": "cosine"},
    "query_labels row 4 sets padding bits": {
        "query_labels": np.array([[0], [32], [64], [128], [16]], np.uint8),
        "database_labels": np.full((30, 1), 64, np.uint8),
        "classes": 3,
    },
    "database_ids rows 2 and 7 both hold 'x'": {
        "database_ids": np.array(["x" if i in (2, 7, 9) else f"d{i}" for i in range(30)])
    },
    "query_ids rows 0 and 4 both hold 3": {"query_ids": [3, 1, 2, 0, 3]},
    "query_ids has 4 entries, but query_image has 5 rows": {"query_ids": np.arange(4)},
    "database_ids has 4 entries, but database_text has 30 rows": {"database_ids": np.arange(4)},
    "query_ids must be whole numbers or strings": {"query_ids": np.arange(5.0)},
}


@pytest.mark.parametrize("message", PACKED_REFUSED)
def test_a_packed_file_that_is_wrong_is_refused_by_array_and_row(message, write):
    path = write(**packed(**PACKED_REFUSED[message]))
    with pytest.raises(UsageError, match=message) as refusal:
        read_codes(path)
    assert str(path) in str(refusal.value)


def test_no_damage_to_a_file_escapes_as_another_error(tmp_path):
    path = tmp_path / "codes.npz"
    write_codes(path, arrays(), "hamming")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_codes(path)
        except UsageError:
            refused += 1
    assert refused > 150
