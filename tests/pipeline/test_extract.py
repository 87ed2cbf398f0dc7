"""Archives are unpacked whole or not at all, and never outside their folder."""

import io
import stat
import tarfile
import zipfile

import pytest

from cmrkit.errors import CmrkitError
from cmrkit.pipeline import extract
from cmrkit.pipeline.extract import Limits, extract_archive
from cmrkit.pipeline.files import DiskFullError


def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def make_tar(path, members, mode="w:gz"):
    """Members are bytes, or a TarInfo-changing function."""
    with tarfile.open(path, mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            if callable(body):
                body(info)
                archive.addfile(info)
            else:
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return path


def link(kind, target):
    def change(info):
        info.type, info.linkname = kind, target

    return change


def device(info):
    info.type = tarfile.CHRTYPE


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(archive, tmp_path, match, **options):
    before = {p for p in tmp_path.rglob("*") if p.suffix != ".lock"}
    with pytest.raises(CmrkitError, match=match):
        extract_archive(archive, tmp_path / "out", **options)
    assert {p for p in tmp_path.rglob("*") if p.suffix != ".lock"} == before


MEMBERS = {"a.txt": b"one", "images/b.jpg": b"two", "images/deep/c.jpg": b""}


def test_a_zip_is_unpacked(tmp_path):
    out = extract_archive(make_zip(tmp_path / "a.zip", MEMBERS), tmp_path / "deep" / "out")
    assert contents(out) == MEMBERS
    assert not list(out.parent.glob("*.unpacking"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_unpacked_however_it_is_compressed(tmp_path, mode):
    assert contents(extract_archive(make_tar(tmp_path / "a.tar", MEMBERS, mode), tmp_path / "out")) == MEMBERS


def test_what_is_unpacked_already_is_left_alone(tmp_path):
    archive = make_zip(tmp_path / "a.zip", MEMBERS)
    out = extract_archive(archive, tmp_path / "out")
    archive.write_bytes(b"no archive any more")
    assert extract_archive(archive, tmp_path / "out") == out


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    stale = tmp_path / ".out.unpacking"
    stale.mkdir()
    (stale / "stale.txt").write_text("half")
    assert contents(extract_archive(make_zip(tmp_path / "a.zip", MEMBERS), tmp_path / "out")) == MEMBERS


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_paths_that_lead_outside_are_refused(tmp_path, name):
    assert_refused(make_zip(tmp_path / "a.zip", {"ok.txt": b"1", name: b"2"}), tmp_path, "leads outside")
    assert_refused(make_tar(tmp_path / "a.tgz", {"ok.txt": b"1", name: b"2"}), tmp_path, "leads outside")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd"])
def test_links_that_lead_outside_are_refused(tmp_path, kind, target):
    assert_refused(make_tar(tmp_path / "a.tgz", {"d/evil": link(kind, target)}), tmp_path, "leads outside")


def zip_with_link(path, target):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/b.jpg", b"two")
        info = zipfile.ZipInfo("images/alias.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
    return path


def test_a_link_that_leads_out_of_a_zip_is_refused(tmp_path):
    assert_refused(zip_with_link(tmp_path / "a.zip", "../../b"), tmp_path, "leads outside")


def test_links_within_the_archive_become_files(tmp_path):
    links = {
        "early": link(tarfile.SYMTYPE, "later"),
        "later": link(tarfile.SYMTYPE, "images/b.jpg"),
        "images/hard": link(tarfile.LNKTYPE, "images/b.jpg"),
        "images/up": link(tarfile.SYMTYPE, "../images/b.jpg"),
    }
    out = extract_archive(make_tar(tmp_path / "a.tgz", {**links, "images/b.jpg": b"two"}), tmp_path / "out")
    assert contents(out) == dict.fromkeys([*links, "images/b.jpg"], b"two")
    assert not any(p.is_symlink() for p in out.rglob("*"))
    zipped = extract_archive(zip_with_link(tmp_path / "a.zip", "b.jpg"), tmp_path / "zipped")
    assert contents(zipped)["images/alias.jpg"] == b"two"


def test_a_member_cannot_be_written_through_a_link(tmp_path):
    members = {"d": link(tarfile.SYMTYPE, "elsewhere"), "elsewhere/x": b"1", "d/evil": b"2"}
    assert_refused(make_tar(tmp_path / "a.tgz", members), tmp_path, "names no file")


@pytest.mark.parametrize("loop", [{"a": "b", "b": "a"}, {"a": "a"}, {"a": "missing"}, {"a": "."}])
def test_links_that_name_no_file_are_refused(tmp_path, loop):
    members = {name: link(tarfile.SYMTYPE, target) for name, target in loop.items()}
    assert_refused(make_tar(tmp_path / "a.tgz", members), tmp_path, "names no file")


def test_devices_are_refused(tmp_path):
    assert_refused(make_tar(tmp_path / "a.tgz", {"null": device}), tmp_path, "neither a file nor a folder")


def test_an_archive_that_explodes_is_refused(tmp_path):
    bomb = make_zip(tmp_path / "a.zip", {"zeros": bytes(3_000_000)})
    assert_refused(bomb, tmp_path, "grows more than 50 times", limits=Limits(ratio=50, ratio_from=100_000))
    assert_refused(bomb, tmp_path, r"more than 1.0 MB unpacked", limits=Limits(total=1_000_000))
    assert_refused(bomb, tmp_path, "more than 0 files", limits=Limits(files=0))
    assert extract_archive(bomb, tmp_path / "fine").is_dir()


def test_links_count_as_what_they_become(tmp_path):
    members = {"b": bytes(1000), **{f"l{i}": link(tarfile.SYMTYPE, "b") for i in range(9)}}
    archive = make_tar(tmp_path / "a.tgz", members)
    assert_refused(archive, tmp_path, "more than 5.0 kB unpacked", limits=Limits(total=5000))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_truncated_archive_is_reported_and_leaves_nothing(tmp_path, make):
    archive = make(tmp_path / "a.bin", {"noise": bytes(range(256)) * 4000, "more": b"x" * 50_000})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert_refused(archive, tmp_path, r"a\.bin: (damaged|not unpacked: it is neither)")


def test_a_damaged_member_is_reported(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"noise": b"0123456789" * 100}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"9876543210"))
    assert_refused(archive, tmp_path, "damaged or truncated.*fetch it again")


def test_something_else_is_no_archive(tmp_path):
    plain = tmp_path / "page.zip"
    plain.write_text("<html>")
    assert_refused(plain, tmp_path, "neither a zip nor a tar")


def test_a_file_where_a_folder_is_needed_is_reported(tmp_path):
    assert_refused(make_tar(tmp_path / "a.tgz", {"a": b"1", "a/b": b"2"}), tmp_path, "cannot be used")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = make_zip(tmp_path / "a.zip", MEMBERS)
    monkeypatch.setattr(extract, "open", full, raising=False)
    with pytest.raises(DiskFullError, match="no space left"):
        extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.unpacking").exists()
