"""What the page holds, how records become groups, leagues and galleries, and what bad records do to them."""

import base64
import gzip
import json
import re
import shlex
from collections import Counter

import pytest
from click.testing import CliRunner
from report_stores import HAMMING, put, put_drawn_run, record

from cmrkit.cli.report import command as verb
from cmrkit.cli.show import command as show
from cmrkit.errors import CmrkitError
from cmrkit.pipeline.resolve import parse_integers, parse_overrides, resolve
from cmrkit.pipeline.store import Store
from cmrkit.recipe.library import load_all, load_recipe
from cmrkit.reporting.dossier import command, facts, idea, results
from cmrkit.reporting.gallery import Thumbnails, gallery
from cmrkit.reporting.html import write_site
from cmrkit.reporting.league import league_tables
from cmrkit.reporting.records import departures, group_over_seeds, judge_group, read_records, variant_rows


def block(page, name):
    packed = re.search(rf'id="blob-{re.escape(name)}">([^<]*)<', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def index(page):
    return json.loads(re.search(r'id="index">(.*?)</script>', page).group(1))


def site(root, out, **options):
    written = write_site(Store(root), out, **options)
    return written, (out / "index.html").read_text(encoding="utf-8")


def test_runs_that_differ_only_in_their_seed_form_a_group(tmp_path):
    put(tmp_path, record(seed=1), record(seed=0), record(bits=32), record("cmfh"))
    groups = group_over_seeds(read_records(tmp_path).records)
    assert [(g.first.recipe, g.label, g.seeds) for g in groups] == [
        ("batch", "bits=16", [0, 1]), ("batch", "bits=32", [0]), ("cmfh", "bits=16", [0]),
    ]  # fmt: skip
    summary = groups[0].summary("map@all", "i2t")
    assert (summary.mean, summary.std, summary.n) == (0.35, 0.0, 2)
    assert groups[0].summary("r@1", "i2t") is None


def test_a_label_names_whatever_tells_siblings_apart(tmp_path):
    other = record()
    other["params"] = {**other["params"], "iterations": 99}
    put(tmp_path, record(), other)
    assert {g.label for g in group_over_seeds(read_records(tmp_path).records)} == {
        "bits=16 iterations=6", "bits=16 iterations=99",
    }  # fmt: skip


def test_a_run_that_was_done_again_counts_once_and_the_newest_counts(tmp_path):
    newer = {"map@all": {"i2t": 0.5, "t2i": 0.5}}
    put(tmp_path, record(metrics=newer, when="2026-02-01T00:00:00+00:00"), record())
    found = read_records(tmp_path)
    assert found.superseded == 1
    assert found.records[0].metrics == newer


def test_a_record_of_the_first_version_is_read(tmp_path):
    old = record()
    for name in ("setting", "history", "origin"):
        del old[name]
    del old["eval"]["limit"]
    put(tmp_path, old, record(seed=1))
    (group,) = group_over_seeds(read_records(tmp_path).records)
    assert group.seeds == [0, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "holds a list"),
        ('{"recipe": "batch"}', "lacks a usable 'dataset', 'params'"),
        (json.dumps({**record(), "eval": {"protocol": "x", "colour": 1}}), "'eval'"),
        (json.dumps({**record(), "metrics": 3}), "'metrics'"),
    ],
)
def test_a_bad_record_is_named_and_skipped(tmp_path, content, reason):
    put(tmp_path, content, record())
    found = read_records(tmp_path)
    assert len(found.records) == 1
    assert reason in found.skipped[0].reason
    assert found.skipped[0].path.name == f"{0:064x}.json"


def test_show_tells_what_was_obtained_over_seeds_with_bounds_on_demand(own_cache):
    place = "database=hashed,items=database,ties="
    variants = {place + rule: {"map@all": {"i2t": v}} for rule, v in (("expected", 0.3), ("worst", 0.2), ("best", 0.4))}
    high = {**HAMMING, "map@all": {"i2t": 0.37, "t2i": 0.73}}
    put(own_cache, record(variants=variants), record(seed=1, metrics=high, variants=variants), record("cmfh"), "{batch")
    shown = CliRunner().invoke(show, ["batch", "--variants"]).stdout
    assert "60 sourced claims; 2 results in this cache" in shown
    assert "0.3600 ± 0.0141" in shown
    assert "[0.2000, 0.4000]" in shown
    assert max(map(len, shown.partition("sourced claims")[2].partition("@")[0].splitlines())) <= 100
    assert "[0.2000" not in CliRunner().invoke(show, ["batch"]).stdout


