"""Runs a sweep's trials on Ray Tune and saves the results of those that it stops or loses."""

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
from tune.concurrent_trials import concurrent_trials
from tune.schedulers import make_scheduler, make_search_algorithm, param_space
from tune.search_space import Trial
from tune.trial import TrialContext, run_trial, unfinished_result

# A trial's own process reserves no CPU: it waits for workers that do, and if trials held CPUs too, they could
# deadlock. Ray Tune requires some resource, so it is one byte of memory.
_TRIAL_RESOURCES: dict[str, float] = {"CPU": 0, "memory": 1}
# A trial whose workers are on other nodes runs on the head: if it were lost with a node, Ray Train 2.60 would
# never release its workers' CPUs.
_ON_THE_HEAD = {"node:__internal_head__": 0.001}
_HOUR = 3600.0
EndedBy = Literal["end", "budget", "interrupt"]


def run_trials(context: TrialContext, planned: Sequence[Trial], *, max_steps: int) -> EndedBy:
    """Run all trials that have not ended, on the Ray cluster that this process is connected to.

    Each trial saves its own result; the results of stopped and lost trials are saved here.

    Args:
        context: shared by all trials.
        planned: the trials that are known in advance.
        max_steps: of a trial.

    Returns:
        `end` if all trials have ended, else what ended the sweep early.
    """
    sweep, files = context.sweep, context.files
    waiting = [trial for trial in planned if context.result(trial.name) is None]
    if planned and not waiting:
        return "end"
    # ASHA needs the scores of all trials again; those that have ended only report theirs.
    trials = planned if sweep.scheduler.kind == "asha" else waiting
    resources = ray.cluster_resources()
    concurrent = concurrent_trials(sweep, resources)
    if not is_remote(files.folder):
        # Ray Tune's own state of an earlier start, which is not needed.
        shutil.rmtree(files.folder / "ray", ignore_errors=True)
    recorder = _ResultRecorder(context)
    random.seed(sweep.search.seed)  # Ray Tune's population-based training draws from the global generator
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, context=as_mapping(context)),
            _TRIAL_RESOURCES | (_ON_THE_HEAD if sweep.workers or resources.get("GPU") else {}),
        ),
        param_space=param_space(sweep, trials, files),
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=None if sweep.search.kind == "optuna" else concurrent,
            num_samples=sweep.search.trials or 1 if sweep.search.kind == "optuna" else 1,
            scheduler=make_scheduler(sweep, max_steps),
            search_alg=make_search_algorithm(sweep, concurrent),
            time_budget_s=None if sweep.budget_hours is None else sweep.budget_hours * _HOUR,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"].get("name", trial.trial_id)),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            storage_path=str(files.folder),
            failure_config=ray.tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    tuner.fit()
    recorder.save_lost_trials()
    return recorder.ended_by(planned)


class _ResultRecorder(ray.tune.Callback):
    """Prints results as trials end, and saves those of trials that could not do so themselves."""

    def __init__(self, context: TrialContext) -> None:
        self._context, self._started_at = context, time.monotonic()
        self._started = dict[str, TuneTrial]()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._started[trial.trial_id] = trial

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        files, kind, ours = self._context.files, self._context.sweep.scheduler.kind, self._our_trial(trial)
        if kind != "none" and files.result(ours.name) is None and not self._over_budget():
            files.save_result(unfinished_result(ours, files, "stopped", f"early, by {kind}"))
        result = files.result(ours.name)
        if result is not None:
            reason = f": {result.reason}" if result.reason else ""
            print(f"{ours.name} {result.status} at step {result.step}{reason}", flush=True)

    def save_lost_trials(self) -> None:
        """Save why trials failed whose processes were lost."""
        files = self._context.files
        for trial in self._started.values():
            ours = self._our_trial(trial)
            if trial.status == TuneTrial.ERROR and files.result(ours.name) is None:
                reason = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
                files.save_result(unfinished_result(ours, files, "failed", reason))

    def ended_by(self, planned: Sequence[Trial]) -> EndedBy:
        """Whether all trials have ended, and what ended the sweep if not."""
        names = [trial.name for trial in planned]
        names = names or [self._our_trial(trial).name for trial in self._started.values()]
        expected = len(planned) or self._context.sweep.search.trials or 0
        if len(names) >= expected and all(self._context.result(name) is not None for name in names):
            return "end"
        return "budget" if self._over_budget() else "interrupt"

    def _our_trial(self, trial: TuneTrial) -> Trial:
        """The sweep's trial behind one of Ray Tune's."""
        settings = dict(trial.config["trial"])
        if self._context.sweep.scheduler.kind == "pbt":
            settings["name"] = str(trial)  # after an exchange the settings hold the donor's name
        return self._context.trial(settings)

    def _over_budget(self) -> bool:
        hours = self._context.sweep.budget_hours
        return hours is not None and time.monotonic() - self._started_at >= hours * _HOUR
