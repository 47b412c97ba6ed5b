"""Mix a corpus into shards: plan every example, then render the shards on Ray.

    python -m pipelines.mix_shards --card datasets/X.yaml --recipe datasets/recipes/Y.yaml --out FOLDER
    python -m pipelines.mix_shards plan …     write the plans only, SPLIT.plan.parquet
    python -m pipelines.mix_shards index --out FOLDER    write index.json and index.table anew
    python -m pipelines.mix_shards check …    the same as `python -m pipelines.check`

Shards do not depend on the number of workers. A second run after a crash reuses complete shards
(verified by size and checksum) and renders the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines import check
from pipelines.core.cli import (
    as_location,
    cache_argument,
    cluster_argument,
    shards_arguments,
    shards_of,
    verb,
    workers_argument,
)
from pipelines.inspection.check_report import counted
from pipelines.mixing.dry_run import dry_run
from pipelines.mixing.mix_progress import MixProgress
from pipelines.mixing.output_folder import (
    check_folder,
    clear_leftovers,
    incomplete_splits,
    missing_jobs,
    remove_index,
)
from pipelines.mixing.plan_table import PlanInfo, plan_path, write_plan
from pipelines.mixing.shard_jobs import ShardJobs, make_shards
from rwsa.command_line import path_argument, report
from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, Split, read_card, sources
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import StoragePath, absolute_location, location
from rwsa.lease import check_held, exclusive_lock, locked
from rwsa.mixing import MixPlan, Recipe, plan_split, read_recipe
from rwsa.mixing.plans import usable_speech
from rwsa.mixing.recipes import recipe_hash
from rwsa.shards.index import Failure, entry_paths, index_sha256, index_splits, merge_index

_PROBLEMS_SHOWN = 10
_REPAIRS = 3


@dataclass(frozen=True, kw_only=True)
class MixSummary:
    """The results of a mixing run.

    Attributes:
        examples, hours: number and duration of the examples in the shards.
        shards: number of shards of the mixed splits.
        reused: shards that were complete from an earlier run.
        failures: number of examples that could not be rendered.
        first_failures: the first ten failures; the shard entries have all of them.
        problems: number of unusable source files.
        short_speech: number of speech clips shorter than the recipe's `min_speech_seconds`, left out.
        seconds: duration of the run.
    """

    examples: int
    hours: float
    shards: int
    reused: int
    failures: int
    first_failures: tuple[Failure, ...]
    problems: int
    short_speech: int
    seconds: float


@locked("out")
def mix_shards(
    card: CorpusCard,
    recipe: Recipe,
    out: StoragePath,
    *,
    splits: Sequence[Split] | None = None,
    workers: int | None = None,
    strict: bool = False,
    shard_examples: int = 64,
    cache: Path | None = None,
    report: Callable[[str], None] = print,
) -> MixSummary:
    """Plan a corpus and render its shards into `out`, starting Ray if needed.

    Args:
        card: the corpus card of speech and noise.
        recipe: the mixing recipe.
        out: folder of the shards (see `rwsa.files.location`); created if missing.
        splits: the splits to mix; default: all in the recipe's `examples`.
        workers: shards made at the same time; default: one per CPU of Ray; 0: in this process, without Ray.
        strict: end the run at the first unusable source file.
        shard_examples: examples per shard.
        cache: folder of the cache of file headers; default: no cache.
        report: called with progress lines.

    Raises:
        InputError: the card, recipe or folder cannot be used; no example of a split could be rendered; the
            folder holds other shards; or, with `strict`, a source file is unusable.
    """
    started, manifest = time.monotonic(), _scan(card, strict, cache, report)
    out = location(absolute_location(str(out)))  # Ray's workers have other current directories
    plans = write_plans(manifest, recipe, out, splits=splits, shard_examples=shard_examples, workers=workers)
    clear_leftovers(out, [plan.split for plan in plans])
    remove_index(out)
    jobs = ShardJobs(
        folder=str(out),
        run=uuid.uuid4().hex,
        splits=tuple((plan.split, plan.shards) for plan in plans),
        strict=strict,
        roots=tuple(str(Path(source.root).expanduser().resolve()) for _, source in sources(card)),
    )
    progress = _render(out, jobs, plans, workers, report)
    incomplete = incomplete_splits(out)
    for message in incomplete.values():
        report(message)
    merge_index(out, without=incomplete)
    return MixSummary(
        examples=progress.examples,
        hours=progress.hours,
        shards=progress.shards,
        reused=progress.reused,
        failures=progress.failures,
        first_failures=progress.first_failures,
        problems=len(manifest.problems),
        short_speech=sum(
            len(manifest.speech(plan.split)) - len(usable_speech(manifest, recipe, plan.split))
            for plan in plans
        ),
        seconds=time.monotonic() - started,
    )


def write_plans(
    manifest: Manifest,
    recipe: Recipe,
    out: StoragePath,
    *,
    splits: Sequence[Split] | None,
    shard_examples: int,
    workers: int | None = 0,
) -> list[PlanInfo]:
    """Write the plan table of each split; `splits` None means all splits of the recipe.

    `workers` is that of `write_plan`.

    Raises:
        InputError: there is nothing to plan, the folder is not writable or holds other shards, or see
            `rwsa.mixing.plan_split`.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}: must be at least 1, or 0 to work in this process")
    if shard_examples < 1:
        raise InputError(f"--shard-examples {shard_examples}: must be at least 1")
    plans = _plans(manifest, recipe, splits)
    check_folder(
        out,
        plans,
        corpus=manifest.card,
        recipe_hash=recipe_hash(recipe),
        shard_examples=shard_examples,
    )
    return [
        write_plan(
            out,
            split,
            rows,
            corpus=manifest.card,
            recipe=recipe,
            shard_examples=shard_examples,
            workers=workers,
        )
        for split, rows in plans.items()
    ]


