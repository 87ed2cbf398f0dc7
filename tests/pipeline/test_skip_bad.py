"""What happens to images that cannot be read and captions that say nothing."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import cmrkit
from cmrkit.api import describe_protocol
from cmrkit.cli.plan import command as plan
from cmrkit.cli.reproduce import command as reproduce
from cmrkit.data.readers import shapes
from cmrkit.errors import UsageError
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import resolve
from cmrkit.recipe.library import load_recipe
from cmrkit.reporting.attestation import attest, attested_records
from cmrkit.reporting.records import Group, departures, read_records
from cmrkit.reporting.verification import check

BAD = [0, 2399]  # images: the first is one of those that train
COMMAND = ["dch", "-d", "shapes", "--bits", "8", "--seed", "0"]


@pytest.fixture
def damaged(monkeypatch):
    """Two images of the smoke set have an empty caption."""
    read = shapes.read

    def damage(*args, **kwargs):
        data = read(*args, **kwargs)
        captions = list(data.captions)
        for image in BAD:
            captions[5 * image + 2] = " "
        return dataclasses.replace(data, captions=captions)

    monkeypatch.setattr(shapes, "read", damage)


def test_a_bad_item_ends_a_run_and_is_named(damaged):
    with pytest.raises(UsageError, match=r"text row 2, of image row 0, is empty \(2 such captions\)"):
        cmrkit.reproduce("dch", "shapes", bits=[8], seeds=[0])


def test_bad_items_are_left_out_counted_and_said(damaged, own_cache):
    document = cmrkit.reproduce("dch", "shapes", bits=[8], seeds=[0], skip_bad=True)
    run = document["runs"][0]
    assert run["skipped"] == 2
    with open(run["record"], encoding="utf-8") as file:
        assert json.load(file)["skipped"] == 2
    key = next(s["key"] for s in document["steps"] if s["name"] == "features")
    splits = FeatureSet.load(own_cache / "artifacts" / "features" / key).splits
    assert not np.isin(BAD, np.concatenate(list(splits.values()))).any()
    assert len(splits["train"]) == 1799
    shown = CliRunner().invoke(reproduce, [*COMMAND, "--skip-bad"])
    assert "2 bad images left out of the data" in " ".join(shown.output.split())
    assert "every step was cached" in shown.output


def test_a_run_without_its_bad_items_is_attested_and_done_again_without_them(damaged, own_cache, tmp_path):
    cmrkit.reproduce("dch", "shapes", bits=[8], seeds=[0], skip_bad=True)
    document = attest(read_records(own_cache, "dch").records)
    assert document["runs"][0]["skipped"] == 2
    assert check(document, tmp_path / "dch.json")["holds"]
    with_all = {**document["runs"][0], "skipped": 0}
    (record,) = attested_records({**document, "runs": [with_all]})
    assert not departures(Group((record,)), load_recipe("dch"))
    (record,) = attested_records(document)
    assert departures(Group((record,)), load_recipe("dch")) == {"data.skipped": 2}


def test_data_without_bad_items_are_not_spoken_of():
    run = resolve("dch", "shapes", bits=[8], seeds=[0])[0]
    assert "left out" not in describe_protocol(run)
    assert "1 bad image left out" in describe_protocol(run, skipped=1)


def test_skipping_is_part_of_the_key_of_the_features_and_of_all_that_follows():
    run = resolve("dch", "shapes", bits=[8], seeds=[0])[0]
    with_all, without = ({s.name: s.key for s in plan_run(run, skip).ancestry()} for skip in (False, True))
    assert [name for name in with_all if with_all[name] == without[name]] == ["download", "prepare"]
    planned = json.loads(CliRunner().invoke(plan, [*COMMAND, "--skip-bad", "--json"]).output)
    assert {s["name"]: s["key"] for s in planned["steps"]} == without
