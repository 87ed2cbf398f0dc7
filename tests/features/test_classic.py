"""Classic features: what they count, and that they learn from training texts alone."""

import numpy as np
import pytest
from PIL import Image

from cmrkit.data.images import find_images
from cmrkit.data.paired import PairedData
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.features import extract
from cmrkit.features.base import Job
from cmrkit.features.image import COLOR_EDGE_DIM, COLOUR_BINS, EDGE_BINS, ORIENTATIONS, color_edge_grid, color_edge_hist

PER_QUARTER = COLOUR_BINS + EDGE_BINS


def plain(colour, size=16):
    return np.full((size, size, 3), colour, dtype=np.uint8)


def stripes(axis):
    image = plain((0, 0, 0), 32)
    index = np.arange(32) // 4 % 2 == 0
    image[index if axis == 0 else slice(None), index if axis == 1 else slice(None)] = 255
    return image


def quarters(image):
    return color_edge_hist([image])[0].reshape(4, PER_QUARTER)


def test_histograms_are_148_numbers_an_image_of_any_size():
    features = color_edge_hist([plain((9, 9, 9)), np.zeros((5, 31, 3), np.uint8)])
    assert features.shape == (2, COLOR_EDGE_DIM) == (2, 148)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_one_colour_fills_one_bin_of_each_quarter():
    for colour in [(255, 0, 0), (0, 0, 255), (128, 128, 128)]:
        colours = quarters(plain(colour))[:, :COLOUR_BINS]
        assert (np.sort(colours, axis=1)[:, -1] == 1).all()


def test_different_hues_and_greys_fill_different_bins():
    palette = [(255, 0, 0), (255, 150, 0), (0, 255, 0), (0, 0, 255), (255, 150, 150), (20, 20, 20), (235, 235, 235)]
    bins = {int(quarters(plain(colour))[0, :COLOUR_BINS].argmax()) for colour in palette}
    assert len(bins) == len(palette)


def test_colours_count_in_their_own_quarter():
    image = plain((0, 0, 0))
    image[:8, 8:] = (255, 0, 0)
    colours = quarters(image)[:, :COLOUR_BINS].argmax(axis=1)
    assert colours[1] != colours[0] == colours[2] == colours[3]


def test_edges_count_by_orientation():
    across, down = (quarters(stripes(axis))[:, COLOUR_BINS:][:, :ORIENTATIONS] for axis in (1, 0))
    assert (across.argmax(axis=1) == 0).all()
    assert (down.argmax(axis=1) == ORIENTATIONS // 2).all()
    assert (across.max(axis=1) > 0.9).all()


def test_an_image_without_edges_has_no_orientation_and_is_all_flat():
    edges = quarters(plain((90, 10, 10)))[:, COLOUR_BINS:]
    assert (edges[:, :ORIENTATIONS] == 0).all()
    assert (edges[:, ORIENTATIONS] == 1).all()


def test_the_grid_of_two_by_two_cells_is_the_histogram_of_quarters():
    images = [stripes(0), np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)]
    grid = color_edge_grid(images, 2)
    assert grid.shape == (2, 4, PER_QUARTER)
    np.testing.assert_array_equal(grid.reshape(2, -1), color_edge_hist(images))


def test_a_grid_says_where_a_colour_is():
    image = plain((0, 0, 0), 12)
    image[4:8, 8:] = (255, 0, 0)
    colours = color_edge_grid([image], 3)[0, :, :COLOUR_BINS].argmax(axis=1)
    assert np.flatnonzero(colours != colours[0]).tolist() == [5]


@pytest.fixture
def data():
    return PairedData(
        name="toy",
        pairs=np.array([0, 0, 1, 2]),
        splits={"train": np.array([0, 1]), "query": np.array([2])},
        image_items=np.stack([plain((c, 0, 0)) for c in (10, 100, 200)]),
        captions=["A red dog.", "a dog, a dog", "the Red cat", "a unicorn and a dog"],
    )


def test_the_vocabulary_is_that_of_the_training_captions(data):
    counts = extract("bow", data)
    assert counts.modality == "text"
    assert counts.vocabulary == ("a", "dog", "red")
    assert counts.matrix.tolist() == [[1, 1, 1], [2, 2, 0], [0, 0, 1], [2, 1, 0]]


def test_tfidf_rows_have_length_one_and_rare_words_weigh_more(data):
    weights = extract("tfidf", data)
    np.testing.assert_allclose(np.linalg.norm(weights.matrix, axis=1), 1, rtol=1e-6)
    equal = extract("tfidf", data.replace(captions=["a dog", "a dog", "a cat", "cat a"]))
    column = {word: i for i, word in enumerate(equal.vocabulary)}
    assert equal.vocabulary == ("a", "dog")
    assert equal.matrix[0, column["dog"]] > equal.matrix[0, column["a"]]


def test_tfidf_weights_are_the_smoothed_ones(data):
    row = extract("tfidf", data).matrix[0]
    idf = np.log((1 + 3) / (1 + np.array([2, 2, 2]))) + 1
    np.testing.assert_allclose(row, idf / np.linalg.norm(idf), rtol=1e-6)


