"""The content-addressed store: one directory per step key, published whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.files import content_digest

MANIFEST = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A published directory and the manifest that describes it."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was recorded at publication: step, params, inputs, seconds and every file's size and sha256."""
        return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(file["size"] for file in self.manifest["files"].values())

    def faults(self) -> list[str]:
        """Return what is wrong with the content, compared with the manifest; empty when it is sound."""
        try:
            files = self.manifest["files"]
        except (OSError, ValueError, KeyError):
            return [f"{self.path}: its manifest is missing or unreadable"]
        return [f"{self.path / name}: {why}" for name, want in files.items() if (why := self._fault(name, want))]

    def _fault(self, name: str, want: dict[str, Any]) -> str:
        path = self.path / name
        if not path.is_file():
            return "missing"
        if path.stat().st_size != want["size"]:
            return f"{path.stat().st_size} bytes where {want['size']} were published"
        return "" if content_digest(path) == want["sha256"] else "content differs from what was published"

    def json(self, name: str) -> Any:
        """Return the content of a JSON file of this artifact."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))


class Store:
    """Artifacts under ``root``. Safe against kill -9 at any moment and against other processes."""

    def __init__(self, root: Path):
        self.root = root
        try:
            for name in ("artifacts", "staging", "locks", "records", "downloads"):
                (root / name).mkdir(parents=True, exist_ok=True)
            probe = root / "staging" / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CmrkitError(
                f"cache directory {root} cannot be used: {error.strerror}; set CMRKIT_CACHE to a writable directory"
            ) from None

    def _place(self, step: str, key: str) -> Path:
        return self.root / "artifacts" / step / key

    def find(self, step: str, key: str) -> Artifact | None:
        """Return the artifact of a step, or None. The content is not verified; see ``Artifact.faults``."""
        place = self._place(step, key)
        if not (place / MANIFEST).is_file():
            return None
        os.utime(place)  # garbage collection goes by last use
        return Artifact(place)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of ``key``; other processes that want the same key wait. Freed when a holder dies."""
        from filelock import FileLock

        with FileLock(self.root / "locks" / f"{key}.lock"):
            yield

    def publish(self, step: str, key: str, about: dict[str, Any], write: Callable[[Path], None]) -> Artifact:
        """Let ``write`` fill a private directory, then make it the artifact of ``key`` in one rename.

        Raises CmrkitError when the disk is full; whatever happens, nothing half-written becomes visible.
        """
        staging = self.root / "staging" / f"{step}-{key[:16]}-{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        started = time.perf_counter()
        try:
            write(staging)
            files = {str(p.relative_to(staging)): _seal(p) for p in sorted(staging.rglob("*")) if p.is_file()}
            manifest = {
                "step": step,
                "key": key,
                **about,
                "seconds": time.perf_counter() - started,
                "files": files,
            }
            write_json(staging / MANIFEST, manifest)
            _seal(staging / MANIFEST)
            place = self._place(step, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            self.discard(step, key)
            staging.rename(place)
            _sync_directory(place.parent)
        except (OSError, CmrkitError) as error:
            if not _is_full(self.root, error):
                raise
            raise CmrkitError(
                f"no space left in {self.root} while writing step {step!r}; free some, or run"
                " 'cmrkit cache gc', or set CMRKIT_CACHE elsewhere"
            ) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return Artifact(place)

    def discard(self, step: str, key: str) -> None:
        """Remove an artifact, if it is there, so that it is never seen half-removed."""
        place = self._place(step, key)
        if place.exists():
            trash = self.root / "staging" / f"trash-{key[:16]}-{os.getpid()}-{time.monotonic_ns()}"
            place.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def artifacts(self) -> list[Artifact]:
        """Return every artifact, sorted by step and key."""
        return [Artifact(p.parent) for p in sorted((self.root / "artifacts").glob(f"*/*/{MANIFEST}"))]

    def pin(self, prefix: str, pinned: bool = True) -> Artifact:
        """Keep the artifact whose key starts with ``prefix`` from garbage collection, or no longer do."""
        found = [a for a in self.artifacts() if a.path.name.startswith(prefix)]
        if len(found) != 1:
            raise CmrkitError(f"{len(found)} artifacts have a key that starts with {prefix!r}; see 'cmrkit cache ls'")
        mark = self._pin_mark(found[0])
        mark.touch() if pinned else mark.unlink(missing_ok=True)
        return found[0]

    def _pin_mark(self, artifact: Artifact) -> Path:
        return self.root / "locks" / f"{artifact.path.name}.pin"

    def is_pinned(self, artifact: Artifact) -> bool:
        """Whether garbage collection must leave this artifact alone."""
        return self._pin_mark(artifact).exists()

    def collect(self, older_than_days: float) -> list[Artifact]:
        """Remove leftovers of killed runs and unpinned artifacts not used for so many days; return the latter."""
        horizon = time.time() - older_than_days * 86400
        for leftover in (self.root / "staging").iterdir():
            if not _is_running(leftover.name.split("-")[2:3]):
                shutil.rmtree(leftover, ignore_errors=True)
        for unfinished in (self.root / "partial").glob("*"):  # trainings and features that a kill cut short
            if unfinished.stat().st_mtime <= horizon:
                with self.lock(unfinished.name):
                    shutil.rmtree(unfinished, ignore_errors=True)
        old = [a for a in self.artifacts() if a.path.stat().st_mtime <= horizon and not self.is_pinned(a)]
        for artifact in old:
            with self.lock(artifact.path.name):
                self.discard(artifact.path.parent.name, artifact.path.name)
        return old


def _is_full(root: Path, error: Exception) -> bool:
    # NumPy reports a short write without an errno, and readers wrap what they meet, so the disk is asked too.
    told = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return told or shutil.disk_usage(root).free < 1 << 16


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def replace_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON at ``path`` so that a reader sees the old content or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(partial, value)
    partial.replace(path)


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": content_digest(path)}


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_running(pid: list[str]) -> bool:
    if not pid or not pid[0].isdigit():
        return False
    try:
        os.kill(int(pid[0]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
