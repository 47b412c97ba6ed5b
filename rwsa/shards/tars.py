"""Shards as tars of paired FLAC: write them atomically, verify them, read them as a WebDataset.

`SPLIT-000123.tar` contains `<id>.clean.flac`, `<id>.json` and `<id>.noisy.flac` of every example. It is
written to a temporary file and renamed, and its entry (`rwsa.shards.index`) is renamed after it, so a tar
without an entry is incomplete. The bytes depend only on the examples and the package versions, not on time,
user or machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, is_remote, sha256_of, store_errors
from rwsa.shards.examples import Example, ExampleEntry, Examples, Member
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
from rwsa.shards.reader import ShardReader

if TYPE_CHECKING:
    import webdataset


_EXAMPLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    meta = json.dumps({**example.meta, "id": name}, sort_keys=True, separators=(",", ":"))
    # Sorted by name, like webdataset's writer.
    return ExampleEntry(
        example_id=name,
        samples=len(noisy),
        clean=_add(tar, f"{name}.clean.flac", _encode_flac(clean, rate)),
        json=_add(tar, f"{name}.json", meta.encode()),
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
    if not _EXAMPLE_ID.fullmatch(name):
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
    """Recompute the checksums of each tar and of its decoded samples; returns one line per damaged shard."""
    problems = []
    with ShardReader(index, max_open=1) as reader:
        for number, entry in enumerate(index.entries):
            if not is_intact(index.folder, entry):
                problems.append(f"{index.folder / entry.shard}: its bytes do not match the index")
                continue
            digest = hashlib.sha256()
            for at in range(len(entry.examples)):
                example = reader.read(number, at)
                pair = _to_int16(example, example.noisy), _to_int16(example, example.clean)
                _hash_pair(digest, example.example_id, *pair)
            if digest.hexdigest() != entry.samples_sha256:
                problems.append(f"{index.folder / entry.shard}: its samples do not match the index")
    return problems


def as_webdataset(index: ShardIndex, **options: Any) -> webdataset.WebDataset:
    """The shards of a split as a webdataset pipeline, for other training code.

    Samples are dicts: `__key__`; `noisy` and `clean`, float32 `[samples]`; `json`, the metadata. Order and
    shuffling are webdataset's, without exact resumption; `rwsa.training` has a reproducible order.

    Args:
        index: of a split, from `rwsa.shards.index.read_index`.
        options: options of `webdataset.WebDataset`, such as `shardshuffle` (default: none).

    Raises:
        InputError: the shards are in a store, which webdataset reads through other programs.
    """
    import webdataset  # late, since it imports torch, which mixing does not need

    if is_remote(index.folder):
        raise InputError(f"{index.folder}: webdataset reads local files; copy the shards, or use ShardReader")
    urls = [str(index.folder / entry.shard) for entry in index.entries]
    pipeline = webdataset.WebDataset(urls, **{"shardshuffle": False, **options})
    return pipeline.decode(webdataset.handle_extension("flac", _decoded)).rename(
        __key__="__key__", noisy="noisy.flac", clean="clean.flac", json="json"
    )


def _decoded(data: bytes) -> np.ndarray:
    wav, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return wav