def test_a_caption_without_known_words_is_a_zero_row(data):
    changed = data.replace(captions=[*data.captions[:3], "zebra!"])
    assert not extract("tfidf", changed).matrix[3].any()


def test_test_captions_do_not_change_the_features_of_training_captions(data):
    changed = data.replace(captions=[*data.captions[:3], "red red red unicorn"])
    np.testing.assert_array_equal(extract("tfidf", data).matrix[:3], extract("tfidf", changed).matrix[:3])


def test_image_features_come_by_the_same_call(data):
    features = extract("color-edge-hist", data)
    assert (features.modality, features.vocabulary) == ("image", ())
    np.testing.assert_array_equal(features.matrix, color_edge_hist(data.image_items))


@pytest.mark.parametrize(("name", "lacking"), [("color-edge-hist", "image_items"), ("bow", "captions")])
def test_what_an_extractor_needs_is_named_where_it_lacks(data, name, lacking):
    with pytest.raises(UsageError, match=rf"toy: '{name}' needs"):
        extract(name, data.replace(**{lacking: None}))


def test_an_unknown_extractor_is_answered_with_the_known_ones(data):
    with pytest.raises(UsageError, match=r"no extractor 'sift'; known: color-edge-hist, .*bow, tfidf"):
        extract("sift", data)


def test_regions_and_their_mean_come_by_name(data):
    regions = extract("color-edge-grid", data, Job({"cells": 3}))
    pooled = extract("color-edge-pooled", data, Job({"cells": 3}))
    assert (regions.kind, regions.matrix.shape, pooled.matrix.shape) == ("regions", (3, 9, 37), (3, 37))
    np.testing.assert_allclose(pooled.matrix, regions.matrix.mean(axis=1))


@pytest.mark.parametrize("name", ["color-edge-hist", "bow", "lda"])
def test_an_unknown_option_is_named(data, name):
    with pytest.raises(UsageError, match=f"extractor '{name}' has no option 'bits'"):
        extract(name, data, Job({"bits": 3}))


def topical(n=120):
    words = {0: "sea boat sail wave harbour", 1: "snow ski slope mountain ice"}
    generator = np.random.default_rng(3)
    captions = [" ".join(generator.choice(words[i % 2].split(), 4)) for i in range(n)]
    return PairedData(
        name="topics",
        pairs=np.arange(n),
        splits={"train": np.arange(n - 20), "query": np.arange(n - 20, n)},
        captions=captions,
    )


def test_latent_directions_bring_texts_of_one_topic_together():
    lsa = extract("tfidf-lsa", topical(), Job({"dim": 4})).matrix
    assert (lsa.shape, lsa.dtype) == ((120, 4), np.float32)
    np.testing.assert_allclose(np.linalg.norm(lsa, axis=1), 1, rtol=1e-5)
    cosine = lsa[100:] @ lsa[100:].T
    assert cosine[::2, ::2].mean() > cosine[::2, 1::2].mean() + 0.5


def test_topics_are_proportions_that_tell_topics_apart():
    lda = extract("lda", topical(), Job({"topics": 2})).matrix
    np.testing.assert_allclose(lda.sum(axis=1), 1, rtol=1e-5)
    assert len(set(lda[::2].argmax(axis=1))) == len(set(lda[1::2].argmax(axis=1))) == 1
    assert lda[0].argmax() != lda[1].argmax()


@pytest.mark.parametrize(("name", "options"), [("tfidf-lsa", {"dim": 3}), ("lda", {"topics": 2})])
def test_fitted_text_features_are_the_same_again_and_blind_to_test_captions(name, options):
    data = topical()
    first = extract(name, data, Job(options)).matrix
    np.testing.assert_array_equal(first, extract(name, data, Job(options)).matrix)
    changed = data.replace(captions=[*data.captions[:100], *["unicorn"] * 20])
    np.testing.assert_allclose(extract(name, changed, Job(options)).matrix[:100], first[:100], atol=1e-6)


def test_more_latent_directions_than_words_are_refused():
    with pytest.raises(UsageError, match="64 latent directions are wanted, but 100 training texts have only 10 words"):
        extract("tfidf-lsa", topical(), Job({"dim": 64}))


def test_an_empty_caption_is_named_and_its_image_left_out_only_when_asked(data):
    changed = data.replace(captions=[*data.captions[:2], "  ", data.captions[3]])
    with pytest.raises(UsageError, match=r"text row 2, of image row 1, is empty \(1 such captions\)"):
        extract("bow", changed)
    assert extract("bow", changed, Job(skip_bad=True)).skipped == (1,)


def test_an_unreadable_image_is_named_and_left_out_only_when_asked(data, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(plain((200, 0, 0))).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"damaged")
    changed = data.replace(image_items=find_images(["a.png", "b.png", "c.png"], {"photos": tmp_path}))
    for extractor in ("color-edge-hist", "color-edge-grid", "color-edge-pooled", "pixels"):
        with pytest.raises(CmrkitError, match=r"image b\.png cannot be read"):
            extract(extractor, changed)
        found = extract(extractor, changed, Job(skip_bad=True))
        assert found.skipped == (1,)
        np.testing.assert_array_equal(found.matrix[0], found.matrix[2])
