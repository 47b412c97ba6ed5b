"""Plans as Parquet tables: `SPLIT.plan.parquet`, one complete row per example.

The columns follow from the fields of `rwsa.mixing.MixPlan`: a dataclass is a struct, a tuple a list, and
what has no fixed shape (a transform's parameters) is JSON. The same plan gives the same bytes (with the same
pyarrow); whole shards lie together in row groups, so a worker reads its shard and little else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.mixing.plan_columns import decoded, encoded, plan_schema
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write
from rwsa.mixing.plans import MixPlan, from_row
from rwsa.mixing.recipes import Recipe, recipe_hash

SCHEMA_VERSION = 1
_KEY = b"rwsa.plan"
# A group a shard would make the footer of a million rows, which every worker reads, tens of megabytes.
_GROUP_ROWS = 1024


class MissingPlanError(InputError):
    """There is no plan table where one was looked for."""


@dataclass(frozen=True, kw_only=True)
class PlanInfo:
    """What a plan table says of itself.

    Attributes:
        schema_version: of this table's form.
        corpus: name of the card that was planned from.
        split: that is planned.
        recipe: all of it, as plain values.
        recipe_hash: as shard entries have it.
        plan_hash: of all columns but paths; the same wherever the recordings are kept.
        shard_examples: rows that make a shard; the last may have fewer.
        rows: examples in all.
        seconds: duration of all examples.
    """

    schema_version: int
    corpus: str
    split: str
    recipe: dict[str, Any]
    recipe_hash: str
    plan_hash: str
    shard_examples: int
    rows: int
    seconds: float

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_examples)

    @property
    def sample_rate_hz(self) -> int:
        return int(self.recipe["sample_rate_hz"])

    @property
    def group_rows(self) -> int:
        return self.shard_examples * max(1, _GROUP_ROWS // self.shard_examples)


def plan_path(folder: StoragePath, split: str) -> StoragePath:
    """Where the plan of a split lies."""
    return folder / f"{split}.plan.parquet"


def write_plan(
    folder: StoragePath,
    split: str,
    plans: Sequence[MixPlan],
    *,
    corpus: str,
    recipe: Recipe,
    shard_examples: int,
) -> PlanInfo:
    """Write the plan of a split, holding about a thousand rows in memory at a time.

    Raises:
        InputError: the folder is not writable or full.
    """
    info = PlanInfo(
        schema_version=SCHEMA_VERSION,
        corpus=corpus,
        split=split,
        # Through JSON, so that it is what reading gives.
        recipe=json.loads(json.dumps(dataclasses.asdict(recipe))),
        recipe_hash=recipe_hash(recipe),
        plan_hash="",
        shard_examples=shard_examples,
        rows=len(plans),
        seconds=0.0,
    )
    schema, digest, samples = plan_schema(), hashlib.sha256(), 0
    with (
        atomic_write(plan_path(folder, split)) as aside,
        aside.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(plans), info.group_rows):
            batch = plans[start : start + info.group_rows]
            table = encoded(batch)
            for part in _without_paths(table):
                digest.update(part)
            writer.write_table(table, row_group_size=info.group_rows)
            samples += sum(plan.samples for plan in batch)
        info = dataclasses.replace(
            info, plan_hash=digest.hexdigest()[:16], seconds=samples / recipe.sample_rate_hz
        )
        text = json.dumps(dataclasses.asdict(info), sort_keys=True)
        writer.add_key_value_metadata({_KEY: text.encode()})
    return info


def _without_paths(table: pa.Table) -> Iterator[bytes]:
    """The bytes of each leaf column that is no path, with its name."""
    for number in range(table.num_columns):
        yield from _leaves(table.schema.field(number).name, table.column(number).combine_chunks())


def _leaves(name: str, column: pa.Array) -> Iterator[bytes]:
    if name.rpartition(".")[2] == "path":
        return
    if pa.types.is_struct(column.type):
        yield pa.record_batch([column.is_valid()], [name]).serialize()
        for number in range(column.type.num_fields):
            yield from _leaves(f"{name}.{column.type.field(number).name}", column.field(number))
    elif pa.types.is_list(column.type):
        yield pa.record_batch([column.offsets], [name]).serialize()
        yield from _leaves(f"{name}.item", column.values)
    else:
        yield pa.record_batch([column], [name]).serialize()


class PlanTable:
    """Reads one plan table: its footer once, then any shard's rows."""

    def __init__(self, path: StoragePath) -> None:
        """Read the footer.

        Raises:
            InputError: the table is missing, damaged or of another schema version.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._footer = pq.read_metadata(file)
            values = json.loads(self._footer.metadata[_KEY])
            version = values["schema_version"]
            if version == SCHEMA_VERSION:
                self.info = PlanInfo(**values)
        except FileNotFoundError:
            raise MissingPlanError(
                f"{path}: no such plan; write it with python -m pipelines.mix_shards"
            ) from None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not a plan of mixtures ({error!r}); delete it and mix again"
            ) from error
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; mix again"
            )

    def shard(self, number: int) -> list[MixPlan]:
        """The plans of shard `number`.

        Raises:
            InputError: the table is damaged, or was made by another version of this program.
        """
        group, start = divmod(number * self.info.shard_examples, self.info.group_rows)
        return self._plans(group, start, self.info.shard_examples)

    def __iter__(self) -> Iterator[MixPlan]:
        """All plans, about a thousand in memory at a time."""
        for group in range(self._footer.num_row_groups):
            yield from self._plans(group, 0, self.info.group_rows)

    def _plans(self, group: int, start: int, count: int) -> list[MixPlan]:
        try:
            with self.path.open("rb") as file:
                table = pq.ParquetFile(file, metadata=self._footer).read_row_group(group)
            return [from_row(row) for row in decoded(table.slice(start, count))]
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: row group {group} is unreadable ({error!r}); delete the plan and mix again"
            ) from error
