"""TREC runs and judgements: what is written is read back, and scored as trec_eval, ranx and ``evaluate`` score."""

import gzip
import itertools

import numpy as np
import pytest

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation import evaluate
from cmrkit.evaluation.trec import (
    Ranking,
    evaluate_run,
    query_values,
    read_qrels,
    read_run,
    top_k,
    write_qrels,
    write_run,
)

BOTH = (
    "map@all",
    "map@5:total",
    "map@20:total",
    "precision@5",
    "precision@200",
    "recall@10",
    "r@5",
    "meanr",
    "r-precision",
    "map@all:11-point",
)
BOTH += ("ndcg@5:linear", "ndcg@20:linear", "ndcg@all:linear")


def graded(queries=40, items=60, kept=25, seed=0, levels=None):
    """A run of the top ``kept`` of ``items``, without ties or with ``levels`` scores, and grades -1..3."""
    rng = np.random.default_rng(seed)
    run, qrels = {}, {}
    for q in range(queries):
        scores = rng.permutation(items) if levels is None else rng.integers(0, levels, items)
        names = [f"d{i}" for i in rng.permutation(items)]
        order = np.argsort(-scores, kind="stable")[:kept]
        run[f"q{q}"] = Ranking([names[i] for i in order], scores[order].astype(float))
        grades = rng.choice([-1, 0, 1, 2, 3], items, p=[0.1, 0.6, 0.1, 0.1, 0.1])
        qrels[f"q{q}"] = {f"d{i}": int(grade) for i, grade in enumerate(grades)}
    return run, qrels


def as_dictionary(run):
    return {q: dict(zip(r.items, r.scores.tolist(), strict=True)) for q, r in run.items()}


def by_pytrec_eval(pytrec_eval, run, qrels):
    asked = {"map", "map_cut.5,20", "P.5,200", "recall.10", "success.5", "recip_rank", "Rprec", "11pt_avg"}
    asked |= {"ndcg_cut.5,20", "ndcg"}
    found = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(as_dictionary(run))
    names = (
        "map",
        "map_cut_5",
        "map_cut_20",
        "P_5",
        "P_200",
        "recall_10",
        "success_5",
        "recip_rank",
        "Rprec",
        "11pt_avg",
    )
    return {q: [v[n] for n in (*names, "ndcg_cut_5", "ndcg_cut_20", "ndcg")] for q, v in found.items()}


@pytest.mark.parametrize("levels", [None, 4])
def test_every_query_scores_as_in_trec_eval(levels):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval-terrier is not installed")
    run, qrels = graded(levels=levels)
    for query, ranking in run.items():  # ties in the order of trec_eval: last docid first
        order = sorted(range(len(ranking.items)), key=lambda i: (ranking.scores[i], ranking.items[i]), reverse=True)
        run[query] = Ranking([ranking.items[i] for i in order], ranking.scores[order])
    ours = query_values(run, qrels, BOTH, ties="stable")
    ours["r@5"] = ours["r@5"] / 100
    ours["meanr"] = np.where(ours["meanr"] <= 25, 1 / ours["meanr"], 0)
    theirs = by_pytrec_eval(pytrec_eval, run, qrels)
    for q, query in enumerate(qrels):
        assert [ours[name][q] for name in BOTH] == pytest.approx(theirs[query], abs=1e-12)


NAMES = ("map@all", "map@7", "map@7:min", "map@7:total", "map@7:first-relevant", "precision@7", "recall@7")
NAMES += ("map@r", "r-precision", "r@1", "r@5", "medr", "medr:floor", "meanr")


@pytest.mark.parametrize("ties", ["expected", "stable", "worst", "best"])
def test_a_written_ranking_scores_like_the_arrays(ties, tmp_path):
    rng = np.random.default_rng(3)
    query, database = rng.integers(0, 2, (30, 6)), rng.integers(0, 2, (50, 6))
    labels, database_labels = rng.integers(0, 4, 30), rng.integers(0, 4, 50)
    distances = (query[:, None] != database[None]).sum(2)
    names = np.array([f"text-{i}" for i in range(50)])
    cuts = (slice(0, 12), slice(12, 30))
    columns, scores = top_k(distances, 50)
    write_run(tmp_path / "x.run", ((np.arange(30)[c], names[columns[c]], scores[c]) for c in cuts))
    relevance = labels[:, None] == database_labels[None]
    write_qrels(tmp_path / "x.qrels", ((np.arange(30)[c], relevance[c]) for c in cuts), names)
    ours = evaluate_run(read_run(tmp_path / "x.run"), read_qrels(tmp_path / "x.qrels"), NAMES, ties=ties)
    arrays = {"query_image": query, "database_text": database, "query_labels": labels}
    direct = evaluate(**arrays, database_labels=database_labels, metrics=NAMES, ties=ties)
    assert ours.pop("queries") == 30
    assert ours == pytest.approx({name: direct[name]["i2t"] for name in NAMES}, abs=1e-9)


