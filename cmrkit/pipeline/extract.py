"""Unpacking archives from the internet: nothing is written outside, nothing unbounded, nothing half-done."""

from __future__ import annotations

import lzma
import posixpath
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.files import BLOCK, human, on_disk, require_room, sync_folder


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to. ``ratio`` (unpacked over packed) counts from ``ratio_from`` bytes on."""

    total: int = 1 << 40
    files: int = 5_000_000
    ratio: float = 200.0
    ratio_from: int = 1 << 30


@dataclass(frozen=True)
class _Member:
    """A file that can be opened, a link to the member ``link``, or else a folder."""

    name: str
    open: Callable[[], IO[bytes]] | None = None
    size: int = 0
    link: str | None = None


class _RefusedError(Exception):
    """This archive is not to be unpacked, because of what the message says."""


def extract_archive(archive: Path, target: Path, *, limits: Limits | None = None, progress: bool = False) -> Path:
    """Unpack a zip or tar(.gz, .bz2, .xz) archive into the new folder ``target``; return ``target``.

    ``target`` appears in one step when everything is written; where it exists already it is returned as it
    is, so let its name depend on the archive's digest. Links inside the archive become copies of the files
    they name.

    Raises CmrkitError where the archive is damaged, holds an absolute path, a path or link that leads
    outside, or a device, exceeds ``limits``, or does not fit on the disk; then nothing is left behind.
    """
    from filelock import FileLock

    with on_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    try:
        if not target.is_dir():
            _extract(archive, target, limits or Limits(), progress)
    finally:
        lock.release()
    return target


def _extract(archive: Path, target: Path, limits: Limits, progress: bool) -> None:
    staging = target.with_name(f".{target.name}.unpacking")
    with on_disk(staging):
        shutil.rmtree(staging, ignore_errors=True)  # of a killed process: the lock is ours
        staging.mkdir()
    try:
        with _explained(archive):
            _write_members(archive, staging, limits, progress)
        with on_disk(target):
            staging.replace(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_members(archive: Path, root: Path, limits: Limits, progress: bool) -> None:
    from tqdm import tqdm

    budget = _Budget(limits, archive.stat().st_size)
    show = progress and sys.stderr.isatty()
    with (
        _opened(archive) as members,
        tqdm(desc=f"unpacking {archive.name}", unit=" files", leave=False, disable=not show) as bar,
    ):
        links = {}
        for member in members:
            path = root / _safe_name(member.name)
            budget.add_file(member.name)
            if member.link is not None:
                links[path] = root / member.link
            else:
                _write_member(member, path, budget)
            bar.update()
        _write_links(links, budget)


def _write_member(member: _Member, path: Path, budget: _Budget) -> None:
    with on_disk(path):
        (path.parent if member.open else path).mkdir(parents=True, exist_ok=True)
    if member.open:
        require_room(path.parent, member.size)
        with member.open() as source:
            _copy(source, path, budget)


def _write_links(links: dict[Path, Path], budget: _Budget) -> None:
    """Copy what the links name. No link is ever made on the disk, so nothing can be written through one."""
    while ready := [path for path, wanted in links.items() if wanted.is_file()]:
        for path in ready:
            with on_disk(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with open(links.pop(path), "rb") as source:
                _copy(source, path, budget)
    if links:
        path, wanted = next(iter(links.items()))
        raise _RefusedError(f"its link {path.name!r} names no file of the archive ({wanted.name!r})")


def _copy(source: IO[bytes], path: Path, budget: _Budget) -> None:
    with on_disk(path):
        file = open(path, "wb")  # noqa: SIM115
    with file:
        while block := source.read(BLOCK):
            budget.add_bytes(len(block))
            with on_disk(path):
                file.write(block)


class _Budget:
    """Counts what really comes out: an archive's own statements about sizes prove nothing."""

    def __init__(self, limits: Limits, packed: int):
        self.limits, self.packed, self.bytes, self.files = limits, max(packed, 1), 0, 0

    def add_file(self, name: str) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise _RefusedError(f"more than {self.limits.files} files (at {name!r})")

    def add_bytes(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limits.total:
            raise _RefusedError(f"more than {human(self.limits.total)} unpacked")
        if self.bytes > max(self.limits.ratio_from, self.limits.ratio * self.packed):
            raise _RefusedError(f"it grows more than {self.limits.ratio:g} times when unpacked")


def _safe_name(name: str) -> str:
    """Return ``name`` as a relative path with plain parts. Raises _RefusedError where it leads elsewhere."""
    plain = name.replace("\\", "/")  # archives made on Windows
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or "\0" in plain or (parts and ":" in parts[0][1:2]):
        raise _RefusedError(f"its member {name!r} leads outside the archive")
    return "/".join(parts)


def _link_target(name: str, link: str) -> str:
    """Return the member that the symbolic link ``name`` points to."""
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if link.startswith("/") or joined == ".." or joined.startswith(("../", "/")):
        raise _RefusedError(f"its link {name!r} -> {link!r} leads outside the archive")
    return joined


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _zip_members(file)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            yield _tar_members(file)
    else:
        raise _RefusedError("it is neither a zip nor a tar archive, or it is damaged")


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            yield _Member(info.filename)
        elif kind == stat.S_IFLNK:
            yield _Member(info.filename, link=_link_target(info.filename, file.read(info).decode()))
        elif kind in (0, stat.S_IFREG):
            yield _Member(info.filename, partial(file.open, info), info.file_size)
        else:
            raise _RefusedError(f"its member {info.filename!r} is neither a file nor a folder")


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        if info.isdir():
            yield _Member(info.name)
        elif info.isreg():
            yield _Member(info.name, partial(file.extractfile, info), info.size)
        elif info.issym():
            yield _Member(info.name, link=_link_target(info.name, info.linkname))
        elif info.islnk():
            yield _Member(info.name, link=_safe_name(info.linkname))
        else:
            raise _RefusedError(f"its member {info.name!r} is neither a file nor a folder")


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    damage = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
    try:
        yield
    except _RefusedError as error:
        raise CmrkitError(f"{archive}: not unpacked: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: a password, an unknown compression
        raise CmrkitError(f"{archive}: cannot be unpacked: {error}") from error
    except damage as error:
        raise CmrkitError(f"{archive}: damaged or truncated ({error}): delete it and fetch it again") from error
