"""Attestations: what they hold, how they are checked, and that README's tables come from them."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cmrkit
from cmrkit.errors import UsageError
from cmrkit.pipeline.digest import digest_of
from cmrkit.recipe.library import load_recipe
from cmrkit.reporting.attestation import (
    FORMAT,
    as_text,
    attest,
    attested_records,
    file_name,
    is_sealed,
    judged,
    read_attestation,
    select,
)
from cmrkit.reporting.records import read_records
from cmrkit.reporting.verification import check

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = sorted((ROOT / "results").glob("*/*.json"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which dch and cca were run on digits."""
    root = tmp_path_factory.mktemp("store")
    cmrkit.reproduce("dch", "digits", bits=[8], seeds=[0, 1], cache=root)
    cmrkit.reproduce("ml-cca", "digits", cache=root)
    return root


@pytest.fixture
def attested(store):
    return attest(select(store, ["dch"]))


def resealed(document, **changes):
    document = {**copy.deepcopy(document), **changes}
    body = {k: v for k, v in document.items() if k != "sha256"}
    return {**body, "sha256": digest_of(body)}


def changed(document, at, value):
    """The document with one place changed, sealed again by somebody who knows how."""
    document = copy.deepcopy(document)
    place = document
    for name in at[:-1]:
        place = place[name]
    place[at[-1]] = value
    return resealed(document)


def test_it_says_what_was_run_on_what_with_what(attested):
    assert (attested["recipe"], attested["dataset"], attested["attestation"]) == ("dch", "digits", FORMAT)
    assert attested["data"] == {"image": "left-half", "text": "right-half", "split": "default"}
    assert attested["eval"]["protocol"] == "hamming-map"
    assert attested["params"]["bits"] == 8
    assert [(run["params"], run["seed"]) for run in attested["runs"]] == [({}, 0), ({}, 1)]
    assert set(attested["digests"]) >= {"recipe", "method", "step train", "step evaluate"}
    assert attested["environment"]["packages"]["numpy"]
    assert attested["environment"]["cpu"]
    assert "pr_curve" not in attested["runs"][0]["metrics"]