def test_expected_is_the_mean_over_all_orders_of_the_tied_documents():
    grades = {"a": 2, "b": 0, "c": 1, "d": 0, "e": 3}
    scores = np.array([4.0, 4.0, 4.0, 3.0, 3.0])
    names = ("ndcg@2", "ndcg@4:linear", "ndcg@all", "map@all", "map@4", "map@4:min", "precision@4", "r@1", "meanr")
    orders = [
        query_values({"q": Ranking([*top, *low], scores)}, {"q": grades}, names, ties="stable")
        for top in itertools.permutations("abc")
        for low in itertools.permutations("de")
    ]
    found = {
        ties: query_values({"q": Ranking(list("abcde"), scores)}, {"q": grades}, names, ties)
        for ties in ("expected", "worst", "best")
    }
    for name in names:
        values = [order[name][0] for order in orders]
        assert found["expected"][name][0] == pytest.approx(np.mean(values)), name
        if name == "map@4":  # its denominator is what was retrieved: worst and best are orders, not bounds
            continue
        least, most = (max(values), min(values)) if name == "meanr" else (min(values), max(values))
        assert found["worst"][name][0] == pytest.approx(least), name
        assert found["best"][name][0] == pytest.approx(most), name


def test_what_is_missing_from_the_run_counts_as_not_retrieved():
    qrels = {"q1": {"a": 1, "b": 1, "z": 0}, "q2": {"c": 1}, "q3": {"d": 0}}
    run = {"q1": Ranking(["a", "x", "y"], np.array([3.0, 2, 1])), "extra": Ranking(list("abcde"), np.zeros(5))}
    names = ("map@all", "map@2", "recall@2", "precision@4", "r@1", "ndcg@all", "meanr")
    values = query_values(run, qrels, names)
    assert values["map@all"].tolist() == [0.5, 0, 0]
    assert values["map@2"].tolist() == [1, 0, 0]
    assert values["recall@2"].tolist() == [0.5, 0, 0]
    assert values["precision@4"].tolist() == [0.25, 0, 0]
    assert values["meanr"].tolist() == [1, 4, 4]
    assert values["ndcg@all"] == pytest.approx([1 / (1 + 1 / np.log2(3)), 0, 0])
    assert evaluate_run(run, qrels, ["r@1"]) == {"r@1": pytest.approx(100 / 3), "queries": 3}
    assert evaluate_run(run, qrels, ["r@1"], without_relevant="skip") == {"r@1": 50, "queries": 2}


def test_scores_rank_before_the_rank_column_and_it_orders_only_ties(tmp_path):
    (tmp_path / "x.run").write_text("q Q0 a 1 0.5 t\nq Q0 b 3 0.9 t\nr Q0 a 1 1 t\nq Q0 c 2 9e-1 t\n\n")
    run = read_run(tmp_path / "x.run")
    assert run["q"].items == ["c", "b", "a"]
    assert run["q"].scores.tolist() == [0.9, 0.9, 0.5]
    assert list(run) == ["q", "r"]


def test_a_run_is_read_back_bit_for_bit_also_gzipped(tmp_path):
    rng = np.random.default_rng(5)
    scores = -np.sort(-rng.normal(size=(3, 4)) * 1e-7, axis=1)
    items = [["ä", "b", "c", "d"]] * 3
    for name in ("x.run", "x.run.gz"):
        write_run(tmp_path / name, [(["1", "2", "3"], items, scores)], tag="mine")
        run = read_run(tmp_path / name)
        assert np.array_equal([run[q].scores for q in "123"], scores)
        assert run["2"].items == items[0]
    assert gzip.decompress((tmp_path / "x.run.gz").read_bytes()) == (tmp_path / "x.run").read_bytes()
    assert (tmp_path / "x.run").read_text(encoding="utf-8").startswith("1 Q0 ä 1 ")
    (tmp_path / "odd").write_bytes(b"\xef\xbb\xbf1\tQ0  a 1 2.5 t\r\n")
    assert read_run(tmp_path / "odd")["1"].items == ["a"]


BAD_RUNS = {
    ":2: 5 columns instead of 6: qid Q0 docid rank score tag": b"q Q0 a 1 0.5 t\nq Q0 b 2 0.4\n",
    ":1: score is 'high', not a finite number": b"q Q0 a 1 high t\n",
    ":1: score is 'nan', not a finite number": b"q Q0 a 1 nan t\n",
    ":1: score is '1_0', not a finite number": b"q Q0 a 1 1_0 t\n",
    ":1: rank is '1.5', not a whole number": b"q Q0 a 1.5 0.5 t\n",
    ":4: document 'a' of query 'q' stands in line 1 already": b"q Q0 a 1 3 t\n\nr Q0 a 1 3 t\nq Q0 a 2 2 t\n",
    ": the file is empty": b"\n \n",
    ":2: not a text file in UTF-8": b"q Q0 a 1 3 t\n\x80\x81\n",
    ":1: not a text file": b"PK\x03\x04\0\0\0",
    ":2: damaged or cut-off gzip file": gzip.compress(b"q Q0 a 1 0.5 t\n", mtime=0)[:-4],
}


