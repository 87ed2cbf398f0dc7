"""Reading codes that somebody else made: good files, and every way in which one is refused."""

import pickle

import numpy as np
import pytest

from cmrkit.errors import UsageError
from cmrkit.evaluation import evaluate, read_codes


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
