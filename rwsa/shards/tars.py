"""Shards as tars of paired FLAC: write them atomically, verify them, read them as a WebDataset.

`SPLIT-000123.tar` contains `<id>.clean.flac`, `<id>.json` and `<id>.noisy.flac` of every example. It is
written to a temporary file and renamed, and its entry (`rwsa.shards.index`) is renamed after it, so a tar
without an entry is incomplete. The bytes depend only on the examples and the package versions, not on time,
user or machine.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, sha256_of, store_errors
from rwsa.shards.examples import EXAMPLE_ID, MOST_SAMPLES, Example, ExampleEntry, Examples, Member
from rwsa.shards.index import (
    SCHEMA_VERSION,
    Failure,
    ShardEntry,
    ShardIndex,
    entry_or_none,
    entry_path,
    made_alike,
    made_with,
    shard_name,
    write_entry,
)
from rwsa.shards.metadata import read_metadata
from rwsa.shards.reader import ShardReader
from rwsa.shards.storage import open_regular

if TYPE_CHECKING:
    import webdataset

# Options of webdataset on how it opens files.
_OPENING_OPTIONS = frozenset({"cache_dir", "cache_size", "url_to_name", "select_files", "rename_files"})


def write_shard(
    folder: StoragePath,
    split: str,
    number: int,
    items: Iterable[Example | Failure],
    *,
    sample_rate_hz: int,
    corpus: str = "",
    recipe_hash: str = "",
    plan_hash: str = "",
) -> ShardEntry:
    """Write one shard and then its entry, with one example in memory at a time.

    Args:
        folder: folder or store; created if missing.
        split: name of the split, lower case.
        number: number of the shard within its split.
        items: the examples in the order to store them; a `Failure` is only recorded in the entry.
        sample_rate_hz: the sample rate of every example.
        corpus, recipe_hash, plan_hash: see `ShardEntry`.

    Raises:
        InputError: the folder is not writable or full, or an example is malformed. An earlier shard of
            this number is then unchanged; in a store it may have lost its entry, so that it is made again.
    """
    path = folder / shard_name(split, number)
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            hashed = _HashedFile(file)
            examples, failures, samples_sha256 = _write_tar(hashed, items, sample_rate_hz)
        size, sha256 = hashed.bytes, hashed.digest.hexdigest()
        # Between the two renames the old entry would describe the new tar, so it is deleted first; unless the
        # bytes are the same, since a worker that survived a lost node must not delete its successor's entry.
        with store_errors(folder):
            old = entry_or_none(entry_path(folder, split, number))
            if old is None or old.sha256 != sha256:
                entry_path(folder, split, number).unlink(missing_ok=True)
    entry = ShardEntry(
        schema_version=SCHEMA_VERSION,
        shard=path.name,
        split=split,
        number=number,
        bytes=size,
        sha256=sha256,
        samples_sha256=samples_sha256,
        sample_rate_hz=sample_rate_hz,
        seconds=int(examples.samples.sum(dtype=np.int64)) / sample_rate_hz,
        corpus=corpus,
        recipe_hash=recipe_hash,
        plan_hash=plan_hash,
        made_with=made_with(),
        examples=examples,
        failures=failures,
    )
    write_entry(folder, entry)
    return entry


class _HashedFile:
    """A file that hashes and counts what is written; reading the file back would take longer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def _write_tar(
    file: _HashedFile, items: Iterable[Example | Failure], sample_rate_hz: int
) -> tuple[Examples, tuple[Failure, ...], str]:
    decoded, failures = hashlib.sha256(), list[Failure]()
    examples: dict[str, ExampleEntry] = {}
    # As a stream, so that tarfile never seeks.
    with tarfile.open(fileobj=cast(BinaryIO, file), mode="w|") as tar:
        for item in items:
            if isinstance(item, Failure):
                failures.append(dataclasses.replace(item, slot=len(examples) + len(failures)))
                continue
            _check(item, sample_rate_hz, examples)
            noisy, clean = _to_int16(item, item.noisy), _to_int16(item, item.clean)
            examples[item.example_id] = _add_example(tar, item, noisy, clean)
            _hash_pair(decoded, item.example_id, noisy, clean)
    return Examples(examples.values()), tuple(failures), decoded.hexdigest()