def _plans(
    manifest: Manifest, recipe: Recipe, splits: Sequence[Split] | None
) -> dict[Split, Sequence[MixPlan]]:
    splits = list(recipe.examples) if splits is None else list(dict.fromkeys(splits))
    plans = {split: plan_split(manifest, recipe, split) for split in splits}
    plans = {split: rows for split, rows in plans.items() if len(rows)}
    if not plans:
        raise InputError(f"recipe {recipe.name}: has no examples for {splits}; set examples.SPLIT=…")
    return plans


def _scan(card: CorpusCard, strict: bool, cache: Path | None, report: Callable[[str], None]) -> Manifest:
    manifest = scan(card, strict=strict, cache=None if cache is None else FileCache(cache))
    for problem in manifest.problems[:_PROBLEMS_SHOWN]:
        report(f"left out {problem.path}: {problem.reason}")
    return manifest


def _render(
    out: StoragePath,
    jobs: ShardJobs,
    plans: Sequence[PlanInfo],
    workers: int | None,
    report: Callable[[str], None],
) -> MixProgress:
    splits, hours = [plan.split for plan in plans], sum(plan.seconds for plan in plans) / 3600
    progress, repairs = MixProgress(len(jobs), hours, report), 0
    try:
        for outcome in make_shards(jobs, range(len(jobs)), workers):
            progress.add(outcome)
            check_held(out)
        # A worker that survived the loss of its node may have deleted an entry that its successor wrote.
        while lost := missing_jobs(out, jobs):
            if repairs == _REPAIRS:
                raise InputError(
                    f"{out}: shards disappeared during the run; make sure that no other run writes there"
                )
            repairs += 1
            for _ in make_shards(jobs, lost, workers):
                pass
    finally:
        progress.close()
        clear_leftovers(out, splits)
    for split, first in progress.empty.items():
        raise InputError(f"split '{split}': no example could be rendered; the first: {first.reason}")
    return progress


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--card",
        type=path_argument,
        required=True,
        metavar="FILE.yaml",
        help="corpus card with speech and noise",
    )
    parser.add_argument(
        "--recipe", type=path_argument, required=True, metavar="FILE.yaml", help="mixing recipe"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change values of the recipe",
    )
    parser.add_argument(
        "--train-shards",
        type=int,
        metavar="N",
        help="full shards of training examples to mix, in place of the recipe's examples.train",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first unusable source file")
    shards_arguments(parser)
    cache_argument(parser)


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the options name.

    Raises:
        InputError: it cannot be read, or a setting or `--train-shards` is invalid.
    """
    settings = list(options.settings)
    if options.train_shards is not None:
        if options.train_shards < 1:
            raise InputError(f"--train-shards {options.train_shards}: must be at least 1")
        settings.append(f"examples.train={options.train_shards * options.shard_examples}")
    return read_recipe(options.recipe, settings)


def _dry_run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="mix a few examples, print the estimated hours, storage and time, and leave nothing behind",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["check"]:
        return check.main(arguments[1:])
    if arguments[:1] == ["plan"]:
        return _plan(arguments[1:])
    if arguments[:1] == ["index"]:
        return _index(arguments[1:])
    return mix(arguments)


@verb(
    "pipelines.mix_shards plan",
    "Write the mixing plan of every example, without audio; of many examples on Ray.",
    _arguments,
    workers_argument,
    cluster_argument,
)
def _plan(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    manifest, out = (
        _scan(read_card(options.card), options.strict, options.cache, print),
        shards_of(options),
    )
    with exclusive_lock(out):
        plans = write_plans(
            manifest,
            recipe,
            out,
            splits=options.splits,
            shard_examples=options.shard_examples,
            workers=options.workers,
        )
    for plan in plans:
        print(
            f"{plan_path(out, plan.split)}: {plan.rows} examples, {plan.seconds / 3600:.3f} h,"
            f" {plan.shards} shards, plan {plan.plan_hash}"
        )
    return 0


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=as_location,
        required=True,
        metavar="FOLDER",
        help="folder of the shards, or s3://…, gs://…",
    )


@verb(
    "pipelines.mix_shards index",
    "Write index.json and index.table anew from the entries of the shards, without reading audio.",
    _index_arguments,
)
def _index(options: argparse.Namespace) -> int:
    out: StoragePath = options.out
    if not entry_paths(out):
        raise InputError(f"{out}: holds no shards (SPLIT-000000.tar with SPLIT-000000.json); mix some first")
    with exclusive_lock(out):
        incomplete = incomplete_splits(out)
        for message in incomplete.values():
            print(message)
        index = merge_index(out, without=incomplete)
    print(f"{index}: splits {', '.join(index_splits(out))}, SHA-256 {index_sha256(out)}")
    return 0


@verb(
    "pipelines.mix_shards",
    "Mix a corpus into shards on Ray. With `plan` as the first argument: write the plans only.",
    _arguments,
    _dry_run_argument,
    workers_argument,
    cluster_argument,
)
def mix(options: argparse.Namespace) -> int:
    if options.dry_run:
        manifest = _scan(read_card(options.card), options.strict, options.cache, print)
        plans = _plans(manifest, _recipe(options), options.splits)
        print(dry_run(plans, shard_examples=options.shard_examples, corpus=manifest.card))
        return 0
    out = shards_of(options)
    summary = mix_shards(
        read_card(options.card),
        _recipe(options),
        out,
        splits=options.splits,
        workers=options.workers,
        strict=options.strict,
        shard_examples=options.shard_examples,
        cache=options.cache,
    )
    for failure in summary.first_failures:
        report(f"failed {failure.example_id}: {failure.reason}")
    print(
        f"{out}: {counted(summary.examples, 'example')}, {summary.hours:.3f} h,"
        f" {counted(summary.shards, 'shard')} ({summary.reused:,} reused),"
        f" {counted(summary.failures, 'failure')}, {counted(summary.problems, 'unusable file')},"
        f" {counted(summary.short_speech, 'speech clip')} too short; {summary.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
