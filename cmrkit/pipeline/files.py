"""Files on the local disk: digests that are computed once, room, and publication in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cmrkit.errors import CmrkitError
from cmrkit.recipe.manifest import Asset

BLOCK = 1 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class DiskFullError(CmrkitError):
    """The disk has no room left: trying another source would not help."""


def human(size: float) -> str:
    """Return a number of bytes as people write it, e.g. ``1.4 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CmrkitError about ``path``, DiskFullError if there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"{path}: no space left on this disk; free some and run the same command again "
                "(what arrived so far is kept and will be resumed)"
            ) from error
        raise CmrkitError(f"{path}: cannot be used: {error.strerror or error}") from error


def require_room(folder: Path, size: int) -> None:
    """Raise DiskFullError where ``size`` more bytes do not fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DiskFullError(f"{folder}: {human(size)} needed, {human(free)} free; make room, or choose another disk")


def content_digest(path: Path, algorithm: str = "sha256", memo: Path | None = None) -> str:
    """Return the hexadecimal digest of a file.

    With a directory ``memo`` the digest of a file that has not changed since (size and both times) is read
    from there instead of from the file.
    """
    known = recall_digest(path, algorithm, memo)
    if known is not None:
        return known
    hasher = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    remember_digest(path, algorithm, hasher.hexdigest(), memo)
    return hasher.hexdigest()


def recall_digest(path: Path, algorithm: str, memo: Path | None) -> str | None:
    """Return the remembered digest of ``path``, or None where there is none or the file changed since."""
    if memo is None:
        return None
    try:
        entry = json.loads(_memo_file(path, algorithm, memo).read_text())
        return entry["digest"] if entry["stamp"] == _stamp(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_digest(path: Path, algorithm: str, digest: str, memo: Path | None) -> None:
    """Note the digest of ``path`` as it is now. A memo that cannot be written only costs time later."""
    if memo is None:
        return
    with contextlib.suppress(OSError):
        memo.mkdir(parents=True, exist_ok=True)
        entry = _memo_file(path, algorithm, memo)
        fresh = entry.with_name(f"{entry.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"path": str(path), "stamp": _stamp(path), "digest": digest}))
        os.replace(fresh, entry)


def _memo_file(path: Path, algorithm: str, memo: Path) -> Path:
    return memo / hashlib.sha256(f"{algorithm}:{path.absolute()}".encode()).hexdigest()[:40]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def fault_of(path: Path, asset: Asset, memo: Path | None = None) -> str | None:
    """Return what is wrong with ``path`` as a copy of ``asset``, expected beside found, or None."""
    if asset.size is not None and path.stat().st_size != asset.size:
        return f"it has {path.stat().st_size} bytes, expected {asset.size}"
    if asset.checksum is None:
        return None
    algorithm, expected = asset.checksum
    found = content_digest(path, algorithm, memo)
    return None if found == expected else f"its {algorithm} is {found}, expected {expected}"


def publish(part: Path, target: Path) -> None:
    """Give the finished file ``part`` its name ``target``, in one step and safe against a power cut."""
    with on_disk(target):
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        part.unlink(missing_ok=True)  # POSIX renames nothing where both are names of one file
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the system can open a folder at all."""
    with contextlib.suppress(PermissionError):  # Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a second name of ``source``, or a copy where they lie on different disks."""
    with on_disk(target):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            require_room(target.parent, source.stat().st_size)
            shutil.copyfile(source, target)
