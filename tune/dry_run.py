"""Dry run of a sweep: its trials, how many run at once, and an estimate of the training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.core.progress import duration
from pipelines.training.dry_run import training_seconds
from rwsa.models import build_model
from rwsa.models.cost import cost
from tune.capacity_matching import count_parameters
from tune.concurrent_trials import concurrent_trials
from tune.search_space import Trial
from tune.sweep_config import SweepConfig
from tune.trial_results import ResultFolder


def format_plan(
    sweep: SweepConfig, planned: Sequence[Trial], files: ResultFolder, resources: Mapping[str, float]
) -> str:
    """One line per trial, then the share of the cluster and the total time.

    The first trial is timed over a few of its steps; the others are estimated from it by their
    multiply-accumulates.

    Raises:
        InputError: as training the first trial would at its start.
    """
    if not planned:
        return f"{sweep.search.trials} trials, whose points Optuna chooses one by one"
    macs = [cost(build_model(trial.train.model)).total for trial in planned]
    work = [
        trial_macs * trial.train.max_steps * trial.train.global_batch_size
        for trial_macs, trial in zip(macs, planned, strict=True)
    ]
    first_seconds = training_seconds(planned[0].train, workers=sweep.workers, threads=sweep.cpus_per_worker)
    width = max(len(trial.name) for trial in planned)
    lines = [f"{'trial':{width}}  parameters  10⁹ MACs   steps  training"]
    for trial, trial_macs, trial_work in zip(planned, macs, work, strict=True):
        result = files.result(trial.name)
        lines.append(
            f"{trial.name:{width}}  {count_parameters(trial.train.model):>10,}  {trial_macs / 1e9:8.2f}"
            f"  {trial.train.max_steps:>6,}  {duration(first_seconds * trial_work / work[0]):>8}"
            f"{'' if result is None else f'  already {result.status}'}"
        )
    at_once = concurrent_trials(sweep, resources)
    total_seconds = first_seconds * sum(work) / work[0] / at_once
    lines.append(_cluster_share(sweep, len(planned), at_once, resources))
    lines.append(
        f"about {duration(total_seconds)} of training in total, estimated from a few steps of the first trial"
        " on this machine and the other trials' multiply-accumulates; evaluation is not included"
    )
    return "\n".join(lines)


def _cluster_share(sweep: SweepConfig, count: int, at_once: int, resources: Mapping[str, float]) -> str:
    workers = max(sweep.workers, 1)
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    used = at_once * workers * sweep.cpus_per_worker
    return (
        f"{count} trials, {at_once} at once, each with {workers} worker{'s' * (workers > 1)} of"
        f" {sweep.cpus_per_worker} CPU{'s' * (sweep.cpus_per_worker > 1)}: {used} of the cluster's {cpus:g}"
        " CPUs" + (f" and {at_once * workers} of its {gpus:g} GPUs" if gpus else "")
    )
