"""Listed positives and label distances, against plain sets and plain counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmrkit.errors import UsageError
from cmrkit.evaluation.positives import PLAUSIBLE_RADII, check_positives, relevance_by_distance
from cmrkit.evaluation.relevance import check_labels

PAIRS = [[2, 4], [0, 1], [2, 0], [0, 3]]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, unique=True),
    start=st.integers(0, 7),
    stop=st.integers(0, 7),
)
def test_rows_hold_exactly_the_listed_pairs(pairs, start, stop):
    rows = check_positives("positives", np.array(pairs), 6, 8).rows(slice(start, stop))
    expected = [[(q, i) in pairs for i in range(8)] for q in range(6)][start:stop]
    assert rows.dtype == bool
    assert rows.shape == (len(expected), 8)
    assert rows.tolist() == expected


def test_the_order_in_which_pairs_are_given_does_not_matter():
    given_, shuffled = (check_positives("positives", np.array(p), 3, 5) for p in (PAIRS, PAIRS[::-1]))
    assert given_.items.tolist() == shuffled.items.tolist() == [1, 3, 0, 4]
    assert given_.indptr.tolist() == shuffled.indptr.tolist() == [0, 2, 2, 4]


def test_a_query_may_have_no_positives():
    positives = check_positives("positives", np.array(PAIRS), 3, 5)
    assert not positives.rows(slice(1, 2)).any()
    assert positives.total.tolist() == [2, 0, 2]


def test_positives_outside_the_database_count_without_being_found():
    positives = check_positives("positives", np.array(PAIRS), 3, 5, outside=np.array([0, 1, 3]))
    assert positives.total.tolist() == [2, 1, 5]
    assert positives.rows(slice(None)).sum(1).tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[0, 1], [3, 1]], "positives_i2t row 1 holds query 3: there are 3"),
        ([[0, 1], [1, 5]], "positives_i2t row 1 holds item 5: there are 5"),
        ([[0, -1]], "positives_i2t row 0 holds item -1"),
        ([[0, 1], [0.5, 1]], r"positives_i2t row 1 holds query 0\.5"),
        ([[0, np.nan]], "positives_i2t row 0 holds item nan"),
        ([[0, 1], [2, 1], [0, 1]], "positives_i2t row 2 repeats query 0 with item 1"),
        (np.empty((0, 2), dtype=np.int64), "positives_i2t is empty"),
        ([0, 1], r"positives_i2t must be pairs \(m, 2\)"),
        ([[0, 1, 2]], r"positives_i2t must be pairs \(m, 2\)"),
        ([["0", "1"]], r"positives_i2t must be pairs \(m, 2\)"),
    ],
)
def test_a_pair_that_cannot_be_is_refused_by_array_and_row(array, message):
    with pytest.raises(UsageError, match=message):
        check_positives("positives_i2t", np.array(array), 3, 5)


@pytest.mark.parametrize(
    ("outside", "message"),
    [([0, 0], "one count for each of 3 queries"), ([0, -1, 0], "row 1 holds -1"), ([0, 0, np.inf], "row 2 holds inf")],
)
def test_a_count_outside_that_cannot_be_is_refused(outside, message):
    with pytest.raises(UsageError, match=message):
        check_positives("positives", np.array(PAIRS), 3, 5, outside=np.array(outside))


@pytest.mark.parametrize("radius", PLAUSIBLE_RADII)
@pytest.mark.parametrize("classes", [3, 80, 90])
def test_an_item_is_relevant_within_the_radius_of_differing_classes(radius, classes):
    rng = np.random.default_rng(classes)
    database = (rng.random((40, classes)) < 1.5 / classes).astype(np.uint8)
    query = database[:7]
    relevance = relevance_by_distance(check_labels("q", query), check_labels("d", database), radius)
    expected = (query[:, None] != database[None]).sum(2) <= radius
    assert np.array_equal(relevance.rows(slice(None)), expected)
    assert np.array_equal(relevance.rows(slice(2, 5)), expected[2:5])
    assert expected.any(1).all()  # a query's own item is at distance 0
    assert not expected.all()


@pytest.mark.parametrize(
    ("query", "database", "radius", "message"),
    [
        ([0, 1], [0, 1], 1, "not class ids"),
        ([[0, 1]], [[0, 1, 0]], 1, "query_labels are 2 classes, but database_labels are 3"),
        ([[0, 1]], [[0, 1]], -1, "radius of a label distance is -1"),
        ([[0, 1]], [[0, 1]], 0.5, r"radius of a label distance is 0\.5"),
    ],
)
def test_labels_without_a_distance_are_refused(query, database, radius, message):
    with pytest.raises(UsageError, match=message):
        relevance_by_distance(check_labels("q", query), check_labels("d", database), radius)
