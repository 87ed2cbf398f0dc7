"""hf:// against a hub on loopback, in processes of their own because the hub's client reads its environment
when it is imported; gdrive:// against a stand-in for gdown."""

import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import gdown
import huggingface_hub
import pytest
import requests
from gdown.exceptions import FileURLRetrievalError
from huggingface_hub.utils import LocalEntryNotFoundError
from loopback import Answer, serving

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.fetch import fetch_asset
from cmrkit.pipeline.files import DiskFullError
from cmrkit.pipeline.retry import Retry
from cmrkit.recipe.manifest import Asset

BODY = os.urandom(200_000)
SHA = hashlib.sha256(BODY).hexdigest()
COMMIT = "c" * 40
FILE = f"hf://datasets/lab/pairs/data/train.bin@{COMMIT}"
RESOLVED = f"/datasets/lab/pairs/resolve/{COMMIT}/data/train.bin"

SCRIPT = """
import json, sys
from pathlib import Path
from cmrkit.errors import CmrkitError
from cmrkit.pipeline.fetch import fetch_asset
from cmrkit.pipeline.retry import Retry
from cmrkit.recipe.manifest import Asset
answers = []
for step in json.load(sys.stdin):
    asset = Asset(path="pairs/train.bin", urls=[step["url"]], sha256=step["sha256"])
    retry = Retry(attempts=2, sleep=lambda _: None)
    try:
        path = fetch_asset(asset, destination=Path(step["to"]), offline=step["offline"], progress=False, retry=retry)
        answers.append(str(path))
    except CmrkitError as error:
        answers.append(f"{type(error).__name__}: {error}")
json.dump(answers, sys.stdout)
"""


@pytest.fixture
def hub():
    with serving(BODY) as hub:
        hub.plan(Answer(headers={"X-Repo-Commit": COMMIT}), path=RESOLVED)
        yield hub


@pytest.fixture
def fetch_from(hub, tmp_path):
    """Fetch step after step in one process whose hub is the loopback one."""

    def run(*steps, **env):
        plain = {"sha256": SHA, "offline": False, "url": FILE}
        steps = [{**plain, "to": str(tmp_path / step.pop("to", "downloads")), **step} for step in map(dict, steps)]
        environment = {**os.environ, "HF_ENDPOINT": hub.url(""), "HF_HOME": str(tmp_path / "hf"), **env}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, input=json.dumps(steps), capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_hub_file_comes_once_and_serves_other_directories_offline(hub, fetch_from, tmp_path):
    first, second, third = fetch_from({}, {}, {"to": "elsewhere", "offline": True})
    assert first == second == str(tmp_path / "downloads/pairs/train.bin")
    assert (tmp_path / "downloads/pairs/train.bin").read_bytes() == BODY
    assert (tmp_path / "elsewhere/pairs/train.bin").read_bytes() == BODY
    assert third == str(tmp_path / "elsewhere/pairs/train.bin")
    assert [headers["Method"] for path, headers in hub.requests if path == RESOLVED] == ["HEAD", "GET"]


def test_offline_the_hub_is_not_asked(hub, fetch_from, tmp_path):
    [message] = fetch_from({"offline": True})
    assert "not in the Hugging Face cache" in message
    assert str(tmp_path / "downloads/pairs/train.bin") in message
    assert hub.count == 0


def test_a_damaged_cache_of_the_hub_is_mended(hub, fetch_from, tmp_path):
    fetch_from({})
    blob = next((tmp_path / "hf/hub").glob("datasets--lab--pairs/blobs/*"))
    blob.unlink()
    blob.write_bytes(b"damaged")
    os.utime(blob, (0, 0))
    [path] = fetch_from({"to": "elsewhere"})
    assert path == str(tmp_path / "elsewhere/pairs/train.bin")


def test_what_the_hub_refuses_is_explained(hub, fetch_from):
    page = hub.url("/datasets/lab/pairs")
    expected = {
        "GatedRepo": f"is gated: accept its terms at {page}, then log in",
        "RepoNotFound": f"no repository {page}, or it is private",
        "RevisionNotFound": f"{page} has no revision '{COMMIT}'",
        "EntryNotFound": f"{page} has no file 'data/EntryNotFound.bin' at revision {COMMIT}",
    }
    for code in expected:
        status = 403 if code == "GatedRepo" else 404
        hub.plan(Answer(status, b"", {"X-Error-Code": code}), path=RESOLVED.replace("train", code))
    messages = fetch_from(*({"url": FILE.replace("train", code)} for code in expected))
    for message, text in zip(messages, expected.values(), strict=True):
        assert text in message


