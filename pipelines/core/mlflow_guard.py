"""The one way to MLflow: a client whose every failure is an error of one line, with the remedy.

Names of metrics, parameters and tags are also made acceptable here, since MLflow refuses many characters.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import posixpath
import re
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store import db_migrations

from pipelines.core.storage import sqlite_file
from rwsa.errors import InputError, UnreachableError
from rwsa.lease import exclusive_lock

_ANSWER_SECONDS = 5.0
# Another process writes for milliseconds.
_LOCK_SECONDS = 10.0
# Making the tables takes 3 s, and more on a loaded machine.
_TABLES_SECONDS = 120.0
# Short, since queues try again anyway; MLflow's own are minutes.
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
# Both print a traceback for an error that is raised as well.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "urllib3.connectionpool")
_MESSAGE_CHARACTERS = 300
_KEY_BYTES, _RUN_NAME_CHARACTERS = 250, 250  # MLflow's limits, and of file names
_DELETED = re.compile(r"The (run|experiment) (\w+) must be in the 'active' state")
_REVISION = re.compile(r"Can't locate revision identified by '(\w+)'")
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")


class TrackingError(UnreachableError):
    """MLflow failed or refused.

    Attributes:
        code: MLflow's error code, such as `RESOURCE_DOES_NOT_EXIST`; `DELETED` for a run or experiment in the
            trash; empty if MLflow gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def open_client(uri: str) -> MlflowClient:
    """A client of the server or SQLite file at `uri`, each of whose methods raises only `TrackingError`."""
    return cast(MlflowClient, _GuardedClient(uri))


class _GuardedClient:
    def __init__(self, uri: str) -> None:
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._uri = uri
        with mlflow_errors(uri), _tables_made_by_one(uri):
            self._client = MlflowClient(uri)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def guarded(*args: Any, **options: Any) -> Any:
            with mlflow_errors(self._uri):
                return method(*args, **options)

        return guarded


def _tables_made_by_one(uri: str) -> AbstractContextManager[None]:
    """A lock while there are no tables in a SQLite file: two processes that make them at once both fail."""
    file = sqlite_file(uri)
    if file is None or _has_tables(file):
        return nullcontext()
    return exclusive_lock(file, inside=False, wait_seconds=_TABLES_SECONDS)


def _has_tables(file: Path) -> bool:
    """Whether MLflow has finished making its tables: it notes each of a long series of changes to them."""
    try:
        with closing(sqlite3.connect(_address(file, "ro"), uri=True)) as database:
            versions = {row[0] for row in database.execute("SELECT version_num FROM alembic_version")}
    except sqlite3.Error:
        return False  # the client reports what is wrong with the file
    return versions == _newest_tables()


@functools.cache
def _newest_tables() -> set[str]:
    """The version of the tables of this MLflow."""
    # Imported here: it takes most of a second, and a process that opens no database needs none.
    from alembic.script import ScriptDirectory

    return set(ScriptDirectory(db_migrations.__path__[0]).get_heads())


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises in the block into a `TrackingError`.

    MLflow passes on errors of SQLAlchemy, Alembic, requests, protobuf and the file system, and fails with
    `KeyError` and others on answers of other servers, so every exception but the project's own counts.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise explained(error, uri) from error


def explained(error: Exception, uri: str) -> TrackingError:
    """An error of MLflow as one line: what is wrong at `uri`, and the remedy."""
    text, code = _one_line(error), getattr(error, "error_code", "")
    if isinstance(error, UnicodeError | TypeError | KeyError):
        code = "INVALID_PARAMETER_VALUE"  # of the values, whenever they are sent
    command = f"MLFLOW_TRACKING_URI={uri} mlflow"
    if deleted := _DELETED.search(text):
        kind, name = deleted.groups()
        restore = f"{kind}s restore --{kind}-id {name}"
        return TrackingError(
            f"MLflow at {uri}: {kind} {name} was deleted; restore it with `{command} {restore}`", "DELETED"
        )
    if schema := _SCHEMA.search(text) or _REVISION.search(text):
        return TrackingError(f"MLflow at {uri}: {_schema_remedy(schema[1], uri)}", code)
    for found, remedy in _REMEDIES.items():
        if re.search(found, text, re.IGNORECASE):
            return TrackingError(f"MLflow at {uri} cannot be used ({text}); {remedy}", code)
    if isinstance(error, MlflowException) and code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
        return TrackingError(f"MLflow at {uri} refuses this ({text})", code)
    return TrackingError(f"MLflow at {uri} cannot be used ({text}); start it, or {_OTHER}", code)


_OTHER = "set storage.tracking_uri to another"
_LOGIN = (
    "log in as a user who may do this: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write"
    " ~/.mlflow/credentials"
)
_NO_SERVER = "make sure that storage.tracking_uri is the address of an MLflow server, with its path"
_CERTIFICATE = (
    "check https against http in storage.tracking_uri; for a certificate of your own authority, set"
    " MLFLOW_TRACKING_SERVER_CERT_PATH"
)
_LOCKED = "another process holds the file: wait for it or stop it; many processes need `mlflow server`"
_DAMAGED = f"the file is damaged or not MLflow's: restore it from a copy, or {_OTHER}"
# What MLflow's errors contain, and the remedy.
_REMEDIES = {
    r"error code 40[13]\b": _LOGIN,
    r"error code (30\d|404|405)\b|not in a valid JSON|Expecting value|too many redirects": _NO_SERVER,
    r"\[SSL|SSLError|CERTIFICATE_VERIFY": _CERTIFICATE,
    r"is locked": _LOCKED,
    r"readonly database|Read-only file|Permission denied|unable to open": "make the file and folder writable",
    r"disk is full|No space left": "free some disk space",
    r"malformed|not a database|no such (table|column)|unsupported file": _DAMAGED,
}


