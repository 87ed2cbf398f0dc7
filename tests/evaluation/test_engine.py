"""The compiled and the torch engine against brute force, at every code length and in every mode."""

import numpy as np
import pytest
from by_hand import Given, hamming_block, real_block
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from cmrkit.errors import UsageError
from cmrkit.evaluation import evaluate, evaluate_matrix, find_protocol, kernels
from cmrkit.evaluation.graded import cumulative_gain, dcg, graded_groups, weighted_precision
from cmrkit.evaluation.hamming import HammingBlock, check_codes
from cmrkit.evaluation.metrics import METRICS, Ranked, explain, parse
from cmrkit.evaluation.relevance import check_labels, relevance_by_label


def code_arrays(bits, items, queries=9, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    query, database = rng.integers(0, 2, (queries, bits)), rng.integers(0, 2, (items, bits))
    query_labels, labels = (rng.random((n, classes)) < 0.3 for n in (queries, items))
    return query, database, query_labels.astype(int), labels.astype(int)


def block_of(query, database, relevance, device=None):
    return HammingBlock(check_codes("q", query), check_codes("d", database), relevance, slice(None), device)


def counted(query, database, relevant):
    distances = (query[:, None] != database[None]).sum(2)
    counts = np.zeros((len(query), query.shape[1] + 1, 2), int)
    for i, j in np.ndindex(distances.shape):
        counts[i, distances[i, j], int(relevant[i, j])] += 1
    return counts


def relevances(query_labels, labels):
    ids = [check_labels("labels", rows.argmax(1)) for rows in (query_labels, labels)]
    rows = query_labels @ labels.T > 0
    return {
        "shared": (relevance_by_label(*(check_labels("labels", x) for x in (query_labels, labels))), rows),
        "equal": (relevance_by_label(*ids), query_labels.argmax(1)[:, None] == labels.argmax(1)[None]),
        "dense": (Given(rows), rows),
    }


@pytest.mark.parametrize("mode", ["shared", "equal", "dense"])
@pytest.mark.parametrize("bits", [8, 13, 64, 65, 300, 512])
@pytest.mark.parametrize("device", [None, "cpu"], ids=["compiled", "torch"])
def test_every_engine_counts_each_pair_at_its_distance(bits, mode, device):
    if device:
        pytest.importorskip("torch", reason="the torch engine needs torch")
    query, database, query_labels, labels = code_arrays(bits, 70)
    relevance, relevant = relevances(query_labels, labels)[mode]
    found = block_of(query, database, relevance, device).histogram
    np.testing.assert_array_equal(found, counted(query, database, relevant))


@pytest.mark.parametrize("items", [kernels.CHUNK - 1, kernels.CHUNK, 3 * kernels.CHUNK + 5])
def test_counting_two_items_at_a_time_gives_the_plain_counts(items):
    query, database, query_labels, labels = code_arrays(6, items, queries=2)
    assert items > (2 * 7) ** 2
    relevance, relevant = relevances(query_labels, labels)["shared"]
    np.testing.assert_array_equal(block_of(query, database, relevance).histogram, counted(query, database, relevant))


def test_slabs_of_a_large_database_add_up(monkeypatch):
    query, database, query_labels, labels = code_arrays(20, 500)
    relevance, relevant = relevances(query_labels, labels)["shared"]
    monkeypatch.setattr("cmrkit.evaluation.hamming.SLAB", 64)
    np.testing.assert_array_equal(block_of(query, database, relevance).histogram, counted(query, database, relevant))


def test_more_than_64_classes_are_packed_into_several_words():
    query, database, query_labels, labels = code_arrays(16, 50, classes=130)
    relevance, relevant = relevances(query_labels, labels)["shared"]
    np.testing.assert_array_equal(block_of(query, database, relevance).histogram, counted(query, database, relevant))


@pytest.mark.parametrize("space", ["hamming", "cosine", "euclidean", "dot"])
def test_the_torch_engine_gives_the_compiled_results(space):
    pytest.importorskip("torch", reason="the torch engine needs torch")
    query, database, query_labels, labels = code_arrays(24, 60)
    if space != "hamming":  # no ties, which rounding would break differently
        query, database = (np.random.default_rng(1).standard_normal(x.shape) for x in (query, database))
        database[:9] *= 2
    arrays = {"query_image": query, "database_text": database, "query_labels": query_labels, "database_labels": labels}
    metrics = ("map@all", "map@10", "precision@5", "ndcg@10", "pr_curve:rank")
    compiled = evaluate(**arrays, space=space, metrics=metrics)
    other = evaluate(**arrays, space=space, metrics=metrics, device="cpu")
    for name in metrics[:-1]:
        assert other[name]["i2t"] == pytest.approx(compiled[name]["i2t"], rel=1e-12 if space == "hamming" else 1e-6)
    with pytest.raises(UsageError, match="no device 'cuda:99' here"):
        evaluate(**arrays, space=space, metrics=metrics, device="cuda:99")


TIED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7)


