"""An S3 server on loopback (moto's), which can refuse requests as a busy store does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SECRET = "a-very-secret-key"


class Store:
    """moto's WSGI application; every `refuse_every`th request is refused, none where it is 0."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.refuse_every = 0
        self.requests, self.refused = 0, 0
        self.url = ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.requests += 1
            refuse = self.refuse_every > 0 and self.requests % self.refuse_every == 0
            self.refused += refuse
        if not refuse:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "text/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]


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
