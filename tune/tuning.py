"""Ray Tune: which trials run when, and what becomes of those that it stops."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from typing import Any, Literal

import ray
import ray.tune
from ray.tune.experiment import Trial as TuneTrial

from rwsa.config import as_mapping
from rwsa.files import is_remote
from tune.plan import concurrent_trials
from tune.results import ResultFolder
from tune.schedules import scheduler_of, search_of, space_of
from tune.spaces import Trial
from tune.sweep_config import SweepConfig
from tune.trial import Common, ended, run_trial

# No CPU: a trial only waits for its workers, which hold CPUs and GPUs, and were it to hold some, trials could
# wait for each other's for ever. Ray Tune wants something, so a byte of memory.
_HELD_BY_A_TRIAL: dict[str, float] = {"CPU": 0, "memory": 1}
_HOUR = 3600.0
EndedBy = Literal["end", "budget", "interrupt"]


def run_trials(common: Common, planned: Sequence[Trial], *, max_steps: int) -> EndedBy:
    """Run on the Ray that this process has joined what has not ended yet; returns why this ended.

    What becomes of each trial is written to its own file, by the trial itself, or here where it was stopped
    or lost.

    Args:
        common: of all trials.
        planned: those that are known beforehand.
        max_steps: of a trial.
    """
    sweep, files = common.sweep, common.files
    waiting = [trial for trial in planned if _to_run(sweep, files, trial, common)]
    if planned and not waiting:
        return "end"
    # Schedulers and searches are to see all trials again; those that have ended only tell what they scored.
    given = planned if sweep.scheduler.kind == "asha" else waiting
    at_once = concurrent_trials(sweep, ray.cluster_resources())
    if not is_remote(files.folder):
        # Ray Tune's own notes of a start before, of which nothing is needed.
        shutil.rmtree(files.folder / "ray", ignore_errors=True)
    watch = _Watch(common)
    random.seed(sweep.search.seed)  # Ray Tune's populations draw from the process's own generator
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, common=as_mapping(common)), _HELD_BY_A_TRIAL
        ),
        param_space=space_of(sweep, given, files),
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=None if sweep.search.kind == "optuna" else at_once,
            num_samples=sweep.search.trials or 1 if sweep.search.kind == "optuna" else 1,
            scheduler=scheduler_of(sweep, max_steps),
            search_alg=search_of(sweep, at_once),
            time_budget_s=None if sweep.budget_hours is None else sweep.budget_hours * _HOUR,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_directory,
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            storage_path=str(files.folder),
            failure_config=ray.tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[watch],
            verbose=0,
        ),
    )
    results = tuner.fit()
    for number in range(len(results)):
        result = results[number]
        if result.error is not None and result.config is not None:
            trial = common.trial(result.config["place"])
            if files.result(trial.name) is None:
                reason = str(result.error).strip().splitlines()[-1]
                files.put(ended(trial, files, "failed", reason))
    return watch.ended_by(results)


def _to_run(sweep: SweepConfig, files: ResultFolder, trial: Trial, common: Common) -> bool:
    """Whether a trial has not ended, or has been evaluated on something else."""
    done = files.result(trial.name)
    return done is None or (done.status == "finished" and done.evaluated != common.evaluated)


def _name(trial: TuneTrial) -> str:
    return str(trial.config["place"].get("name", trial.trial_id))


def _directory(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class _Watch(ray.tune.Callback):
    """Says what has ended, and keeps what the scheduler stopped, as that has no time to say so itself."""

    def __init__(self, common: Common) -> None:
        self._common, self._began = common, time.monotonic()

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        files, kind = self._common.files, self._common.sweep.scheduler.kind
        place = dict(trial.config["place"])
        if kind == "pbt":
            place["name"] = str(trial)
        one = self._common.trial(place)
        if files.result(one.name) is None and not self._over_budget():
            files.put(ended(one, files, "stopped", f"early, by {kind}"))
        result = files.result(one.name)
        if result is not None:
            reason = f": {result.reason}" if result.reason else ""
            print(f"{one.name} {result.status} at step {result.step}{reason}", flush=True)

    def ended_by(self, results: ray.tune.ResultGrid) -> EndedBy:
        """Whether all trials came to an end, and what cut them short if not."""
        files = self._common.files
        for number in range(len(results)):
            result = results[number]
            assert result.config is not None
            if result.error is None and files.result(self._common.trial(result.config["place"]).name) is None:
                return "budget" if self._over_budget() else "interrupt"
        return "end"

    def _over_budget(self) -> bool:
        hours = self._common.sweep.budget_hours
        return hours is not None and time.monotonic() - self._began >= hours * _HOUR
