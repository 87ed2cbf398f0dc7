"""One file over HTTP(S), resumed where a transfer broke off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cmrkit import __version__
from cmrkit.errors import CmrkitError
from cmrkit.pipeline.files import human, on_disk, require_room
from cmrkit.pipeline.retry import Retry, SourceError, TransientError
from cmrkit.recipe.manifest import Asset

CHUNK = 1 << 17  # what a broken connection can lose
_TOO_SOON = {408, 425, 429}  # and every 5xx
_MEANING = {401: "a login is required", 403: "access denied", 404: "not found", 410: "gone"}


@dataclass(frozen=True)
class Arrival:
    """A finished transfer: its digest where it was computed on the way, and whether older bytes are in it."""

    digest: str | None = None
    reused: bool = False


def show_progress(progress: bool) -> bool:
    """Return whether bars are to be drawn: asked for, and somebody is watching."""
    return progress and sys.stderr.isatty()


def html_complaint(head: bytes, name: str) -> str | None:
    """Return what to say where ``head`` begins an HTML page although ``name`` is no page, or None."""
    if name.endswith((".html", ".htm", ".xml")):
        return None
    text = head.decode("utf-8", "replace")
    if not re.match(r"\ufeff?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", text, re.IGNORECASE | re.DOTALL):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    named = f" titled {' '.join(title[1].split())!r}" if title else ""
    return f"an HTML page{named} came instead of the file: a login, quota or error page; open it in a browser"


def download(url: str, asset: Asset, part: Path, *, progress: bool = False, retry: Retry | None = None) -> Arrival:
    """Bring ``url`` into the file ``part``, going on from what an earlier transfer of this URL left there.

    The digest of the arrival is of the kind that ``asset`` is verified with (sha256 where it names none).
    Raises SourceError where this URL does not give the file, DiskFullError where there is no room.
    """
    import requests

    retry = retry or Retry()
    with requests.Session() as session:
        transfer = _Transfer(url, asset, part, session, retry.timeout, show_progress(progress))
        transfer.reused = part.exists()
        digest = retry.run(transfer.attempt, transfer.size)
    return Arrival(digest, transfer.reused)


def discard(part: Path) -> None:
    """Remove an unfinished transfer."""
    with on_disk(part):
        part.unlink(missing_ok=True)
        _sidecar(part).unlink(missing_ok=True)


def _sidecar(part: Path) -> Path:
    return part.with_name(part.name + ".json")


@dataclass
class _Transfer:
    url: str
    asset: Asset
    part: Path
    session: Any
    timeout: tuple[float, float]
    show: bool
    reused: bool = False

    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def attempt(self) -> str:
        """Return the digest of the complete file after one request."""
        validator = self._validator()
        offset = self.size() if validator else 0
        headers = {"Accept-Encoding": "identity", "User-Agent": f"cmrkit/{__version__}"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        with _talking():
            response = self.session.get(self.url, headers=headers, stream=True, timeout=self.timeout)
        with contextlib.closing(response):
            return self._receive(response, offset, validator)

    def _receive(self, response: Any, offset: int, validator: str | None) -> str:
        status = response.status_code
        if status == 416:
            if _total_in_range(response) == offset:
                return self._prefix_hasher(offset).hexdigest()
            self._restart("the server refused to resume")
        if status in _TOO_SOON or status >= 500:
            raise TransientError(_status_line(response), _retry_after(response))
        if status not in (200, 206):
            raise SourceError(_status_line(response))
        if status == 206 and not self._continues(response, offset, validator):
            self._restart("the file changed on the server between two parts")
        return self._write(response, offset if status == 206 else 0)

    def _restart(self, why: str) -> None:
        discard(self.part)
        self.reused = False
        raise TransientError(why)

    def _continues(self, response: Any, offset: int, validator: str | None) -> bool:
        span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        same = _validator_of(response) in (None, validator)  # some servers ignore If-Range
        return offset > 0 and span is not None and int(span[1]) == offset and same

    def _validator(self) -> str | None:
        """Return the ETag or date with which the part can be resumed, or None where it cannot."""
        try:
            note = json.loads(_sidecar(self.part).read_text())
            return note["validator"] if note["url"] == self.url else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _begin(self, validator: str | None) -> None:
        self.reused = False
        discard(self.part)  # the bytes before their sidecar, so that no sidecar ever speaks of older bytes
        if validator:
            with on_disk(self.part):
                _sidecar(self.part).write_text(json.dumps({"url": self.url, "validator": validator}))

    def _prefix_hasher(self, offset: int) -> Any:
        hasher = hashlib.new(self.asset.checksum[0] if self.asset.checksum else "sha256")
        if offset:
            with on_disk(self.part), open(self.part, "rb") as file:
                while block := file.read(CHUNK):
                    hasher.update(block)
        return hasher

    def _write(self, response: Any, offset: int) -> str:
        from tqdm import tqdm

        total = _total(response, self.asset)
        chunks = _body(response, self.asset)
        first = next(chunks, b"")
        if offset == 0 and (complaint := html_complaint(first, self.asset.name)):
            raise SourceError(complaint)
        if None not in (total, self.asset.size) and total != self.asset.size:
            raise SourceError(f"the server offers {total} bytes, expected {self.asset.size}")
        if offset == 0:
            self._begin(None if _is_encoded(response, self.asset) else _validator_of(response))
        with on_disk(self.part):
            require_room(self.part.parent, (total or self.asset.size or offset) - offset)
        hasher = self._prefix_hasher(offset)
        bar = tqdm(
            total=total,
            initial=offset,
            desc=self.asset.name,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not self.show,
        )
        with bar, _writing(self.part, "ab" if offset else "wb") as write:
            for chunk in _chain(first, chunks):
                write(chunk)
                hasher.update(chunk)
                bar.update(len(chunk))
        if self.size() < (total or 0) or _is_cut_short(response):
            known = f" of {human(total)}" if total else ""
            raise TransientError(f"the connection broke after {human(self.size())}{known}")
        return hasher.hexdigest()


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@contextlib.contextmanager
def _writing(path: Path, mode: str) -> Iterator[Any]:
    """Give a ``write`` whose failures are about the disk; failures of the network pass through untouched."""
    with on_disk(path):
        file = open(path, mode)  # noqa: SIM115

    def write(chunk: bytes) -> None:
        with on_disk(path):
            file.write(chunk)

    try:
        yield write
    finally:
        with on_disk(path):
            file.close()


def _is_encoded(response: Any, asset: Asset) -> bool:
    """Whether the server compressed the body on its own account.

    Some label a stored .gz file itself as gzip-encoded: there the bytes on the wire are the file.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    return encoding not in ("", "identity") and not asset.name.endswith((".gz", ".tgz"))


