"""Methods side by side: what is compared, what is tested, and what the tables and figures say."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import cmrkit
from cmrkit.errors import UsageError
from cmrkit.evaluation.statistics import randomisation_test
from cmrkit.reporting import comparison_tables as tables
from cmrkit.reporting.comparison import compare
from cmrkit.reporting.plots import COLOURS, FORMATS, draw
from cmrkit.reporting.significance import holm, letters, paired_tests, randomised

NASTY = r"A&B_50%|#1 {x}~^\ $y$ <b>*`"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two hashing methods and a real-valued one on digits, and the store they lie in."""
    cache = tmp_path_factory.mktemp("store")
    return compare(["batch", "cvh", "ml-cca"], "digits", bits=[8, 16], seeds=2, cache=cache), cache


def named(document, *names):
    """The document, its rows called otherwise."""
    rows = [{**row, "name": names[i % len(names)]} for i, row in enumerate(document["rows"])]
    return {**document, "rows": rows}


def cell(document, name, size, metric="map@all", direction="i2t"):
    (row,) = [r for r in document["rows"] if r["name"] == name and r["size"] == size]
    return row["metrics"][metric][direction]


def test_holm_multiplies_the_smallest_by_all_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_letters_are_shared_exactly_where_rows_do_not_differ():
    means = {0: 0.5, 1: 0.4, 2: 0.3, 3: 0.1}
    differ = {frozenset(p) for p in [(0, 2), (0, 3), (1, 3), (2, 3)]}
    found = letters(means, differ)
    assert found == {0: "a", 1: "ab", 2: "b", 3: "c"}
    assert letters(means, set()) == dict.fromkeys(means, "a")


def test_letters_of_many_random_tables_keep_their_promise():
    rng = np.random.default_rng(0)
    for _ in range(50):
        means = dict(enumerate(rng.random(6)))
        differ = {frozenset((i, j)) for i in range(6) for j in range(i) if rng.random() < 0.5}
        found = letters(means, differ)
        for i in range(6):
            assert found[i]
            assert all(bool(set(found[i]) & set(found[j])) != (frozenset((i, j)) in differ) for j in range(i))


def test_many_tests_at_once_give_the_p_values_of_one_at_a_time():
    rng = np.random.default_rng(1)
    a = rng.random((60, 4))
    a[:, 1] = a[:, 0]  # no difference at all
    a[:, 2] = a[:, 0] + 0.02 * rng.standard_normal(60) + 0.005
    few = a[:, 0].copy()
    few[:8] += 0.1  # few enough to count every swap
    values = {0: a[:, 0], 1: a[:, 1], 2: a[:, 2], 3: a[:, 3], 4: few}
    tests = paired_tests(values, [(0, j) for j in range(1, 5)])
    expected = [randomisation_test(values[0], values[j]).p for j in range(1, 5)]
    assert [t["p"] for t in tests] == pytest.approx(expected, abs=0.015)
    assert tests[0]["p"] == 1.0
    assert tests[3]["p"] == expected[3] == 2 / 2**8


