"""What happens to images that cannot be read and captions that say nothing."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import cmrkit
from cmrkit.cli.plan import command as plan
from cmrkit.cli.reproduce import command as reproduce
from cmrkit.data.readers import shapes
from cmrkit.errors import UsageError
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import resolve

TRAINED, QUERY = 3, 2399  # an image of each


@pytest.fixture
def two_empty_captions(monkeypatch):
    read = shapes.read

    def damaged(*args, **kwargs):
        data = read(*args, **kwargs)
        captions = list(data.captions)
        captions[5 * TRAINED + 1] = captions[5 * QUERY] = " "
        return dataclasses.replace(data, captions=captions)

    monkeypatch.setattr(shapes, "read", damaged)


def test_a_bad_item_ends_a_run_and_is_named(two_empty_captions, tmp_path):
    with pytest.raises(UsageError, match=f"text row {5 * TRAINED + 1}"):
        cmrkit.reproduce("cca", "shapes", seeds=[0], cache=tmp_path)


def test_bad_items_are_left_out_counted_and_said(two_empty_captions, tmp_path):
    document = cmrkit.reproduce("cca", "shapes", seeds=[0], cache=tmp_path, skip_bad=True)
    run = document["runs"][0]
    assert run["skipped"] == 2
    assert "2 bad images left out" in document["protocol"]
    with open(run["record"], encoding="utf-8") as file:
        assert json.load(file)["skipped"] == 2
    key = next(s["key"] for s in document["steps"] if s["name"] == "features")
    data = FeatureSet.load(tmp_path / "artifacts" / "features" / key)
    kept = np.concatenate(list(data.splits.values()))
    assert not {TRAINED, QUERY} & set(kept.tolist())
    assert len(data.splits["train"]) == 1799
    again = cmrkit.reproduce("cca", "shapes", seeds=[0], cache=tmp_path, skip_bad=True)
    assert again["runs"] == document["runs"]


def test_the_verb_shows_what_was_left_out(two_empty_captions, tmp_path, monkeypatch):
    monkeypatch.setenv("CMRKIT_CACHE", str(tmp_path))
    shown = CliRunner().invoke(reproduce, ["cca", "-d", "shapes", "--seed", "0", "--skip-bad"])
    assert shown.exit_code == 0, shown.output
    assert "2 bad images left out" in " ".join(shown.output.split())


def test_sound_data_are_whole_and_say_nothing(tmp_path):
    document = cmrkit.reproduce("cca", "shapes", seeds=[0], cache=tmp_path)
    assert document["runs"][0]["skipped"] == 0
    assert "left out" not in document["protocol"]


def test_skipping_is_part_of_the_features_key_and_of_all_that_follow(tmp_path, monkeypatch):
    monkeypatch.setenv("CMRKIT_CACHE", str(tmp_path))
    run = resolve("cca", "shapes", seeds=[0])[0]
    with_all, without = ({s.name: s.key for s in plan_run(run, skip).ancestry()} for skip in (False, True))
    assert [n for n in with_all if with_all[n] == without[n]] == ["download", "prepare"]
    planned = json.loads(
        CliRunner().invoke(plan, ["cca", "-d", "shapes", "--seed", "0", "--skip-bad", "--json"]).output
    )
    assert {s["name"]: s["key"] for s in planned["steps"]} == without
