"""Listing the audio files below a folder and reading their headers, with a cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rwsa.audio import SUFFIXES, AudioInfo, read_info
from rwsa.errors import InputError
from rwsa.file_cache import FileCache, stamp_or_none

# Reading a header is a few system calls and little Python: threads hide the latency of a disk or a network
# folder; chunks keep the overhead per file low.
_THREADS = 8
_CHUNK_FILES = 256
_HEADERS = "header-1"


def audio_below(root: Path) -> list[str]:
    """Audio files below `root` as sorted relative POSIX paths; hidden (partly written) files are skipped.

    Follows linked folders, since corpora are often assembled from links, but visits each real folder once.

    Raises:
        InputError: a folder cannot be listed.
    """
    files: list[str] = []
    seen: set[str] = set()
    suffixes = tuple(SUFFIXES)
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # In place, so that os.walk skips hidden folders and walks in the same order everywhere.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        files += [below + name for name in names if name[0] != "." and name.lower().endswith(suffixes)]
    return sorted(files)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be listed ({error.strerror}); give read permission"
    ) from error


def read_headers(paths: Sequence[str], cache: FileCache | None = None) -> list[AudioInfo | str]:
    """The header of each file, or an error message.

    With a cache, unchanged files cost one `stat` each and are not opened. Failures are not cached, since
    their cause may be temporary (permissions, a mount).
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        if cache is None:
            return _in_chunks(pool, _header, paths)
        stamps = dict(zip(paths, _in_chunks(pool, stamp_or_none, paths), strict=True))
        cached = cache.get(_HEADERS, filter(None, stamps.values()))
        fresh = [path for path in paths if path not in cached]
        read = dict(zip(fresh, _in_chunks(pool, _header, fresh), strict=True))
    new = {
        stamp: dataclasses.asdict(info)
        for path, info in read.items()
        if (stamp := stamps[path]) is not None and isinstance(info, AudioInfo)
    }
    if new:
        cache.put(_HEADERS, new)
    return [AudioInfo(**cached[path]) if path in cached else read[path] for path in paths]


Result = TypeVar("Result")


def _in_chunks(pool: ThreadPoolExecutor, work: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    chunks = [paths[at : at + _CHUNK_FILES] for at in range(0, len(paths), _CHUNK_FILES)]
    return [result for done in pool.map(lambda chunk: list(map(work, chunk)), chunks) for result in done]


def _header(path: str) -> AudioInfo | str:
    try:
        return read_info(Path(path))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror}); check its permissions"
