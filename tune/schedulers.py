"""A sweep's search and scheduler, as Ray Tune has them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import ray.tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from rwsa.errors import InputError
from tune.results import ResultFolder
from tune.spaces import Trial, domain
from tune.sweep_config import SweepConfig
from tune.trial import SCORE, STEP


class _Asha(ASHAScheduler):
    """Stops no trial that has taken all its steps: it is yet to be evaluated."""

    def __init__(self, max_steps: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_steps = max_steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if result[STEP] >= self._max_steps else decision


class _Population(PopulationBasedTraining):
    """Exchanges nothing at the last step, from which nobody trains on."""

    def __init__(self, max_steps: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_steps = max_steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result[STEP] >= self._max_steps:
            return self.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


def scheduler_of(sweep: SweepConfig, max_steps: int) -> TrialScheduler | None:
    """What stops or changes trials on the way; None where all are trained to their end.

    Args:
        sweep: the sweep.
        max_steps: of a trial.
    """
    about = sweep.scheduler
    if about.kind == "asha":
        return _Asha(
            max_steps,
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            max_t=max_steps,
            grace_period=min(about.grace_steps or 1, max_steps),
            reduction_factor=about.reduction_factor,
        )
    if about.kind == "pbt":
        return _Population(
            max_steps,
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            perturbation_interval=float(about.interval_steps or 1),
            # All at the same step, so that it matters little who is fast, or has room to run.
            synch=True,
            hyperparam_mutations={
                "place": {"point": {name: domain(axis) for name, axis in sweep.axes.items()}}
            },
        )
    return None


def space_of(sweep: SweepConfig, waiting: Sequence[Trial], files: ResultFolder) -> dict[str, Any]:
    """What Ray Tune makes trials of: those that are known, or, of `optuna`, distributions."""
    if sweep.search.kind == "optuna":
        axes = {name: domain(axis) for name, axis in sweep.axes.items()}
        return {"place": {"point": axes, "seed": sweep.seeds[0]}}
    return {"place": ray.tune.grid_search([_place(sweep, trial, files) for trial in waiting])}


def _place(sweep: SweepConfig, trial: Trial, files: ResultFolder) -> dict[str, Any]:
    point = trial.point
    if sweep.scheduler.kind == "pbt":
        # It goes on with the values that it had come to.
        point = files.progress(trial.name).point or point
    return {"point": point, "seed": trial.seed, "name": trial.name}


def search_of(sweep: SweepConfig, concurrent_trials: int) -> Searcher | None:
    """What chooses the points by the scores of those before; None where they are known.

    Raises:
        InputError: Optuna is not installed.
    """
    if sweep.search.kind != "optuna":
        return None
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search.kind optuna: needs Optuna; pip install 'rwsa[optuna]'")
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(metric=SCORE, mode="max", seed=sweep.search.seed)
    return ConcurrencyLimiter(search, max_concurrent=concurrent_trials)
