"""An S3 server (moto) that can refuse requests like a busy store, and respond slowly.

    python -m tests.object_store HOST PORT [JOURNAL]

`served` starts one on loopback. `set_faults` sets the faults of a server in another process over HTTP.
moto stores everything in memory; with a journal, a restarted server repeats all earlier writes.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.request import urlopen

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SECRET = "a-very-secret-key"
_FAULTS = "/rwsa-faults"


class Store:
    """moto's WSGI application, which refuses every `refuse_every`th request (0: none) and delays each
    response by `delay_seconds`.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.refuse_every, self.delay_seconds = 0, 0.0
        self.requests, self.refused = 0, 0
        self.url = ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == _FAULTS:
            return self._set_faults(environ["QUERY_STRING"], start_response)
        time.sleep(self.delay_seconds)
        with self._lock:
            self.requests += 1
            refuse = self.refuse_every > 0 and self.requests % self.refuse_every == 0
            self.refused += refuse
        if not refuse:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "text/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]

    def _set_faults(self, query: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        faults = parse_qs(query)
        counts = f"{self.requests} {self.refused}".encode()
        self.refuse_every = int(faults["refuse_every"][0])
        self.delay_seconds = float(faults["delay_seconds"][0])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(counts)))])
        return [counts]


def set_faults(store_url: str, *, refuse_every: int = 0, delay_seconds: float = 0.0) -> tuple[int, int]:
    """Set the faults of a store in another process; returns its numbers of requests and refusals."""
    query = f"refuse_every={refuse_every}&delay_seconds={delay_seconds}"
    with urlopen(f"{store_url}{_FAULTS}?{query}", timeout=30) as response:
        requests, refused = map(int, response.read().split())
    return requests, refused


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Do not log requests."""


@contextmanager
def served() -> Iterator[Store]:
    """Serve a store on a free port until the block ends."""
    store = Store()
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(store_url: str) -> dict[str, str]:
    """The environment variables that a user of the store sets."""
    return {
        "AWS_ENDPOINT_URL": store_url,
        "AWS_ACCESS_KEY_ID": "a-person",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class _Journalled:
    """A store that appends all writes to a journal, and repeats the journal at its start."""

    def __init__(self, store: Store, journal: Path) -> None:
        self._store, self._lock = store, threading.Lock()
        if journal.exists():
            with journal.open("rb") as file, suppress(EOFError):
                while True:
                    self._repeat(*pickle.load(file))
        self._file = journal.open("ab")

    def _repeat(self, request: dict[str, Any], body: bytes) -> None:
        for _ in self._store({**request, "wsgi.input": io.BytesIO(body)}, lambda *_: None):
            pass

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            with self._lock:
                pickle.dump(({k: v for k, v in environ.items() if isinstance(v, str)}, body), self._file)
                self._file.flush()
            environ["wsgi.input"] = io.BytesIO(body)
        return self._store(environ, start_response)


def main(host: str, port: int, journal: str | None = None) -> None:
    """Serve until the process is stopped."""
    app = Store() if journal is None else _Journalled(Store(), Path(journal))
    make_server(host, port, app, threaded=True, request_handler=_Quiet).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
