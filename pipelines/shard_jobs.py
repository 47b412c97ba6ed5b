"""One shard of a mixing run, as a job that any process can do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwsa.cards import Split
from rwsa.errors import InputError
from rwsa.manifest import Manifest
from rwsa.mixing import MixPlan, Recipe, plan_split, render_example
from rwsa.plans import from_row, plan_hash, to_row
from rwsa.recipes import recipe_hash
from rwsa.shard_index import Failure, ShardEntry, entry_path, made_with, read_entry
from rwsa.shards import Example, is_whole, write_shard


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to make; plain values, so that it travels as JSON."""

    folder: str
    split: str
    number: int
    corpus: str
    recipe_hash: str
    sample_rate_hz: int
    strict: bool
    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What became of a `ShardJob`. `error` ends the whole job; `kept` means it was there already."""

    split: str
    examples: int = 0
    seconds: float = 0.0
    kept: bool = False
    failures: Sequence[Failure] = ()
    error: str | None = None


def plan_jobs(
    manifest: Manifest,
    recipe: Recipe,
    out: Path,
    *,
    splits: Sequence[Split],
    shard_examples: int,
    strict: bool,
) -> list[ShardJob]:
    """Cut the plans of all splits into shards.

    Raises:
        InputError: there is nothing to make, or see `rwsa.mixing.plan_split`.
    """
    if shard_examples < 1:
        raise InputError(f"--shard-examples {shard_examples}: must be at least 1")
    jobs = []
    for split in splits:
        plans = plan_split(manifest, recipe, split)
        for number, start in enumerate(range(0, len(plans), shard_examples)):
            jobs.append(
                ShardJob(
                    folder=str(out),
                    split=split,
                    number=number,
                    corpus=manifest.card,
                    recipe_hash=recipe_hash(recipe),
                    sample_rate_hz=recipe.sample_rate_hz,
                    strict=strict,
                    rows=[to_row(plan) for plan in plans[start : start + shard_examples]],
                )
            )
    if not jobs:
        raise InputError(f"recipe {recipe.name}: wants no examples of {list(splits)}; set examples.SPLIT=…")
    return jobs


def make_shard(row: dict[str, str]) -> dict[str, str]:
    """Ray task: make one shard, unless it is there and whole. JSON in, JSON out."""
    job = ShardJob(**json.loads(row["job"]))
    try:
        outcome = _make(job)
    except InputError as error:
        # Returned, not raised: Ray would wrap it, print its traceback and try again.
        outcome = ShardOutcome(split=job.split, error=str(error))
    return {"outcome": json.dumps(dataclasses.asdict(outcome))}


def _make(job: ShardJob) -> ShardOutcome:
    plans = [from_row(row) for row in job.rows]
    folder, wanted = Path(job.folder), plan_hash(plans)
    entry = _whole_entry(folder, job, wanted)
    kept = entry is not None
    if entry is None:
        entry = write_shard(
            folder,
            job.split,
            job.number,
            _examples(plans, strict=job.strict),
            sample_rate_hz=job.sample_rate_hz,
            corpus=job.corpus,
            recipe_hash=job.recipe_hash,
            plan_hash=wanted,
        )
    return ShardOutcome(
        split=job.split,
        examples=len(entry.examples),
        seconds=entry.seconds,
        kept=kept,
        failures=entry.failures,
    )


def _whole_entry(folder: Path, job: ShardJob, wanted: str) -> ShardEntry | None:
    """The entry of a shard that need not be made again.

    One with failures is made again, for its sources may have been repaired since.
    """
    path = entry_path(folder, job.split, job.number)
    if not path.is_file():
        return None
    try:
        entry = read_entry(path)
    except InputError:
        return None
    same_versions = {**entry.made_with, "cpu": ""} == {**made_with(), "cpu": ""}
    whole = entry.plan_hash == wanted and same_versions and not entry.failures and is_whole(folder, entry)
    return entry if whole else None


def _examples(plans: Sequence[MixPlan], *, strict: bool) -> Iterator[Example | Failure]:
    for plan in plans:
        try:
            item: Example | Failure = render_example(plan)
        except InputError as error:
            if strict:
                raise
            item = Failure(example_id=plan.example_id, reason=str(error))
        yield item
