"""Files that appear whole or not at all, in folders and in object stores."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import fsspec
from upath import UPath

from rwsa.errors import InputError, UnreachableError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY")
# Eight attempts take half a minute in all, so that a network which is away for less is not noticed.
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10, 60, 8


def location(text: str | Path) -> Path:
    """A path from a person's words: a local one, or a URL that fsspec knows (`s3://…`, `gs://…`).

    A URL's path has the methods of `pathlib.Path`, and is annotated as one here and elsewhere.
    Credentials come from the environment, as the store's own tools take them (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …), and so may the number of attempts
    (`AWS_MAX_ATTEMPTS`).

    Raises:
        InputError: the URL holds a password, or is of a kind that fsspec or this installation lacks.
    """
    scheme, separator, rest = str(text).partition("://")
    if not isinstance(text, str) or not separator:
        return Path(text) if isinstance(text, str) else text
    if re.match(r"[^/@]*:[^/]*@", rest):
        raise InputError(
            f"{scheme}://…: holds a password; leave it out of the URL and set it in the environment"
        )
    if scheme in ("file", "local"):
        return Path(rest)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        wanted = f"pip install 'rwsa[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else str(error)
        raise InputError(f"{text}: this installation has no driver for {scheme}://; {wanted}") from error
    except ValueError as error:
        raise InputError(f"{text}: fsspec knows no {scheme}://; use a folder, s3:// or gs://") from error
    return cast(Path, UPath(text, **_options(scheme)))


def _options(scheme: str) -> dict[str, Any]:
    """What a store's driver is told: bounded retries (its own), no listings kept (others write there too)."""
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


def is_remote(path: Path) -> bool:
    """Whether `path` lies in a store that fsspec reaches, and not in a folder of this machine."""
    return isinstance(path, UPath)


def absolute(text: str) -> str:
    """A location that means the same in every folder: a URL as it is, a path made absolute."""
    path = location(text)
    return text if is_remote(path) else str(path.absolute())


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Turn what a store's driver raises about `path`, whatever it is, into one error that names the URL.

    What a local file system raises passes as it is, and `FileNotFoundError` always does.

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
            f"{path}: the store refused or is away ({reason_of(error)});"
            " check its address, your credentials in the environment, and the network"
        ) from error


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where it is missing, as in a store until it holds something.

    Raises:
        UnreachableError: the store refused or could not be reached.
    """
    with reaching(folder):
        try:
            return sorted(folder.iterdir(), key=lambda path: path.name)
        except (FileNotFoundError, NotADirectoryError):
            return []


def reason_of(error: Exception) -> str:
    """An error in one line, without the credentials that the environment holds."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, what was written there appears as `path`.

    In a folder the temporary lies beside `path` and is renamed; it keeps the suffix (audio writers
    choose their format by it) and starts with a dot so that no scan takes it for data. For a URL it is a
    local file, uploaded when whole: a store shows an upload when it is complete, or not at all. It is
    removed if the block raises. Works for a file, and in a folder for a folder too.

    Raises:
        InputError: the folder or store cannot be written to, or the disk is full.
    """
    with _uploaded(path) if is_remote(path) else _renamed(path) as aside:
        yield aside


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        reason = error.strerror or str(error)
        raise InputError(
            f"{path}: cannot be written ({reason}); choose a folder that is writable and has space"
        ) from error
    finally:
        _remove(aside)


@contextmanager
def _uploaded(path: Path) -> Iterator[Path]:
    store = cast(UPath, path)
    with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
        aside = Path(folder) / path.name
        try:
            yield aside
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(folder):
                raise
            raise InputError(
                f"{path}: cannot be written aside ({error.strerror or error});"
                " set TMPDIR to a folder with space"
            ) from error
        try:
            with reaching(path):
                store.fs.put_file(str(aside), store.path)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: cannot be written ({reason_of(error)}); make the bucket first"
            ) from error


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        UnreachableError: the store refused or could not be reached.
    """
    with reaching(path):
        return path.is_file()


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy of what lies in a store while the block runs.

    Raises:
        FileNotFoundError: the store does not have it.
        UnreachableError: the store refused or could not be reached.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
        copy = Path(folder) / path.name
        with reaching(path):
            copy.write_bytes(path.read_bytes())
        yield copy


def on_this_machine(root: Path) -> Path:
    """Where to keep what a store cannot hold (a database, a journal): the folder itself, or a user's."""
    if not is_remote(root):
        return root
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwsa"


def check_writable(path: Path) -> None:
    """Find out before long work, rather than after it, whether a file can be written there.

    Raises:
        InputError: it cannot.
    """
    probe = path.with_name(f"{path.name}.probe")
    with atomic_write(probe) as aside:
        aside.touch()
    with reaching(probe):
        probe.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def write_json(path: Path, value: Any, *, sort_keys: bool = True) -> None:
    """Write `value` as JSON, indented by two spaces, atomically."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing, is not JSON, or its store cannot be reached.
    """
    try:
        with reaching(path):
            data = path.read_bytes()
        return json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with reaching(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
