"""Turn a question into a table with error bars: trials on Ray Tune, and a page that answers.

    python -m tune.sweep tune/ablations/sharing.yaml [--smoke]

A trial is the same `pipelines.train` and `pipelines.evaluate` that a person runs. The same command resumes:
what has ended is not run again, what was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipelines.core.cli import add_cluster_arguments, add_storage_arguments, at_address, verb
from pipelines.core.progress import duration
from pipelines.core.ray_cluster import start_ray
from pipelines.core.tracking import Tracker
from pipelines.train import run_key
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import exclusive_lock
from rwsa.files import absolute as absolute_location
from rwsa.training.context import StopSignal
from rwsa.training.loop import PreemptedError
from tune.dry_run import format_plan
from tune.ray_tune import run_trials
from tune.report_log import log_answer
from tune.results import ResultFolder, TrialResult, ended_on
from tune.spaces import Trial, base_values, trial_at, trials
from tune.sweep_config import SweepConfig, read_sweep
from tune.sweep_report import Answer, answer, rule_of
from tune.trial import Common, axis_name

_TAGS = {"rwsa.kind": "sweep"}


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """What a sweep came to.

    Attributes:
        rows: one a trial, in the order of the sweep.
        answer: what follows from them.
        run_id: the parent run in MLflow.
        page: the answer page.
        seconds: that this call took to run trials.
    """

    rows: list[TrialResult]
    answer: Answer
    run_id: str
    page: Path
    seconds: float


def sweep(
    config: SweepConfig,
    *,
    settings: Sequence[str] = (),
    retry_failed: bool = False,
    stop: StopSignal | None = None,
) -> SweepSummary:
    """Run every trial that has not ended yet, and answer the sweep's question by those that have.

    Args:
        config: the sweep.
        settings: `a.b=v` over the trials' training configuration.
        retry_failed: run failed trials again, too.
        stop: ends the sweep early, with an answer of what there is.

    Raises:
        InputError: the sweep, its data or MLflow cannot be used.
        PreemptedError: somebody ended it; the answer so far is written, and the same call goes on.
    """
    config, values, planned, one = _prepared(config, settings)
    files = _files(config, one)
    if retry_failed:
        _forget_failed(files, planned)
    tracker = Tracker(one.storage)
    key = f"sweep {files.folder}"
    params = _params(config, planned)
    with (
        exclusive_lock(files.folder),
        tracker.run(config.name, key=key, params=params, tags=_TAGS) as run,
    ):
        # Before any trial, and kept, so that nobody can say that it was made to fit.
        stated = files.stated_rule(rule_of(config))
        run.tag(rwsa__rule=stated, mlflow__note__content=config.question)
        common = Common(
            sweep=config, values=values, folder=str(files.folder), cwd=str(Path.cwd()), parent=run.run_id
        )
        start_ray()
        if stop is not None:
            stop.arm()  # Ray has a handler of its own, which ends the process
            # What Ray Tune takes, beside Ctrl-C, as the word to end.
            stop.then(lambda: signal.raise_signal(signal.SIGUSR1))
        started = time.monotonic()
        ended_by = run_trials(common, planned, max_steps=one.max_steps)
        seconds = time.monotonic() - started
        rows = _rows(common, planned)
        _close_unfinished(tracker, config, values, rows)
        found = answer(config, rows, stated=stated)
        page = log_answer(run, config, rows, found, files.folder, about=_about(rows, seconds))
        if ended_by == "interrupt":
            raise PreemptedError(f"interrupted; the same command goes on from there. So far: {page}")
    return SweepSummary(rows=rows, answer=found, run_id=run.run_id, page=page, seconds=seconds)


def _prepared(
    config: SweepConfig, settings: Sequence[str]
) -> tuple[SweepConfig, dict[str, Any], list[Trial], TrainRunConfig]:
    """The sweep with absolute cards, what its trials have in common, the trials, and one training of them."""
    values = base_values(config, settings)
    config = dataclasses.replace(config, corpora=tuple(absolute_location(card) for card in config.corpora))
    planned = trials(config, values)
    if planned:
        return config, values, planned, planned[0].train
    point = {name: axis.range[0] if axis.range else axis.choices[0] for name, axis in config.axes.items()}
    return config, values, planned, trial_at(config, values, point, config.seeds[0]).train


def _files(config: SweepConfig, one: TrainRunConfig) -> ResultFolder:
    """Where the sweep's results are; `one` is a training of it."""
    return ResultFolder(f"{one.storage.root}/sweeps/{config.name}")


def _forget_failed(files: ResultFolder, planned: Sequence[Trial]) -> None:
    for name in [trial.name for trial in planned] or files.names():
        result = files.result(name)
        if result is not None and result.status == "failed":
            files.forget(name)


