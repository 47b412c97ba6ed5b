"""Opening the files of a folder of shards, whose names and positions come from an index that is not trusted.

`rwsa.shards.entries` admits only names that the writer gives; these functions open only regular files and
read only what is there, whatever length is asked for.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from upath import UPath

from rwsa.files import StoragePath, is_remote, store_errors


def open_regular(path: StoragePath) -> BinaryIO:
    """Open a file for reading, locally only a regular one: opening a pipe would wait for its writer.

    Raises:
        OSError: it is missing or not a regular file.
        UnreachableError: the store refused or could not be reached.
    """
    if is_remote(path):
        with store_errors(path):
            # Not `path.fs`, which a forked process must not use.
            return cast(BinaryIO, _store(path).open(path.path, "rb"))
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return path.open("rb")


def read_range(path: StoragePath, start: int, length: int) -> bytes:
    """The bytes from `start`, fewer than `length` if the file ends before.

    Raises:
        OSError: the file is missing or not a regular one.
        UnreachableError: the store refused or could not be reached.
    """
    if is_remote(path):
        with store_errors(path):
            return bytes(_store(path).cat_file(path.path, start=start, end=start + length))
    with open_regular(path) as file:
        return pread(file, start, length)


def pread(file: BinaryIO, start: int, length: int) -> bytes:
    """Like `os.pread`, which would reserve memory for `length` bytes though the file has fewer."""
    there = os.fstat(file.fileno()).st_size - start
    return os.pread(file.fileno(), min(length, there), start) if there > 0 else b""


def file_bytes(path: StoragePath) -> int:
    """The size of a file.

    Raises:
        OSError: the file is missing.
        UnreachableError: the store refused or could not be reached.
    """
    with store_errors(path):
        return int(_store(path).size(path.path)) if is_remote(path) else Path(path).stat().st_size


def _store(path: UPath) -> Any:
    # fsspec caches it, apart for each process.
    return fsspec.filesystem(path.protocol, **path.storage_options)
