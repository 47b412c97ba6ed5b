"""Mix a corpus into shards: plan every example, then render the shards on Ray Data.

    python -m pipelines.mix_shards --card datasets/X.yaml --recipe datasets/recipes/Y.yaml --out FOLDER

Shards do not depend on the number of workers. Run again after a crash, it keeps the shards that
their entries prove whole and makes the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray.data

from pipelines.cluster import start_ray
from pipelines.shard_jobs import ShardJob, ShardOutcome, make_shard, plan_jobs
from rwsa.cards import SPLITS, CorpusCard, Split, read_card
from rwsa.corpora import scan
from rwsa.errors import InputError
from rwsa.files import written_aside
from rwsa.mixing import Recipe, read_recipe
from rwsa.plans import usable_speech
from rwsa.shard_index import INDEX_NAME, Failure, entry_path, merge_index, read_entry

_SECONDS_BETWEEN_REPORTS = 5.0
_FAILURES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class MixSummary:
    """What a run did.

    Attributes:
        examples: in the shards now.
        hours: in the shards now.
        shards: in the folder, of the splits mixed.
        kept: shards that were whole from an earlier run.
        failures: examples that could not be rendered.
        problems: source files that scanning found unusable.
        short_speech: speech clips left out as shorter than the recipe's `min_speech_seconds`.
        seconds: that the run took.
    """

    examples: int
    hours: float
    shards: int
    kept: int
    failures: tuple[Failure, ...]
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
    report: Callable[[str], None] = print,
) -> MixSummary:
    """Plan and render a corpus into `out`, starting Ray if need be.

    Args:
        card: where speech and noise are.
        recipe: how to mix them.
        out: folder of the shards; made if missing.
        splits: which to mix; by default all that the recipe wants examples of.
        workers: shards made at the same time; as many as Ray has CPUs by default.
        strict: make the first unusable source file end the job.
        shard_examples: examples in a shard.
        report: takes progress lines.

    Raises:
        InputError: the card, recipe or folder cannot be used; a split comes out empty; the folder
            holds other shards; or, when `strict`, a source file is unusable.
    """
    started, out = time.monotonic(), out.resolve()
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    wanted = [split for split, count in recipe.examples.items() if count]
    splits = wanted if splits is None else list(splits)
    manifest = scan(card, strict=strict)
    for problem in manifest.problems[:_FAILURES_SHOWN]:
        report(f"left out {problem.path}: {problem.reason}")
    jobs = plan_jobs(manifest, recipe, out, splits=splits, shard_examples=shard_examples, strict=strict)
    _prepare(out, jobs, splits)
    outcomes = list(_rendered(jobs, workers, report))
    _check_not_empty(outcomes, splits)
    merge_index(out)
    return MixSummary(
        examples=sum(outcome.examples for outcome in outcomes),
        hours=sum(outcome.seconds for outcome in outcomes) / 3600,
        shards=len(outcomes),
        kept=sum(outcome.kept for outcome in outcomes),
        failures=_sorted_failures(outcomes),
        problems=len(manifest.problems),
        short_speech=sum(
            len(manifest.speech(split)) - len(usable_speech(manifest, recipe, split)) for split in splits
        ),
        seconds=time.monotonic() - started,
    )


def _prepare(out: Path, jobs: Sequence[ShardJob], splits: Sequence[str]) -> None:
    """Make the folder, refuse one that holds something else, and clear what a crash left behind."""
    _check_writable(out)
    planned = {entry_path(out, job.split, job.number) for job in jobs}
    for split in splits:
        for path in sorted(out.glob(f"{split}-??????.json")):
            _check_ours(path, jobs[0], planned)
        for path in out.glob(f".{split}-*"):
            if re.fullmatch(rf"\.{split}-\d{{6}}\.[0-9a-f]{{8}}\.(tar|json)", path.name):
                path.unlink()
    # No index vouches for the folder while its shards change.
    (out / INDEX_NAME).unlink(missing_ok=True)


def _check_writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    probe = out / "writable.probe"
    with written_aside(probe) as aside:
        aside.touch()
    probe.unlink()


def _check_ours(path: Path, job: ShardJob, planned: set[Path]) -> None:
    try:
        entry = read_entry(path)
    except InputError:
        return  # Damaged: it will be made again.
    if path not in planned or (entry.corpus, entry.recipe_hash) != (job.corpus, job.recipe_hash):
        raise InputError(
            f"{path}: belongs to another plan (corpus {entry.corpus}, recipe {entry.recipe_hash}, or more"
            " examples than now asked for); name another folder, or delete this one first"
        )


def _rendered(
    jobs: Sequence[ShardJob], workers: int | None, report: Callable[[str], None]
) -> Iterator[ShardOutcome]:
    """Make all shards on Ray Data, one task each; yields in the order of completion."""
    start_ray()
    rows = [{"job": json.dumps(dataclasses.asdict(job))} for job in jobs]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        make_shard, num_cpus=1, compute=ray.data.TaskPoolStrategy(size=workers)
    )
    progress = _Progress(len(jobs), report)
    for row in outcomes.iter_rows():
        values = json.loads(row["outcome"])
        failures = [Failure(**failure) for failure in values.pop("failures")]
        outcome = ShardOutcome(**values, failures=failures)
        if outcome.error is not None:
            raise InputError(outcome.error)
        progress.add(outcome)
        yield outcome


def _check_not_empty(outcomes: Sequence[ShardOutcome], splits: Sequence[str]) -> None:
    for split in splits:
        of_split = [outcome for outcome in outcomes if outcome.split == split]
        if of_split and not sum(outcome.examples for outcome in of_split):
            first = _sorted_failures(of_split)[0]
            raise InputError(f"split '{split}': no example could be made; the first, {first.reason}")


def _sorted_failures(outcomes: Sequence[ShardOutcome]) -> tuple[Failure, ...]:
    every = (failure for outcome in outcomes for failure in outcome.failures)
    return tuple(sorted(every, key=lambda failure: failure.example_id))


class _Progress:
    """Says how far the job is, every few seconds and at its end."""

    def __init__(self, shards: int, report: Callable[[str], None]) -> None:
        self._shards, self._report = shards, report
        self._done, self._hours, self._failures = 0, 0.0, 0
        self._started = self._last = time.monotonic()

    def add(self, outcome: ShardOutcome) -> None:
        self._done += 1
        self._hours += outcome.seconds / 3600
        self._failures += len(outcome.failures)
        now = time.monotonic()
        if self._done == self._shards or now - self._last >= _SECONDS_BETWEEN_REPORTS:
            self._last = now
            minutes = (now - self._started) / 60
            left = minutes / self._done * (self._shards - self._done)
            self._report(
                f"shards {self._done}/{self._shards}, {self._hours:.2f} h"
                f" ({self._hours / minutes:.2f} h/min), failures {self._failures}, {left:.1f} min left"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.mix_shards", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--card", type=Path, required=True, help="corpus card with speech and noise")
    parser.add_argument("--recipe", type=Path, required=True, help="mixing recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="default: all that the recipe names")
    parser.add_argument("--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, help="shards made at a time; default: as many as CPUs")
    parser.add_argument("--shard-examples", type=int, default=64, metavar="N")
    parser.add_argument("--strict", action="store_true", help="end at the first unusable source file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        summary = mix_shards(
            read_card(options.card),
            read_recipe(options.recipe, options.settings),
            options.out,
            splits=options.splits,
            workers=options.workers,
            strict=options.strict,
            shard_examples=options.shard_examples,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for failure in summary.failures[:_FAILURES_SHOWN]:
        print(f"failed {failure.example_id}: {failure.reason}", file=sys.stderr)
    print(
        f"{options.out}: {summary.examples} examples, {summary.hours:.3f} h, {summary.shards} shards"
        f" ({summary.kept} kept from before), {len(summary.failures)} failures,"
        f" {summary.problems} unusable files, {summary.short_speech} speech clips too short;"
        f" {summary.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