@pytest.mark.parametrize("message", BAD_RUNS)
def test_a_bad_run_is_refused_by_line(message, tmp_path):
    path = tmp_path / "bad.run"
    path.write_bytes(BAD_RUNS[message])
    with pytest.raises(UsageError) as refusal:
        read_run(path)
    assert str(refusal.value).startswith(str(path) + message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q 0 a\n", ":1: 3 columns instead of 4: qid 0 docid rel"),
        ("q 0 a 1\nq 0 b 0.5\n", ":2: rel is '0.5', not a whole number"),
        ("q 0 a 1\nq 0 a 1\n", ":2: document 'a' is judged a second time for query 'q'"),
        ("", ": the file is empty; its lines read: qid 0 docid rel"),
    ],
)
def test_bad_judgements_are_refused_by_line(content, message, tmp_path):
    path = tmp_path / "bad.qrels"
    path.write_text(content)
    with pytest.raises(UsageError) as refusal:
        read_qrels(path)
    assert str(refusal.value).startswith(str(path) + message)
    with pytest.raises(UsageError, match="there is no such file"):
        read_qrels(tmp_path / "absent")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((["q"], [["a", "b"]], [[1.0, 2.0]]), "score 2.0 at rank 2: scores are finite and do not rise"),
        ((["q"], [["a", "b"]], [[np.inf, 2.0]]), "score inf at rank 1"),
        ((["q"], [["a", "a"]], [[2.0, 1.0]]), "hold the id 'a' twice"),
        ((["q"], [["a", " b"]], [[2.0, 1.0]]), "an id of the items of query 'q' is ' b'"),
        ((["q 1"], [["a", "b"]], [[2.0, 1.0]]), "a query id is 'q 1'"),
        ((["old"], [["a", "b"]], [[2.0, 1.0]]), "query 'old' comes twice"),
        ((["q"], [["a"]], [[2.0, 1.0]]), "has 1 items, but 2 scores"),
        ((["q", "r"], [["a"]], [[2.0]]), "a block has 2 query ids, 1 rows of items"),
    ],
)
def test_a_ranking_that_cannot_be_written_leaves_the_old_file(block, message, tmp_path):
    (tmp_path / "x.run").write_text("before")
    with pytest.raises(UsageError, match=message):
        write_run(tmp_path / "x.run", [(["old"], [["a"]], [[0.0]]), block])
    assert [p.name for p in tmp_path.iterdir()] == ["x.run"]
    assert (tmp_path / "x.run").read_text() == "before"


def test_writing_needs_a_folder_and_unique_items(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        write_run(tmp_path / "absent" / "x.run", [])
    with pytest.raises(UsageError, match="the items hold the id '1' twice"):
        write_qrels(tmp_path / "x", [], [1, 2, 1])
    with pytest.raises(UsageError, match=r"relevance is \(1, 3\), but there are 1 queries and 2 items"):
        write_qrels(tmp_path / "x", [(["q"], np.ones((1, 3), bool))], [1, 2])
    with pytest.raises(CmrkitError, match="cannot be written"):
        write_run(tmp_path / ("x" * 300), [])


def test_what_a_ranked_list_cannot_answer_is_refused():
    run, qrels = graded(3)
    for name in ("rsum", "pr_curve", "precision@2:radius", "recall@2:radius", "acg@5"):
        with pytest.raises(UsageError, match=f"metric '{name}' does not follow from a ranked list"):
            evaluate_run(run, qrels, [name])
    with pytest.raises(UsageError, match="unknown metric 'ndgc@5'"):
        evaluate_run(run, qrels, ["ndgc@5"])
    with pytest.raises(UsageError, match="unknown tie rule 'random'"):
        evaluate_run(run, qrels, ["map@all"], ties="random")
    with pytest.raises(UsageError, match="no query of the run is judged"):
        evaluate_run(run, {"other": {"d1": 1}}, ["map@all"])
    with pytest.raises(UsageError, match="no query has a relevant document"):
        evaluate_run(run, {"q1": {"d1": 0}}, ["map@all"])
    with pytest.raises(UsageError, match="map@all:11-point needs an order"):
        evaluate_run(run, qrels, ["map@all:11-point"])
    huge = {"q1": {"d1": 5000}}
    assert evaluate_run(run, huge, ["ndcg@all:linear"])["ndcg@all:linear"] <= 1
    with pytest.raises(UsageError, match=r"too large for the gain 2\*\*rel - 1"):
        evaluate_run(run, huge, ["ndcg@all"])
