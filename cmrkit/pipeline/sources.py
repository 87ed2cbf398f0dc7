"""Where a file can come from: HTTP, the Hugging Face hub, Google Drive, or somebody's hands."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmrkit.pipeline import http
from cmrkit.pipeline.files import link_or_copy, on_disk
from cmrkit.pipeline.http import Arrival, html_complaint, show_progress
from cmrkit.pipeline.retry import Retry, SourceError, TransientError
from cmrkit.recipe.manifest import HF_URL, Asset


def scheme(url: str) -> str:
    """Return the part of ``url`` before ``://``."""
    return url.partition("://")[0]


def retrieve(
    url: str,
    asset: Asset,
    part: Path,
    *,
    offline: bool = False,
    progress: bool = False,
    retry: Retry | None = None,
    again: bool = False,
) -> Arrival:
    """Bring the file at ``url`` to ``part``; ``again`` ignores whatever an earlier call left behind.

    Offline, only the local cache of the Hugging Face hub is looked at.
    Raises SourceError saying why this source does not give the file, DiskFullError where there is no room.
    """
    retry = retry or Retry()
    if again:
        http.discard(part)
    if scheme(url) == "hf":
        return _from_hub(url, part, offline=offline, progress=progress, retry=retry, again=again)
    if offline:
        raise SourceError("not asked (offline)")
    if scheme(url) == "gdrive":
        return _from_drive(url, asset, part, progress=progress, retry=retry)
    return http.download(url, asset, part, progress=progress, retry=retry)


def _from_hub(url: str, part: Path, *, offline: bool, progress: bool, retry: Retry, again: bool) -> Arrival:
    # The hub's own cache is shared with every other program that uses it, so the file stays there, too.
    where = HF_URL.fullmatch(url)
    started = time.time()
    if offline:
        cached = _cached_by_hub(where)
    else:
        with on_disk(part):  # for a full disk; everything else that comes out is a SourceError
            twice = replace(retry, attempts=min(retry.attempts, 2))  # its client waits and asks again by itself
            cached = twice.run(lambda: _ask_hub(where, progress=progress, again=again))
    link_or_copy(cached, part)
    return Arrival(reused=not offline and cached.stat().st_mtime < started - 1)


def _cached_by_hub(where: Any) -> Path:
    # hf_hub_download(local_files_only=True) would ask the hub about other things even so.
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(
        where["repo"], where["file"], revision=where["revision"], repo_type=_repo_type(where)
    )
    if not isinstance(cached, str):
        raise SourceError("not in the Hugging Face cache, and not asked (offline)")
    return Path(cached).resolve()


def _ask_hub(where: Any, *, progress: bool, again: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not show_progress(progress):
        disable_progress_bars()
    try:
        cached = hf_hub_download(
            repo_id=where["repo"],
            filename=where["file"],
            repo_type=_repo_type(where),
            revision=where["revision"],
            endpoint=os.environ.get("HF_ENDPOINT"),
            force_download=again,
            library_name="cmrkit",
        )
    except Exception as error:  # its HTTP library, and so its exceptions, differ between versions
        raise _hub_failure(error, where) from error
    return Path(cached).resolve()


def _repo_type(where: Any) -> str:
    return "dataset" if where["datasets"] else "model"


def _hub_failure(error: Exception, where: Any) -> Exception:
    from huggingface_hub import utils as errors  # where every version has them

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    page = f"{endpoint.rstrip('/')}/{where['datasets'] or ''}{where['repo']}"
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return SourceError(f"the repository is gated: accept its terms at {page}, then {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(f"no repository {page}, or it is private: if you have access, {login}")
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"{page} has no revision {where['revision']!r}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(error)
    if isinstance(error, errors.EntryNotFoundError):
        return SourceError(f"{page} has no file {where['file']!r} at revision {where['revision'] or 'main'}")
    status = _status_of(error)
    if status is None and isinstance(error, OSError) and error.errno is not None:
        return error
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if status is None or status == 429 or status >= 500:
        return TransientError(reason)
    return SourceError(reason)


def _unreachable(error: Exception) -> SourceError:
    """Sort the hub's one error for 'neither local nor reachable' by what is behind it."""
    cause = error.__cause__
    if type(cause).__name__ == "OfflineModeIsEnabled":
        return SourceError("not in the Hugging Face cache, and not asked (HF_HUB_OFFLINE is set)")
    reason = " ".join(str(cause or error).split())
    status = _status_of(cause)
    if status is not None and status < 500 and status != 429:
        return SourceError(reason)
    return TransientError(reason)


def _status_of(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _from_drive(url: str, asset: Asset, part: Path, *, progress: bool, retry: Retry) -> Arrival:
    import gdown

    file_id = url.removeprefix("gdrive://")
    reused = part.exists()

    def attempt() -> None:
        try:
            gdown.download(id=file_id, output=str(part), quiet=not show_progress(progress), resume=True)
        except Exception as error:
            raise _drive_failure(error, file_id) from error

    with on_disk(part):
        retry.run(attempt)
    if not part.is_file():
        raise SourceError(_drive_advice(file_id, "nothing came"))
    with open(part, "rb") as file:
        if complaint := html_complaint(file.read(http.CHUNK), asset.name):
            raise SourceError(_drive_advice(file_id, complaint))
    return Arrival(reused=reused)


def _drive_failure(error: Exception, file_id: str) -> Exception:
    from requests import exceptions

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, exceptions.ConnectionError | exceptions.Timeout | exceptions.ChunkedEncodingError):
        return TransientError(reason)
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return SourceError(_drive_advice(file_id, reason))


def _drive_advice(file_id: str, reason: str) -> str:
    page = f"https://drive.google.com/file/d/{file_id}/view"
    return f"{reason} (Google Drive limits how often a file is taken: try later, or by hand from {page})"
