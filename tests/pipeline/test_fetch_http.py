"""Downloads over HTTP from a real server on loopback that breaks, lies and changes its mind."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from loopback import Answer, serving

from cmrkit.errors import CmrkitError
from cmrkit.pipeline import files, http
from cmrkit.pipeline.fetch import fetch_asset
from cmrkit.pipeline.files import DiskFullError
from cmrkit.pipeline.retry import Retry, SourceError, TransientError
from cmrkit.recipe.manifest import Asset

BODY = os.urandom(600_000)
SHA = hashlib.sha256(BODY).hexdigest()
CUT = 400_000


@pytest.fixture
def site():
    with serving(BODY) as site:
        yield site


@pytest.fixture
def waits():
    return []


@pytest.fixture
def fetch(tmp_path, waits):
    """Fetch an asset from these URLs; what the back-off would have waited is noted in ``waits``."""

    def run(*urls, sha256=SHA, path="set/file.bin", **options):
        known = {"sha256": sha256, **{k: options.pop(k) for k in ("size", "md5") if k in options}}
        retry = Retry(attempts=3, sleep=waits.append, jitter=lambda: 1.0, timeout=(5, 5))
        asset = Asset(path=path, urls=urls, **known)
        options = {"destination": tmp_path / "downloads", "progress": False, "retry": retry, **options}
        return fetch_asset(asset, **options)

    return run


def left_behind(tmp_path):
    """Files under the download directory that are not bookkeeping."""
    found = [p for p in (tmp_path / "downloads").rglob("*") if p.is_file() and ".digests" not in p.parts]
    return sorted(p.name for p in found if p.suffix != ".lock")


def test_a_file_is_downloaded_once_and_found_afterwards(site, fetch, tmp_path):
    first = fetch(site.url())
    assert first == tmp_path / "downloads" / "set" / "file.bin"
    assert first.read_bytes() == BODY
    assert fetch(site.url()) == first
    assert site.count == 1
    assert left_behind(tmp_path) == ["file.bin"]


def test_redirects_are_followed(site, fetch):
    url = site.plan(Answer(302, b"", {"Location": "/elsewhere"}))
    assert fetch(url).read_bytes() == BODY


def test_a_redirect_loop_is_reported(site, fetch):
    url = site.plan(Answer(302, b"", {"Location": "/file.bin"}))
    with pytest.raises(CmrkitError, match="redirect"):
        fetch(url)


def test_a_broken_transfer_goes_on_where_it_stopped(site, fetch, waits):
    url = site.plan(Answer(cut=CUT), Answer())
    assert fetch(url).read_bytes() == BODY
    assert site.ranges()[0] is None
    assert 200_000 < int(site.ranges()[1][6:-1]) <= CUT
    assert site.requests[1][1]["If-Range"] == '"v1"'
    assert len(waits) == 1


def test_attempts_count_only_where_nothing_new_arrives(site, fetch):
    url = site.plan(*[Answer(cut=131_072) for _ in range(4)], Answer())
    assert fetch(url).read_bytes() == BODY


def test_a_server_that_falls_silent_is_not_waited_for(site, fetch):
    url = site.plan(Answer(cut=CUT, stall=30), Answer())
    assert fetch(url, retry=Retry(sleep=lambda _: None, timeout=(5, 0.2))).read_bytes() == BODY
    assert site.ranges()[1] is not None


def fetching(url, destination, first=""):
    """A program that fetches the file from ``url``."""
    return textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from cmrkit.pipeline.fetch import fetch_asset
        from cmrkit.recipe.manifest import Asset
        asset = Asset(path="set/file.bin", urls=["{url}"], sha256="{SHA}")
        {first}
        print(fetch_asset(asset, destination=Path(r"{destination}"), progress=False))
        """
    )


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_killed_process_leaves_a_part_that_the_next_one_resumes(site, fetch, tmp_path):
    url = site.plan(Answer(cut=CUT, stall=30), Answer())
    folder = tmp_path / "downloads" / "set"
    child = subprocess.Popen([sys.executable, "-c", fetching(url, tmp_path / "downloads")])
    wait_until(lambda: any(part.stat().st_size > 100_000 for part in folder.glob(".file.bin.*.part")))
    child.kill()
    child.wait()
    assert not (folder / "file.bin").exists()
    assert fetch(url).read_bytes() == BODY
    assert site.ranges()[1] is not None
    assert left_behind(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("sidecar", ["", "[]", "{}", '{"url": "http://other", "validator": "x"}'])
def test_a_part_of_unknown_origin_is_not_resumed(site, fetch, tmp_path, sidecar):
    url = site.plan(Answer(cut=CUT), Answer(503))
    with pytest.raises(CmrkitError):
        fetch(url)
    next((tmp_path / "downloads/set").glob("*.part.json")).write_text(sidecar)
    site.plan(Answer())
    assert fetch(url).read_bytes() == BODY
    assert site.ranges()[-1] is None


def test_a_later_run_resumes_what_a_failed_one_left(site, fetch, tmp_path):
    url = site.plan(Answer(cut=CUT), Answer(503))
    with pytest.raises(CmrkitError, match="503"):
        fetch(url)
    assert not (tmp_path / "downloads/set/file.bin").exists()
    site.plan(Answer())
    assert fetch(url).read_bytes() == BODY
    assert site.ranges()[-1] is not None


def test_a_server_that_ignores_ranges_is_read_from_the_start(site, fetch):
    url = site.plan(Answer(cut=CUT), Answer(ranges=False))
    assert fetch(url).read_bytes() == BODY


def test_a_server_without_validator_is_read_from_the_start(site, fetch):
    url = site.plan(Answer(cut=CUT, headers={"ETag": None}), Answer())
    assert fetch(url).read_bytes() == BODY
    assert site.ranges() == [None, None]


def test_a_weak_etag_gives_way_to_the_date(site, fetch):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    url = site.plan(Answer(cut=CUT, headers={"ETag": 'W/"v1"', "Last-Modified": date}), Answer())
    assert fetch(url).read_bytes() == BODY
    assert site.requests[1][1]["If-Range"] == date


def test_a_file_that_changed_meanwhile_is_not_stitched_together(site, fetch):
    url = site.plan(Answer(cut=CUT, body=os.urandom(600_000), headers={"ETag": '"v0"'}), Answer())
    assert fetch(url).read_bytes() == BODY


def test_nor_where_the_server_overlooks_if_range(site, fetch):
    url = site.plan(Answer(cut=CUT, body=os.urandom(600_000), headers={"ETag": '"v0"'}), Answer(validate=False))
    assert fetch(url, sha256=None).read_bytes() == BODY


def test_damaged_bytes_of_an_earlier_run_are_given_up(site, fetch, tmp_path):
    url = site.plan(Answer(cut=CUT), Answer(503))
    with pytest.raises(CmrkitError):
        fetch(url)
    part = next((tmp_path / "downloads/set").glob("*.part"))
    part.write_bytes(bytes(part.stat().st_size))
    site.plan(Answer())
    assert fetch(url).read_bytes() == BODY


def test_a_part_that_is_already_complete_is_recognised(site, fetch):
    url = site.plan(Answer(claim=len(BODY) + 5), Answer())  # the server promised more than there is
    assert fetch(url).read_bytes() == BODY
    assert site.ranges()[-1] == f"bytes={len(BODY)}-"  # answered 416 with the true length


def test_a_server_that_promises_too_much_for_ever_fails(site, fetch):
    url = site.plan(Answer(claim=len(BODY) + 5, ranges=False))
    with pytest.raises(CmrkitError, match=r"the connection broke after 600.0 kB of 600.0 kB|IncompleteRead"):
        fetch(url)


def test_a_server_that_promises_too_little_is_found_out_by_the_digest(site, fetch, tmp_path):
    url = site.plan(Answer(claim=len(BODY) - 1))
    with pytest.raises(CmrkitError, match=f"expected {SHA}"):
        fetch(url)
    assert left_behind(tmp_path) == []


def test_a_wrong_size_is_refused_before_the_transfer(site, fetch, tmp_path):
    with pytest.raises(CmrkitError, match="the server offers 600000 bytes, expected 7"):
        fetch(site.url(), size=7)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_asked_again(site, fetch, waits, status):
    assert fetch(site.plan(Answer(status, b""), Answer(status, b""), Answer())).read_bytes() == BODY
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_failure_moves_on_to_the_next_url(site, fetch, waits, status):
    assert fetch(site.plan(Answer(status, b"")), site.url("/other")).read_bytes() == BODY
    assert waits == []
    assert [path for path, _ in site.requests] == ["/file.bin", "/other"]


def test_retry_after_is_honoured_up_to_the_cap(site, fetch, waits):
    slow = Answer(429, b"", {"Retry-After": "7"}), Answer(429, b"", {"Retry-After": "86400"}), Answer()
    fetch(site.plan(*slow))
    assert waits == [7.0, 120.0]


def test_retry_after_may_be_a_date(site, fetch, waits):
    fetch(site.plan(Answer(503, b"", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), Answer()))
    assert waits == [0.0]


def test_wrong_bytes_move_on_to_the_next_url_and_leave_nothing(site, fetch, tmp_path):
    wrong = site.plan(Answer(body=b"something else"), path="/wrong")
    assert fetch(wrong, site.url()).read_bytes() == BODY
    assert left_behind(tmp_path) == ["file.bin"]


def test_every_url_is_listed_with_its_failure_and_the_place_for_a_file_by_hand(site, fetch, tmp_path):
    gone, wrong = site.plan(Answer(404, b""), path="/gone"), site.plan(Answer(body=b"x" * 9), path="/wrong")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with pytest.raises(CmrkitError) as caught:
        fetch(gone, wrong, "manual://Ask the authors for it.", mirror=[mirror])
    message = str(caught.value)
    assert f"{gone}: HTTP 404: not found" in message
    assert f"{wrong}: what came is not the right file: its sha256 is" in message
    assert SHA in message
    assert "by hand: Ask the authors for it." in message
    assert str(mirror / "set" / "file.bin") in message
    assert left_behind(tmp_path) == []


def test_a_login_page_is_called_by_its_name(site, fetch, tmp_path):
    page = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
    with pytest.raises(CmrkitError, match="an HTML page titled 'Sign in' came instead"):
        fetch(site.plan(Answer(body=page)), sha256=None)
    assert left_behind(tmp_path) == []


def test_a_page_that_is_wanted_is_taken(site, fetch):
    page = b"<html></html>"
    assert fetch(site.plan(Answer(body=page)), sha256=None, path="a/page.html").read_bytes() == page


def test_a_body_that_the_server_compressed_is_unpacked(site, fetch):
    packed = Answer(body=gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
    assert fetch(site.plan(packed)).read_bytes() == BODY


def test_a_body_that_the_server_compressed_is_not_resumed(site, fetch):
    encoded = {"body": gzip.compress(BODY), "headers": {"Content-Encoding": "gzip"}}
    assert fetch(site.plan(Answer(cut=CUT, **encoded), Answer(**encoded))).read_bytes() == BODY
    assert site.ranges() == [None, None]


def test_a_stored_archive_that_is_labelled_as_compressed_is_kept(site, fetch):
    stored = gzip.compress(b"captions")
    url = site.plan(Answer(body=stored, headers={"Content-Encoding": "gzip"}))
    path = fetch(url, sha256=hashlib.sha256(stored).hexdigest(), path="a/captions.json.gz")
    assert path.read_bytes() == stored


def test_md5_serves_where_there_is_no_sha256(site, fetch):
    md5 = hashlib.md5(BODY).hexdigest()
    assert fetch(site.url(), sha256=None, md5=md5).is_file()
    with pytest.raises(CmrkitError, match=f"its md5 is {md5}, expected {'0' * 32}"):
        fetch(site.url(), sha256=None, md5="0" * 32, path="set/other.bin")


def test_nobody_listening_is_said_plainly(fetch, site):
    url = site.url().replace(str(site.port), "9")
    with pytest.raises(CmrkitError, match=r"Connection refused.*gave up after 3 attempts"):
        fetch(url)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_at_once_and_publishes_nothing(site, fetch, tmp_path, monkeypatch, code):
    real = open

    def full_open(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        return _Full(file, code) if str(path).endswith(".part") and mode == "wb" else file

    monkeypatch.setattr(http, "open", full_open, raising=False)
    with pytest.raises(DiskFullError, match="no space left"):
        fetch(site.url(), site.url("/other"))
    assert site.count == 1
    assert not (tmp_path / "downloads/set/file.bin").exists()


class _Full:
    def __init__(self, file, code):
        self.file, self.code = file, code

    def write(self, chunk):
        raise OSError(self.code, os.strerror(self.code))

    def close(self):
        self.file.close()


def test_a_file_that_cannot_fit_is_not_begun(site, fetch, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"600\.0 kB needed, 1\.0 kB free"):
        fetch(site.url())


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_really_fills_up_says_so(site, fetch, small_disk, monkeypatch):
    monkeypatch.setattr(http, "require_room", lambda *_: None)
    with pytest.raises(DiskFullError, match="no space left"):
        fetch(site.url(), destination=small_disk)
    assert not (small_disk / "set/file.bin").exists()


def test_a_folder_that_cannot_be_written_is_named(site, fetch, tmp_path):
    (tmp_path / "downloads").write_text("a file where a folder is needed")
    with pytest.raises(CmrkitError, match=r"downloads.*cannot be used"):
        fetch(site.url())


def test_two_processes_that_want_one_file_transfer_it_once(site, tmp_path):
    script = fetching(site.url(), tmp_path, first='print("ready", flush=True); sys.stdin.readline()')
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert {process.communicate(timeout=60)[0].strip() for process in both} == {str(tmp_path / "set/file.bin")}
    assert site.count == 1


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = ("requests", "huggingface_hub", "gdown", "tqdm")
    script = f"import sys, cmrkit.pipeline.fetch; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_wait_doubles_up_to_the_cap_and_is_spread_by_chance():
    retry = Retry(base=1.0, cap=10.0, jitter=lambda: 1.0)
    assert [retry.delay(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert Retry(base=1.0, jitter=lambda: 0.0).delay(1) == 0.5


def test_a_server_that_always_starts_over_is_given_up():
    sizes = iter([0, 50, 50, 30, 30, 50, 50, 50, 50])

    def attempt():
        raise TransientError("cut")

    with pytest.raises(SourceError, match="gave up after 3 attempts"):
        Retry(attempts=3, sleep=lambda _: None).run(attempt, lambda: next(sizes))


def test_progress_is_silent_where_nobody_watches(site, fetch, capfd):
    fetch(site.url(), progress=True)
    assert capfd.readouterr() == ("", "")


def test_the_published_file_is_as_readable_as_any_other(site, fetch):
    assert Path(fetch(site.url())).stat().st_mode & 0o444 == 0o444
