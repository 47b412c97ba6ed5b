"""Mix a corpus into shards: plan every example, then render the shards on Ray.

    python -m pipelines.mix_shards --card datasets/X.yaml --recipe datasets/recipes/Y.yaml --out FOLDER
    python -m pipelines.mix_shards plan …     write the plans only, SPLIT.plan.parquet
    python -m pipelines.mix_shards check …    check corpora

Shards do not depend on the number of workers. Run again after a crash, it keeps the shards that
their entries prove whole and makes the rest.
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
from pipelines.core.cli import add_cluster_arguments, add_shards_arguments, at_address, shards_of, verb
from pipelines.mixing.plan_table import PlanInfo, plan_path, write_plan
from pipelines.mixing.render_folder import check_folder, clear_leftovers, missing, unfinished, withdraw_index
from pipelines.mixing.render_progress import RenderProgress
from pipelines.mixing.rendering import rendered
from pipelines.mixing.shard_jobs import ShardJobs
from rwsa.corpora import scan
from rwsa.corpora.cards import SPLITS, CorpusCard, Split, read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import absolute, location
from rwsa.mixing import Recipe, plan_split, read_recipe
from rwsa.mixing.plans import usable_speech
from rwsa.mixing.recipes import recipe_hash
from rwsa.shards.index import Failure, merge_index

_FAILURES_SHOWN = 10
_REPAIRS = 3


@dataclass(frozen=True, kw_only=True)
class MixSummary:
    """What a run did.

    Attributes:
        examples: in the shards now.
        hours: in the shards now.
        shards: in the folder, of the splits mixed.
        kept: shards that were whole from an earlier run.
        failures: examples that could not be rendered.
        first_failures: of them, the first ten; the shards' entries have all.
        problems: source files that scanning found unusable.
        short_speech: speech clips left out as shorter than the recipe's `min_speech_seconds`.
        seconds: that the run took.
    """

    examples: int
    hours: float
    shards: int
    kept: int
    failures: int
    first_failures: tuple[Failure, ...]
    problems: int
    short_speech: int
    seconds: float


def mix_shards(
    card: CorpusCard,
    recipe: Recipe,
    out: Path,
    *,
    splits: Sequence[Split] | None = None,
    workers: int | None = None,
    strict: bool = False,
    shard_examples: int = 64,
    cache: Path | None = None,
    report: Callable[[str], None] = print,
) -> MixSummary:
    """Plan and render a corpus into `out`, starting Ray if need be.

    Args:
        card: where speech and noise are.
        recipe: how to mix them.
        out: folder of the shards, as `rwsa.files.location` gives it; made if missing.
        splits: which to mix; by default all that the recipe wants examples of.
        workers: shards made at the same time; as many as Ray has CPUs by default; 0 makes them in
            this process, without Ray.
        strict: make the first unusable source file end the job.
        shard_examples: examples in a shard.
        cache: folder that keeps the headers of source files by size and time; none by default.
        report: takes progress lines.

    Raises:
        InputError: the card, recipe or folder cannot be used; a split comes out empty; the folder
            holds other shards; or, when `strict`, a source file is unusable.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}: must be at least 1, or 0 for none but this process")
    started, manifest = time.monotonic(), _scanned(card, strict, cache, report)
    out = location(absolute(str(out)))  # Ray's workers run elsewhere
    plans = write_plans(manifest, recipe, out, splits=splits, shard_examples=shard_examples)
    clear_leftovers(out, [plan.split for plan in plans])
    withdraw_index(out)
    jobs = ShardJobs(
        folder=str(out),
        run=uuid.uuid4().hex,
        splits=tuple((plan.split, plan.shards) for plan in plans),
        strict=strict,
    )
    done = _rendered(out, jobs, plans, workers, report)
    left_out = unfinished(out)
    for told in left_out.values():
        report(told)
    merge_index(out, without=left_out)
    return MixSummary(
        examples=done.examples,
        hours=done.hours,
        shards=done.shards,
        kept=done.kept,
        failures=done.failures,
        first_failures=done.first_failures,
        problems=len(manifest.problems),
        short_speech=sum(
            len(manifest.speech(plan.split)) - len(usable_speech(manifest, recipe, plan.split))
            for plan in plans
        ),
        seconds=time.monotonic() - started,
    )


