"""Local and remote paths, atomic writes of files and folders, JSON and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from upath import UPath

from rwsa.errors import InputError, UnreachableError
from rwsa.names import not_empty, shown

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# A path in a local folder or, as a `UPath`, in a store that fsspec supports.
StoragePath = Path | UPath

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# fsspec has more, some of which connect to whatever host a file from elsewhere names; memory:// is for tests.
_STORES = frozenset({*_EXTRAS, "abfs", "abfss", "az", "hdfs", "memory"})
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY")
# Eight attempts take half a minute in all, to outlast short network failures.
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10, 60, 8
_checks = list[Callable[[Path | UPath], None]]()
WRITE_REMEDY = "choose a folder that is writable and has space"
_LONGEST_NAME = 255  # bytes, on every common file system


def location(text: str | StoragePath) -> StoragePath:
    """Parse a local path or a store's URL (`s3://…`, `gs://…`).

    Credentials come from the environment, in the variables of the store's own tools (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …), and so does the number of attempts
    (`AWS_MAX_ATTEMPTS`).

    Raises:
        InputError: the text is empty; the URL contains a password, or its scheme is unknown or its driver not
            installed.
    """
    if not isinstance(text, str):
        return text
    not_empty(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if re.match(r"[^/@]*:[^/]*@", rest):
        raise InputError(
            f"{scheme}://…: contains a password; remove it from the URL and set it in the environment"
        )
    if scheme in ("file", "local"):
        return Path(rest)
    if scheme not in _STORES:
        raise InputError(f"{text}: {scheme}:// is not supported; use a folder, s3:// or gs://")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        remedy = f"pip install 'rwsa[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else str(error)
        raise InputError(f"{text}: this installation has no driver for {scheme}://; {remedy}") from error
    return UPath(text, **_store_options(scheme))


def _store_options(scheme: str) -> dict[str, Any]:
    """Options of a store's driver: bounded retries, and no cached listings, since others write there too."""
    if scheme not in _EXTRAS:
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}
    if _EXTRAS[scheme] == "s3":
        retries: dict[str, Any] = {} if "AWS_RETRY_MODE" in os.environ else {"mode": "standard"}
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = _ATTEMPTS
        timeouts = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        options["config_kwargs"] = {**timeouts, "retries": retries}
    return options


def is_remote(path: StoragePath) -> TypeIs[UPath]:
    """Whether `path` is in a store, not in a folder of this machine."""
    return isinstance(path, UPath)


def absolute_location(text: str) -> str:
    """A location independent of the current directory: a URL unchanged, a path made absolute."""
    path = location(text)
    return text if is_remote(path) else str(path.absolute())


@contextmanager
def store_errors(path: StoragePath) -> Iterator[None]:
    """Turn any error of a store's driver into an `UnreachableError` that names `path`.

    Errors of local file systems and `FileNotFoundError` pass unchanged.

    Raises:
        UnreachableError: the store refused or could not be reached, after all retries.
    """
    try:
        yield
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise UnreachableError(
            f"{path}: the store refused or is unreachable ({error_reason(error)});"
            " check its address, your credentials in the environment, and the network"
        ) from error


def error_reason(error: Exception) -> str:
    """The message of an error in one line, with the credentials of the environment masked."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text


def list_folder(folder: StoragePath) -> list[StoragePath]:
    """The sorted contents of a folder; empty if it is missing, as a store has no empty folders.

    Raises:
        UnreachableError: the store refused or could not be reached.
    """
    with store_errors(folder):
        try:
            return sorted(folder.iterdir(), key=lambda path: path.name)
        except (FileNotFoundError, NotADirectoryError):
            return []


def is_file(path: StoragePath) -> bool:
    """Whether the file exists.

    Raises:
        UnreachableError: the store refused or could not be reached.
    """
    with store_errors(path):
        return path.is_file()


@contextmanager
def local_copy(path: StoragePath) -> Iterator[Path]:
    """Yield a local file: `path` itself, or a temporary copy of a file in a store.

    Raises:
        FileNotFoundError: the store does not have it.
        UnreachableError: the store refused or could not be reached.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
        with store_errors(path):
            content = path.read_bytes()
        copy = Path(folder) / path.name
        copy.write_bytes(content)
        yield copy


