"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from upath import UPath

from rwsa.errors import InputError


def location(text: str | Path) -> Path:
    """A path from a person's words: a local one, or a URL that fsspec knows (`s3://…`, `gs://…`).

    A URL's path has the methods of `pathlib.Path`, and is annotated as one here and elsewhere.
    """
    return cast(Path, UPath(text)) if "://" in str(text) else Path(text)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary keeps the suffix (audio writers choose their format by it), starts with a dot so
    that no scan takes it for data, and is removed if the block raises. Works for a file or a folder.

    Raises:
        InputError: the folder cannot be created or written to, or its disk is full.
    """
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
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
