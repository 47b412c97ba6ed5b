"""The folder that a run renders into: what may be there before, and what must be there after."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipelines.mixing.plan_table import MissingPlanError, PlanTable, plan_path
from pipelines.mixing.shard_jobs import ShardJobs, check_ours
from rwsa.corpora.cards import Split
from rwsa.errors import InputError
from rwsa.files import check_writable, listed
from rwsa.mixing.plans import MixPlan, plan_hash
from rwsa.shards.index import INDEX_NAME, entry_or_none, entry_path, entry_paths


def check_folder(
    out: Path,
    plans: Mapping[Split, Sequence[MixPlan]],
    *,
    corpus: str,
    recipe_hash: str,
    shard_examples: int,
) -> None:
    """Make the folder if need be, and refuse one that holds what this run would not make.

    Args:
        out: the folder.
        plans: the rows of each split that is planned.
        corpus, recipe_hash, shard_examples: of this run.

    Raises:
        InputError: it is not writable, or holds another plan's shards or more of them.
    """
    _check_writable(out)
    there = entry_paths(out)
    for split, entries in there.items():
        if split not in plans:
            _check_entry(entries[0], corpus=corpus, recipe_hash=recipe_hash)
    for split, rows in plans.items():
        path, planned = plan_path(out, split), -(-len(rows) // shard_examples)
        entries = there.get(split, [])
        # Without shards, a plan may be drawn anew from what there is now.
        kept = rows if entries else ()
        plan_says = _check_plan(path, kept, corpus=corpus, recipe_hash=recipe_hash)
        for entry in entries:
            if int(entry.stem[-6:]) >= planned:
                raise InputError(
                    f"{entry}: belongs to another plan (more shards than the {planned} now asked for);"
                    " name another folder, or delete this one first"
                )
            if not plan_says:
                _check_entry(entry, corpus=corpus, recipe_hash=recipe_hash)


def _check_writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    check_writable(out / "plan")


def _check_plan(path: Path, rows: Sequence[MixPlan], *, corpus: str, recipe_hash: str) -> bool:
    """Whether a plan vouches for the shards beside it, so that their entries need not all be read here.

    They still are where the shards are made, many at a time.
    """
    if not path.is_file():
        return False
    try:
        table = PlanTable(path)
        before = table.shard(0)
    except InputError:
        return False  # Damaged: it will be written again.
    check_ours(table.info, path, corpus=corpus, recipe_hash=recipe_hash)
    # One recording more or less changes every row of a plan, so the first ones tell.
    count = min(len(before), len(rows))
    if plan_hash(before[:count]) != plan_hash(rows[:count]):
        raise InputError(
            f"{path}: was drawn from other recordings of corpus {corpus} (some were added, removed or have"
            " become unusable since); name another folder, or delete this one first"
        )
    return True


def _check_entry(path: Path, *, corpus: str, recipe_hash: str) -> None:
    entry = entry_or_none(path)
    if entry is not None:
        check_ours(entry, path, corpus=corpus, recipe_hash=recipe_hash)


def clear_leftovers(out: Path, splits: Iterable[str]) -> None:
    """Remove what killed processes left half-written."""
    wanted = "|".join(map(re.escape, splits))
    half_written = re.compile(rf"\.({wanted})(-\d{{6}}|\.plan)\.[0-9a-f]{{8}}\.(tar|json|parquet)")
    for path in listed(out):
        if half_written.fullmatch(path.name):
            path.unlink(missing_ok=True)


def withdraw_index(out: Path) -> None:
    """No index vouches for the folder while its shards change."""
    (out / INDEX_NAME).unlink(missing_ok=True)


def unfinished(out: Path) -> dict[str, str]:
    """The splits whose shards are not all there, each with what to tell the user.

    A plan without any shard is only a plan, and none of them.
    """
    told = {}
    for split, entries in entry_paths(out).items():
        try:
            planned = PlanTable(plan_path(out, split)).info.shards
        except MissingPlanError:
            continue  # Nothing says how many there should be; so are shards that were copied here.
        except InputError as error:
            told[split] = f"split '{split}' is left out of the index ({error}); run it again to complete it"
            continue
        if len(entries) < planned:
            told[split] = (
                f"split '{split}' has only {len(entries)} of its {planned} shards, so it is left out of"
                f" the index; run it again, with --splits {split}, to complete it"
            )
    return told


def missing(out: Path, jobs: ShardJobs) -> Sequence[int]:
    """The jobs whose shards have no entry."""
    there = {entry.name for entries in entry_paths(out).values() for entry in entries}
    every = ((job, entry_path(out, *jobs.shard(job)).name) for job in range(len(jobs)))
    return [job for job, name in every if name not in there]
