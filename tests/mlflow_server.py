"""Servers for tests: PostgreSQL, MLflow's tracking server, and a served model."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

HOST = "127.0.0.1"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# Time for a server to answer on a machine that is busy with other tests.
PATIENCE_SECONDS = 180


@contextmanager
def tracking_server(
    folder: Path, backend_uri: str, port: int | None = None, *options: str, **environment: str
) -> Iterator[str]:
    """`mlflow server` on a database, with artifacts in `folder` by default; yields its address."""
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", backend_uri, "--artifacts-destination", str(folder / "artifacts")]
    command += options
    with running(
        command, folder, "mlflow server", lambda: answers(f"http://{HOST}:{port}/health"), environment
    ):
        yield f"http://{HOST}:{port}"


@contextmanager
def model_server(folder: Path, tracking_uri: str, model_uri: str) -> Iterator[str]:
    """`mlflow models serve` in this environment; yields the address of its `/invocations`."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri]
    command += ["--env-manager", "local", "--host", HOST, "--port", str(port)]
    with running(
        command,
        folder,
        "mlflow models serve",
        lambda: answers(f"http://{HOST}:{port}/ping"),
        # It runs uvicorn from the PATH.
        {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    ):
        yield f"http://{HOST}:{port}/invocations"


@contextmanager
def postgresql() -> Iterator[str]:
    """A new PostgreSQL server on loopback; yields the address of its database.

    Skips the test without a server or driver. PostgreSQL refuses to run as root, so it then runs as the user
    `postgres` of its package, whose data cannot be in pytest's folders.
    """
    port = free_port()
    with postgresql_folder() as folder, postgresql_on(folder, port) as address:
        yield address


@contextmanager
def postgresql_folder() -> Iterator[Path]:
    """Data folder of an empty server for `postgresql_on`, which may serve it several times."""
    programs, user = postgresql_programs(), "postgres" if os.geteuid() == 0 else None
    pytest.importorskip("psycopg2", reason="no psycopg2; pip install -e '.[dev]'")
    folder = Path(tempfile.mkdtemp(prefix="rwsa-postgresql-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        make = [
            str(programs / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "rwsa",
            "--auth=trust",
            "--no-sync",
        ]
        made = subprocess.run(
            [*make, "-E", "UTF8", "--locale=C"], cwd=folder, user=user, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgresql_on(folder: Path, port: int) -> Iterator[str]:
    """Serve a data folder and kill the server at the end; yields the address of the database."""
    programs, user = postgresql_programs(), "postgres" if os.geteuid() == 0 else None
    serve = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-h", HOST]
    ready = [str(programs / "pg_isready"), "-q", "-h", HOST, "-p", str(port)]
    with running(
        [*serve, "-p", str(port), "-c", "fsync=off"],
        folder,
        "postgres",
        lambda: subprocess.run(ready, cwd=folder).returncode == 0,
        user=user,
    ):
        yield f"postgresql+psycopg2://rwsa@{HOST}:{port}/postgres"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def postgresql_programs() -> Path:
    """Folder of the newest server, which Debian does not put on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server; on Debian: apt-get install postgresql")
    return Path(initdb).resolve().parent


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    name: str,
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Iterator[None]:
    """Run a server until the block ends, once it is ready."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | _QUIET | dict(environment or {}),
            stdout=log,
            stderr=log,
            # A process group of its own, killed as a whole.
            start_new_session=True,
            user=user,
        )

        def server_log() -> str:
            log.seek(0)
            return f"{name}: {log.read().decode(errors='replace')[-4000:]}"

        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not is_ready():
                assert server.poll() is None, server_log()
                assert time.monotonic() < deadline, server_log()
                time.sleep(0.3)
            yield
        finally:
            # The group no longer exists if the server ended by itself.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    """Whether a GET of this address succeeds."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False