def _body(response: Any, asset: Asset) -> Iterator[bytes]:
    with _talking():
        yield from response.raw.stream(CHUNK, decode_content=_is_encoded(response, asset))


def _is_cut_short(response: Any) -> bool:
    """Whether fewer bytes came over the wire than were announced; not every urllib3 looks."""
    length = response.headers.get("Content-Length", "")
    return length.isdigit() and response.raw.tell() < int(length)


def _total(response: Any, asset: Asset) -> int | None:
    if response.status_code == 206:
        return _total_in_range(response)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and not _is_encoded(response, asset) else None


def _total_in_range(response: Any) -> int | None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _validator_of(response: Any) -> str | None:
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # If-Range takes strong ones only
        return etag
    return response.headers.get("Last-Modified")


def _status_line(response: Any) -> str:
    return f"HTTP {response.status_code}: {_MEANING.get(response.status_code, response.reason)}"


def _retry_after(response: Any) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return parsedate_to_datetime(value).timestamp() - time.time()
    return None


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Sort the failures of requests and urllib3 into those that may pass and those that will not."""
    import requests
    import urllib3

    lasting = (
        requests.exceptions.SSLError,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
        requests.exceptions.TooManyRedirects,
    )
    try:
        yield
    except CmrkitError:
        raise
    except lasting as error:
        raise SourceError(_reason(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return the innermost reason: the outer layers only repeat the URL."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = re.sub(r"^.*object at 0x\w+>[,:]\s*|^HTTPS?Connection\w*\(.*?\):\s*", "", str(error))
    return text or type(error).__name__
