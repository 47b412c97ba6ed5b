"""One trial, run in a process of Ray Tune: train, evaluate, save the result.

Results are files in the sweep's folder; Ray Tune receives the validation scores only.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.core.lineage import TRIAL_KIND
from pipelines.core.tracking import TrackedRun
from pipelines.evaluate import evaluate
from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.results import CorpusScores
from pipelines.evaluation.systems import ENHANCED, Model
from pipelines.train import TrainSummary, train
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import checkpoints_of
from rwsa.config import build, config
from rwsa.errors import DivergedError, InputError, UnreachableError
from rwsa.files import read_json, write_json
from rwsa.metrics import TABLE1_METRICS
from rwsa.models import RWSAMambaUNet, load_model
from rwsa.models.cost import cost
from rwsa.training.checkpoints import STATE_FILE, local_folder
from rwsa.training.memory import explain_out_of_memory
from tune.search_space import Trial, make_trial
from tune.sweep_config import SweepConfig
from tune.trial_results import EvaluationSettings, ResultFolder, TrialResult, if_current

# Keys of what a trial reports to Ray Tune.
STEP, SCORE = "step", "score"
_DONOR = "donor.json"


@config
class TrialContext:
    """Everything that the trials of a sweep share.

    Attributes:
        sweep: configuration of the sweep.
        values: training configuration shared by all trials, from `tune.search_space.base_values`.
        folder: of the sweep.
        cwd: directory in which the sweep was started; cards name their recordings relative to it.
        parent: id of the sweep's MLflow run.
    """

    sweep: SweepConfig
    values: dict[str, Any]
    folder: str
    cwd: str
    parent: str

    @property
    def files(self) -> ResultFolder:
        """Files of the sweep."""
        return ResultFolder(self.folder)

    @property
    def evaluation_settings(self) -> EvaluationSettings:
        """What finished trials are evaluated on."""
        return EvaluationSettings(corpora=self.sweep.corpora, examples=self.sweep.examples)

    def result(self, trial: str) -> TrialResult | None:
        """Result of a trial; None if it has not ended or was evaluated with other settings."""
        return if_current(self.files.result(trial), self.evaluation_settings)

    def scheduled_step(self, train: TrainRunConfig, step: int) -> int:
        """A step of a trial as the scheduler counts it: with `core_minutes`, by its share of the budget."""
        if self.sweep.core_minutes is None:
            return step
        return math.ceil(step * self.values["max_steps"] / train.max_steps)

    def trial(self, settings: Mapping[str, Any]) -> Trial:
        """The trial of one entry in Ray Tune's parameter space: `point`, `seed` and, if known, `name`."""
        trial = make_trial(self.sweep, self.values, settings["point"], settings["seed"])
        name = settings.get("name", trial.name)
        return dataclasses.replace(trial, name=name, train=dataclasses.replace(trial.train, name=name))


def run_trial(settings: dict[str, Any], context: Mapping[str, Any]) -> None:
    """Run or resume a trial.

    Args:
        settings: `trial`, with `point`, `seed` and, if known in advance, `name`.
        context: `TrialContext` as a plain mapping.
    """
    shared = build(TrialContext, context, where="context")
    os.chdir(shared.cwd)  # Ray Tune starts trials in a directory of its own
    population = shared.sweep.scheduler.kind == "pbt"
    trial_settings = settings["trial"]
    if population:
        # After an exchange the settings are the donor's, including its name.
        trial_settings = {**trial_settings, "name": ray.tune.get_context().get_trial_name()}
    trial, files = shared.trial(trial_settings), shared.files
    reporter = _ScoreReporter(trial, shared, population=population)
    if population:
        _load_donor_checkpoint(trial)
    else:
        reporter.report_earlier_scores()
    if shared.result(trial.name) is not None:
        return
    try:
        with explain_out_of_memory():  # for evaluation, too
            files.save_result(_train_and_evaluate(shared, trial, reporter))
    except UnreachableError:
        raise  # Ray Tune retries, when the service may be back
    except (InputError, DivergedError) as error:
        if files.result(trial.name) is not None:
            raise  # only its repeated evaluation failed; keep the earlier result
        files.save_result(unfinished_result(trial, files, "failed", str(error)))