def _add_example(
    tar: tarfile.TarFile, example: Example, noisy: np.ndarray, clean: np.ndarray
) -> ExampleEntry:
    name, rate = example.example_id, example.sample_rate_hz
    meta = json.dumps({**example.meta, "id": name}, sort_keys=True, separators=(",", ":")).encode()
    try:
        read_metadata(meta, name)
    except ValueError as error:
        raise InputError(f"example {name}: its metadata {error}") from error
    # Sorted by name, like webdataset's writer.
    return ExampleEntry(
        example_id=name,
        samples=len(noisy),
        clean=_add(tar, f"{name}.clean.flac", _encode_flac(clean, rate)),
        json=_add(tar, f"{name}.json", meta),
        noisy=_add(tar, f"{name}.noisy.flac", _encode_flac(noisy, rate)),
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)  # whose time, user and group are 0
    info.size, info.mode, info.uname, info.gname = len(data), 0o644, "rwsa", "rwsa"
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return Member(tar.offset - padded, len(data), zlib.crc32(data))


def _check(example: Example, sample_rate_hz: int, ids: Container[str]) -> None:
    name = example.example_id
    if not EXAMPLE_ID.fullmatch(name):
        raise InputError(f"example id {name!r}: use up to 64 letters, digits, - and _ (a dot ends the id)")
    if name in ids:
        raise InputError(f"example id {name!r}: appears twice in one shard; ids must be unique")
    if example.sample_rate_hz != sample_rate_hz:
        raise InputError(f"example {name}: at {example.sample_rate_hz} Hz in a shard of {sample_rate_hz} Hz")
    if example.noisy.ndim != 1 or example.noisy.shape != example.clean.shape or example.noisy.size == 0:
        raise InputError(
            f"example {name}: noisy {example.noisy.shape} and clean {example.clean.shape}"
            " must both be [samples], equally long and not empty"
        )
    if len(example.noisy) > MOST_SAMPLES:
        raise InputError(f"example {name}: has more than {MOST_SAMPLES:,} samples; cut it into shorter ones")


def _to_int16(example: Example, wav: np.ndarray) -> np.ndarray:
    """The 16-bit integers of a signal; raises if it is not on the 16-bit grid, as storing would change it."""
    scaled = wav * 32768.0  # exact in any float
    on_scale = scaled.min() >= -32768 and scaled.max() <= 32767  # and no NaN
    stored = scaled.astype(np.int16) if on_scale else None
    if stored is None or not np.array_equal(stored, scaled):
        raise InputError(
            f"example {example.example_id}: samples are beyond full scale or between 16-bit steps;"
            " apply rwsa.audio.round_to_int16 first"
        )
    return stored


def _encode_flac(wav: np.ndarray, sample_rate_hz: int) -> bytes:
    # From int16, since libsndfile scales floats by 32767 when writing and by 32768 when reading.
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _hash_pair(digest: Any, example_id: str, noisy: np.ndarray, clean: np.ndarray) -> None:
    digest.update(example_id.encode() + b"\0")
    digest.update(noisy.astype("<i2").tobytes() + clean.astype("<i2").tobytes())


def is_intact(folder: StoragePath, entry: ShardEntry) -> bool:
    """Whether the tar of `entry` exists with its recorded size and checksum."""
    path = folder / entry.shard
    with store_errors(path):
        same_size = path.is_file() and path.stat().st_size == entry.bytes
    return same_size and sha256_of(path) == entry.sha256


