"""Reading the headers of many audio files, with a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rwsa.audio import AudioInfo, read_info
from rwsa.errors import InputError
from rwsa.file_cache import FileCache, cached_as, stamp_or_none
from rwsa.names import local_path, shown

# Reading a header is a few system calls and little Python: threads hide the latency of a disk or a network
# folder; chunks keep the overhead per file low.
_THREADS = 8
_CHUNK_FILES = 256
_HEADERS = "header-1"


def read_headers(paths: Sequence[str], cache: FileCache | None = None) -> list[AudioInfo | str]:
    """The header of each file, named as by `rwsa.names.stored_path`, or an error message.

    With a cache, unchanged files cost one `stat` each and are not opened. Failures are not cached, since
    their cause may be temporary (permissions, a mount).
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        if cache is None:
            return _in_chunks(pool, _header, paths)
        stamps = dict(zip(paths, _in_chunks(pool, stamp_or_none, paths), strict=True))
        found = cache.get(_HEADERS, filter(None, stamps.values()))
        cached = {path: info for path, value in found.items() if (info := _cached_header(value)) is not None}
        fresh = [path for path in paths if path not in cached]
        read = dict(zip(fresh, _in_chunks(pool, _header, fresh), strict=True))
    new = {
        stamp: dataclasses.asdict(info)
        for path, info in read.items()
        if (stamp := stamps[path]) is not None and isinstance(info, AudioInfo)
    }
    if new:
        cache.put(_HEADERS, new)
    return [cached[path] if path in cached else read[path] for path in paths]


def _cached_header(value: object) -> AudioInfo | None:
    info = cached_as(AudioInfo, value)
    return (
        info if info is not None and min(info.sample_rate_hz, info.channels, info.samples + 1) > 0 else None
    )


Result = TypeVar("Result")


def _in_chunks(pool: ThreadPoolExecutor, work: Callable[[str], Result], paths: Sequence[str]) -> list[Result]:
    chunks = [paths[at : at + _CHUNK_FILES] for at in range(0, len(paths), _CHUNK_FILES)]
    return [result for done in pool.map(lambda chunk: list(map(work, chunk)), chunks) for result in done]


def _header(stored: str) -> AudioInfo | str:
    path = local_path(stored)
    try:
        return read_info(path)
    except InputError as error:
        return str(error).removeprefix(f"{shown(path)}: ")