def _params(config: SweepConfig, planned: Sequence[Trial]) -> dict[str, Any]:
    return {
        "sweep": config.name,
        "trials": len(planned) or config.search.trials,
        "seeds": len(config.seeds),
        "search": config.search.kind,
        "scheduler": config.scheduler.kind,
        "metric": config.metric,
        "workers": config.workers,
        **{
            axis_name(name): list(axis.range) if axis.range else list(axis.choices)
            for name, axis in config.axes.items()
        },
    }


def _rows(common: Common, planned: Sequence[Trial]) -> list[TrialResult]:
    """In the order of the sweep; of points that were chosen on the way, by their names."""
    files, evaluated, found = common.files, common.evaluated, list[TrialResult]()
    if planned:
        return files.rows(planned, evaluated)
    for name in files.names():
        row, point = files.result(name), files.progress(name).point
        point = point if row is None else row.point
        if point is None or set(point) != set(common.sweep.axes):
            continue
        seed = common.sweep.seeds[0]
        # Others are of a sweep of this name that was configured otherwise.
        if trial_at(common.sweep, common.values, point, seed).name == name:
            found.append(ended_on(row, evaluated) or files.waiting(name, point, seed))
    return found


def _close_unfinished(
    tracker: Tracker, config: SweepConfig, values: dict[str, Any], rows: Sequence[TrialResult]
) -> None:
    """End the runs of trials that were stopped or failed: their processes may have had no time for it."""
    for row in rows:
        if row.status in ("stopped", "failed"):
            train = trial_at(config, values, row.point, row.seed).train
            run = tracker.run(row.trial, key=run_key(dataclasses.replace(train, name=row.trial)))
            run.tag(rwsa__ended=row.status, rwsa__reason=row.reason or "")
            run.close("KILLED" if row.status == "stopped" else "FAILED")


def _about(rows: Sequence[TrialResult], seconds: float) -> dict[str, str]:
    training = sum(row.seconds for row in rows)
    evaluation = sum(row.evaluation_seconds for row in rows)
    return {
        "took": f"training {duration(training)} and evaluation {duration(evaluation)}, summed over trials;"
        f" the last start of the sweep ran for {duration(seconds)}"
    }


def format_rows(summary: SweepSummary) -> str:
    """The verdict, and a line a configuration, for a terminal."""
    lines = [summary.answer.verdict, ""]
    width = max((len(one.label) for one in summary.answer.configurations), default=0)
    for one in summary.answer.configurations:
        cells = [
            "–" if mean is None else f"{mean.mean:.3f}{'' if mean.std is None else f' ± {mean.std:.3f}'}"
            for mean in (one.home, one.abroad)
        ]
        lines.append(f"{one.label:{width}}  in domain {cells[0]:>15}  out of domain {cells[1]:>15}")
    lines += [f"{row.trial}: {row.status}: {row.reason}" for row in summary.rows if row.status != "finished"]
    counts = ", ".join(f"{count} {status}" for status, count in summary.answer.counts.items())
    return "\n".join(
        [*lines, f"{counts} in {duration(summary.seconds)}; {summary.page}; MLflow run {summary.run_id}"]
    )


@verb
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 where a trial has failed."""
    parser = argparse.ArgumentParser(prog="python -m tune.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="a YAML like those in tune/ablations")
    parser.add_argument("--smoke", action="store_true", help="minutes on two cores, to see that it works")
    add_storage_arguments(parser, metavar="KEY=VALUE", help="over the trials' training configuration")
    add_cluster_arguments(parser)
    parser.add_argument("--corpora", nargs="+", metavar="CARD", help="evaluate on these instead")
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the trials and what they take, and stop"
    )
    options = parser.parse_args(argv)
    config = read_sweep(options.sweep, smoke=options.smoke)
    if options.corpora:
        config = dataclasses.replace(config, corpora=tuple(options.corpora))
    stop = StopSignal()
    with at_address(options.address), stop:
        if options.dry_run:
            print(_dry_run(config, options.settings))
            return 0
        try:
            summary = sweep(config, settings=options.settings, retry_failed=options.retry_failed, stop=stop)
        except PreemptedError as interrupted:
            print(interrupted, file=sys.stderr)
            return 128 + (stop.number or signal.SIGINT)
    print(format_rows(summary))
    return 1 if any(row.status == "failed" for row in summary.rows) else 0


def _dry_run(config: SweepConfig, settings: Sequence[str]) -> str:
    config, _, planned, one = _prepared(config, settings)
    start_ray()
    return format_plan(config, planned, _files(config, one), ray.cluster_resources())


if __name__ == "__main__":
    sys.exit(main())
