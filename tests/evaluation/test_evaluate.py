"""What goes into an evaluation, what comes out, and what is refused."""

import numpy as np
import pytest

from cmrkit.errors import UsageError
from cmrkit.evaluation import (
    PROTOCOLS,
    Protocol,
    check_inputs,
    evaluate,
    evaluate_matrix,
    evaluate_variants,
    find_protocol,
    resolve,
)
from cmrkit.evaluation.evaluator import VARIANT_SIMILARITIES
from cmrkit.evaluation.hamming import check_codes, hamming_distances
from cmrkit.evaluation.similarity import SIMILARITIES


def random_arrays(bits=20, queries=12, items=40, classes=4, seed=0):
    rng = np.random.default_rng(seed)

    def codes(n):
        return rng.choice([-1, 1], (n, bits)).astype(np.int8)

    return {
        "query_image": codes(queries),
        "query_text": codes(queries),
        "database_image": codes(items),
        "database_text": codes(items),
        "query_labels": rng.integers(0, classes, queries),
        "database_labels": rng.integers(0, classes, items),
    }


def embeddings(**options):
    rng = np.random.default_rng(5)
    arrays = random_arrays(**options)
    return {k: v if "labels" in k else rng.standard_normal((len(v), 6)) for k, v in arrays.items()}


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 31, 64, 65, 300])
def test_packed_distances_count_differing_bits_at_any_length(bits):
    rng = np.random.default_rng(bits)
    query, database = rng.integers(0, 2, (5, bits)), rng.integers(0, 2, (9, bits))
    packed = [check_codes("codes", codes).words for codes in (query, database)]
    expected = (query[:, None] != database[None]).sum(2)
    np.testing.assert_array_equal(hamming_distances(*packed), expected)


def test_signs_and_zero_one_codes_of_any_dtype_score_the_same():
    arrays = random_arrays()
    reference = evaluate(**arrays, database="hashed")
    for convert in (lambda c: c.astype(float), lambda c: c > 0, lambda c: (c > 0).astype(np.uint8)):
        other = {k: v if "labels" in k else convert(v) for k, v in arrays.items()}
        assert evaluate(**other, database="hashed") == reference


def test_results_do_not_depend_on_how_queries_are_cut_into_blocks():
    arrays, pairs = random_arrays(), {"query_image": np.eye(6), "query_text": np.eye(6), "pairs": np.arange(6)}
    whole = evaluate_variants(**arrays), evaluate(**pairs, space="cosine")
    cut = evaluate_variants(**arrays, memory=1), evaluate(**pairs, space="cosine", memory=1)
    for key, metrics in whole[0].items():
        for metric, found in metrics.items():
            assert cut[0][key][metric] == pytest.approx(found)
    assert cut[1] == whole[1]


def test_image_queries_rank_texts_and_text_queries_rank_images():
    image, text = np.array([[1, 1, 1, 1]]), np.array([[-1, -1, -1, -1]])
    found = evaluate(
        query_image=image,
        query_text=text,
        database_image=np.array([[1, 1, 1, 1], [-1, -1, -1, -1]]),  # the text query finds its class first
        database_text=np.array([[-1, -1, -1, -1], [1, 1, 1, 1]]),  # so does the image query, here second item
        query_labels=[1],
        database_labels=[0, 1],
        metrics=["map@all", "precision@1"],
    )
    assert found == {"map@all": {"i2t": 1.0, "t2i": 1.0}, "precision@1": {"i2t": 1.0, "t2i": 1.0}, "queries": 1}


def test_the_default_protocol_reports_its_metrics_and_curve():
    found = evaluate(**random_arrays(bits=8))
    assert list(found) == [*PROTOCOLS["hamming-map"].metrics, "queries"]
    assert found["pr_curve"]["i2t"]["radius"] == list(range(9))
    assert len(found["pr_curve"]["t2i"]["precision"]) == 9
    assert evaluate(**embeddings(), space="cosine")["pr_curve"]["i2t"]["rank"][-1] == 40


def test_labels_as_class_ids_and_as_multi_hot_rows_agree():
    arrays = random_arrays()
    one_hot = {k: np.eye(4)[v] if "labels" in k else v for k, v in arrays.items()}
    assert evaluate(**arrays) == evaluate(**one_hot)


