"""What a sweep would run: its trials, how many at once, and about how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.core.progress import duration
from pipelines.training.dry_run import training_seconds
from rwsa.models import build_model
from rwsa.models.cost import cost
from tune.matching import count_parameters
from tune.results import ResultFolder
from tune.spaces import Trial
from tune.sweep_config import SweepConfig


def concurrent_trials(sweep: SweepConfig, resources: Mapping[str, float]) -> int:
    """How many trials the cluster has room for at once, or as many as the sweep allows.

    Args:
        sweep: the sweep.
        resources: of the cluster, as Ray names them.
    """
    workers = max(sweep.workers, 1)
    room = resources.get("CPU", 1) // (workers * sweep.cpus_per_worker)
    if gpus := resources.get("GPU", 0):
        room = min(room, gpus // workers)
    return max(1, min(int(room), sweep.concurrent_trials or int(room)))


def format_plan(
    sweep: SweepConfig, planned: Sequence[Trial], files: ResultFolder, resources: Mapping[str, float]
) -> str:
    """A line a trial, then the share of the cluster, and the time.

    The first trial is timed by a few steps of its own, the others from it, by their multiply-accumulates.

    Raises:
        InputError: what training the first trial would raise at its start.
    """
    if not planned:
        return f"{sweep.search.trials} trials, whose points Optuna chooses one by one"
    macs = [cost(build_model(trial.train.model)).total for trial in planned]
    work = [
        each * trial.train.max_steps * trial.train.global_batch_size
        for each, trial in zip(macs, planned, strict=True)
    ]
    first = training_seconds(planned[0].train, workers=sweep.workers, threads=sweep.cpus_per_worker)
    width = max(len(trial.name) for trial in planned)
    lines = [f"{'trial':{width}}  parameters  10⁹ MACs   steps  training"]
    for trial, each, much in zip(planned, macs, work, strict=True):
        done = files.result(trial.name)
        lines.append(
            f"{trial.name:{width}}  {count_parameters(trial.train.model):>10,}  {each / 1e9:8.2f}"
            f"  {trial.train.max_steps:>6,}  {duration(first * much / work[0]):>8}"
            f"{'' if done is None else f'  {done.status} already'}"
        )
    at_once = concurrent_trials(sweep, resources)
    whole = first * sum(work) / work[0] / at_once
    return "\n".join([*lines, _share(sweep, len(planned), at_once, resources), _time(whole)])


def _share(sweep: SweepConfig, count: int, at_once: int, resources: Mapping[str, float]) -> str:
    workers = max(sweep.workers, 1)
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    used = at_once * workers * sweep.cpus_per_worker
    return (
        f"{count} trials, {at_once} at once, each {workers} worker{'s' * (workers > 1)} of"
        f" {sweep.cpus_per_worker} CPU{'s' * (sweep.cpus_per_worker > 1)}: {used} of the cluster's {cpus:g}"
        " CPUs" + (f" and {at_once * workers} of its {gpus:g} GPUs" if gpus else "")
    )


def _time(seconds: float) -> str:
    return (
        f"about {duration(seconds)} of training in all, from a few steps of the first trial on this machine"
        " and the others' multiply-accumulates; evaluation comes on top"
    )