def is_up_to_date(folder: StoragePath, entry: ShardEntry, plan_hash: str) -> bool:
    """Whether a shard is intact, without failures, and made from these plan rows by these package versions.

    A shard with failures is made again, since its source files may have been repaired.
    """
    alike = entry.plan_hash == plan_hash and made_alike(entry.made_with)
    return alike and not entry.failures and is_intact(folder, entry)


def verify(index: ShardIndex) -> list[str]:
    """Recompute the checksums of each tar and of its decoded samples; returns one line per damaged shard.

    The headers in the tar must agree with the index, since other programs read shards by them.
    """
    problems = []
    with ShardReader(index, max_open=1) as reader:
        for number, entry in enumerate(index.entries):
            if not is_intact(index.folder, entry):
                problems.append(f"{index.folder / entry.shard}: its bytes do not match the index")
                continue
            if (member := _foreign_member(index.folder, entry)) is not None:
                problems.append(
                    f"{index.folder / entry.shard}: its header of {member} does not match the index"
                )
                continue
            digest = hashlib.sha256()
            for at in range(len(entry.examples)):
                example = reader.read(number, at)
                pair = _to_int16(example, example.noisy), _to_int16(example, example.clean)
                _hash_pair(digest, example.example_id, *pair)
            if digest.hexdigest() != entry.samples_sha256:
                problems.append(f"{index.folder / entry.shard}: its samples do not match the index")
    return problems


def _foreign_member(folder: StoragePath, entry: ShardEntry) -> str | None:
    """The first member whose tar header has another name, size or type than its index entry."""
    with open_regular(folder / entry.shard) as file:
        for example in entry.examples:
            members = {"clean.flac": example.clean, "json": example.json, "noisy.flac": example.noisy}
            for suffix, member in members.items():
                name = f"{example.example_id}.{suffix}"
                file.seek(max(0, member.offset - tarfile.BLOCKSIZE))
                try:
                    header = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "ascii", "strict")
                except (tarfile.HeaderError, ValueError):
                    return name
                if (header.name, header.size, header.type) != (name, member.length, tarfile.REGTYPE):
                    return name
    return None


def as_webdataset(index: ShardIndex, **options: Any) -> webdataset.WebDataset:
    """The shards of a split as a webdataset pipeline, for other training code.

    Samples are dicts: `__key__`; `noisy` and `clean`, float32 `[samples]`; `json`, the metadata. Order and
    shuffling are webdataset's, without exact resumption; `rwsa.training` has a reproducible order. Shards are
    read by `ShardReader`, locally or from a store: webdataset opens nothing and runs no other program.

    Args:
        index: of a split, from `rwsa.shards.index.read_index`.
        options: options of `webdataset.WebDataset` on order and splitting, such as `shardshuffle` (default:
            none).

    Raises:
        InputError: an option is about how webdataset opens files.
    """
    import webdataset  # late, since it imports torch, which mixing does not need

    if refused := sorted(_OPENING_OPTIONS & options.keys()):
        raise InputError(
            f"as_webdataset: {refused[0]} has no effect, as ShardReader reads the shards; leave it out"
        )
    dataset = webdataset.WebDataset(
        [str(number) for number in range(len(index.entries))],
        **{"shardshuffle": False, "cache_dir": None, **options},
    )
    # Its stages are: numbers of shards, their split and order; opening, expanding and grouping tars; others.
    (opening,) = (
        at
        for at, stage in enumerate(dataset.pipeline)
        if isinstance(stage, webdataset.cache.StreamingOpen | webdataset.cache.FileCache)
    )
    dataset.pipeline[opening : opening + 3] = [functools.partial(_samples, index)]
    return dataset


def _samples(index: ShardIndex, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with ShardReader(index, max_open=1) as reader:
        for shard in shards:
            number = int(shard["url"])
            entry = index.entries[number]
            for at in range(len(entry.examples)):
                example = reader.read(number, at)
                yield {
                    "__key__": example.example_id,
                    "__url__": str(index.folder / entry.shard),
                    "noisy": example.noisy,
                    "clean": example.clean,
                    "json": example.meta,
                }
