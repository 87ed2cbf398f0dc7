"""cmrkit index: a search in the exported file finds what our own distances say is nearest."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from cmrkit.api import reproduce
from cmrkit.cli.index import command, each_image_once
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation.hamming import check_codes, hamming_distances


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'cmrkit[faiss]'")


def index(*args):
    """Run the verb in this process and return what it printed; its errors are raised."""
    return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False).stdout


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("bits", [8, 12, 64])
def test_a_search_finds_the_nearest_codes(faiss, bits, tmp_path):
    rng = np.random.default_rng(bits)
    query, database = rng.choice([-1, 1], (7, bits)), rng.choice([-1, 1], (200, bits))
    source = saved(tmp_path / "codes.npz", database_text=database)
    document = json.loads(index("--codes", source, "-o", tmp_path / "x.faiss", "--json"))
    width = -(-bits // 8) * 8
    assert document == {
        "path": str(tmp_path / "x.faiss"), "kind": "IndexBinaryFlat", "items": 200, "width": width,
        "padding": width - bits, "space": "hamming", "array": "database_text", "source": str(source),
    }  # fmt: skip
    found, rows = faiss.read_index_binary(str(tmp_path / "x.faiss")).search(np.packbits(query > 0, axis=1), 200)
    ours = hamming_distances(check_codes("query", query).words, check_codes("database", database).words)
    assert np.array_equal(found, np.sort(ours, axis=1))
    assert np.array_equal(np.take_along_axis(ours, rows, 1), found)


@pytest.mark.parametrize("space", ["cosine", "dot", "euclidean"])
def test_a_search_finds_the_nearest_embeddings(faiss, space, tmp_path):
    rng = np.random.default_rng(1)
    query, database = rng.normal(size=(7, 10)), rng.normal(size=(150, 10)) * rng.uniform(0.1, 5, (150, 1))
    source = saved(tmp_path / "x.npz", database_image=database, space=space)
    document = json.loads(index("--codes", source, "-o", tmp_path / "x.faiss", "--json"))
    assert (document["items"], document["width"], document["padding"]) == (150, 10, 0)
    assert document["kind"] == ("IndexFlatL2" if space == "euclidean" else "IndexFlatIP")
    if space == "cosine":
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
    ours = {
        "cosine": query @ (database / np.linalg.norm(database, axis=1, keepdims=True)).T,
        "dot": query @ database.T,
        "euclidean": -((query[:, None] - database[None]) ** 2).sum(2),
    }[space]
    found, rows = faiss.read_index(str(tmp_path / "x.faiss")).search(query.astype(np.float32), 20)
    found = -found if space == "euclidean" else found
    assert found == pytest.approx(-np.sort(-ours, axis=1)[:, :20], rel=1e-5, abs=1e-5)
    assert np.take_along_axis(ours, rows, 1) == pytest.approx(found, rel=1e-5, abs=1e-5)


def test_a_zero_vector_and_a_huge_one_have_a_cosine(faiss, tmp_path):
    rows = np.array([[0.0, 0.0], [1e200, 1e200], [3e-200, 4e-200]])
    index("--codes", saved(tmp_path / "x.npz", database_image=rows, space="cosine"), "-o", tmp_path / "x.faiss")
    stored = faiss.read_index(str(tmp_path / "x.faiss")).reconstruct_n(0, 3)
    assert stored == pytest.approx(np.array([[0, 0], [0.5**0.5, 0.5**0.5], [0.6, 0.8]]))


def test_what_was_written_is_said_in_words(faiss, tmp_path):
    source = saved(tmp_path / "x.npz", learned_image=np.ones((3, 12)), query_image=np.ones((2, 12)))
    said = index("--codes", source, "-o", tmp_path / "x.faiss")
    assert said == (
        f"{tmp_path / 'x.faiss'}: IndexBinaryFlat of 3 items, 16 bits, from learned_image\n"
        "note: each code ends in 4 zero bits of padding; pad queries in the same way\n"
    )


def test_packed_codes_are_indexed_as_they_are(faiss, tmp_path):
    packed = np.random.default_rng(0).integers(0, 256, (20, 4), dtype=np.uint8)
    index("--codes", saved(tmp_path / "x.npz", database_image=packed, bits=32), "-o", tmp_path / "x.faiss")
    stored = faiss.read_index_binary(str(tmp_path / "x.faiss"))
    assert np.array_equal(faiss.vector_to_array(stored.xb).reshape(20, 4), packed)


def test_of_paired_sets_either_side_can_be_indexed(faiss, tmp_path):
    sets = {"query_image": np.eye(4), "query_text": np.eye(4)[[0, 0, 1, 2, 3]], "pairs": [0, 0, 1, 2, 3]}
    source = saved(tmp_path / "x.npz", **sets, space="dot")
    for modality, items in (("image", 4), ("text", 5)):
        said = json.loads(index("--codes", source, "--modality", modality, "-o", tmp_path / "x.faiss", "--json"))
        assert (said["array"], said["items"]) == (f"query_{modality}", items)


def test_the_database_of_a_checkpoint_is_encoded(faiss, tmp_path, own_cache):
    checkpoint = reproduce("batch", "digits", bits=[16], seeds=[0])["runs"][0]["checkpoint"]
    encoded = {p.stem: np.load(p) for p in own_cache.glob("artifacts/encode/*/database_*.npy")}
    for modality in ("image", "text"):
        options = ("--ckpt", checkpoint, "--modality", modality, "-o", tmp_path / "x.faiss", "--json")
        said, codes = json.loads(index(*options)), encoded[f"database_{modality}"]
        assert (said["kind"], said["items"], said["width"]) == ("IndexBinaryFlat", len(codes), 16)
        stored = faiss.read_index_binary(str(tmp_path / "x.faiss"))
        assert np.array_equal(faiss.vector_to_array(stored.xb).reshape(-1, 2), np.packbits(codes > 0, axis=1))
    with pytest.raises(UsageError, match="holds images and texts"):
        index("--ckpt", checkpoint, "-o", tmp_path / "x.faiss")
    with pytest.raises(UsageError, match="no dataset 'nowhere'"):
        index("--ckpt", checkpoint, "-d", "nowhere", "-o", tmp_path / "x.faiss")


def test_an_image_with_several_texts_is_indexed_once_in_the_splits_order():
    items = np.array([7, 7, 2, 2, 5])
    arrays = {"database_items": items, "database_image": items[:, None], "database_text": np.eye(5)}
    once = each_image_once(arrays)
    assert once["database_image"].ravel().tolist() == [7, 2, 5]
    assert len(once["database_text"]) == 5


REFUSED = {
    "give either --ckpt DIRECTORY or --codes FILE": ((), {}),
    "--dataset goes with --ckpt": (("--dataset", "digits"), {"database_text": np.ones((3, 8))}),
    "holds images and texts: choose with --modality": (
        (),
        {"database_text": np.ones((3, 8)), "database_image": np.ones((3, 8))},
    ),
    "holds no image database items; it has database_text": (
        ("--modality", "image"),
        {"database_text": np.ones((3, 8))},
    ),
    "holds no database items; it has none at all": ((), {"query_text": np.ones((3, 8))}),
    "database_text row 1 holds 7": ((), {"database_text": [[1, 0], [1, 7]]}),
    "database_text row 0 holds nan": ((), {"database_text": [[np.nan, 0]], "space": "dot"}),
    "database_text row 1 is too large for single precision": (
        (),
        {"database_text": [[1, 0], [1e39, 0]], "space": "euclidean"},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_indexed_is_refused_and_nothing_is_written(faiss, message, tmp_path):
    options, arrays = REFUSED[message]
    codes = ("--codes", saved(tmp_path / "x.npz", **arrays)) if arrays else ()
    with pytest.raises(UsageError, match=message):
        index(*codes, *options, "-o", tmp_path / "x.faiss")
    assert {p.name for p in tmp_path.iterdir()} <= {"x.npz"}


def test_a_missing_folder_or_faiss_is_said(faiss, tmp_path, monkeypatch):
    source = saved(tmp_path / "x.npz", database_text=np.ones((3, 8)))
    with pytest.raises(UsageError, match="there is no folder"):
        index("--codes", source, "-o", tmp_path / "absent" / "x.faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CmrkitError, match=r"needs FAISS: run pip install 'cmrkit\[faiss\]'"):
        index("--codes", source, "-o", tmp_path / "x.faiss")