def test_it_survives_being_written_and_read(attested, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(as_text(attested), encoding="utf-8")
    assert read_attestation(path) == attested
    assert is_sealed(read_attestation(path))
    assert file_name(attested) == f"dch/digits-{attested['sha256'][:8]}.json"


def test_the_hash_is_over_canonical_json_whatever_the_layout(attested):
    shuffled = json.loads(json.dumps(dict(reversed(attested.items())), indent=7))
    assert is_sealed(shuffled)
    shuffled["runs"][0]["metrics"]["map@all"]["i2t"] += 1e-9
    assert not is_sealed(shuffled)


def test_the_records_come_back(attested, store):
    before = {r.seed: r for r in read_records(store).records if r.recipe == "dch"}
    for record in attested_records(attested):
        assert record.params == before[record.seed].params
        assert record.eval == before[record.seed].eval
        assert record.metrics["map@all"] == before[record.seed].metrics["map@all"]


def test_records_are_found_by_file_key_and_recipe(store):
    by_recipe = {r.path for r in select(store, ["dch"], "digits")}
    assert len(by_recipe) == 2
    path = min(by_recipe)
    assert [r.path.name for r in select(store, [str(path)])] == [path.name]
    assert [r.path.name for r in select(store, [path.stem[:12]])] == [path.name]


def test_runs_that_depart_from_the_recipe_are_not_the_recipes(store):
    cmrkit.reproduce("dch", "digits", bits=[8], seeds=[0], overrides={"train.iterations": 2}, cache=store)
    assert len(select(store, ["dch"])) == 2
    departing = [r for r in read_records(store).records if r.params.get("iterations") == 2]
    document = attest(departing)  # but can be attested by name, and is checked as what it is
    assert document["params"]["iterations"] == 2
    assert judged(document) == []


@pytest.mark.parametrize("name", ["batch", "nothing", "0123456789abcdef", "/nowhere/records/x.json"])
def test_a_name_without_runs_is_refused(store, name):
    with pytest.raises(UsageError, match=name):
        select(store, [name])


def test_a_record_of_an_older_version_is_refused_with_the_reason(store):
    path = store / "records" / "old.json"
    path.write_text(json.dumps({"recipe": "dch", "dataset": "digits"}), encoding="utf-8")
    with pytest.raises(UsageError, match="older or foreign"):
        select(store, [str(path)])
    path.unlink()


def test_an_empty_store_has_nothing_to_attest(tmp_path):
    with pytest.raises(UsageError, match="reproduce"):
        select(tmp_path, ["dch"])
    with pytest.raises(UsageError, match="no run"):
        attest([])


def test_runs_of_two_recipes_are_attested_apart(store):
    with pytest.raises(UsageError, match="differ in recipe"):
        attest([*select(store, ["dch"]), *select(store, ["ml-cca"])])


def test_a_record_that_the_code_of_today_would_not_give_is_refused(store, monkeypatch):
    monkeypatch.setattr("cmrkit.pipeline.plan.source_digest", lambda path: "another")
    with pytest.raises(UsageError, match="step 'prepare'"):
        attest(select(store, ["dch"]))


def test_it_holds_to_the_last_bit_when_run_again(attested, own_cache, tmp_path):
    report = check(attested, tmp_path / "a.json")
    assert report["holds"], report["faults"]
    assert report["expected"] == "equal"
    assert [run["equal"] for run in report["runs"]] == [run["numbers"] for run in report["runs"]]
    assert not list((own_cache / "staging").iterdir())
    assert not list((own_cache / "artifacts").iterdir())  # nothing of it was cached, or taken from there


def test_a_forged_number_is_found_by_the_hash_and_by_running_again(attested, tmp_path):
    forged = copy.deepcopy(attested)
    forged["runs"][1]["metrics"]["map@all"]["i2t"] += 0.001
    report = check(forged, tmp_path / "a.json")
    assert not report["sealed"]
    assert not report["holds"]
    report = check(resealed(forged), tmp_path / "a.json")
    assert report["sealed"]
    assert not report["holds"]
    (fault,) = report["faults"]
    assert "seed=1" in fault
    assert "map@all i2t" in fault


def test_elsewhere_the_tolerance_decides(attested, tmp_path):
    other = changed(attested, ("environment", "cpu"), "another processor")
    near = changed(
        other, ("runs", 0, "metrics", "map@all", "i2t"), attested["runs"][0]["metrics"]["map@all"]["i2t"] + 0.009
    )
    report = check(near, tmp_path / "a.json")
    assert report["holds"], report["faults"]
    assert report["expected"] == "within tolerance"
    assert any("another processor" in each for each in report["elsewhere"])
    assert not check({**(far := changed(near, ("tolerance",), 0.008))}, tmp_path / "a.json")["holds"], far["tolerance"]


@pytest.mark.parametrize(
    ("at", "value", "part", "held_when_run_again"),
    [
        (("digests", "recipe"), "0" * 64, "recipe", False),
        (("data", "split"), "other", "recipe", False),
        (("assets",), {"x": {"path": "x", "checksum": ["sha256", "0"], "variant": None}}, "data", False),
        (("digests", "method"), "0" * 64, "code", True),
    ],
)
def test_what_has_changed_is_named(attested, tmp_path, at, value, part, held_when_run_again):
    document = changed(attested, at, value)
    report = check(document, tmp_path / "a.json", rerun=False)
    assert report["changes"][part]
    assert not report["holds"]
    assert not report["runs"]
    assert not any(found for name, found in report["changes"].items() if name != part)
    assert check(document, tmp_path / "a.json")["holds"] == held_when_run_again


def test_parameters_that_the_method_no_longer_takes_are_a_fault_not_a_crash(attested, tmp_path):
    report = check(changed(attested, ("params", "gone"), 1), tmp_path / "a.json", rerun=False)
    assert any("gone" in fault for fault in report["faults"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "JSON"),
        ("[]", "no attestation"),
        ('{"attestation": 99}', "format 99"),
        ('{"attestation": 1, "recipe": "dch"}', "'dataset'"),
    ],
)
def test_what_is_no_attestation_is_refused(tmp_path, text, word):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=word):
        read_attestation(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_attestation(tmp_path / "missing.json")


def test_a_run_without_its_numbers_is_refused(attested, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(as_text(changed(attested, ("runs", 1), {"seed": 0})), encoding="utf-8")
    with pytest.raises(UsageError, match="run 1 lacks"):
        read_attestation(path)
    path.write_text(as_text(resealed(attested, runs=[])), encoding="utf-8")
    with pytest.raises(UsageError, match="no run"):
        read_attestation(path)


@pytest.mark.parametrize("path", RESULTS, ids=[path.parent.name for path in RESULTS])
def test_a_contributed_result_is_what_its_name_says(path):
    document = read_attestation(path)
    assert is_sealed(document)
    assert f"{path.parent.name}/{path.name}" == file_name(document)
    assert document["dataset"] in load_recipe(document["recipe"]).data
    assert path.stat().st_size < 100_000


def test_results_give_the_same_verdicts_as_records_do():
    path = next(p for p in RESULTS if p.parent.name == "dch")
    rows = judged(read_attestation(path))
    claims = [c for c in load_recipe("dch").claims if c.dataset == "wikipedia"]
    assert len(rows) == len(claims)
    assert {row["n"] for row in rows} == {5}
    assert all(row["std"] > 0 for row in rows)


def test_readme_shows_the_results_that_are_there():
    done = subprocess.run([sys.executable, "benchmarks/status.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_claim_that_two_settings_answer_counts_once_with_the_worse_verdict(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import status

    row = {"metric": "map@all", "at": {"direction": "i2t"}, "value": 0.3, "source": "Table 1", "verdict": "match"}
    assert status.verdicts([row, {**row, "verdict": "near"}, {**row, "value": 0.4}]) == {"near": 1, "match": 1}


def test_stale_tables_are_told_from_fresh_ones(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import status

    fresh = f"before\n{status.BEGIN}\n\n{status.tables()}\n\n{status.END}\nafter\n"
    assert status.with_tables(fresh) == fresh
    assert status.with_tables(fresh.replace("| 349 |", "| 348 |")) == fresh
    with pytest.raises(SystemExit):
        status.with_tables("no markers")