def orders(items):
    """Every order that the ties leave open, as lists of grades."""
    from itertools import permutations

    return [[items[i][1] for i in sorted(p, key=lambda i: items[i][0])] for p in permutations(range(len(items)))]


def plain_dcg(grades, k, linear):
    return sum((g if linear else 2**g - 1) / np.log2(1 + i) for i, g in enumerate(grades[:k], 1))


def plain_weighted(grades):
    acg = np.cumsum(grades) / np.arange(1, len(grades) + 1)
    return sum(a for a, g in zip(acg, grades, strict=True) if g)


@pytest.mark.parametrize("space", ["hamming", "real"])
@settings(max_examples=40, deadline=None)
@given(items=TIED, k=st.integers(1, 8))
def test_graded_metrics_are_the_mean_over_all_orders_of_the_ties(space, items, k):
    block = graded_block(space, items)
    found, possible = graded_groups(block, "expected"), orders(items)
    best = sorted((g for _, g in items), reverse=True)
    for linear in (False, True):
        gained, ideal = dcg(found, k, linear)
        assert gained[0] == pytest.approx(np.mean([plain_dcg(o, k, linear) for o in possible]))
        assert ideal[0] == pytest.approx(plain_dcg(best, k, linear))
    cut = min(k, len(items))
    assert cumulative_gain(found, k)[0] == pytest.approx(np.mean([sum(o[:cut]) / cut for o in possible]))
    assert weighted_precision(found, None)[0][0] == pytest.approx(np.mean([plain_weighted(o) for o in possible]))


@pytest.mark.parametrize("space", ["hamming", "real"])
@settings(max_examples=40, deadline=None)
@given(items=TIED)
def test_other_tie_rules_name_one_order_of_grades(space, items):
    keys = {"worst": lambda i: items[i], "best": lambda i: (items[i][0], -items[i][1]), "stable": lambda i: items[i][0]}
    for ties, key in keys.items():
        order = [items[i][1] for i in sorted(range(len(items)), key=key)]
        found = graded_groups(graded_block(space, items), ties)
        assert dcg(found, 4)[0][0] == pytest.approx(plain_dcg(order, 4, False)), ties
        assert weighted_precision(found, None)[0][0] == pytest.approx(plain_weighted(order)), ties


def graded_block(space, items):
    distances, grades = [d for d, _ in items], [g for _, g in items]
    if space == "real":
        return real_block([distances], [grades])
    labels = [[1, 1, 1]], [[i < g for i in range(3)] for g in grades]
    block = hamming_block(distances, grades, bits=3)
    block.relevance = relevance_by_label(*(check_labels("labels", np.array(x, int)) for x in labels))
    return block


def test_ndcg_without_ties_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, grades = rng.standard_normal((6, 30)), rng.integers(0, 4, (6, 30))
    gained, ideal = dcg(graded_groups(real_block(-scores, grades), "expected"), 10, linear=True)
    assert (gained / ideal).mean() == pytest.approx(ndcg_score(grades, scores, k=10))
    gained, ideal = dcg(graded_groups(real_block(-scores, grades), "expected"), 10)
    assert (gained / ideal).mean() == pytest.approx(ndcg_score(2.0**grades - 1, scores, k=10))


def test_micro_averages_divide_sums_once():
    # The first query finds 1 of 1 relevant item at once, the second 1 of 3 within radius 1 among two retrieved.
    query = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    database = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]])
    arrays = {"query_image": query, "database_text": database, "query_labels": [0, 1],
              "database_labels": [0, 1, 2, 1, 1]}  # fmt: skip
    metrics = ("precision@1:radius", "recall@1:radius", "map@all")
    micro = evaluate(**arrays, metrics=metrics, averaging="micro")
    macro = evaluate(**arrays, metrics=metrics)
    assert micro["precision@1:radius"]["i2t"] == pytest.approx(2 / 3)
    assert macro["precision@1:radius"]["i2t"] == pytest.approx((1 + 1 / 2) / 2)
    assert micro["recall@1:radius"]["i2t"] == pytest.approx(2 / 4)
    second = (1 + (2 / 3 + 3 / 4)) / 3
    assert macro["map@all"]["i2t"] == pytest.approx((1 + second) / 2)
    assert micro["map@all"]["i2t"] == pytest.approx((1 + 3 * second) / 4)