def test_p_values_are_uniform_where_nothing_differs():
    differences = np.random.default_rng(2).standard_normal((40, 300))
    assert np.mean(randomised(differences) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_every_method_is_scored_under_one_protocol_whatever_its_paper_uses(two):
    document, cache = two
    own = cmrkit.reproduce("batch", "digits", bits=[16], seeds=[0, 1], cache=cache)  # ranks against learned codes
    hashed = [r["variants"]["database=hashed,items=database,ties=expected"]["map@all"]["i2t"]
              for r in json_records(own)]  # fmt: skip
    learned = [r["metrics"]["map@all"]["i2t"] for r in own["runs"]]
    assert cell(document, "BATCH", 16)["mean"] == pytest.approx(np.mean(hashed), abs=1e-12)
    assert np.mean(learned) != pytest.approx(np.mean(hashed), abs=1e-4)
    assert any("learned database codes: BATCH" in note for note in document["notes"])


def json_records(document):
    for run in document["runs"]:
        with open(run["record"], encoding="utf-8") as file:
            yield json.load(file)


def test_rows_know_seeds_features_space_and_spread(two):
    document, _ = two
    rows = {(r["name"], r["size"]): r for r in document["rows"]}
    assert set(rows) == {("BATCH", 8), ("BATCH", 16), ("CVH", 8), ("CVH", 16), ("ml-CCA", None)}
    assert rows["BATCH", 8]["seeds"] == [0, 1]
    assert rows["BATCH", 8]["features"] == {"image": "left-half", "text": "right-half"}
    assert cell(document, "BATCH", 8)["std"] > 0
    assert rows["ml-CCA", None]["seeds"] == [0]
    assert cell(document, "ml-CCA", None)["std"] is None
    assert any("one run only" in note and "ml-CCA" in note for note in document["notes"])
    assert any("different spaces" in note for note in document["notes"])
    assert any("smoke set" in note for note in document["notes"])


def test_tests_stay_within_one_code_length(two):
    document, _ = two
    rows = document["rows"]
    assert len(document["tests"]) == 4  # one pair, two sizes, two directions
    for test in document["tests"]:
        a, b = rows[test["a"]], rows[test["b"]]
        assert a["size"] == b["size"] == test["size"]
        means = [r["metrics"]["map@all"][test["direction"]]["mean"] for r in (a, b)]
        assert test["difference"] == pytest.approx(means[0] - means[1])
        shared = set(a["metrics"]["map@all"][test["direction"]]["group"]) & set(
            b["metrics"]["map@all"][test["direction"]]["group"]
        )
        assert bool(shared) != test["differ"]


def test_a_second_comparison_runs_nothing(two, monkeypatch):
    document, cache = two
    monkeypatch.setattr("cmrkit.pipeline.runner.FUNCTIONS", {})
    monkeypatch.setattr("cmrkit.pipeline.scoring.measured", None)
    again = compare(["batch", "cvh", "ml-cca"], "digits", bits=[8, 16], seeds=2, cache=cache)
    assert again == document


@pytest.mark.parametrize(
    ("keys", "dataset", "options", "words"),
    [
        (["batch", "dvsh", "nothing"], "digits", {}, ["dvsh", "catalogued", "no recipe 'nothing'"]),
        (["batch", "scan", "vse"], "digits", {}, ["scan has no features", "vse has no features"]),
        (["batch"], "nowhere", {}, ["no dataset 'nowhere'"]),
        (["batch", "ml-cca"], "digits", {"database": "learned", "bits": [8], "seeds": 1}, ["ml-cca", "learned"]),
        (["cca", "kcca"], "digits", {"bits": [16]}, ["--bits", "cca, kcca"]),
        (["vse", "batch"], "shapes", {}, ["--protocol"]),
        (["vse"], "shapes", {"database": "learned"}, ["recall ranks the query set"]),
    ],
)
def test_what_cannot_be_compared_is_named(keys, dataset, options, words, tmp_path):
    with pytest.raises(UsageError) as caught:
        compare(keys, dataset, cache=tmp_path, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_best_and_second_are_marked_as_printed(two):
    document, _ = two
    best = tables.places(document)
    for column in tables.columns(document):
        if column.size is None:
            assert not any(c == column for _, c in best)  # alone in its column
        else:
            assert sorted(p for (_, c), p in best.items() if c == column) in ([1, 2], [1, 1])


def test_csv_holds_every_number_in_full(two):
    document, _ = two
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(named(document, 'x,"y"\n;', "B")), newline="")))
    assert rows[0]["name"] == 'x,"y"\n;'
    (mine,) = [r for r in rows if (r["key"], r["bits"], r["metric"], r["direction"]) == ("cvh", "8", "map@50", "t2i")]
    assert float(mine["mean"]) == cell(document, "CVH", 8, "map@50", "t2i")["mean"]
    assert [r["std"] for r in rows if r["key"] == "ml-cca"] == [""] * 6


def test_markdown_has_one_cell_a_column_whatever_the_names(two):
    document, _ = two
    text = tables.as_markdown(named(document, NASTY, NASTY, "B"))
    head, rule, *body = [line for line in text.splitlines() if line.startswith("|")]
    plain = [line.replace("\\|", "") for line in (head, rule, *body)]
    assert len({line.count("|") for line in plain}) == 1
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "**" in text


def test_latex_is_balanced_and_escaped(two):
    document, _ = two
    text = tables.as_latex(named(document, NASTY, NASTY, "B"))
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert r"A\&B\_50\%\textbar{}\#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{} \$y\$" in text
    for rule in ("\\toprule", "\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}", "\\bottomrule", "\\textbf{", "\\underline{"):
        assert rule in text
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 2
    assert all(line.replace("\\&", "").count("&") == 6 for line in rows)


def test_figures_are_written_in_every_format_and_twice_the_same(two, tmp_path, monkeypatch):
    document, _ = two
    document = named(document, "$x_1$ & <b>", "$x_1$ & <b>", "_hidden", "_hidden", "real")
    first = draw(document, tmp_path)
    assert {p.stem for p in first} == {"map-all-over-bits", "precision-recall", "precision-at-n"}
    assert {p.suffix[1:] for p in first} == set(FORMATS)
    before = {p: p.read_bytes() for p in first}
    assert all(before.values())
    monkeypatch.setattr("cmrkit.reporting.plots.FORMATS", ("svg", "pdf"))
    assert all(before[p] == p.read_bytes() for p in draw(document, tmp_path))
    drawing = ET.parse(tmp_path / "precision-recall.svg").getroot()
    used = ET.tostring(drawing, encoding="unicode").lower()
    assert all(colour.lower() in used for colour in COLOURS[:3])


def test_one_code_length_gives_no_figure_over_code_lengths(two, tmp_path, monkeypatch):
    document, _ = two
    monkeypatch.setattr("cmrkit.reporting.plots.FORMATS", ("svg",))
    short = {**document, "sizes": [8], "rows": [r for r in document["rows"] if r["size"] == 8]}
    assert {p.stem for p in draw(short, tmp_path)} == {"precision-recall", "precision-at-n"}
