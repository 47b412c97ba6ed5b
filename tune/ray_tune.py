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
from tune.dry_run import concurrent_trials
from tune.schedulers import scheduler_of, search_of, space_of
from tune.spaces import Trial
from tune.trial import Common, ended, run_trial

# No CPU: a trial only waits for its workers, which hold CPUs and GPUs, and were it to hold some, trials could
# wait for each other's for ever. Ray Tune wants something, so a byte of memory.
_HELD_BY_A_TRIAL: dict[str, float] = {"CPU": 0, "memory": 1}
# One that trains on workers elsewhere is on the head: were its node lost, its workers' CPUs would be held for
# ever, since what frees them would be lost with it (Ray Train 2.60).
_ON_THE_HEAD = {"node:__internal_head__": 0.001}
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
    waiting = [trial for trial in planned if common.ended(trial.name) is None]
    if planned and not waiting:
        return "end"
    # Schedulers and searches are to see all trials again; those that have ended only tell what they scored.
    given = planned if sweep.scheduler.kind == "asha" else waiting
    there = ray.cluster_resources()
    at_once = concurrent_trials(sweep, there)
    if not is_remote(files.folder):
        # Ray Tune's own notes of a start before, of which nothing is needed.
        shutil.rmtree(files.folder / "ray", ignore_errors=True)
    watch = _Watch(common)
    random.seed(sweep.search.seed)  # Ray Tune's populations draw from the process's own generator
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, common=as_mapping(common)),
            _HELD_BY_A_TRIAL | (_ON_THE_HEAD if sweep.workers or there.get("GPU") else {}),
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
    tuner.fit()
    watch.keep_lost()
    return watch.ended_by(planned)


def _name(trial: TuneTrial) -> str:
    return str(trial.config["place"].get("name", trial.trial_id))


def _directory(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class _Watch(ray.tune.Callback):
    """Says what has ended, and keeps what the scheduler stopped, as that has no time to say so itself."""

    def __init__(self, common: Common) -> None:
        self._common, self._began = common, time.monotonic()
        self._started = dict[str, TuneTrial]()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._started[trial.trial_id] = trial

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        files, kind, one = self._common.files, self._common.sweep.scheduler.kind, self._own(trial)
        if kind != "none" and files.result(one.name) is None and not self._over_budget():
            files.put(ended(one, files, "stopped", f"early, by {kind}"))
        result = files.result(one.name)
        if result is not None:
            reason = f": {result.reason}" if result.reason else ""
            print(f"{one.name} {result.status} at step {result.step}{reason}", flush=True)

    def keep_lost(self) -> None:
        """Keep why trials failed whose processes could not say it themselves."""
        files = self._common.files
        for trial in self._started.values():
            one = self._own(trial)
            if trial.status == TuneTrial.ERROR and files.result(one.name) is None:
                reason = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
                files.put(ended(one, files, "failed", reason))

    def ended_by(self, planned: Sequence[Trial]) -> EndedBy:
        """Whether all trials came to an end, and what cut them short if not."""
        names = [trial.name for trial in planned] or [self._own(one).name for one in self._started.values()]
        wanted = len(planned) or self._common.sweep.search.trials or 0
        if len(names) >= wanted and all(self._common.ended(name) is not None for name in names):
            return "end"
        return "budget" if self._over_budget() else "interrupt"

    def _own(self, trial: TuneTrial) -> Trial:
        """Ours; after an exchange in a population the settings are the donor's, its name included."""
        place = dict(trial.config["place"])
        if self._common.sweep.scheduler.kind == "pbt":
            place["name"] = str(trial)
        return self._common.trial(place)

    def _over_budget(self) -> bool:
        hours = self._common.sweep.budget_hours
        return hours is not None and time.monotonic() - self._began >= hours * _HOUR