def _schema_remedy(version: str, uri: str) -> str:
    """What to do about a database whose schema is another than this MLflow's."""
    folder = Path(db_migrations.__path__[0]) / "versions"
    if any(folder.glob(f"{version}_*.py")):
        return f"the database is from an older MLflow; back it up, then run `mlflow db upgrade {uri}`"
    return (
        f"the database is from a newer MLflow than this one ({mlflow.__version__}); install that version of"
        f" mlflow, or {_OTHER}"
    )


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if not isinstance(error, MlflowException | OSError | InputError):
        message = f"{type(error).__name__}: {message}"
    short = message[:_MESSAGE_CHARACTERS]
    return short if short == message else f"{short}…"


def check_reachable(uri: str) -> None:
    """Check that MLflow can be used, since its client would try for minutes.

    Raises:
        InputError: the address is none that this program uses.
        TrackingError: the server does not answer, or the database file cannot be used.
    """
    file = sqlite_file(uri)
    if file is not None:
        _check_sqlite(uri, file)
        return
    try:
        parts = urlsplit(uri)
        host, password = parts.hostname, parts.password
        _ = parts.port
    except ValueError as error:
        raise InputError(f"storage.tracking_uri {uri!r}: {error}; give http(s)://HOST:PORT") from error
    if password is not None:
        raise InputError(
            "storage.tracking_uri: contains a password, which every run would show; remove it and set"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x20]", uri):
        raise InputError(
            f"storage.tracking_uri {uri[:_MESSAGE_CHARACTERS]!r}: give sqlite:///FILE or http(s)://HOST:PORT"
            " (folders of runs, databases and hosted services: through `mlflow server`)"
        )
    try:
        ping(uri)
    except (OSError, ValueError, HTTPException) as error:  # HTTPException: it answers, but not in HTTP
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise explained(error, uri) from error
        raise TrackingError(
            f"MLflow at {uri} does not answer ({_one_line(error)}); start it with `mlflow server`, or"
            f" {_OTHER}"
        ) from error


def ping(uri: str) -> None:
    """Raise OSError if a server does not answer.

    A refusal is an answer: MLflow's client has a user name and certificates that this call lacks.
    """
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS):
            pass
    except HTTPError as error:
        with error:
            if error.code >= 500:
                raise
    except URLError as error:
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise


def _check_sqlite(uri: str, file: Path) -> None:
    """Check a SQLite file before MLflow opens it, which would try a locked one for minutes."""
    where, folder = f"storage.tracking_uri {uri}", file.parent
    try:
        folder = file.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        size = file.stat().st_size if file.exists() else 0
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else "links in a circle"
        raise InputError(f"{where}: {folder} cannot be created ({reason})") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{where}: {folder} is not writable")
    if file.is_dir():
        raise InputError(f"{where}: is a folder; name a file in it")
    if size == 0:
        return  # MLflow makes its tables
    if not os.access(file, os.W_OK):
        raise InputError(f"{where}: is not writable; make it so, or {_OTHER}")
    try:
        with (
            _tables_made_by_one(uri),
            closing(
                sqlite3.connect(_address(file, "rw"), uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
            ) as database,
        ):
            database.execute("BEGIN IMMEDIATE")
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise explained(error, uri) from error
    if tables and "alembic_version" not in tables:
        raise InputError(f"{where}: is another program's database; name another file")


def _address(file: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(file.resolve()))}?mode={mode}"


def tracked_key(name: str) -> str:
    """A name as MLflow accepts it for a metric, parameter, tag, image or artifact.

    Others than letters, digits and `/_-.: ` become `_`; a changed or shortened name ends in a hash of the
    original, so that two names stay two.
    """
    clean = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", name))
    clean = "_" if clean == "." else re.sub(r"^[/.]*(?=/)/|^\.\.", "_", clean)
    if clean == name and len(name.encode()) <= _KEY_BYTES:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean.encode()[: _KEY_BYTES - 9].decode(errors='ignore')}-{digest}"


def file_name(name: str) -> str:
    """The name of an artifact's file: a `tracked_key` without `/`."""
    return tracked_key(name.replace("/", "\\") if "/" in name else name)


def tracked_text(text: str) -> str:
    """Text that every database stores: bytes that are not UTF-8, and NUL, become U+FFFD."""
    return re.sub(r"[\0\ud800-\udfff]", "\ufffd", text)


def run_name(name: str) -> str:
    """A run's name, cut to MLflow's limit."""
    return tracked_text(name)[:_RUN_NAME_CHARACTERS]


def searchable(value: str) -> str:
    """A tag's value that MLflow's filters accept: others (with quotes, for instance) become their hash."""
    if len(value) <= 500 and not re.search(r"['\"`\\;\x00-\x1f\x7f\ud800-\udfff]", value):
        return value
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