def test_queries_that_retrieve_nothing_within_the_radius_count_zero_or_not_at_all():
    arrays = {"query_image": [[0, 0, 0], [1, 1, 1]], "database_text": [[0, 0, 0], [0, 0, 1]],
              "query_labels": [0, 0], "database_labels": [0, 1]}  # fmt: skip
    found = evaluate(**arrays, metrics=("precision@0:radius", "precision@0:radius-found"))
    assert found["precision@0:radius"]["i2t"] == 0.5
    assert found["precision@0:radius-found"]["i2t"] == 1.0


def paired(images=20, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((images, 6))
    pairs = np.repeat(np.arange(images), 3)
    return {"query_image": image, "query_text": image[pairs] + rng.standard_normal((3 * images, 6)), "pairs": pairs}


def test_folds_are_the_mean_over_consecutive_parts():
    arrays = paired()
    whole = evaluate(**arrays, space="cosine", folds=5)
    parts = []
    for start in range(0, 20, 4):
        texts = (arrays["pairs"] >= start) & (arrays["pairs"] < start + 4)
        part = {"query_image": arrays["query_image"][start : start + 4], "query_text": arrays["query_text"][texts]}
        parts.append(evaluate(**part, pairs=arrays["pairs"][texts] - start, space="cosine"))
    for metric in ("r@1", "medr", "meanr"):
        for direction in ("i2t", "t2i"):
            assert whole[metric][direction] == pytest.approx(np.mean([p[metric][direction] for p in parts]))
    assert whole["rsum"] == pytest.approx(np.mean([p["rsum"] for p in parts]))
    assert whole == evaluate(**arrays, space="cosine", protocol="recall-folds")
    with pytest.raises(UsageError, match="20 images cannot be cut into 3 equal folds"):
        evaluate(**arrays, space="cosine", folds=3)


def test_listed_positives_that_are_the_pairs_give_the_recall_of_the_pairs():
    arrays = paired()
    pairs = arrays.pop("pairs")
    rows = np.arange(len(pairs))
    listed = {"positives_i2t": np.stack([pairs, rows], 1), "positives_t2i": np.stack([rows, pairs], 1)}
    found = evaluate(**arrays, **listed, space="cosine", protocol="cxc")
    wanted = evaluate(**arrays, pairs=pairs, space="cosine")
    assert {m: found[m] for m in ("r@1", "r@5", "r@10")} == {m: wanted[m] for m in ("r@1", "r@5", "r@10")}


def test_relevant_items_outside_the_database_lower_what_is_divided_by_their_number():
    arrays = {"query_image": np.eye(2), "query_text": np.eye(2), "space": "dot",
              "positives_i2t": [[0, 0], [1, 1]], "positives_t2i": [[0, 0], [1, 1]]}  # fmt: skip
    assert evaluate(**arrays, protocol="eccv-caption")["map@r"]["i2t"] == 1.0
    found = evaluate(**arrays, outside_i2t=[1, 0], protocol="eccv-caption")
    assert found["map@r"]["i2t"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["r-precision"]["i2t"] == pytest.approx((1 / 2 + 1) / 2)


def test_plausible_matches_average_three_radii_and_drop_unlabelled_images():
    rng = np.random.default_rng(2)
    arrays = paired(12)
    labels = (rng.random((12, 5)) < 0.4).astype(int)
    labels[3] = 0
    found = evaluate(**arrays, query_labels=labels, space="cosine", protocol="pmrp")["r-precision"]["i2t"]
    kept, values = np.flatnonzero(labels.any(1)), []
    texts = np.flatnonzero(np.isin(arrays["pairs"], kept))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (arrays["query_image"], arrays["query_text"])]
    for radius in (0, 1, 2):
        for image in kept:
            near = (labels[image] != labels[arrays["pairs"][texts]]).sum(1) <= radius
            ranked = np.argsort(-(unit[1][texts] @ unit[0][image]))
            values.append(near[ranked][: near.sum()].mean())
    assert found == pytest.approx(np.mean(values))


def test_translated_queries_are_compared_in_the_other_modality_s_length():
    rng = np.random.default_rng(3)
    given = {"query_image": rng.integers(0, 2, (4, 8)), "query_text": rng.integers(0, 2, (4, 12)),
             "database_image": rng.integers(0, 2, (9, 8)), "database_text": rng.integers(0, 2, (9, 12)),
             "query_labels": [0, 1, 0, 1], "database_labels": rng.integers(0, 2, 9)}  # fmt: skip
    with pytest.raises(UsageError, match="query_text has 12 bits, but query_image has 8"):
        evaluate(**given)
    as_text, as_image = rng.integers(0, 2, (4, 12)), rng.integers(0, 2, (4, 8))
    found = evaluate(**given, translated_image=as_text, translated_text=as_image)["map@all"]
    labels = {k: v for k, v in given.items() if "labels" in k}
    assert (
        found["i2t"] == evaluate(query_image=as_text, database_text=given["database_text"], **labels)["map@all"]["i2t"]
    )
    assert (
        found["t2i"]
        == evaluate(query_text=as_image, database_image=given["database_image"], **labels)["map@all"]["t2i"]
    )
    with pytest.raises(UsageError, match="i2t: the queries have 8 bits, the database 12"):
        evaluate(**given, translated_image=as_image, translated_text=as_image)


def test_hub_corrections_read_a_bank_of_other_queries():
    arrays, bank = paired(), paired(seed=7)
    found = evaluate(**arrays, bank_image=bank["query_image"], bank_text=bank["query_text"], space="cosine",
                     normalisation="csls")  # fmt: skip
    assert found["r@1"] != evaluate(**arrays, space="cosine")["r@1"]
    with pytest.raises(UsageError, match="bank_image is missing"):
        evaluate(**arrays, space="cosine", normalisation="csls")
    with pytest.raises(UsageError, match="does not apply to Hamming codes"):
        evaluate(query_image=np.eye(4), query_text=np.eye(4), pairs=np.arange(4), normalisation="csls")


def test_values_of_every_query_are_kept_on_demand_and_average_to_the_metric():
    query, database, query_labels, labels = code_arrays(16, 80)
    found = evaluate(query_image=query, database_text=database, query_labels=query_labels, database_labels=labels,
                     metrics=("map@all", "map@10"), per_query=True)  # fmt: skip
    for metric in ("map@all", "map@10"):
        values = found["per_query"][metric]["i2t"]
        assert values.shape == (len(query),)
        assert values.mean() == pytest.approx(found[metric]["i2t"])


def test_each_direction_can_rank_by_a_matrix_of_its_own():
    rng = np.random.default_rng(4)
    forward, backward, pairs = rng.random((6, 12)), rng.random((6, 12)), np.repeat(np.arange(6), 2)
    both = evaluate_matrix(forward, reverse=backward, pairs=pairs)
    assert both["r@1"]["i2t"] == evaluate_matrix(forward, pairs=pairs)["r@1"]["i2t"]
    assert both["r@1"]["t2i"] == evaluate_matrix(backward, pairs=pairs)["r@1"]["t2i"]


def test_single_precision_embeddings_stay_single():
    arrays = {k: v.astype(np.float32) if k != "pairs" else v for k, v in paired().items()}
    one, budget = evaluate(**arrays, space="cosine"), evaluate(**arrays, space="cosine", memory=1000)
    assert one == budget  # one matrix for both directions, or block by block
    from cmrkit.evaluation.similarity import check_embeddings

    assert check_embeddings("x", arrays["query_image"]).dtype == np.float32


def test_an_eleven_point_mean_needs_an_order():
    arrays = {"query_image": np.eye(3), "query_text": np.eye(3), "query_labels": [0, 1, 2]}
    with pytest.raises(UsageError, match="choose ties stable, worst or best"):
        evaluate(**arrays, metrics=["map@all:11-point"])
    assert evaluate(**arrays, metrics=["map@all:11-point"], ties="stable")["map@all:11-point"]["i2t"] == 1.0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_named_and_explained(name):
    assert parse(name).name == name
    assert explain(name)


def test_explanations_speak_of_the_cut_that_was_asked():
    assert "cut at 500" in explain("map@500")
    assert "min(7, R)" in explain("map@7:min")
    assert explain("map@all") != explain("map@r")
    assert explain("nonsense") is None


def test_map_at_r_divides_by_all_relevant_items():
    groups = Ranked(real_block([range(5)], [[1, 0, 1, 0, 1]]), "expected").groups
    protocol = find_protocol("eccv-caption")
    assert "map@r" in protocol.metrics
    from cmrkit.evaluation.ranking import average_precision_at

    assert average_precision_at(groups, groups.total, "total")[0] == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize("kind", ["euclidean", "dot"])
def test_quantised_items_rank_as_the_vectors_they_stand_for(kind):
    rng = np.random.default_rng(6)
    books, codes = rng.standard_normal((3, 4, 5)), {n: rng.integers(0, 4, (n, 3)) for n in (6, 40)}
    vectors = {n: sum(books[m][c[:, m]] for m in range(3)) for n, c in codes.items()}
    labels = {"query_labels": rng.integers(0, 3, 6), "database_labels": rng.integers(0, 3, 40)}
    query = rng.standard_normal((6, 5))
    asymmetric = evaluate(query_image=query, database_text=codes[40], codebooks=books, space=kind, **labels)
    plain = evaluate(query_image=query, database_text=vectors[40], space=kind, **labels)
    assert asymmetric["map@all"]["i2t"] == pytest.approx(plain["map@all"]["i2t"], abs=0.02)  # equal codes tie exactly
    symmetric = evaluate(query_image=codes[6], database_text=codes[40], codebooks=books, space=kind, **labels)
    plain = evaluate(query_image=vectors[6], database_text=vectors[40], space=kind, **labels)
    assert symmetric["map@all"]["i2t"] == pytest.approx(plain["map@all"]["i2t"], abs=0.02)
    assert symmetric["map@all"] != asymmetric["map@all"]
    with pytest.raises(UsageError, match="database_text row 0 holds 4 at column 0"):
        evaluate(query_image=query, database_text=[[4, 0, 0]], codebooks=books, space=kind, query_labels=[0] * 6,
                 database_labels=[0])  # fmt: skip
    with pytest.raises(UsageError, match="the space is cosine"):
        evaluate(query_image=query, database_text=codes[40], codebooks=books, space="cosine", **labels)


def test_the_books_of_a_product_quantiser_are_told_by_their_width():
    rng = np.random.default_rng(8)
    books, codes = rng.standard_normal((2, 4, 3)), rng.permutation(16)[:, None] // [4, 1] % 4
    vectors, query = np.concatenate([books[m][codes[:, m]] for m in range(2)], axis=1), rng.standard_normal((5, 6))
    labels = {"query_labels": rng.integers(0, 3, 5), "database_labels": rng.integers(0, 3, 16)}
    found = evaluate(query_image=query, database_text=codes, codebooks=books, space="euclidean", **labels)
    plain = evaluate(query_image=query, database_text=vectors, space="euclidean", **labels)
    assert found["map@all"]["i2t"] == pytest.approx(plain["map@all"]["i2t"])


def test_without_ties_torchmetrics_agrees_on_what_both_define():
    torch = pytest.importorskip("torch", reason="torchmetrics needs torch")
    functional = pytest.importorskip("torchmetrics.functional.retrieval", reason="torchmetrics is not installed")
    rng = np.random.default_rng(9)
    scores, relevant = rng.random((12, 40)), rng.random((12, 40)) < 0.25  # torchmetrics drops scores below zero
    relevant[:, 0] = True
    found = evaluate_matrix(
        scores, image_labels=np.eye(12, dtype=int)[:, :12], text_labels=relevant.T.astype(int), protocol="real-map",
        metrics=("map@all", "precision@5", "recall@5", "r-precision", "ndcg@7:linear", "r@3"),
    )  # fmt: skip
    named = {
        "map@all": functional.retrieval_average_precision,
        "precision@5": lambda s, r: functional.retrieval_precision(s, r, top_k=5),
        "recall@5": lambda s, r: functional.retrieval_recall(s, r, top_k=5),
        "r-precision": functional.retrieval_r_precision,
        "ndcg@7:linear": lambda s, r: functional.retrieval_normalized_dcg(s, r, top_k=7),
        "r@3": lambda s, r: 100 * functional.retrieval_hit_rate(s, r, top_k=3),
    }
    for name, metric in named.items():
        values = [float(metric(torch.tensor(s), torch.tensor(r))) for s, r in zip(scores, relevant, strict=True)]
        assert found[name]["i2t"] == pytest.approx(np.mean(values), rel=1e-5), name
