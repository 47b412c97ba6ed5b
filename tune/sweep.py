"""Run a sweep: trials on Ray Tune, and a report with a verdict and error bars.

    python -m tune.sweep tune/ablations/sharing.yaml [--smoke]

A trial is an ordinary run of `pipelines.train` and `pipelines.evaluate`. The same command resumes a sweep:
trials that have ended do not run again, interrupted ones resume from their checkpoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from pipelines.core.cli import cluster_argument, storage_arguments, verb
from pipelines.core.mlflow_guard import TrackingError
from pipelines.core.progress import duration
from pipelines.core.ray_cluster import start_ray
from pipelines.core.runtime_env import grace_seconds
from pipelines.core.storage import StorageConfig, absolute_storage
from pipelines.core.tracking import Tracker
from pipelines.train import config_paths, data_inputs, run_key
from pipelines.training.config import TrainRunConfig
from rwsa.command_line import path_argument
from rwsa.config import as_mapping, build
from rwsa.errors import InputError, PreemptedError
from rwsa.files import StoragePath, absolute_location, location
from rwsa.lease import exclusive_lock
from rwsa.training.config import DataConfig
from rwsa.training.context import StopSignal
from tune.core_budget import measure_core_seconds
from tune.dry_run import format_plan
from tune.ray_tune import run_trials
from tune.report import log_report
from tune.search_space import Trial, base_values, make_trial, plan_trials
from tune.sweep_config import SweepConfig, read_sweep
from tune.sweep_report import SweepReport, make_report, winner_rule
from tune.trial import TrialContext, axis_name
from tune.trial_results import ResultFolder, TrialResult, if_current

_TAGS = {"rwsa.kind": "sweep"}


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """Outcome of a sweep.

    Attributes:
        results: one per trial, in the order of the sweep.
        report: statistics and verdict.
        run_id: of the parent run in MLflow.
        page: path of the report page.
        seconds: that this call ran trials.
    """

    results: list[TrialResult]
    report: SweepReport
    run_id: str
    page: StoragePath
    seconds: float


def sweep(
    config: SweepConfig,
    *,
    settings: Sequence[str] = (),
    retry_failed: bool = False,
    stop: StopSignal | None = None,
) -> SweepSummary:
    """Run every trial that has not ended, then write the report.

    Args:
        config: the sweep.
        settings: `a.b=v` overrides of the trials' training configuration.
        retry_failed: run failed trials again.
        stop: interrupts the sweep; the report then covers the trials that have finished.

    Raises:
        InputError: the sweep, its data or MLflow cannot be used.
        PreemptedError: the sweep was interrupted; the report is written, and the same call resumes.
    """
    config, values, planned, example = _prepare(config, settings)
    files = _result_folder(config, example.storage)
    tracker = Tracker(example.storage)
    key = f"sweep {files.folder}"
    params = _params(config, planned)
    with (
        exclusive_lock(files.folder),
        tracker.run(config.name, key=key, params=params, tags=_TAGS) as run,
    ):
        if config.core_minutes is not None:
            files.save_core_seconds(config.core_seconds)
        if retry_failed:
            for name in [trial.name for trial in planned] or files.trial_names():
                result = files.result(name)
                if result is not None and result.status == "failed":
                    files.delete_result(name)
        rule = files.preregister_rule(winner_rule(config))
        run.tag(rwsa__rule=rule, mlflow__note__content=config.question)
        context = TrialContext(
            sweep=config, values=values, folder=str(files.folder), cwd=str(Path.cwd()), parent=run.run_id
        )
        start_ray()
        if stop is not None:
            stop.install()  # after Ray has installed its own handler, which would end the process
            # Besides Ctrl-C, Ray Tune stops on SIGUSR1.
            stop.add_callback(lambda: signal.raise_signal(signal.SIGUSR1))
        started = time.monotonic()
        ended_by = run_trials(context, planned, max_steps=context.scheduled_step(example, example.max_steps))
        seconds = time.monotonic() - started
        results = _results(context, planned)
        report = make_report(config, results, preregistered_rule=rule)
        page = log_report(run, config, results, report, files.folder, about=_about(results, seconds))
        try:
            _close_unfinished(tracker, config, values, results, parent=run.run_id)
        except TrackingError as error:  # the report is complete without it
            print(f"the runs of stopped and failed trials stay open: {error}", flush=True)
        if ended_by == "interrupt":
            raise PreemptedError(
                f"interrupted; the same command resumes the sweep. Report so far: {page}", signal.SIGINT
            )
    return SweepSummary(results=results, report=report, run_id=run.run_id, page=page, seconds=seconds)


def _prepare(
    config: SweepConfig, settings: Sequence[str]
) -> tuple[SweepConfig, dict[str, Any], list[Trial], TrainRunConfig]:
    """The sweep with absolute card paths, its `base_values`, its planned trials, and one trial's training.

    With `core_minutes`, steps are timed that no earlier start has timed.
    """
    values = base_values(config, settings)
    config = dataclasses.replace(config, corpora=tuple(absolute_location(card) for card in config.corpora))
    planned = plan_trials(config, values)
    if config.core_minutes is not None:
        known = _result_folder(config, planned[0].train.storage).core_seconds()
        trains = [trial.train for trial in planned]
        seconds = measure_core_seconds(trains, known, threads=config.cpus_per_worker)
        config = dataclasses.replace(config, core_seconds=seconds)
        planned = plan_trials(config, values)
    if planned:
        return config, values, planned, planned[0].train
    point = {name: axis.range[0] if axis.range else axis.choices[0] for name, axis in config.axes.items()}
    return config, values, planned, make_trial(config, values, point, config.seeds[0]).train


def _result_folder(config: SweepConfig, storage: StorageConfig) -> ResultFolder:
    return ResultFolder(f"{storage.root}/sweeps/{config.name}")


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


def _results(context: TrialContext, planned: Sequence[Trial]) -> list[TrialResult]:
    """Results in the order of the sweep; of points that Optuna chose, sorted by name."""
    files, settings = context.files, context.evaluation_settings
    if planned:
        return files.results(planned, settings)
    results = []
    for name in files.trial_names():
        result = files.result(name)
        point = files.progress(name).point if result is None else result.point
        if point is None or set(point) != set(context.sweep.axes):
            continue
        seed = context.sweep.seeds[0]
        # Other names belong to a sweep of the same name with another configuration.
        if make_trial(context.sweep, context.values, point, seed).name == name:
            results.append(if_current(result, settings) or files.waiting_result(name, point, seed))
    return results


def _close_unfinished(
    tracker: Tracker,
    config: SweepConfig,
    values: dict[str, Any],
    results: Sequence[TrialResult],
    *,
    parent: str,
) -> None:
    """Close the MLflow runs of stopped and failed trials, which their processes may not have done."""
    for row in results:
        if row.status in ("stopped", "failed"):
            train = make_trial(config, values, row.point, row.seed).train
            key = run_key(dataclasses.replace(train, name=row.trial))
            run = tracker.run(row.trial, key=key, parent=parent)
            run.tag(rwsa__ended=row.status, rwsa__reason=row.reason or "")
            run.close("KILLED" if row.status == "stopped" else "FAILED")


def _about(results: Sequence[TrialResult], seconds: float) -> dict[str, str]:
    training = sum(row.seconds for row in results)
    evaluation = sum(row.evaluation_seconds for row in results)
    return {
        "took": f"training {duration(training)} and evaluation {duration(evaluation)}, summed over trials;"
        f" the last start of the sweep ran for {duration(seconds)}"
    }


def format_summary(summary: SweepSummary) -> str:
    """The verdict, one line per configuration, and one per trial that did not finish."""
    configurations = summary.report.configurations
    lines = [summary.report.verdict, ""]
    width = max((len(configuration.label) for configuration in configurations), default=0)
    for configuration in configurations:
        in_domain, out_of_domain = (
            "–" if score is None else f"{score.mean:.3f}{'' if score.std is None else f' ± {score.std:.3f}'}"
            for score in (configuration.in_domain, configuration.out_of_domain)
        )
        lines.append(
            f"{configuration.label:{width}}  in domain {in_domain:>15}  out of domain {out_of_domain:>15}"
        )
    lines += [
        f"{row.trial}: {row.status}: {row.reason}" for row in summary.results if row.status != "finished"
    ]
    counts = ", ".join(f"{count} {status}" for status, count in summary.report.counts.items())
    return "\n".join(
        [*lines, f"{counts} in {duration(summary.seconds)}; {summary.page}; MLflow run {summary.run_id}"]
    )


def inputs_of(options: argparse.Namespace) -> Iterator[tuple[str, StoragePath]]:
    """What a sweep reads, as `pipelines.train.inputs_of`."""
    config = _config(options)
    yield "file", options.sweep
    yield from (("file", path) for path in config_paths(config.base))
    yield from (("corpus", location(card)) for card in config.corpora)
    # Of what all trials share: planning the trials may search for widths, which takes a while.
    data = base_values(config, options.settings).get("data", {})
    yield from data_inputs(build(DataConfig, data, where=f"{options.sweep}: data"))


def outputs_of(options: argparse.Namespace) -> dict[str, tuple[str, bool]]:
    """What a sweep leaves, as `pipelines.train.outputs_of`."""
    config = _config(options)
    values = base_values(config, options.settings).get("storage", {})
    storage = absolute_storage(build(StorageConfig, values, where=f"{options.sweep}: storage"))
    return {"folder": (str(_result_folder(config, storage).folder), True)}


def runs_alone(options: argparse.Namespace) -> bool:
    """Whether trials train in their own processes, which reserve no CPU."""
    return _config(options).workers == 0


def _config(options: argparse.Namespace) -> SweepConfig:
    config = read_sweep(options.sweep, smoke=options.smoke)
    given = ("name", "base", "corpora", "core_minutes")
    changes = {key: value for key in given if (value := getattr(options, key)) is not None}
    if options.gpu_trials is not None:
        if options.gpu_trials < 1 or not config.workers:
            raise InputError("--gpu-trials: requires a number above 0, and a sweep whose `workers` is not 0")
        changes |= {"gpu": True, "concurrent_trials": options.gpu_trials}
    return build(SweepConfig, as_mapping(config) | changes, where=str(options.sweep)) if changes else config


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep",
        type=path_argument,
        metavar="SWEEP.yaml",
        help="sweep configuration, such as those in tune/ablations",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="shrink every trial to a minutes-long test on two cores"
    )
    parser.add_argument("--name", help="name of the sweep's folder and run (default: the one in the file)")
    parser.add_argument("--corpora", nargs="+", metavar="CARD", help="evaluate on these corpus cards instead")
    parser.add_argument(
        "--base",
        nargs="+",
        metavar="CONFIG",
        help="training configurations instead of the file's: the same question about another network",
    )
    parser.add_argument(
        "--core-minutes",
        type=float,
        metavar="MINUTES",
        help="equal compute: each trial trains for as many steps as take so many minutes of one core",
    )
    parser.add_argument(
        "--gpu-trials",
        type=int,
        metavar="N",
        help="run N trials at once, with a GPU for every worker, on a cluster that adds GPU nodes on demand",
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the trials and their estimated cost, and exit"
    )


@verb(
    "tune.sweep",
    __doc__,
    _arguments,
    partial(storage_arguments, metavar="KEY=VALUE", help="change values of the training configuration"),
    cluster_argument,
    failure="a trial failed",
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    config = _config(options)
    # Where the platform says how long it waits; elsewhere trials may take their time to save.
    with StopSignal(grace_seconds() if os.environ.get("RWSA_STOP_SECONDS") else None) as stop:
        if options.dry_run:
            print(_dry_run(config, options.settings))
            return 0
        summary = sweep(config, settings=options.settings, retry_failed=options.retry_failed, stop=stop)
    print(format_summary(summary))
    return 1 if any(row.status == "failed" for row in summary.results) else 0


def _dry_run(config: SweepConfig, settings: Sequence[str]) -> str:
    config, _, planned, example = _prepare(config, settings)
    start_ray()
    return format_plan(config, planned, _result_folder(config, example.storage), ray.cluster_resources())


if __name__ == "__main__":
    raise SystemExit(main())
