"""WebDataset shards of paired FLAC: write them whole, read them by offset, verify them.

`SPLIT-000123.tar` holds, for every example, `<id>.clean.flac`, `<id>.json` and `<id>.noisy.flac`.
It is written aside and renamed when whole, and its entry (`rwsa.shard_index`) is renamed after it,
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import reaching, sha256_of, written_aside
from rwsa.shard_examples import Example, ExampleEntry, Examples, Member
from rwsa.shard_index import (
    SCHEMA_VERSION,
    Failure,
    ShardEntry,
    ShardIndex,
    entry_path,
    made_with,
    shard_name,
    write_entry,
)
from rwsa.shard_reader import DamagedShardError, ShardReader

# All that a caller needs of shards, from one place.
__all__ = ["DamagedShardError", "Example", "ShardReader", "is_whole", "verify", "write_shard"]

_EXAMPLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def write_shard(
    folder: Path,
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
            of this number is then left as it was.
    """
    path = folder / shard_name(split, number)
    with written_aside(path) as aside:
        samples_sha256, failures = _write_tar(aside, items, sample_rate_hz)
        examples = _read_layout(aside)
        size, sha256 = aside.stat().st_size, sha256_of(aside)
        # The old entry must not vouch for the new tar in the moment between the two renames.
        with reaching(folder):
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


def _write_tar(
    path: Path, items: Iterable[Example | Failure], sample_rate_hz: int
) -> tuple[str, tuple[Failure, ...]]:
    decoded, failures = hashlib.sha256(), list[Failure]()
    ids = set[str]()
    with path.open("wb") as file, _tar_writer(file) as tar:
        for item in items:
            if isinstance(item, Failure):
                failures.append(dataclasses.replace(item, slot=len(ids) + len(failures)))
                continue
            _check(item, sample_rate_hz, ids)
            ids.add(item.example_id)
            noisy, clean = _to_int16(item, item.noisy), _to_int16(item, item.clean)
            tar.write(_members(item, noisy, clean))
            _hash_pair(decoded, item.example_id, noisy, clean)
    return decoded.hexdigest(), tuple(failures)


def _tar_writer(file: BinaryIO) -> Any:
    import webdataset  # late, since it imports torch, which those who only mix or read do without

    return webdataset.TarWriter(file, user="rwsa", group="rwsa", mode=0o644, mtime=0, encoder=False)


def _check(example: Example, sample_rate_hz: int, ids: set[str]) -> None:
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
    scaled = wav.astype(np.float64) * 32768.0
    if not (np.abs(scaled + 0.5) <= 32767.5).all() or not np.array_equal(np.rint(scaled), scaled):
        raise InputError(
            f"example {example.example_id}: samples lie beyond full scale or between 16-bit steps;"
            " apply rwsa.audio.round_to_int16 first"
        )
    return scaled.astype(np.int16)


def _members(example: Example, noisy: np.ndarray, clean: np.ndarray) -> dict[str, str | bytes]:
    meta = json.dumps({**example.meta, "id": example.example_id}, sort_keys=True, separators=(",", ":"))
    return {
        "__key__": example.example_id,
        "noisy.flac": _encode_flac(noisy, example.sample_rate_hz),
        "clean.flac": _encode_flac(clean, example.sample_rate_hz),
        "json": meta.encode(),
    }


def _encode_flac(wav: np.ndarray, sample_rate_hz: int) -> bytes:
    # From int16: libsndfile would scale floats by 32767 and read them back by 32768.
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _hash_pair(digest: Any, example_id: str, noisy: np.ndarray, clean: np.ndarray) -> None:
    digest.update(example_id.encode() + b"\0")
    digest.update(noisy.astype("<i2").tobytes() + clean.astype("<i2").tobytes())


def _read_layout(path: Path) -> Examples:
    """Offsets as they really lie in the tar, so that the entry cannot disagree with it."""
    places: dict[str, dict[str, Member]] = {}
    samples: dict[str, int] = {}
    with tarfile.open(path, "r:") as tar, path.open("rb") as file:
        for info in tar:
            name, _, kind = info.name.partition(".")
            file.seek(info.offset_data)
            data = file.read(info.size)
            places.setdefault(name, {})[kind] = Member(info.offset_data, info.size, zlib.crc32(data))
            if kind == "noisy.flac":
                samples[name] = soundfile.info(io.BytesIO(data)).frames
    return Examples(
        ExampleEntry(
            example_id=name,
            samples=samples[name],
            noisy=members["noisy.flac"],
            clean=members["clean.flac"],
            json=members["json"],
        )
        for name, members in places.items()
    )


def is_whole(folder: Path, entry: ShardEntry) -> bool:
    """Whether the tar that `entry` describes is there, with the bytes that it had when written."""
    path = folder / entry.shard
    with reaching(path):
        same_size = path.is_file() and path.stat().st_size == entry.bytes
    return same_size and sha256_of(path) == entry.sha256


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
