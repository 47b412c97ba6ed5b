"""Plan tables: Parquet files `SPLIT.plan.parquet` with one complete row per example.

The same plan gives the same bytes (with the same pyarrow). A row group holds complete shards, so a worker
reads little more than the rows of its shard.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.mixing.plan_check import check_info, check_paths, check_row
from pipelines.mixing.plan_schema import SCHEMA, from_table, to_table
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write
from rwsa.mixing.plans import MixPlan
from rwsa.mixing.recipes import Recipe, recipe_hash

SCHEMA_VERSION = 1
_KEY = b"rwsa.plan"
# Fewer rows are drawn before Ray has started.
_ROWS_FOR_RAY = 50_000
# Row groups that Ray's tasks may be ahead of the file: 50 MB of rows.
_GROUPS_AT_ONCE = 128
# With one row group per shard, the footer of a million rows, which every worker reads, would take tens of
# megabytes.
_GROUP_ROWS = 1024


# What damaged Parquet, JSON and values raise.
UNREADABLE = (
    OSError,
    pa.ArrowException,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    MemoryError,
)


class MissingPlanError(InputError):
    """The plan table does not exist."""


@dataclass(frozen=True, kw_only=True)
class PlanInfo:
    """The metadata of a plan table.

    Attributes:
        schema_version: version of the table's columns and metadata.
        corpus: name of the corpus card.
        split: the planned split.
        recipe: the complete recipe, as plain values.
        recipe_hash: the same as in shard entries.
        plan_hash: hash of all columns except paths, so it does not depend on where the recordings are.
        shard_examples: rows per shard; the last shard may have fewer.
        rows: number of examples.
        seconds: total duration of the examples.
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
    """The path of the plan table of a split."""
    return folder / f"{split}.plan.parquet"


def write_plan(
    folder: StoragePath,
    split: str,
    plans: Sequence[MixPlan],
    *,
    corpus: str,
    recipe: Recipe,
    shard_examples: int,
    workers: int | None = 0,
) -> PlanInfo:
    """Write the plan of a split; the bytes do not depend on `workers`.

    About a thousand rows are in memory at a time; with workers, 128 times as many.

    Args:
        folder: where to write it.
        split: name of the split.
        plans: its rows.
        corpus, recipe, shard_examples: see `PlanInfo`.
        workers: Ray tasks that draw rows at the same time; None: one per CPU of Ray; 0: in this process,
            without Ray, as are small plans.

    Raises:
        InputError: the folder is not writable or full.
    """
    info = PlanInfo(
        schema_version=SCHEMA_VERSION,
        corpus=corpus,
        split=split,
        # Through JSON, so that the values are those that reading gives.
        recipe=json.loads(json.dumps(dataclasses.asdict(recipe))),
        recipe_hash=recipe_hash(recipe),
        plan_hash="",
        shard_examples=shard_examples,
        rows=len(plans),
        seconds=0.0,
    )
    digest, samples = hashlib.sha256(), 0
    with (
        atomic_write(plan_path(folder, split)) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        closing(_groups(plans, info.group_rows, workers)) as groups,
    ):
        for table, group_samples in groups:
            for part in _hashed_bytes(table):
                digest.update(part)
            writer.write_table(table, row_group_size=info.group_rows)
            samples += group_samples
        info = dataclasses.replace(
            info, plan_hash=digest.hexdigest()[:16], seconds=samples / recipe.sample_rate_hz
        )
        text = json.dumps(dataclasses.asdict(info), sort_keys=True)
        writer.add_key_value_metadata({_KEY: text.encode()})
    return info


def _groups(
    plans: Sequence[MixPlan], rows: int, workers: int | None
) -> Generator[tuple[pa.Table, int], None, None]:
    """The row groups in their order, each with its samples."""
    starts = range(0, len(plans), rows)
    if workers == 0 or len(plans) < _ROWS_FOR_RAY:
        for start in starts:
            yield _group(plans[start : start + rows])
        return
    # Imported late: it takes seconds.
    import ray

    from pipelines.core.pool import map_unordered
    from pipelines.core.ray_cluster import start_ray

    start_ray()
    shared = ray.put(plans)
    for at in range(0, len(starts), _GROUPS_AT_ONCE):
        items = [(shared, start, start + rows) for start in starts[at : at + _GROUPS_AT_ONCE]]
        done: dict[int, tuple[pa.Table, int]] = {}
        with closing(map_unordered(_drawn_group, items, workers=workers)) as results:
            for number, group in results:
                done[number] = group
        yield from (done[number] for number in range(len(items)))