def unfinished_result(trial: Trial, files: ResultFolder, status: Any, reason: str) -> TrialResult:
    """Result of a trial that stopped or failed before its last step."""
    progress = files.progress(trial.name)
    return TrialResult(
        trial=trial.name,
        point=trial.point,
        seed=trial.seed,
        status=status,
        reason=reason,
        step=progress.reports[-1][0] if progress.reports else 0,
        score=max((score for _, score in progress.reports), default=None),
        reports=progress.reports,
        seconds=progress.seconds,
    )


class _ScoreReporter:
    """Callback after each checkpoint: saves its validation score and reports it to Ray Tune."""

    def __init__(self, trial: Trial, context: TrialContext, *, population: bool) -> None:
        self._trial, self._context, self._population = trial, context, population
        self._files, self._since = context.files, time.monotonic()

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        score = values.get(f"valid_{self._context.sweep.metric}")
        if score is None:  # a checkpoint saved on SIGTERM, without validation
            return
        self._save(step, score)
        if not self._population:
            ray.tune.report(self._reported(step, score))
            return
        with tempfile.TemporaryDirectory(prefix="rwsa-member-") as folder:
            copied = self._copy_checkpoint(step, Path(folder))
            checkpoint = ray.tune.Checkpoint.from_directory(folder) if copied else None
            ray.tune.report(self._reported(step, score), checkpoint=checkpoint)

    def report_earlier_scores(self) -> None:
        """Report scores from before an interruption to the scheduler and the search algorithm.

        Includes the score of a checkpoint that was saved but not reported.
        """
        progress = self._files.progress(self._trial.name)
        about = _newest_state(self._trial)
        if about is not None:
            reported = progress.reports[-1][0] if progress.reports else 0
            if about["step"] > reported and about.get("score") is not None:
                self._save(about["step"], about["score"])
        for step, score in self._files.progress(self._trial.name).reports:
            ray.tune.report(self._reported(step, score))

    def _reported(self, step: int, score: float) -> dict[str, float]:
        return {STEP: self._context.scheduled_step(self._trial.train, step), SCORE: score}

    def _copy_checkpoint(self, step: int, folder: Path) -> bool:
        """Copy the checkpoint of a step; False if workers, far ahead, have already deleted it."""
        checkpoint = checkpoints_of(self._trial.train).at(step)
        if checkpoint is None:
            return False
        try:
            with local_folder(checkpoint) as files:
                shutil.copytree(files, folder, dirs_exist_ok=True)
        except (OSError, shutil.Error):  # deleted while copying
            return False
        write_json(folder / _DONOR, {"name": self._trial.name, "step": step})
        return True

    def _save(self, step: int, score: float) -> None:
        """Save a score and the time since the last one."""
        now = time.monotonic()
        progress = self._files.progress(self._trial.name)
        progress = progress.with_report(step, score, now - self._since, point=self._trial.point)
        self._files.save_progress(self._trial.name, progress)
        self._since = now


def _newest_state(trial: Trial) -> dict[str, Any] | None:
    """`state.json` of the newest checkpoint; None if there is none, or if training will set it aside."""
    latest = checkpoints_of(trial.train).latest()
    if latest is None:
        return None
    try:
        about = read_json(latest / STATE_FILE)
    except UnreachableError:
        raise
    except InputError:
        return None
    return about if isinstance(about, dict) and isinstance(about.get("step"), int) else None


def _load_donor_checkpoint(trial: Trial) -> None:
    """Replace a trial's checkpoints with that of another trial if population-based training chose so."""
    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        donor = read_json(Path(folder) / _DONOR)
        if donor["name"] != trial.name:
            checkpoints_of(trial.train).replace_all(donor["step"], Path(folder), leave_out=(_DONOR,))