def write_plans(
    manifest: Manifest, recipe: Recipe, out: Path, *, splits: Sequence[Split] | None, shard_examples: int
) -> list[PlanInfo]:
    """Write the plan table of each split; those of the recipe by default.

    Raises:
        InputError: there is nothing to plan, the folder is not writable or holds other shards, or see
            `rwsa.mixing.plan_split`.
    """
    if shard_examples < 1:
        raise InputError(f"--shard-examples {shard_examples}: must be at least 1")
    splits = list(recipe.examples) if splits is None else list(dict.fromkeys(splits))
    plans = {split: plan_split(manifest, recipe, split) for split in splits}
    plans = {split: rows for split, rows in plans.items() if len(rows)}
    if not plans:
        raise InputError(f"recipe {recipe.name}: wants no examples of {splits}; set examples.SPLIT=…")
    check_folder(
        out,
        plans,
        corpus=manifest.card,
        recipe_hash=recipe_hash(recipe),
        shard_examples=shard_examples,
    )
    return [
        write_plan(out, split, rows, corpus=manifest.card, recipe=recipe, shard_examples=shard_examples)
        for split, rows in plans.items()
    ]


def _scanned(card: CorpusCard, strict: bool, cache: Path | None, report: Callable[[str], None]) -> Manifest:
    manifest = scan(card, strict=strict, cache=None if cache is None else FileCache(cache))
    for problem in manifest.problems[:_FAILURES_SHOWN]:
        report(f"left out {problem.path}: {problem.reason}")
    return manifest


def _rendered(
    out: Path,
    jobs: ShardJobs,
    plans: Sequence[PlanInfo],
    workers: int | None,
    report: Callable[[str], None],
) -> RenderProgress:
    splits, hours = [plan.split for plan in plans], sum(plan.seconds for plan in plans) / 3600
    progress, passes = RenderProgress(len(jobs), hours, report), _REPAIRS
    try:
        for outcome in rendered(jobs, range(len(jobs)), workers):
            progress.add(outcome)
        # A worker that a lost node left behind may have withdrawn an entry that its successor wrote.
        while lost := missing(out, jobs):
            if not passes:
                raise InputError(f"{out}: shards vanish while they are made; does another run write there?")
            passes -= 1
            for _ in rendered(jobs, lost, workers):
                pass
    finally:
        clear_leftovers(out, splits)
    for split, first in progress.empty.items():
        raise InputError(f"split '{split}': no example could be made; the first, {first.reason}")
    return progress


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.mix_shards {name}".rstrip(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--card", type=Path, required=True, help="corpus card with speech and noise")
    parser.add_argument("--recipe", type=Path, required=True, help="mixing recipe")
    add_shards_arguments(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="default: all that the recipe names")
    parser.add_argument("--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--shard-examples", type=int, default=64, metavar="N")
    parser.add_argument("--strict", action="store_true", help="end at the first unusable source file")
    parser.add_argument(
        "--cache", type=Path, default=Path("outputs/cache"), help="where headers are kept, by size and time"
    )
    if not name:
        add_cluster_arguments(parser)
        parser.add_argument(
            "--workers", type=int, help="shards made at a time; default: as many as CPUs; 0: without Ray"
        )
    return parser


@verb
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["check"]:
        return check.main(arguments[1:])
    if arguments[:1] == ["plan"]:
        return _plan(_parser("plan").parse_args(arguments[1:]))
    options = _parser("").parse_args(arguments)
    with at_address(options.address):
        return _mix(options)


def _plan(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.recipe, options.settings)
    manifest, out = (
        _scanned(read_card(options.card), options.strict, options.cache, print),
        shards_of(options),
    )
    plans = write_plans(manifest, recipe, out, splits=options.splits, shard_examples=options.shard_examples)
    for plan in plans:
        print(
            f"{plan_path(out, plan.split)}: {plan.rows} examples, {plan.seconds / 3600:.3f} h,"
            f" {plan.shards} shards, plan {plan.plan_hash}"
        )
    return 0


def _mix(options: argparse.Namespace) -> int:
    out = shards_of(options)
    summary = mix_shards(
        read_card(options.card),
        read_recipe(options.recipe, options.settings),
        out,
        splits=options.splits,
        workers=options.workers,
        strict=options.strict,
        shard_examples=options.shard_examples,
        cache=options.cache,
    )
    for failure in summary.first_failures:
        print(f"failed {failure.example_id}: {failure.reason}", file=sys.stderr)
    print(
        f"{out}: {summary.examples} examples, {summary.hours:.3f} h, {summary.shards} shards"
        f" ({summary.kept} kept from before), {summary.failures} failures,"
        f" {summary.problems} unusable files, {summary.short_speech} speech clips too short;"
        f" {summary.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
