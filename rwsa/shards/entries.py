"""The entry of a shard: the description of one tar, in `SPLIT-000123.json` and as a line of `index.json`.

Entries come from folders and stores that others write to, so everything in them is checked before use: names
are exactly those that the writer gives, numbers fit each other and the size of the tar.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rwsa.errors import InputError, UnreachableError
from rwsa.files import StoragePath, list_folder, read_json, write_json
from rwsa.shards.examples import Examples

SCHEMA_VERSION = 2
_ENTRY_NAME = re.compile(r"[a-z0-9_]+-[0-9]{6}\.json")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A planned example that could not be made, and the reason.

    `slot` is its position among the examples planned for the shard, set by `rwsa.shards.write_shard`.
    """

    example_id: str
    reason: str
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """The contents of `SPLIT-000123.json`: the description of one tar.

    Attributes:
        shard: file name of the tar.
        sha256: checksum of the tar.
        samples_sha256: checksum of the ids and decoded 16-bit samples, independent of the FLAC encoder.
        seconds: total duration of the examples.
        corpus: name of the corpus card; empty if there was none.
        recipe_hash: hash of the recipe; empty if there was none.
        plan_hash: hash of the rendered plan rows; empty if there were none.
        made_with: package versions and CPU family; only the same ones reproduce the bytes.
        failures: planned examples that are missing from the tar.
    """

    schema_version: int
    shard: str
    split: str
    number: int
    bytes: int
    sha256: str
    samples_sha256: str
    sample_rate_hz: int
    seconds: float
    corpus: str
    recipe_hash: str
    plan_hash: str
    made_with: Mapping[str, str]
    examples: Examples
    failures: tuple[Failure, ...]

    @property
    def planned(self) -> int:
        """Number of examples planned for the shard, including failures."""
        return len(self.examples) + len(self.failures)

    def at_slot(self, slot: int) -> int | Failure:
        """The number in the tar of the example planned for `slot`, or its failure.

        Failures without a slot, from before slots were stored, follow the examples.
        """
        before = 0
        for failure in self.failures:
            if failure.slot == slot:
                return failure
            before += failure.slot is not None and failure.slot < slot
        at = slot - before
        if at < len(self.examples):
            return at
        return [failure for failure in self.failures if failure.slot is None][at - len(self.examples)]


_Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _FailureValues(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    example_id: Annotated[str, Field(max_length=200)]
    reason: Annotated[str, Field(max_length=1 << 16)]
    slot: Annotated[int, Field(ge=0)] | None = None


class _EntryValues(BaseModel):
    """The types and limits of an entry's values; the rows of examples are checked by `Examples`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    schema_version: Literal[2]
    shard: Annotated[str, Field(max_length=80)]
    split: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    number: Annotated[int, Field(ge=0, le=999_999)]
    bytes: Annotated[int, Field(ge=0, lt=1 << 50)]
    sha256: _Sha256
    samples_sha256: _Sha256
    sample_rate_hz: Annotated[int, Field(ge=1, le=1_000_000)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    corpus: Annotated[str, Field(pattern=r"^([\w][\w.-]*)?$", max_length=200)]
    recipe_hash: _Hash
    plan_hash: _Hash
    made_with: Annotated[
        dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=200)]],
        Field(max_length=100),
    ]
    examples: list[Any]
    failures: list[_FailureValues]


def shard_name(split: str, number: int) -> str:
    """`SPLIT-000123.tar`."""
    return f"{split}-{number:06d}.tar"


def entry_path(folder: StoragePath, split: str, number: int) -> StoragePath:
    """Path of a shard's entry, `SPLIT-000123.json`."""
    return (folder / shard_name(split, number)).with_suffix(".json")


def entry_paths(folder: StoragePath) -> dict[str, list[StoragePath]]:
    """The paths of the entries in `folder`: split -> sorted by number.

    Raises:
        InputError: the store of the folder cannot be reached.
    """
    splits: dict[str, list[StoragePath]] = {}
    for path in list_folder(folder):
        if _ENTRY_NAME.fullmatch(path.name):
            splits.setdefault(path.name.rpartition("-")[0], []).append(path)
    return splits


def write_entry(folder: StoragePath, entry: ShardEntry) -> None:
    """Write a shard's entry, atomically.

    Raises:
        InputError: the folder is not writable or full.
    """
    write_json(entry_path(folder, entry.split, entry.number), entry_values(entry))


def read_entry(path: StoragePath) -> ShardEntry:
    """Read one shard's entry.

    Raises:
        InputError: it is missing, damaged, of another shard or of another schema version.
    """
    entry = parse_entry(read_json(path), path)
    if path != entry_path(path.parent, entry.split, entry.number):
        raise InputError(f"{path}: describes {entry.shard}, another shard; delete it and mix again")
    return entry


def entry_or_none(path: StoragePath) -> ShardEntry | None:
    """Read one shard's entry; None if it is missing or damaged, so that the shard must be made again.

    Raises:
        UnreachableError: the store refused or is unreachable.
    """
    try:
        return read_entry(path)
    except UnreachableError:
        raise
    except InputError:
        return None


def entry_values(entry: ShardEntry) -> dict[str, Any]:
    """The JSON values of an entry."""
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    # One flat row per example, for an index of about 100 bytes per example.
    values["examples"] = entry.examples.rows()
    values["failures"] = [dataclasses.asdict(failure) for failure in entry.failures]
    return values


def parse_entry(values: Any, where: StoragePath) -> ShardEntry:
    """Check the JSON values of an entry, read from `where`.

    Raises:
        InputError: they are of another schema version, or impossible for an entry that the writer made.
    """
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema version {str(version)[:20]}, but this program reads {SCHEMA_VERSION}; mix again"
        )
    try:
        checked = _EntryValues.model_validate(values)
        entry = ShardEntry(
            **{
                **dict(checked),
                "examples": Examples.of_rows(checked.examples),
                "failures": tuple(Failure(**dict(failure)) for failure in checked.failures),
            }
        )
        _check_agreement(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))[:80]
        raise InputError(
            f"{where}: not a shard entry ({key}: {first['msg'].lower()}); delete it and mix again"
        ) from error
    except (TypeError, ValueError, IndexError, OverflowError, KeyError) as error:
        raise InputError(
            f"{where}: not a shard entry ({str(error)[:200]}); delete it and mix again"
        ) from error
    return entry


def _check_agreement(entry: ShardEntry) -> None:
    """Raise a ValueError unless the values of an entry agree with each other."""
    if entry.shard != shard_name(entry.split, entry.number):
        raise ValueError(
            f"shard: {entry.shard!r} is not {shard_name(entry.split, entry.number)},"
            " the name of this split and number"
        )
    entry.examples.check_positions(entry.bytes)
    seconds = int(entry.examples.samples.sum(dtype=np.int64)) / entry.sample_rate_hz
    if not math.isclose(entry.seconds, seconds, rel_tol=1e-6, abs_tol=1e-6):
        raise ValueError(f"seconds: {entry.seconds:g} where its examples have {seconds:g}")
    slots = [failure.slot for failure in entry.failures if failure.slot is not None]
    if len(set(slots)) < len(slots) or max(slots, default=-1) >= entry.planned:
        raise ValueError("failures: two have one slot, or a slot is not among those planned")


def parse_line(line: bytes, where: StoragePath) -> ShardEntry:
    """Parse and check the JSON of an entry, read from `where`.

    Raises:
        InputError: see `parse_entry`, or it is not JSON.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise InputError(f"{where}: not a readable index ({reason}); mix again") from error
    return parse_entry(values, where)