def test_only_the_recipes_own_settings_are_held_against_claims(tmp_path):
    changed = record(seed=1)
    changed["params"] = {**changed["params"], "iterations": 1}
    put(tmp_path, record(), changed)
    recipe = load_recipe("batch")
    own, other = sorted(group_over_seeds(read_records(tmp_path).records), key=lambda g: g.seeds)
    assert departures(own, recipe) == {}
    assert departures(other, recipe) == {"model.iterations": 1}
    assert all(row["departures"] for row in judge_group(other, recipe))
    claims = [c for c in results(tmp_path, recipe, [own, other])["claims"] if c["verdict"]]
    assert {c["group"] for c in claims} == {0}
    assert {c["n"] for c in claims} == {1}


def test_a_part_of_the_queries_answers_no_claim(tmp_path):
    part = record()
    part["eval"] = {**part["eval"], "limit": 10}
    put(tmp_path, part)
    (group,) = group_over_seeds(read_records(tmp_path).records)
    assert judge_group(group, load_recipe("batch")) == []


def test_variants_come_with_the_bounds_of_ties(tmp_path):
    place = "database=hashed,items=database,ties="
    variants = {place + rule: {"map@all": {"i2t": v}} for rule, v in (("expected", 0.3), ("worst", 0.2), ("best", 0.4))}
    put(tmp_path, record(variants=variants))
    (group,) = group_over_seeds(read_records(tmp_path).records)
    assert variant_rows(group) == [
        {"where": {"database": "hashed", "items": "database"}, "metric": "map@all", "direction": "i2t", "reading": "",
         "expected": 0.3, "worst": 0.2, "best": 0.4}
    ]  # fmt: skip


def test_the_command_of_a_card_repeats_its_runs(tmp_path):
    changed = record("scm", bits=32, seed=3)
    changed["params"] = {**changed["params"], "variant": "orthogonal"}
    iterations = record(bits=16)
    iterations["params"] = {**iterations["params"], "anchors": [10, 20]}
    put(tmp_path, changed, iterations, record("cca", bits=None), record("mrl", "digits", bits=None))
    for group in group_over_seeds(read_records(tmp_path).records):
        recipe = load_recipe(group.first.recipe)
        words = shlex.split(command(group, recipe, departures(group, recipe)))
        options = {w: words[i + 1] for i, w in enumerate(words) if w.startswith("--") and w != "--set"}
        sets = [words[i + 1] for i, w in enumerate(words) if w == "--set"]
        (run,) = resolve(
            words[2], options["--dataset"], bits=parse_integers(options.get("--bits"), "--bits"),
            seeds=parse_integers(options["--seed"], "--seed"), overrides=parse_overrides(sets),
        )  # fmt: skip
        assert {k: v for k, v in run.params.items() if k != "seed"} == group.first.params
        assert run.params["seed"] == group.first.seed


def test_every_method_says_what_it_optimises():
    for recipe in load_all():
        if recipe.runnable:
            parts = facts(recipe)["idea"]
            assert parts[0][0] == "p", recipe.key
            assert 40 < len(" ".join(text for kind, text in parts)) < 3000, recipe.key
    assert idea("T: a title.\n\nMinimise\n\n    x + y\n\nover x. Then y. And more.\n\nA note.") == [
        ["p", "Minimise"], ["pre", "x + y"], ["p", "over x. Then y."],
    ]  # fmt: skip


def test_a_league_ranks_all_methods_under_one_protocol(tmp_path):
    put_drawn_run(tmp_path, "batch")
    put_drawn_run(tmp_path, "dch", flipped=16)
    groups = [(g, load_recipe(g.first.recipe)) for g in group_over_seeds(read_records(tmp_path).records)]
    (league,) = league_tables(tmp_path, groups)
    assert league["protocol"]["database"] == "hashed"
    (table,) = league["tables"]
    assert [row["key"] for row in table["rows"]] == ["batch", "dch"]
    best, worse = table["rows"]
    assert best["scores"]["map@all"][0] > worse["scores"]["map@all"][0]
    assert best["scores"]["map@all"][1] > 0.75
    assert (best["letters"], worse["letters"]) == (["a", "a"], ["a", "a"])  # four queries cannot tell them apart