def test_multi_hot_items_are_relevant_when_they_share_any_label():
    found = evaluate(
        query_image=[[1, 1]],
        database_text=[[1, 1], [1, -1], [-1, -1]],
        query_labels=[[1, 1, 0]],
        database_labels=[[0, 0, 1], [0, 1, 1], [1, 0, 0]],
        metrics=["map@all"],
    )
    assert found["map@all"] == {"i2t": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_database_codes_may_be_learned_hashed_or_unified():
    arrays, other = random_arrays(), random_arrays(seed=9)
    learned = {"learned_image": other["database_image"], "learned_text": other["database_text"]}
    swapped = arrays | {"database_image": other["database_image"], "database_text": other["database_text"]}
    assert evaluate(**arrays, **learned) == evaluate(**swapped, database="hashed")
    assert evaluate(**arrays, **learned, database="hashed") == evaluate(**arrays)
    unified = evaluate(**arrays, unified=other["database_text"], database="unified")
    assert unified["map@all"]["i2t"] == evaluate(**swapped)["map@all"]["i2t"]
    with pytest.raises(UsageError, match="no direction can be ranked with database=learned"):
        evaluate(**arrays, database="learned")


def test_ranking_the_query_set_needs_no_database():
    arrays = random_arrays()
    alone = {k: v for k, v in arrays.items() if k.startswith("query")}
    assert evaluate(**alone) == evaluate(**arrays, items="query")


def test_queries_without_relevant_items_count_zero_or_are_left_out():
    arrays = {"query_image": [[1], [1]], "database_text": [[1], [1]], "query_labels": [0, 7], "database_labels": [0, 0]}
    assert evaluate(**arrays, metrics=["map@all"])["map@all"]["i2t"] == 0.5
    assert evaluate(**arrays, metrics=["map@all"], without_relevant="skip")["map@all"]["i2t"] == 1.0
    with pytest.raises(UsageError, match="no query has a relevant item"):
        evaluate(**{**arrays, "query_labels": [5, 7]})


def test_variants_cover_every_choice_and_match_single_evaluations():
    arrays, other = random_arrays(), random_arrays(seed=9)
    arrays |= {"learned_image": other["database_image"], "learned_text": other["database_text"]}
    variants = evaluate_variants(**arrays)
    wheres = {"database=learned,items=database", "database=hashed,items=database", "items=query"}
    readings = ("expected", "stable", "worst", "best", "expected,averaging=micro")
    assert set(variants) == {f"{w},ties={r}" for w in wheres for r in readings}
    for key, metrics in variants.items():
        options = dict(part.split("=") for part in key.split(","))
        single = evaluate(**arrays, **options, metrics=tuple(metrics))
        assert {k: v for k, v in single.items() if k != "queries"} == metrics


def test_real_valued_variants_cover_the_similarities():
    arrays = embeddings()
    variants = evaluate_variants(**arrays, space="dot")
    key = "database=hashed,items=database,ties=expected,similarity=euclidean"
    assert variants[key]["map@all"] == evaluate(**arrays, space="euclidean")["map@all"]
    assert variants[key]["map@all"] == evaluate(**arrays, space="dot", similarity="euclidean")["map@all"]
    assert {key.split("similarity=")[1] for key in variants} == set(VARIANT_SIMILARITIES)
    assert len(variants) == 2 * 3 * len(VARIANT_SIMILARITIES)


def test_variants_of_pairs_report_recall_under_every_tie_rule():
    variants = evaluate_variants(query_image=np.ones((4, 2)), query_text=np.ones((4, 2)), pairs=[0, 1, 2, 3])
    assert {k: v["r@1"]["i2t"] for k, v in variants.items()} == {
        "items=query,ties=expected": 25.0,
        "items=query,ties=stable": 25.0,
        "items=query,ties=worst": 0.0,
        "items=query,ties=best": 100.0,
    }


def plain_similarity(kind, x, y):
    if kind == "correlation":
        return np.corrcoef(x, y)[0, 1]
    p, q = x / x.sum(), y / y.sum()
    return {
        "cosine": lambda: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "dot": lambda: x @ y,
        "euclidean": lambda: -np.linalg.norm(x - y),
        "l1": lambda: -np.abs(x - y).sum(),
        "inner-over-sum-of-norms": lambda: x @ y / (np.linalg.norm(x) + np.linalg.norm(y)),
        "kl": lambda: -(p * np.log(p / q)).sum(),
    }[kind]()


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_each_similarity_ranks_as_its_definition_does(kind):
    arrays = {k: np.abs(v) + 0.1 if "labels" not in k else v for k, v in embeddings().items()}
    matrix = np.array([[plain_similarity(kind, x, y) for y in arrays["database_text"]] for x in arrays["query_image"]])
    labels = {"image_labels": arrays["query_labels"], "text_labels": arrays["database_labels"]}
    wanted = evaluate_matrix(matrix, **labels, protocol="real-map", metrics=["map@all"])["map@all"]["i2t"]
    obtained = evaluate(**arrays, space="cosine", similarity=kind, metrics=["map@all"])["map@all"]["i2t"]
    assert obtained == pytest.approx(wanted)


def test_protocols_are_hashed_by_what_decides_the_numbers():
    protocol = PROTOCOLS["hamming-map"]
    assert protocol.digest == Protocol(**vars(protocol)).digest
    assert protocol.changed(definition="other words").digest == protocol.digest
    assert protocol.changed(ties="stable").digest != protocol.digest
    assert len({p.digest for p in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_resolve_says_which_choices_the_arrays_settled():
    arrays = random_arrays()
    assert resolve(check_inputs(**arrays)).database == "hashed"
    learned = check_inputs(**arrays, learned_text=arrays["database_text"])
    assert resolve(learned).database == "learned"
    assert resolve(learned, ties="stable").ties == "stable"
    assert resolve(check_inputs(**embeddings(), space="dot")).similarity == "dot"


def change(**changes):
    return lambda a: a | {k: f(np.array(a[k], dtype=float)) for k, f in changes.items()}


def put(row, column, value):
    def edit(array):
        array[row, column] = value
        return array

    return edit


BROKEN = {
    r"query_text row 3 holds 0\.5 at bit 2": change(query_text=put(3, 2, 0.5)),
    r"query_text row 3 holds 0\.0 at bit 2.*-1 and \+1": change(query_text=put(3, 2, 0)),
    r"database_image row 7 holds nan": change(database_image=put(7, 0, np.nan)),
    r"database_text has 19 bits, but query_image has 20": change(database_text=lambda a: a[:, 1:]),
    r"query_text has 11 rows, but query_labels has 12": change(query_text=lambda a: a[1:]),
    r"database_text has 39 rows, but database_labels has 40": change(database_text=lambda a: a[1:]),
    r"query_image is empty": change(query_image=lambda a: a[:0]),
    r"query_labels are 4 classes, but database_labels are 5 classes": lambda a: (
        a | {"query_labels": np.eye(4)[a["query_labels"]], "database_labels": np.eye(5)[a["database_labels"]]}
    ),
    r"query_labels are class ids, but database_labels are 4 classes": lambda a: (
        a | {"database_labels": np.eye(4)[a["database_labels"]]}
    ),
    r"query_labels row 2 holds 0\.5": change(query_labels=lambda a: np.r_[a[:2], 0.5, a[3:]]),
    r"query_labels row 2 holds inf": change(query_labels=lambda a: np.r_[a[:2], np.inf, a[3:]]),
    r"query_labels has one column": change(query_labels=lambda a: a[:, None]),
    r"database_labels is missing": lambda a: a | {"database_labels": None},
    r"neither query_labels nor pairs": lambda a: a | {"query_labels": None},
    r"i2t needs query_image and database_text.*given: query_image": lambda a: (
        a | {"query_text": None, "database_text": None, "database_image": None}
    ),
    r"unknown space 'haming'": lambda a: a | {"space": "haming"},
    r"unknown protocol 'haming-map' \(did you mean 'hamming-map'\?\)": lambda a: a | {"protocol": "haming-map"},
    r"protocol real-map is for real-valued": lambda a: a | {"protocol": "real-map"},
    r"unknown metric 'mapall' \(did you mean 'map@all'\?\)": lambda a: a | {"metrics": ["mapall"]},
    r"metric 'map@0' cuts at 0": lambda a: a | {"metrics": ["map@0"]},
    r"ties is 'random'": lambda a: a | {"ties": "random"},
    r"similarity=dot does not apply": lambda a: a | {"similarity": "dot"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_cannot_be_evaluated_is_named(message):
    with pytest.raises(UsageError, match=message):
        evaluate(**BROKEN[message](random_arrays()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "cosin"}, "unknown similarity 'cosin'"),
        ({"metrics": ["precision@2:radius"]}, "asks for a Hamming radius"),
        ({"similarity": "kl"}, "similarity 'kl' needs non-negative"),
        ({"protocol": "hamming-map"}, "protocol hamming-map is for Hamming codes"),
    ],
)
def test_what_a_real_valued_space_does_not_have_is_named(options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(**embeddings(), space="cosine", **options)


def test_embeddings_that_are_not_finite_or_overflow_are_named():
    arrays = embeddings()
    arrays["query_text"][4, 1] = np.inf
    with pytest.raises(UsageError, match="query_text row 4 holds inf at column 1"):
        evaluate(**arrays, space="cosine")
    huge = {k: v if "labels" in k else v * 1e200 for k, v in embeddings().items()}
    with pytest.raises(UsageError, match="dot similarities of these embeddings overflow"):
        evaluate(**huge, space="dot")
    assert evaluate(**huge, space="cosine")["map@all"] == pytest.approx(
        evaluate(**embeddings(), space="cosine")["map@all"]
    )


def test_labels_given_beside_pairs_serve_a_protocol_by_labels():
    arrays = {k: v for k, v in random_arrays().items() if k.startswith("query")}
    both = arrays | {"pairs": np.arange(12)}
    assert evaluate(**both, protocol="hamming-map") == evaluate(**arrays)
    assert evaluate(**both)["r@1"] == evaluate(**both, protocol="recall")["r@1"]
    with pytest.raises(UsageError, match="query_image has 12 rows, but query_labels has 11"):
        evaluate(**{**both, "query_labels": both["query_labels"][1:]}, protocol="hamming-map")


def test_an_unknown_array_is_named():
    with pytest.raises(UsageError, match=r"unknown array 'query_txt' \(did you mean 'query_text'\?\)"):
        evaluate_variants(**random_arrays(), query_txt=np.ones((12, 20)))


def test_a_zero_vector_has_cosine_zero_with_everything():
    items = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])
    arrays = {"query_image": np.zeros((1, 2)), "database_text": items, "query_labels": [1]}
    found = evaluate(**arrays, database_labels=[1, 0, 0, 0], space="cosine", metrics=["precision@1"])
    assert found["precision@1"]["i2t"] == pytest.approx(0.25)  # all four tie


def test_find_protocol_gives_the_named_one():
    assert find_protocol("recall").items == "query"