def local_state_folder(root: StoragePath) -> Path:
    """The folder for files that a store cannot hold (databases, journals): `root`, or the user's cache."""
    if not is_remote(root):
        return root
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwsa"


def before_write(check: Callable[[StoragePath], None]) -> None:
    """Call `check` before a file or folder appears at its path; if it raises, nothing is written."""
    _checks.append(check)


def _check(path: StoragePath) -> None:
    for check in _checks:
        check(path)


@contextmanager
def atomic_write(path: StoragePath) -> Iterator[Path]:
    """Yield a temporary path; if the block succeeds, what was written there appears as `path`.

    Locally, the temporary file is in the same folder and is renamed; it keeps the suffix (audio writers
    choose their format by it) and starts with a dot, so that no scan takes it for data. For a URL it is a
    local file that is uploaded; a store shows an upload only when it is complete. It is removed if the
    block raises. Works for folders too, if `path` is local.

    Raises:
        InputError: the folder or store cannot be written to, or the disk is full.
    """
    with _uploaded(path) if is_remote(path) else _renamed(path) as temporary:
        yield temporary


@contextmanager
def atomic_folder(path: StoragePath, *, last: str) -> Iterator[Path]:
    """Yield a temporary folder; if the block succeeds, it replaces the folder `path`.

    A local folder is flushed to disk, to survive a power loss, and renamed. To a store the files are
    uploaded one by one, the file `last` at the end: a folder without it is incomplete.

    Raises:
        InputError: the folder or store cannot be written to, or the disk is full.
    """
    with _uploaded(path, last=last) if is_remote(path) else _renamed(path) as temporary:
        temporary.mkdir()
        yield temporary
        if not is_remote(path):
            for file in (*temporary.iterdir(), temporary):
                _flush(file)
        _check(path)
        remove_folder(path, first=last)
    if not is_remote(path):
        _flush(path.parent)


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    temporary = path.with_name(_fitting(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _check(path)
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        raise InputError(
            f"{shown(path)}: cannot be written ({error.strerror or error}); {WRITE_REMEDY}"
        ) from error
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                temporary.unlink()


@contextmanager
def _uploaded(path: UPath, *, last: str = "") -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(folder):
                raise
            raise InputError(
                f"{path}: its temporary file cannot be written ({error.strerror or error});"
                " set TMPDIR to a folder with space"
            ) from error
        _check(path)
        try:
            with store_errors(path):
                if temporary.is_dir():
                    for file in sorted(temporary.iterdir(), key=lambda file: file.name == last):
                        path.fs.put_file(str(file), (path / file.name).path)
                else:
                    path.fs.put_file(str(temporary), path.path)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: cannot be written ({error_reason(error)}); create the bucket first"
            ) from error


def remove_folder(path: StoragePath, *, first: str) -> None:
    """Remove a folder, if it exists, so that it is never seen partly removed.

    A local folder is renamed first; in a store the file `first` is deleted first, see `atomic_folder`.

    Raises:
        UnreachableError: the store refused or could not be reached.
    """
    if not is_remote(path):
        if path.exists():
            old = path.with_name(_fitting(f".{path.name}.old"))
            if old.exists():  # of a killed process
                shutil.rmtree(old)
            shutil.rmtree(path.rename(old))
    elif list_folder(path):
        with store_errors(path):
            (path / first).unlink(missing_ok=True)
            path.fs.rm(path.path, recursive=True)


def _fitting(name: str) -> str:
    """The name, replaced but for its suffix if it is longer than names may be."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    suffix = Path(name).suffix
    return f".{uuid.uuid4().hex[:8]}{suffix if len(os.fsencode(suffix)) < _LONGEST_NAME // 2 else ''}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(path: StoragePath) -> None:
    """Check that a file can be written at `path`, before long work whose result goes there.

    Raises:
        InputError: it cannot.
    """
    probe = path.with_name(_fitting(f"{path.name}.probe"))
    with atomic_write(probe) as temporary:
        temporary.touch()
    with store_errors(probe):
        probe.unlink()


def write_json(path: StoragePath, value: Any, *, sort_keys: bool = True) -> None:
    """Write `value` as JSON, indented by two spaces, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def read_json(path: StoragePath) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing, is not JSON, or its store cannot be reached.
    """
    try:
        if not is_remote(path) and path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file")
        with store_errors(path):
            data = path.read_bytes()
        return json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error


def sha256_of(path: StoragePath) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with store_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
