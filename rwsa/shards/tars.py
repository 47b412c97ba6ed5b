"""Shards as tars of paired FLAC: write them whole, verify them, read them in order as a WebDataset.

`SPLIT-000123.tar` holds, for every example, `<id>.clean.flac`, `<id>.json` and `<id>.noisy.flac`.
It is written aside and renamed when whole, and its entry (`rwsa.shards.index`) is renamed after it,
so a tar without an entry is unfinished. The bytes depend on the examples and on the package
versions alone: no time, user or machine enters them.
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
    """Write one shard and then its entry, holding one example in memory at a time.

    Args:
        folder: where to; made if missing.
        split: name of the split, lower case.
        number: of the shard within its split.
        items: the examples in the order to store them; a `Failure` is only noted in the entry.
        sample_rate_hz: that every example must have.
        corpus, recipe_hash, plan_hash: see `ShardEntry`.

    Raises:
        InputError: the folder is not writable or full, or an example is malformed. An earlier shard
            of this number is then left as it was; in an object store it may have lost its entry, and so
            count as one to be made again.
    """
    path = folder / shard_name(split, number)
    with atomic_write(path) as aside:
        with aside.open("wb") as file:
            hashed = _HashedFile(file)
            examples, failures, samples_sha256 = _write_tar(hashed, items, sample_rate_hz)
        size, sha256 = hashed.bytes, hashed.digest.hexdigest()
        # The old entry must not vouch for the new tar in the moment between the two renames; one of
        # the same bytes may, and stays: a worker that a lost node left behind must not take it away.
        with store_errors(folder):
            before = entry_or_none(entry_path(folder, split, number))
            if before is None or before.sha256 != sha256:
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
    """What is written to a file, hashed and counted on its way: reading it back would take longer."""

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
    # As a stream, which leaves nothing to be sought in or corrected.
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
    # In the order of their names, as webdataset's writer has them.
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
    filled_up = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return Member(tar.offset - filled_up, len(data), zlib.crc32(data))


def _check(example: Example, sample_rate_hz: int, ids: Container[str]) -> None:
    name = example.example_id
    if not _EXAMPLE_ID.fullmatch(name):
        raise InputError(f"example id {name!r}: use up to 64 letters, digits, - and _ (a dot ends the id)")
    if name in ids:
        raise InputError(f"example id {name!r}: comes twice in one shard; give each example its own")
    if example.sample_rate_hz != sample_rate_hz:
        raise InputError(f"example {name}: at {example.sample_rate_hz} Hz in a shard of {sample_rate_hz} Hz")
    if example.noisy.ndim != 1 or example.noisy.shape != example.clean.shape or example.noisy.size == 0:
        raise InputError(
            f"example {name}: noisy {example.noisy.shape} and clean {example.clean.shape}"
            " must both be [samples], equally long and not empty"
        )


def _to_int16(example: Example, wav: np.ndarray) -> np.ndarray:
    """The integers behind a wave on the 16-bit grid; off the grid it would be stored changed."""
    scaled = wav * 32768.0  # exact in any float
    on_scale = scaled.min() >= -32768 and scaled.max() <= 32767  # and no NaN
    stored = scaled.astype(np.int16) if on_scale else None
    if stored is None or not np.array_equal(stored, scaled):
        raise InputError(
            f"example {example.example_id}: samples lie beyond full scale or between 16-bit steps;"
            " apply rwsa.audio.round_to_int16 first"
        )
    return stored


def _encode_flac(wav: np.ndarray, sample_rate_hz: int) -> bytes:
    # From int16: libsndfile would scale floats by 32767 and read them back by 32768.
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _hash_pair(digest: Any, example_id: str, noisy: np.ndarray, clean: np.ndarray) -> None:
    digest.update(example_id.encode() + b"\0")
    digest.update(noisy.astype("<i2").tobytes() + clean.astype("<i2").tobytes())


def is_whole(folder: StoragePath, entry: ShardEntry) -> bool:
    """Whether the tar that `entry` describes is there, with the bytes that it had when written."""
    path = folder / entry.shard
    with store_errors(path):
        same_size = path.is_file() and path.stat().st_size == entry.bytes
    return same_size and sha256_of(path) == entry.sha256


def is_up_to_date(folder: StoragePath, entry: ShardEntry, plan_hash: str) -> bool:
    """Whether a shard is what these plan rows give under these package versions, and whole.

    One with failures is made again, for its sources may have been repaired since.
    """
    same_versions = {**entry.made_with, "cpu": ""} == {**made_with(), "cpu": ""}
    return entry.plan_hash == plan_hash and same_versions and not entry.failures and is_whole(folder, entry)


def verify(index: ShardIndex) -> list[str]:
    """Recompute every checksum of a split: one line per damaged shard, none if all is well.

    Checks the bytes of each tar and, apart from them, the decoded samples.
    """
    problems = []
    with ShardReader(index, max_open=1) as reader:
        for number, entry in enumerate(index.entries):
            if not is_whole(index.folder, entry):
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
    """The shards of a split as a pipeline of webdataset's own, for training code that is not ours.

    Samples are dicts: `__key__`; `noisy` and `clean`, float32 `[samples]`; `json`, the example's values.
    Order and shuffling are webdataset's, and so is its lack of exact resume; `rwsa.training` has both.

    Args:
        index: of a split, as `rwsa.shards.index.read_index` gives it.
        options: of `webdataset.WebDataset`, such as `shardshuffle` (none by default).

    Raises:
        InputError: the shards are in an object store, which webdataset reads through other programs.
    """
    import webdataset  # late, since it imports torch, which those who mix do without

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