def _train_and_evaluate(context: TrialContext, trial: Trial, reporter: _ScoreReporter) -> TrialResult:
    sweep = context.sweep
    trained = _train(sweep, trial, reporter, context.parent)
    started = time.monotonic()
    evaluated = evaluate(
        [trained.weights],
        [Path(card) for card in sweep.corpora],
        storage=trial.train.storage,
        examples=sweep.examples,
        name=f"evaluate {trial.name}",
        parent=trained.run_id,
        device="cuda" if ray.cluster_resources().get("GPU") else "cpu",
        audio_clips=sweep.audio_clips,
        report=lambda line: None,
    )
    means = {corpus.name: _means(corpus) for corpus in evaluated.corpora}
    (system,) = evaluated.systems
    assert isinstance(system, Model)
    run = TrackedRun(trial.train.storage, trained.run_id)
    run.log_metrics(trial.train.max_steps, flat_means(means))
    run.close()
    network = load_model(trained.weights)
    shares = network.shared_shares() if isinstance(network, RWSAMambaUNet) else {}
    progress = context.files.progress(trial.name)
    return TrialResult(
        trial=trial.name,
        point=trial.point,
        seed=trial.seed,
        status="finished",
        step=checkpoints_of(trial.train).steps()[-1],
        score=trained.best_score,
        reports=progress.reports,
        seconds=progress.seconds,
        evaluation_seconds=time.monotonic() - started,
        parameters=system.parameters,
        multiply_accumulates=cost(network).total,
        run_id=trained.run_id,
        weights=str(trained.weights),
        evaluated=context.evaluation_settings,
        means=means,
        clips={corpus.name: _clips(corpus) for corpus in evaluated.corpora},
        shared_shares={level: round(share.item(), 4) for level, share in shares.items()},
    )


def _train(sweep: SweepConfig, trial: Trial, reporter: _ScoreReporter, parent: str) -> TrainSummary:
    settings: dict[str, Any] = {
        "cpus_per_worker": sweep.cpus_per_worker,
        "parent": parent,
        "params": {axis_name(name): value for name, value in trial.point.items()},
        "tags": {"rwsa.kind": TRIAL_KIND, "rwsa.sweep": sweep.name},
        "on_checkpoint": reporter,
        # A killed driver's trials end a little later than the driver; Optuna may choose a point twice.
        "wait_seconds": 60.0 if sweep.search.kind != "optuna" else math.inf,
    }
    # The head may have no CPUs for Ray, and a trial's process holds no GPU: then a worker trains.
    node_id = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    enough_cpus = node["Resources"].get("CPU", 0) >= sweep.cpus_per_worker
    if sweep.workers or not enough_cpus or ray.cluster_resources().get("GPU"):
        return train(trial.train, workers=max(sweep.workers, 1), gpu=sweep.gpu, **settings)
    with _reserve_cpus(node_id, sweep.cpus_per_worker):
        return train(trial.train, workers=0, **settings)


@contextmanager
def _reserve_cpus(node_id: str, count: int) -> Iterator[None]:
    """Reserve CPUs of a node during training; the evaluation that follows requests them for its own tasks.

    An actor reserves them, as it ends with this process even if that is killed; a placement group would not.
    """
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    reservation = _CpuReservation.options(num_cpus=count, scheduling_strategy=on_node).remote()  # type: ignore[attr-defined]
    try:
        ray.get(reservation.wait_until_placed.remote())
        yield
    finally:
        ray.kill(reservation)


@ray.remote
class _CpuReservation:
    """Idle actor that occupies CPUs."""

    def wait_until_placed(self) -> None:
        """Return once the actor runs."""


def axis_name(name: str) -> str:
    """Name of an axis in MLflow, with a prefix that sorts axes together."""
    return f"axis.{name.rpartition('.')[2]}"


def flat_means(means: Mapping[str, Any]) -> dict[str, float]:
    """Mean scores of the enhanced output as `CORPUS.METRIC`."""
    return {
        f"{corpus}.{metric}": value
        for corpus, signals in means.items()
        for metric, value in signals[ENHANCED].items()
        if value is not None
    }


def _means(corpus: CorpusScores) -> dict[str, dict[str, float | None]]:
    means = {signal: corpus.means(signal) for signal in (NOISY, ENHANCED)}
    return {signal: {name: scores.get(name) for name in TABLE1_METRICS} for signal, scores in means.items()}


def _clips(corpus: CorpusScores) -> dict[str, list[Any]]:
    """Scores of every clip, for paired tests."""
    scores: dict[str, list[Any]] = {"clip": [clip.clip_id for clip in corpus.clips]}
    return scores | {metric: corpus.values(ENHANCED, metric) for metric in TABLE1_METRICS}
