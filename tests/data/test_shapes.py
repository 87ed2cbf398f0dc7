"""The embedded sets: the same bytes everywhere, and as hard as they should be."""

import hashlib
import re

import numpy as np
import pytest

from cmrkit.data import drawing
from cmrkit.data.draws import Draws
from cmrkit.data.readers import digits, shapes
from cmrkit.data.shapes import generate
from cmrkit.data.statistics import check_statistics
from cmrkit.features import extract
from cmrkit.features.base import Job
from cmrkit.recipe.library import load_manifest

IMAGES = "b8ce7062d468e688f0d45da51e18ee11639b5bb7db525c58f80ecca048452add"
CAPTIONS = "ad22b9e7c006bb62303b4e94f3d87fa728be83676309fe901f6924db21331d1c"
LABELS = "d742875b7be80ce57bbfdc38fca534339f23d7d9e0a39ddf79f5a92277b19ca8"


@pytest.fixture(scope="module")
def data():
    return shapes.read({}, split="default", image="color-edge-hist", text="tfidf").validate()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_every_machine_draws_the_same_bytes(data):
    assert digest(data.image_items.tobytes()) == IMAGES
    assert digest("\n".join(data.captions).encode()) == CAPTIONS
    assert digest(data.labels.tobytes()) == LABELS


def test_the_first_scenes_do_not_depend_on_how_many_are_drawn(data):
    few = generate(scenes=3)
    assert few.captions == data.captions[:15]
    np.testing.assert_array_equal(few.images, data.image_items[:3])


def test_another_seed_draws_other_scenes():
    assert generate(scenes=1, seed=1).captions != generate(scenes=1, seed=2).captions


def test_captions_are_grammatical_english_without_doubled_blanks(data):
    for caption in data.captions:
        words = caption.split()
        assert "  " not in caption
        assert not re.search(r"\ban? an?\b", caption)
        for row, word in enumerate(words[1:]):
            if words[row] in ("a", "an"):
                assert words[row] == ("an" if word[0] in "aeiou" else "a"), caption


def test_the_five_captions_of_a_scene_differ(data):
    groups = [data.captions[i : i + 5] for i in range(0, len(data.captions), 5)]
    assert all(len(set(group)) >= 4 for group in groups)
    assert len(set(data.captions)) > 11_000


def test_chance_is_well_below_what_a_method_can_reach(data):
    query, database = (data.labels[data.splits[role]].astype(int) for role in ("query", "database"))
    assert 0.15 < (query @ database.T > 0).mean() < 0.30


def test_default_trains_on_the_whole_database_and_subset_on_a_part():
    parts = {split: shapes.divide(split) for split in shapes.SPLITS}
    np.testing.assert_array_equal(parts["default"]["train"], parts["default"]["database"])
    assert set(parts["subset"]["train"]) < set(parts["subset"]["database"])
    for splits in parts.values():
        held_out = np.concatenate([splits["val"], splits["query"]])
        assert not set(held_out) & set(splits["database"])


def test_shapes_are_cut_off_at_the_edge_of_the_canvas():
    canvas = np.zeros((4, 4, 3), dtype=np.uint8)
    drawing.paint(canvas, drawing.mask("square", 5), 0, 0, (9, 9, 9))
    assert (canvas == 9).all()


@pytest.mark.parametrize("kind", drawing.KINDS)
def test_each_shape_is_symmetric_left_to_right_and_fits_its_size(kind):
    shape = drawing.mask(kind, 9)
    assert shape.shape == (19, 19)
    np.testing.assert_array_equal(shape, shape[:, ::-1])
    assert 0.1 < shape.mean() < 0.9


@pytest.mark.parametrize("kind", drawing.TEXTURES)
@pytest.mark.parametrize("slant", range(4))
def test_textures_stay_within_their_range(kind, slant):
    pattern = drawing.texture(kind, 64, 5, slant)
    assert pattern.dtype == np.int16
    assert np.abs(pattern).max() <= 16


def test_draws_are_those_of_the_raw_stream():
    draws = Draws(7)
    assert [draws.below(100) for _ in range(5)] == [6, 42, 10, 73, 58]
    assert Draws(7).permutation(6).tolist() == [3, 4, 0, 2, 5, 1]
    assert sorted(Draws(7).some("abc", 3)) == ["a", "b", "c"]
    assert Draws(7).bytes(5).dtype == np.uint8


def test_digits_are_cut_into_two_halves_of_one_digit():
    from sklearn.datasets import load_digits

    data = digits.read({}, split="default", image="left-half", text="right-half").validate()
    assert {role: len(rows) for role, rows in data.splits.items()} == {"train": 1297, "query": 500, "database": 1297}
    whole = np.concatenate([data.image["left-half"][0].reshape(8, 4), data.text["right-half"][0].reshape(8, 4)], 1)
    np.testing.assert_array_equal(whole, load_digits().images[0])
    assert data.labels[0].argmax() == load_digits().target[0]


def test_extracted_features_are_as_wide_as_the_manifest_says(data):
    declared = load_manifest("shapes").features
    for modality in ("image", "text"):
        for name, feature in getattr(declared, modality).items():
            if feature.extractor:
                extracted = extract(feature.extractor, data, Job(feature.options))
                assert extracted.modality == modality
                assert feature.dim in (None, extracted.matrix.shape[-1]), name


def test_the_manifest_describes_what_is_drawn(data):
    check_statistics(data, load_manifest("shapes"), "default")
