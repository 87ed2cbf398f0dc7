"""Getting the files that a dataset declares: mirrors first, then what is already here, then each URL in turn.

A file is published under its name only when it is complete and its digest is right, and two processes that
want the same file transfer it once.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmrkit.errors import CmrkitError
from cmrkit.pipeline import http, sources
from cmrkit.pipeline.files import DiskFullError, fault_of, on_disk, publish, remember_digest
from cmrkit.pipeline.retry import Retry, SourceError
from cmrkit.recipe.manifest import Asset

MEMO = ".digests"  # under the download directory: digests of files that have not changed since
log = logging.getLogger(__name__)


def mirrors() -> list[Path]:
    """Return the directories named by CMRKIT_MIRROR."""
    return [Path(p).expanduser() for p in os.environ.get("CMRKIT_MIRROR", "").split(os.pathsep) if p]


def locate(asset: Asset, *, destination: Path, mirror: Sequence[Path] = ()) -> Path | None:
    """Return the verified copy of ``asset`` that is on this machine, or None; nothing is transferred."""
    return _locate(asset, destination, mirror, [])


def fetch_asset(
    asset: Asset,
    *,
    destination: Path,
    mirror: Sequence[Path] = (),
    offline: bool = False,
    progress: bool = True,
    retry: Retry | None = None,
) -> Path:
    """Return a verified copy of ``asset``: in a mirror, used in place, or else below ``destination``.

    A mirror holds it as ``mirror/asset.path`` or, where a digest proves what it is, ``mirror/asset.name``.
    Offline, the network is never touched. ``progress`` draws a bar where stderr is a terminal.

    Raises CmrkitError listing every source with the reason it failed and saying where a file fetched by hand
    goes; DiskFullError where there is no room.
    """
    failures: list[str] = []
    found = _locate(asset, destination, mirror, failures)
    for failure in failures:
        log.warning("%s", failure)
    if found:
        return found
    if offline and not any(sources.scheme(url) == "hf" for url in asset.urls):
        raise CmrkitError(explain_missing(asset, destination, mirror, failures, offline=True))
    target = destination / asset.path
    with _locked(target):
        failures.clear()  # another process may have brought it meanwhile
        found = _locate(asset, destination, mirror, failures)
        if found:
            return found
        for url in asset.urls:
            if sources.scheme(url) == "manual":
                continue
            try:
                return _fetch_url(url, asset, destination, offline=offline, progress=progress, retry=retry)
            except SourceError as error:
                failures.append(f"{url}: {error}")
                log.info("%s", failures[-1])
    raise CmrkitError(explain_missing(asset, destination, mirror, failures, offline=offline))


def fetch_all(
    assets: Mapping[str, Asset],
    *,
    destination: Path,
    mirror: Sequence[Path] = (),
    offline: bool = False,
    progress: bool = True,
    retry: Retry | None = None,
) -> dict[str, Path]:
    """Return a verified copy of each asset by name, as `fetch_asset` does.

    Every asset is tried before a CmrkitError says what all the missing ones need; only a full disk ends at once.
    """
    paths, missing = {}, []
    for name, asset in assets.items():
        try:
            paths[name] = fetch_asset(
                asset, destination=destination, mirror=mirror, offline=offline, progress=progress, retry=retry
            )
        except DiskFullError:
            raise
        except CmrkitError as error:
            missing.append(str(error))
    if missing:
        raise CmrkitError("\n".join(missing))
    return paths


def explain_missing(
    asset: Asset,
    destination: Path,
    mirror: Sequence[Path] = (),
    failures: Sequence[str] = (),
    offline: bool = False,
) -> str:
    """Return what to tell somebody who lacks ``asset``: what failed, how to get it, where to put it."""
    lines = [f"{asset.path} is missing" + (" and cannot be downloaded offline:" if offline else ":")]
    lines += [f"  {failure}" for failure in failures]
    tried = "\n".join(failures)
    lines += [f"  source: {url}" for url in asset.urls if sources.scheme(url) != "manual" and url not in tried]
    for url in asset.urls:
        if sources.scheme(url) == "manual":
            lines += ["  by hand: " + " ".join(url.removeprefix("manual://").split())]
    lines += [f"  a file fetched by hand goes to {(mirror[0] if mirror else destination) / asset.path}"]
    lines += [f"  CMRKIT_MIRROR names {folder}, which is not a directory" for folder in mirror if not folder.is_dir()]
    if not mirror:
        lines += ["  (or below a directory of your own that CMRKIT_MIRROR names)"]
    return "\n".join(lines)


def _locate(asset: Asset, destination: Path, mirror: Sequence[Path], failures: list[str]) -> Path | None:
    """Return the first local copy that verifies; what is wrong with the others is added to ``failures``."""
    places = [folder / asset.path for folder in mirror]
    if asset.checksum:  # a bare file name alone does not say which file it is
        places += [folder / asset.name for folder in mirror]
    for path in dict.fromkeys([*places, destination / asset.path]):
        if not path.is_file():
            continue
        try:
            fault = fault_of(path, asset, destination / MEMO)
        except OSError as error:
            fault = f"it cannot be read: {error.strerror}"
        if fault is None:
            return path
        failures.append(f"{path} is not the right file: {fault}")
    return None


def _fetch_url(
    url: str, asset: Asset, destination: Path, *, offline: bool, progress: bool, retry: Retry | None
) -> Path:
    """Download, verify and publish. Where bytes of an earlier run spoil the digest, start over once."""
    target = destination / asset.path
    part = _part(target, url)
    for again in (False, True):
        arrival = sources.retrieve(url, asset, part, offline=offline, progress=progress, retry=retry, again=again)
        fault = _fault_of_arrival(part, asset, arrival)
        if fault is None:
            publish(part, target)
            _remove_parts(target)
            if arrival.digest:
                algorithm = asset.checksum[0] if asset.checksum else "sha256"
                remember_digest(target, algorithm, arrival.digest, destination / MEMO)
            return target
        http.discard(part)
        if not arrival.reused:
            break
    raise SourceError(f"what came is not the right file: {fault}")


def _fault_of_arrival(part: Path, asset: Asset, arrival: http.Arrival) -> str | None:
    if arrival.digest is None or asset.checksum is None:
        return fault_of(part, asset)
    algorithm, expected = asset.checksum
    return None if arrival.digest == expected else f"its {algorithm} is {arrival.digest}, expected {expected}"


def _part(target: Path, url: str) -> Path:
    """One per URL: bytes of one server are never continued with those of another."""
    return target.with_name(f".{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")


def _remove_parts(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part*"):
        with contextlib.suppress(OSError):
            left.unlink()


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    with on_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another process that downloads %s", target)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
