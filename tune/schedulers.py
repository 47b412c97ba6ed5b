"""Search algorithms and schedulers, as Ray Tune expects them.

To add a scheduler: its name and settings in `tune.sweep_config.SchedulerConfig`, its construction in
`make_scheduler`. To add a search algorithm: `SearchConfig`, and `make_search_algorithm`, or
`tune.search_space.search_points` if all points are known in advance.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import ray.tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from rwsa.errors import InputError
from tune.search_space import Trial, sampling_domain
from tune.sweep_config import SweepConfig
from tune.trial import SCORE, STEP
from tune.trial_results import ResultFolder


def make_scheduler(sweep: SweepConfig, max_steps: int) -> TrialScheduler | None:
    """Scheduler that stops or changes trials during training; None trains all to the last step.

    Args:
        sweep: the sweep.
        max_steps: of a trial.
    """
    settings = sweep.scheduler
    if settings.kind == "asha":
        return _Asha(
            max_steps,
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            max_t=max_steps,
            grace_period=min(settings.grace_steps or 1, max_steps),
            reduction_factor=settings.reduction_factor,
        )
    if settings.kind == "pbt":
        return _PopulationBasedTraining(
            max_steps,
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            perturbation_interval=float(settings.interval_steps or 1),
            # Trials are compared at the same step, so that their speeds and start times matter little.
            synch=True,
            hyperparam_mutations={
                "trial": {"point": {name: sampling_domain(axis) for name, axis in sweep.axes.items()}}
            },
        )
    return None


class _Asha(ASHAScheduler):
    """ASHA that lets a trial at its last step continue: it has yet to be evaluated."""

    def __init__(self, max_steps: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_steps = max_steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if result[STEP] >= self._max_steps else decision


class _PopulationBasedTraining(PopulationBasedTraining):
    """Population-based training that exchanges nothing at the last step, after which no trial trains."""

    def __init__(self, max_steps: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_steps = max_steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result[STEP] >= self._max_steps:
            return self.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


def make_search_algorithm(sweep: SweepConfig, concurrent: int) -> Searcher | None:
    """Searcher that chooses points by the scores of earlier trials; None if all points are known in advance.

    Args:
        sweep: the sweep.
        concurrent: number of concurrent trials.

    Raises:
        InputError: Optuna is not installed.
    """
    if sweep.search.kind != "optuna":
        return None
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search.kind optuna: needs Optuna; pip install 'rwsa[optuna]'")
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(metric=SCORE, mode="max", seed=sweep.search.seed)
    return ConcurrencyLimiter(search, max_concurrent=concurrent)


def param_space(sweep: SweepConfig, trials: Sequence[Trial], files: ResultFolder) -> dict[str, Any]:
    """Ray Tune's parameter space: a grid of the planned trials, or for `optuna` the axes' distributions."""
    if sweep.search.kind == "optuna":
        axes = {name: sampling_domain(axis) for name, axis in sweep.axes.items()}
        return {"trial": {"point": axes, "seed": sweep.seeds[0]}}
    settings = []
    for trial in trials:
        point = trial.point
        if sweep.scheduler.kind == "pbt":
            # A resumed trial continues with the values that the scheduler had given it.
            point = files.progress(trial.name).point or point
        settings.append({"point": point, "seed": trial.seed, "name": trial.name})
    return {"trial": ray.tune.grid_search(settings)}
