"""Hashes of what steps read and leave: files, folders, shards, and the recordings of a corpus card."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from rwsa.corpora.cards import read_card, sources
from rwsa.files import StoragePath, is_file, is_remote, location, sha256_of, store_errors
from rwsa.shards.index import INDEX_NAME


def content_hash(path: StoragePath) -> str | None:
    """Hash of the content of a file or folder; None if there is nothing at `path`.

    Of shards: of their index and of the names and sizes of the files, since the index has the hashes.
    """
    with store_errors(path):
        if path.is_file():
            return sha256_of(path)
        if not path.exists():
            return None
        if is_file(path / INDEX_NAME):
            return _joined(sha256_of(path / INDEX_NAME), *_sizes(path))
        return _joined(*(f"{_below(file, path)} {sha256_of(file)}" for file in files_below(path)))


def signature(path: StoragePath) -> str | None:
    """Hash of the names, sizes and times of the files at `path`, without reading them; None if none is there.

    An equal signature means equal content, for files that are replaced and not edited.
    """
    with store_errors(path):
        if path.is_file():
            return _joined(_stamp(path))
        return _joined(*(f"{_below(file, path)} {_stamp(file)}" for file in files_below(path))) or None


def recordings_signature(card: Path) -> str:
    """Hash of the names, sizes and times of all files below the folders of a corpus card.

    Raises:
        InputError: the card is invalid, or a variable in its paths is not set.
    """
    lines = []
    for root in sorted({str(source.root) for _, source in sources(read_card(card))}):
        lines += [f"{root} {_below(file, Path(root))} {_stamp(file)}" for file in files_below(location(root))]
    return _joined(*lines)


def files_below(folder: StoragePath) -> Iterator[StoragePath]:
    """The files in a folder and its subfolders, sorted, without hidden ones."""
    if is_remote(folder):
        found = (path for path in folder.rglob("*") if path.is_file())
        yield from sorted((path for path in found if not path.name.startswith(".")), key=str)
        return
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _sizes(folder: StoragePath) -> list[str]:
    return [f"{_below(file, folder)} {file.stat().st_size}" for file in files_below(folder)]


def _stamp(file: StoragePath) -> str:
    status = file.stat()
    return f"{status.st_size}" if is_remote(file) else f"{status.st_size} {status.st_mtime_ns}"


def _below(file: StoragePath, folder: StoragePath) -> str:
    return str(file)[len(str(folder)) :].lstrip("/")


def _joined(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest() if lines else ""
