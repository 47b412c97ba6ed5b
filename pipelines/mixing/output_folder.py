"""The output folder of a mixing run: checks before it, clean-up and completeness after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipelines.mixing.plan_table import MissingPlanError, PlanTable, plan_path
from pipelines.mixing.shard_jobs import ShardJobs, check_same_plan
from rwsa.corpora.cards import Split
from rwsa.errors import InputError
from rwsa.files import StoragePath, check_writable, list_folder
from rwsa.mixing.plans import MixPlan, plan_hash
from rwsa.shards.index import INDEX_NAME, TABLE_NAME, entry_or_none, entry_path, entry_paths


def check_folder(
    out: StoragePath,
    plans: Mapping[Split, Sequence[MixPlan]],
    *,
    corpus: str,
    recipe_hash: str,
    shard_examples: int,
) -> None:
    """Create the folder if needed, and refuse one with shards that this run would not make.

    Args:
        out: the folder.
        plans: the planned rows of each split.
        corpus, recipe_hash, shard_examples: of this run.

    Raises:
        InputError: the folder is not writable, or holds shards of another plan or more shards than planned.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose a folder")
    check_writable(out / "plan")
    existing = entry_paths(out)
    for split, entries in existing.items():
        if split not in plans:
            _check_entry(entries[0], corpus=corpus, recipe_hash=recipe_hash)
    for split, rows in plans.items():
        path, planned = plan_path(out, split), -(-len(rows) // shard_examples)
        entries = existing.get(split, [])
        # A plan without shards may be replaced by one from other recordings.
        must_match = rows if entries else ()
        plan_matches = _check_plan(path, must_match, corpus=corpus, recipe_hash=recipe_hash)
        for entry in entries:
            if int(entry.stem[-6:]) >= planned:
                raise InputError(
                    f"{entry}: belongs to another plan (more shards than the {planned} planned now);"
                    " choose another folder, or delete this one first"
                )
            if not plan_matches:
                _check_entry(entry, corpus=corpus, recipe_hash=recipe_hash)


def _check_plan(path: StoragePath, rows: Sequence[MixPlan], *, corpus: str, recipe_hash: str) -> bool:
    """Whether there is a readable plan of this corpus and recipe that starts with `rows`.

    If so, the shard entries need not be read here; the workers check them.
    """
    if not path.is_file():
        return False
    try:
        table = PlanTable(path)
        before = table.shard(0)
    except InputError:
        return False  # damaged: it is written again
    check_same_plan(table.info, path, corpus=corpus, recipe_hash=recipe_hash)
    # One recording more or less changes every row of a plan, so comparing the first shard's is enough.
    count = min(len(before), len(rows))
    if plan_hash(before[:count]) != plan_hash(rows[:count]):
        raise InputError(
            f"{path}: was drawn from other recordings of corpus {corpus} (some were added, removed or have"
            " become unusable since); choose another folder, or delete this one first"
        )
    return True


def _check_entry(path: StoragePath, *, corpus: str, recipe_hash: str) -> None:
    entry = entry_or_none(path)
    if entry is not None:
        check_same_plan(entry, path, corpus=corpus, recipe_hash=recipe_hash)


def clear_leftovers(out: StoragePath, splits: Iterable[str]) -> None:
    """Remove temporary files that killed processes left behind."""
    names = "|".join(map(re.escape, splits))
    temporary = re.compile(
        rf"\.(({names})(-[0-9]{{6}}|\.plan)|index)\.[0-9a-f]{{8}}\.(tar|json|parquet|table)"
    )
    for path in list_folder(out):
        if temporary.fullmatch(path.name):
            path.unlink(missing_ok=True)


def remove_index(out: StoragePath) -> None:
    """Delete the index and its table, since they are invalid while shards change."""
    for name in (INDEX_NAME, TABLE_NAME):
        (out / name).unlink(missing_ok=True)


def incomplete_splits(out: StoragePath) -> dict[str, str]:
    """The splits with some but not all of their planned shards, each with a message for the user."""
    messages = {}
    for split, entries in entry_paths(out).items():
        try:
            planned = PlanTable(plan_path(out, split)).info.shards
        except MissingPlanError:
            continue  # copied shards may come without a plan; the number planned is unknown
        except InputError as error:
            messages[split] = f"split '{split}' is left out of the index ({error}); run again to complete it"
            continue
        if len(entries) < planned:
            messages[split] = (
                f"split '{split}' has only {len(entries)} of its {planned} shards, so it is left out of"
                f" the index; run it again, with --splits {split}, to complete it"
            )
    return messages


def missing_jobs(out: StoragePath, jobs: ShardJobs) -> Sequence[int]:
    """The jobs whose shards have no entry."""
    existing = {entry.name for entries in entry_paths(out).values() for entry in entries}
    return [job for job in range(len(jobs)) if entry_path(out, *jobs.shard(job)).name not in existing]
