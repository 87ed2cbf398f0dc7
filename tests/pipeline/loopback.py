"""A real HTTP server on loopback that serves one body and misbehaves on demand, request by request."""

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """How to answer one request. ``cut`` bytes of the body are sent before the connection is dropped."""

    status: int = 200
    body: bytes | None = None
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0.0  # seconds of silence before the connection is dropped
    claim: int | None = None  # the Content-Length to state instead of the true one
    ranges: bool = True
    validate: bool = True  # whether If-Range is honoured


class Site:
    """``answers[path]`` is what each request of a path gets in turn; the last one is repeated."""

    def __init__(self, body: bytes):
        self.body, self.etag, self.answers, self.requests = body, '"v1"', {}, []
        self.released = threading.Event()

    def url(self, path: str = "/file.bin") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def plan(self, *answers: Answer, path: str = "/file.bin") -> str:
        self.answers[path] = list(answers)
        return self.url(path)

    def ranges(self) -> list:
        return [headers.get("Range") for _, headers in self.requests]

    @property
    def count(self) -> int:
        return len(self.requests)


@contextlib.contextmanager
def serving(body: bytes):
    site = Site(body)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        site = self.site
        site.requests.append((self.path, {**self.headers, "Method": self.command}))
        queue = site.answers.get(self.path) or [Answer()]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        body = site.body if answer.body is None else answer.body
        status, headers = answer.status, {"ETag": site.etag, **answer.headers}
        start = self._start(answer) if status == 200 else 0
        if start >= len(body) > 0 and start:
            status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
        elif start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        length = len(body) if answer.claim is None else answer.claim
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.command == "HEAD":
                return
            self.wfile.write(body if answer.cut is None else body[: answer.cut])
            self.wfile.flush()
            self.site.released.wait(answer.stall)
        if answer.cut is not None or answer.claim is not None:
            self.close_connection = True

    def _start(self, answer: Answer) -> int:
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, self.site.etag) or not answer.validate
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and answer.ranges and same else 0