def _group(plans: Sequence[MixPlan]) -> tuple[pa.Table, int]:
    return to_table(plans), sum(plan.samples for plan in plans)


def _drawn_group(item: tuple[Any, int, int]) -> tuple[pa.Table, int]:
    reference, start, stop = item
    return _group(_shared_plans(reference)[start:stop])


@functools.lru_cache(maxsize=1)
def _shared_plans(reference: Any) -> Sequence[MixPlan]:
    """The plans of a Ray reference, cached: a worker draws many groups."""
    import ray

    plans: Sequence[MixPlan] = ray.get(reference)
    return plans


def _hashed_bytes(table: pa.Table) -> Iterator[bytes]:
    """The name and bytes of each leaf column except paths."""
    for number in range(table.num_columns):
        yield from _leaves(table.schema.field(number).name, table.column(number).combine_chunks())


def _leaves(name: str, column: pa.Array) -> Iterator[bytes]:
    if name.rpartition(".")[2] == "path":
        return
    if pa.types.is_struct(column.type):
        yield pa.record_batch([column.is_valid()], [name]).serialize()
        for field, child in zip(column.type, column.flatten(), strict=True):
            yield from _leaves(f"{name}.{field.name}", child)
    elif pa.types.is_list(column.type):
        yield pa.record_batch([column.offsets], [name]).serialize()
        yield from _leaves(f"{name}.item", column.values)
    else:
        yield pa.record_batch([column], [name]).serialize()


def planned_recipe(path: StoragePath) -> dict[str, Any]:
    """The recipe in a plan table's footer, which is all that is read.

    Raises:
        InputError: the table is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            recipe = json.loads(pq.read_metadata(file).metadata[_KEY])["recipe"]
        if not isinstance(recipe, dict):
            raise TypeError("its recipe is no mapping")
    except UNREADABLE as error:
        raise InputError(f"{path}: not a plan table ({_short(error)}); delete it, mix again") from error
    return recipe


class PlanTable:
    """A reader of one plan table: reads the footer once, then the rows of any shard."""

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
                check_info(values, split=path.name.partition(".")[0])
                self.info = PlanInfo(**values)
                _check_footer(self._footer, self.info)
        except FileNotFoundError:
            raise MissingPlanError(
                f"{path}: no such plan; create it with python -m pipelines.mix_shards"
            ) from None
        except UNREADABLE as error:
            raise InputError(
                f"{path}: not a plan table ({_short(error)}); delete it and mix again"
            ) from error
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema version {version}, but this program reads {SCHEMA_VERSION}; mix again"
            )

    def shard(self, number: int, *, roots: Sequence[str] | None = None) -> list[MixPlan]:
        """The plans of shard `number`.

        Args:
            number: of the shard.
            roots: folders below which all recordings must be; None allows any.

        Raises:
            InputError: the table is damaged, names a recording elsewhere, or was made by another version of
                this program.
        """
        group, start = divmod(number * self.info.shard_examples, self.info.group_rows)
        return self._plans(group, start, self.info.shard_examples, roots)

    def __iter__(self) -> Iterator[MixPlan]:
        """All plans, about a thousand in memory at a time."""
        for group in range(self._footer.num_row_groups):
            yield from self._plans(group, 0, self.info.group_rows, None)

    def _plans(self, group: int, start: int, count: int, roots: Sequence[str] | None) -> list[MixPlan]:
        try:
            with self.path.open("rb") as file:
                table = pq.ParquetFile(file, metadata=self._footer).read_row_group(group)
            plans = from_table(table.slice(start, count))
            first = group * self.info.group_rows + start
            for number, plan in enumerate(plans, first):
                check_row(plan, number, split=self.info.split, recipe=self.info.recipe)
            if roots is not None:
                check_paths(plans, roots)
        except UNREADABLE as error:
            raise InputError(
                f"{self.path}: row group {group} is unreadable ({_short(error)}); delete the plan and"
                " mix again"
            ) from error
        return plans


def _check_footer(footer: pq.FileMetaData, info: PlanInfo) -> None:
    """Check that the rows and their groups are those that the information promises."""
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    full, rest = divmod(info.rows, info.group_rows)
    if sizes != [info.group_rows] * full + [rest] * (rest > 0):
        raise ValueError("other row groups than planned")


def _short(error: Exception) -> str:
    return " ".join(repr(error).split())[:300]
