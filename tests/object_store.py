"""An S3 server (moto's), which can refuse requests as a busy store does, and be slow.

    python -m tests.object_store HOST PORT [JOURNAL]

`served` starts one on loopback. Started as a program, it is told its faults over HTTP, see `set_faults`. moto
keeps all in memory; with a journal, what was written is written again when it is started again.
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
    """moto's WSGI application; every `refuse_every`th request is refused, none where it is 0, and each
    answer comes `delay_seconds` late.
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
        asked = parse_qs(query)
        said = f"{self.requests} {self.refused}".encode()
        self.refuse_every = int(asked["refuse_every"][0])
        self.delay_seconds = float(asked["delay_seconds"][0])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
        return [said]


def set_faults(store_url: str, *, refuse_every: int = 0, delay_seconds: float = 0.0) -> tuple[int, int]:
    """Tell a store in another process; returns the requests that came and that were refused so far."""
    query = f"refuse_every={refuse_every}&delay_seconds={delay_seconds}"
    with urlopen(f"{store_url}{_FAULTS}?{query}", timeout=30) as answer:
        came, refused = map(int, answer.read().split())
    return came, refused


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Requests are no news."""


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
    """What a person sets to use such a store."""
    return {
        "AWS_ENDPOINT_URL": store_url,
        "AWS_ACCESS_KEY_ID": "a-person",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class _Journalled:
    """A store in front of which all that changes it is written down, and at the start read again."""

    def __init__(self, store: Store, journal: Path) -> None:
        self._store, self._lock = store, threading.Lock()
        if journal.exists():
            with journal.open("rb") as file, suppress(EOFError):
                while True:
                    self._again(*pickle.load(file))
        self._file = journal.open("ab")

    def _again(self, told: dict[str, Any], body: bytes) -> None:
        for _ in self._store({**told, "wsgi.input": io.BytesIO(body)}, lambda *_: None):
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
    """Serve until the process is ended."""
    app = Store() if journal is None else _Journalled(Store(), Path(journal))
    make_server(host, port, app, threaded=True, request_handler=_Quiet).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
