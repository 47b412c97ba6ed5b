"""Small files written on a condition: only if nobody else has written them since they were read."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from upath import UPath

from rwsa.files import StoragePath, is_remote, store_errors

_GUARD_SECONDS, _GUARD_POLL_SECONDS = 2.0, 0.01
# Answers of S3, and the HTTP status of other stores, to a write whose condition does not hold.
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict"}
_PRECONDITION_FAILED = 412


class ConditionalFile(Protocol):
    """A file that is read with its version, and written only if that version is still there."""

    def read(self) -> tuple[bytes, object] | None:
        """Content and version; None if there is no such file."""

    def write(self, content: bytes, *, version: object | None) -> bool:
        """Replace this version, or create the file if None; False if it has changed or exists."""

    def delete(self) -> None:
        """Delete the file, if it exists."""


def conditional_file(path: StoragePath) -> ConditionalFile:
    """The file at `path`, by the strongest condition that its file system or store has.

    In a folder a file is created with O_EXCL, and replaced under a lock of the folder. S3 compares on the
    server (`If-None-Match`, `If-Match`). Elsewhere only what the driver offers: creation may be exact, and
    replacement is preceded by a look.
    """
    if not is_remote(path):
        return _LocalFile(path)
    return _S3File(path) if path.protocol in ("s3", "s3a") else _StoreFile(path)


class _LocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, object] | None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return content, content

    def write(self, content: bytes, *, version: object | None) -> bool:
        with _guard(self._path.parent):
            if version is None:
                return self._create(content)
            found = self.read()
            if found is None or found[1] != version:
                return False
            temporary = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex[:8]}")
            try:
                temporary.write_bytes(content)
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
            return True

    def _create(self, content: bytes) -> bool:
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, content)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return True

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Lock a folder for a moment; on network file systems that have no such lock, do without."""
    handle = None
    try:
        with suppress(ImportError, OSError):  # Windows has no fcntl
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            deadline = time.monotonic() + _GUARD_SECONDS
            while time.monotonic() < deadline:  # its holder may be suspended
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_GUARD_POLL_SECONDS)
        yield
    finally:
        if handle is not None:
            os.close(handle)


class _StoreFile:
    """A file in any store of fsspec's."""

    def __init__(self, path: UPath) -> None:
        self._path = path

    def read(self) -> tuple[bytes, object] | None:
        with suppress(FileNotFoundError), store_errors(self._path):
            content = self._path.fs.cat_file(self._path.path)
            return content, content
        return None

    def write(self, content: bytes, *, version: object | None) -> bool:
        if version is not None and not self._has(version):
            return False
        mode = "create" if version is None else "overwrite"
        with store_errors(self._path):
            try:
                self._path.fs.pipe_file(self._path.path, content, mode=mode)
            except Exception as error:
                if isinstance(error, FileExistsError) or getattr(error, "code", None) == _PRECONDITION_FAILED:
                    return False
                raise
        return True

    def _has(self, version: object | None) -> bool:
        found = self.read()
        return (None if found is None else found[1]) == version

    def delete(self) -> None:
        with suppress(FileNotFoundError), store_errors(self._path):
            self._path.fs.rm_file(self._path.path)


class _S3File(_StoreFile):
    """A file on S3, whose server compares the ETag."""

    def read(self) -> tuple[bytes, object] | None:
        with suppress(FileNotFoundError), store_errors(self._path):
            # In this order: if the file changes in between, a write with the older ETag is refused.
            tag = self._path.fs.info(self._path.path)["ETag"]
            return self._path.fs.cat_file(self._path.path), tag
        return None

    def write(self, content: bytes, *, version: object | None) -> bool:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with store_errors(self._path):
            try:
                self._put(content, condition)
            except OSError as error:
                code = _s3_code(error)
                if code in _REFUSED or (code == "NoSuchKey" and version is not None):
                    return False
                if code != "NotImplemented":
                    raise
                if not self._has(version):  # a server without conditions
                    return False
                self._put(content, {})
        return True

    def _put(self, content: bytes, condition: Mapping[str, object]) -> None:
        bucket, key, _ = self._path.fs.split_path(self._path.path)
        self._path.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)


def _s3_code(error: OSError) -> str | None:
    """The server's error code, from the error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    code: str | None = response.get("Error", {}).get("Code")
    return code