def test_a_gallery_shows_hits_and_misses_of_the_best_and_the_worst_query(tmp_path):
    put_drawn_run(tmp_path)
    (found,) = read_records(tmp_path).records
    thumbnails = Thumbnails(tmp_path / "gallery")
    pictures = gallery(tmp_path, found, thumbnails)
    queries = {q["row"]: q for q in pictures["i2t"]}
    assert queries[9]["sort"] == "worst"
    assert [hit for _, hit, _ in queries[9]["results"]] == [False] * 3 + [True] * 3
    assert [row for row, *_ in queries[7]["results"]] == [1, 3, 5, 0, 2, 4]
    assert queries[7]["results"][0][1:] == [True, 0.0]
    assert pictures["measure"] == "Hamming distance"
    assert pictures["images"][9]["labels"] == ["<b>red</b>"]
    assert pictures["texts"][1]["caption"] == "caption 1"
    assert (tmp_path / pictures["images"][9]["file"]).read_bytes()[:2] == b"\xff\xd8"
    assert thumbnails.files == 10


def test_an_empty_store_gives_the_catalogue_and_a_hint(tmp_path):
    written, page = site(tmp_path, tmp_path / "site")
    assert page.count("<tr data-key=") == 349
    assert "cmrkit reproduce batch --dataset shapes" in page
    assert (written["records"], written["with_results"], written["leagues"]) == (0, 0, 0)


def test_the_page_counts_what_the_catalogue_and_the_store_say(tmp_path):
    good = {"map@all": {"i2t": 0.3592, "t2i": 0.73354}}
    bad = {"map@all": {"i2t": 0.05, "t2i": 0.05}}
    put(tmp_path, record(metrics=good, variants={}), record("cmfh", metrics=bad, variants={}), record("dcmh"))
    _, page = site(tmp_path, tmp_path / "site")
    status = Counter(r.status for r in load_all())
    tiles = {label: int(n) for n, label in re.findall(r'class="count">(\d+).*?class="what">(\w+)<', page)}
    assert tiles == {
        "catalogued": 349, "runnable": 349 - status["catalogued"], "verified": status["verified"], "matching": 1,
        "near": 0, "below": 1, "above": 0, "unclaimed": 1,
    }  # fmt: skip
    papers = {p["key"]: p for p in index(page)["papers"]}
    assert papers["batch"]["verdict"] == "match"
    assert papers["dcmh"]["verdict"] == "unclaimed"
    assert papers["batch"]["numbers"][0][:4] == ["wikipedia", 16, "map@all", "oracle"]
    assert block(page, "run-batch")["groups"][0]["seeds"] == [0]
    assert block(page, "facts")["batch"]["bibtex"].startswith("@")


def test_the_page_is_self_contained_and_small(tmp_path):
    put_drawn_run(tmp_path)
    written, page = site(tmp_path, tmp_path / "site")
    assert written["bytes"] < 2_000_000
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', page)
    assert "style=" not in page.split("<script", 1)[0].partition("<body")[2]
    assert not re.search(r"<[^>]+\son\w+=", page.partition("<body")[2].split("<script", 1)[0])
    assert "default-src 'none'" in page
    assert block(page, "run-batch")["galleries"][0]["pixels"]
    assert written["gallery"]["files"] == len(list((tmp_path / "site" / "gallery").glob("*/*.jpg"))) == 10


def test_markup_in_a_record_stays_text(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    named = [{**record(seed=1), "dataset": evil}, {**record(), "recipe": evil}]
    put(tmp_path, record(paper=evil, environment={"device": evil}), *named, evil)
    _, page = site(tmp_path, tmp_path / "site")
    assert "1 records could not be used" in page
    assert evil not in page
    assert index(page)["strangers"] == [evil]
    shown = block(page, "run-batch")["groups"]
    assert {g["departs"] is None for g in shown} == {True, False}  # what the recipe does not know is not judged


def test_curves_are_means_over_seeds(tmp_path):
    def run(seed, precision):
        curve = {"radius": [0, 1], "precision": precision, "recall": [0.5, 1.0]}
        return record(seed=seed, metrics={**HAMMING, "pr_curve": {"i2t": curve}})

    put(tmp_path, run(0, [0.2, 0.1]), run(1, [0.4, 0.3]))
    shown = results(tmp_path, load_recipe("batch"), group_over_seeds(read_records(tmp_path).records))
    assert shown["groups"][0]["curves"]["pr_curve"]["i2t"]["precision"] == [0.3, 0.2]


def test_the_verb_writes_the_page_and_says_what(own_cache, tmp_path):
    put(own_cache, record(), "damaged")
    run = CliRunner()
    ran = run.invoke(verb, ["-o", str(tmp_path / "out"), "--no-gallery"])
    assert "349 papers, 1 of them with results from 1 runs" in ran.stdout
    assert "skipped" in ran.stderr
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "galleries" not in block(page, "run-batch")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CmrkitError, match="cannot be written"):
        write_site(Store(tmp_path), tmp_path / "file" / "below")