@pytest.mark.parametrize(("status", "expected", "asked"), [(503, "gave up after 2 attempts", 2), (400, "HTTP 400", 1)])
def test_only_a_hub_that_may_recover_is_asked_again(monkeypatch, tmp_path, status, expected, asked):
    calls = []

    def unreachable(**_):
        calls.append(status)
        cause = OSError(f"HTTP {status}")
        cause.response = SimpleNamespace(status_code=status)
        raise LocalEntryNotFoundError("not here and not there") from cause

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    asset = Asset(path="pairs/train.bin", urls=[FILE], sha256=SHA)
    with pytest.raises(CmrkitError, match=expected):
        fetch_asset(asset, destination=tmp_path, progress=False, retry=Retry(sleep=lambda _: None))
    assert len(calls) == asked


def test_the_hubs_own_offline_switch_is_honoured(hub, fetch_from):
    [message] = fetch_from({}, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in message
    assert hub.count == 0


def test_a_wrong_file_on_the_hub_is_not_published(fetch_from, tmp_path):
    [message] = fetch_from({"sha256": "0" * 64})
    assert f"its sha256 is {SHA}, expected {'0' * 64}" in message
    assert not (tmp_path / "downloads/pairs/train.bin").exists()


@pytest.fixture
def drive(monkeypatch):
    """Stand in for gdown.download; the test sets what it does with the output file."""
    calls = []

    def act(behaviour):
        def download(id, output, quiet, resume):
            calls.append(id)
            behaviour(output)

        monkeypatch.setattr(gdown, "download", download)
        return calls

    return act


def fetch_drive(tmp_path, **options):
    asset = Asset(path="pairs/train.bin", urls=["gdrive://1a2B3c4D5e6F", *options.pop("more", [])], sha256=SHA)
    retry = Retry(attempts=3, sleep=lambda _: None)
    return fetch_asset(asset, destination=tmp_path, progress=False, retry=retry, **options)


def write(body):
    def behaviour(output):
        with open(output, "wb") as file:
            file.write(body)

    return behaviour


def fail(error):
    def behaviour(output):
        raise error

    return behaviour


def test_a_drive_file_is_verified_and_published(drive, tmp_path):
    calls = drive(write(BODY))
    assert fetch_drive(tmp_path).read_bytes() == BODY
    assert calls == ["1a2B3c4D5e6F"]
    assert [p.name for p in (tmp_path / "pairs").iterdir() if p.suffix != ".lock"] == ["train.bin"]


def test_a_quota_page_is_called_by_its_name(drive, tmp_path):
    drive(write(b"<html><head><title>Quota exceeded</title></head></html>"))
    with pytest.raises(CmrkitError, match=r"page titled 'Quota exceeded'.*drive.google.com/file/d/1a2B3c4D5e6F/view"):
        fetch_drive(tmp_path)


def test_a_drive_that_refuses_says_how_to_go_on_by_hand(drive, tmp_path):
    drive(fail(FileURLRetrievalError("Too many users\nhave viewed this file")))
    with pytest.raises(CmrkitError, match=r"Too many users have viewed this file \(Google Drive limits") as caught:
        fetch_drive(tmp_path)
    assert str(tmp_path / "pairs/train.bin") in str(caught.value)


def test_a_drive_that_cannot_be_reached_is_asked_again(drive, tmp_path):
    calls = drive(fail(requests.ConnectionError("reset")))
    with pytest.raises(CmrkitError, match=r"reset \(gave up after 3 attempts\)"):
        fetch_drive(tmp_path)
    assert len(calls) == 3


def test_a_full_disk_is_told_apart_from_a_failing_drive(drive, tmp_path):
    drive(fail(OSError(28, "No space left on device")))
    with pytest.raises(DiskFullError):
        fetch_drive(tmp_path)


def test_offline_the_drive_is_not_asked(drive, tmp_path):
    calls = drive(write(BODY))
    with pytest.raises(CmrkitError, match="offline"):
        fetch_drive(tmp_path, offline=True, more=["hf://lab/pairs/none.bin@main"])
    assert calls == []
