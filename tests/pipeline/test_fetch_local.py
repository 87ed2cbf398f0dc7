"""Mirrors, files that are already here, and working offline: nothing in this file may need a network."""

import hashlib
import logging
import os

import pytest

from cmrkit.errors import CmrkitError
from cmrkit.pipeline import files
from cmrkit.pipeline.fetch import fetch_all, fetch_asset, locate, mirrors
from cmrkit.recipe.manifest import Asset

BODY = b"features"
SHA = hashlib.sha256(BODY).hexdigest()
URL = "http://127.0.0.1:9/raw.mat"  # nobody listens there


@pytest.fixture
def asset():
    return Asset(path="set/raw.mat", urls=[URL], sha256=SHA)


@pytest.fixture
def places(tmp_path):
    return {"destination": tmp_path / "downloads", "mirror": [tmp_path / "one", tmp_path / "two"], "offline": True}


def put(path, body=BODY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def test_the_mirrors_are_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("CMRKIT_MIRROR", os.pathsep.join(["/a", "", "/b"]))
    assert [str(path) for path in mirrors()] == ["/a", "/b"]


def test_a_file_in_a_mirror_is_used_in_place(asset, places):
    held = put(places["mirror"][1] / "set" / "raw.mat")
    assert fetch_asset(asset, **places) == held
    assert not (places["destination"] / "set").exists()


def test_a_file_straight_in_a_mirror_is_found_by_its_name(asset, places):
    held = put(places["mirror"][0] / "raw.mat")
    assert fetch_asset(asset, **places) == held


def test_a_bare_name_is_not_enough_without_a_digest(places):
    put(places["mirror"][0] / "raw.mat")
    with pytest.raises(CmrkitError, match=r"set/raw.mat is missing"):
        fetch_asset(Asset(path="set/raw.mat", urls=[URL]), **places)


def test_a_wrong_file_in_a_mirror_is_named_and_passed_over(asset, places, caplog):
    wrong = put(places["mirror"][0] / "set" / "raw.mat", b"something else")
    held = put(places["mirror"][1] / "set" / "raw.mat")
    with caplog.at_level(logging.WARNING):
        assert fetch_asset(asset, **places) == held
    assert f"{wrong} is not the right file: its sha256 is" in caplog.text
    assert f"expected {SHA}" in caplog.text


def test_a_wrong_size_needs_no_digest_to_be_seen(places):
    put(places["mirror"][0] / "set" / "raw.mat")
    with pytest.raises(CmrkitError, match="it has 8 bytes, expected 9"):
        fetch_asset(Asset(path="set/raw.mat", urls=[URL], size=9), **places)


def test_offline_says_what_is_missing_and_where_it_goes(asset, places, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    with pytest.raises(CmrkitError) as caught:
        fetch_asset(asset, **places)
    message = str(caught.value)
    assert "set/raw.mat is missing and cannot be downloaded offline" in message
    assert f"source: {URL}" in message
    assert str(places["mirror"][0] / "set" / "raw.mat") in message
    assert f"{places['mirror'][0]}, which is not a directory" in message
    assert not places["destination"].exists()


def test_without_a_mirror_the_download_directory_takes_a_file_by_hand(asset, places):
    places["mirror"] = []
    place = places["destination"] / "set" / "raw.mat"
    with pytest.raises(CmrkitError, match=f"by hand goes to {place}"):
        fetch_asset(asset, **places)
    put(place)
    assert fetch_asset(asset, **places) == place


def test_a_damaged_download_is_not_returned(asset, places):
    put(places["destination"] / "set" / "raw.mat", b"damaged!")
    assert locate(asset, destination=places["destination"]) is None
    with pytest.raises(CmrkitError, match="not the right file"):
        fetch_asset(asset, **places)


def test_every_missing_asset_is_named_at_once(asset, places):
    held = put(places["mirror"][0] / "set" / "held.txt")
    assets = {
        "raw": asset,
        "held": Asset(path="set/held.txt", urls=[URL]),
        "images": Asset(path="set/images.zip", urls=["manual://Fill in the form at https://example.org/ask"]),
    }
    with pytest.raises(CmrkitError) as caught:
        fetch_all(assets, **places)
    assert "set/raw.mat is missing" in str(caught.value)
    assert "by hand: Fill in the form at https://example.org/ask" in str(caught.value)
    assert "held.txt" not in str(caught.value)
    del assets["raw"], assets["images"]
    assert fetch_all(assets, **places) == {"held": held}


def test_a_digest_is_computed_once_and_again_when_the_file_changes(asset, places, monkeypatch):
    held = put(places["mirror"][0] / "set" / "raw.mat")
    fetch_asset(asset, **places)
    monkeypatch.setattr(files.hashlib, "new", lambda _: pytest.fail("the file was read again"))
    assert fetch_asset(asset, **places) == held
    monkeypatch.undo()
    put(held, b"tampered")
    with pytest.raises(CmrkitError, match="not the right file"):
        fetch_asset(asset, **places)


def test_a_damaged_memo_only_costs_time(asset, places):
    put(places["mirror"][0] / "set" / "raw.mat")
    fetch_asset(asset, **places)
    for memo in (places["destination"] / ".digests").iterdir():
        memo.write_text("[]")
    assert fetch_asset(asset, **places)
