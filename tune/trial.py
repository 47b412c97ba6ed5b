"""What one trial does, in a process of Ray Tune's: it trains and evaluates as a person would.

What comes of it goes to files of the sweep; Ray Tune is told of validation scores alone.
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

from pipelines.core.tracking import TrackedRun
from pipelines.evaluate import evaluate
from pipelines.evaluation.clip_scores import METRICS, NOISY
from pipelines.evaluation.results import CorpusScores
from pipelines.evaluation.systems import ENHANCED, Model
from pipelines.train import TrainSummary, train
from pipelines.training.launch import checkpoints_of
from rwsa.config import build, config
from rwsa.errors import InputError, UnreachableError
from rwsa.files import read_json, write_json
from rwsa.models import RWSAMambaUNet, load_model
from rwsa.models.cost import cost
from rwsa.training.checkpoints import ABOUT, local
from rwsa.training.loop import DivergedError
from rwsa.training.memory import enough_memory
from tune.results import Evaluated, ResultFolder, TrialResult, ended_on
from tune.spaces import Trial, trial_at
from tune.sweep_config import SweepConfig

# What Ray Tune is told of a trial.
STEP, SCORE = "step", "score"
_DONOR = "donor.json"


@config
class Common:
    """What all trials of a sweep share.

    Attributes:
        sweep: it.
        values: what their configurations have in common, from `tune.spaces.base_values`.
        folder: of the sweep.
        cwd: where it was started; cards name their recordings relative to that.
        parent: its run in MLflow.
    """

    sweep: SweepConfig
    values: dict[str, Any]
    folder: str
    cwd: str
    parent: str

    @property
    def files(self) -> ResultFolder:
        """Where results are kept."""
        return ResultFolder(self.folder)

    @property
    def evaluated(self) -> Evaluated:
        """What finished trials were evaluated on."""
        return Evaluated(corpora=self.sweep.corpora, examples=self.sweep.examples)

    def ended(self, trial: str) -> TrialResult | None:
        """What became of a trial; None where it has not ended, or was evaluated on something else."""
        return ended_on(self.files.result(trial), self.evaluated)

    def trial(self, place: Mapping[str, Any]) -> Trial:
        """The trial that a place in Ray Tune's space stands for; one of a population keeps its name."""
        trial = trial_at(self.sweep, self.values, place["point"], place["seed"])
        name = place.get("name", trial.name)
        return dataclasses.replace(trial, name=name, train=dataclasses.replace(trial.train, name=name))


def run_trial(settings: dict[str, Any], common: Mapping[str, Any]) -> None:
    """Run a trial, or go on with it.

    Args:
        settings: `place`, with `point` and `seed`, and with `name` where it is known beforehand.
        common: `Common` as a plain mapping.
    """
    shared = build(Common, common, where="common")
    os.chdir(shared.cwd)  # Tune starts trials elsewhere
    population = shared.sweep.scheduler.kind == "pbt"
    place = settings["place"]
    if population:
        # After an exchange the settings are the donor's, its name included.
        place = {**place, "name": ray.tune.get_context().get_trial_name()}
    trial, files = shared.trial(place), shared.files
    reporter = _Reporter(trial, files, shared.sweep.metric, population=population)
    if population:
        _adopt(trial)
    else:
        reporter.tell_again()
    if shared.ended(trial.name) is not None:
        return
    try:
        with enough_memory():  # for what follows training, too
            files.put(_finished(shared, trial, reporter))
    except UnreachableError:
        raise  # it may be back when Ray Tune tries again
    except (InputError, DivergedError) as error:
        if files.result(trial.name) is not None:
            raise  # what is known of it stays; it was only to be evaluated anew
        files.put(ended(trial, files, "failed", str(error)))


def ended(trial: Trial, files: ResultFolder, status: Any, reason: str) -> TrialResult:
    """The row of a trial that was not trained to its end."""
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


class _Reporter:
    """Keeps what each checkpoint scored, and tells Ray Tune."""

    def __init__(self, trial: Trial, files: ResultFolder, metric: str, *, population: bool) -> None:
        self._trial, self._files, self._metric, self._population = trial, files, metric, population
        self._since = time.monotonic()

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        score = values.get(f"valid_{self._metric}")
        if score is None:  # saved because it was asked to end, without a validation
            return
        self.note(step, score)
        if not self._population:
            ray.tune.report({STEP: step, SCORE: score})
            return
        with tempfile.TemporaryDirectory(prefix="rwsa-member-") as folder:
            given = self._copied(step, Path(folder))
            checkpoint = ray.tune.Checkpoint.from_directory(folder) if given else None
            ray.tune.report({STEP: step, SCORE: score}, checkpoint=checkpoint)

    def tell_again(self) -> None:
        """Tell what was told before an interruption, and what was only saved, to schedulers and searches."""
        progress = self._files.progress(self._trial.name)
        latest = checkpoints_of(self._trial.train).latest()
        if latest is not None:
            about = read_json(latest / ABOUT)
            told = progress.reports[-1][0] if progress.reports else 0
            if about["step"] > told and about.get("score") is not None:
                self.note(about["step"], about["score"])
        for step, score in self._files.progress(self._trial.name).reports:
            ray.tune.report({STEP: step, SCORE: score})

    def _copied(self, step: int, folder: Path) -> bool:
        """Copy the checkpoint of a step; workers may be far ahead, and have dropped it."""
        checkpoint = checkpoints_of(self._trial.train).at(step)
        if checkpoint is None:
            return False
        try:
            with local(checkpoint) as files:
                shutil.copytree(files, folder, dirs_exist_ok=True)
        except (OSError, shutil.Error):  # dropped meanwhile
            return False
        write_json(folder / _DONOR, {"name": self._trial.name, "step": step})
        return True

    def note(self, step: int, score: float) -> None:
        """Keep a score and the time that it took since the last."""
        now = time.monotonic()
        progress = self._files.progress(self._trial.name)
        progress = progress.with_report(step, score, now - self._since, point=self._trial.point)
        self._files.put_progress(self._trial.name, progress)
        self._since = now


def _adopt(trial: Trial) -> None:
    """Go on from another trial's checkpoint where the population's scheduler has chosen so."""
    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        donor = read_json(Path(folder) / _DONOR)
        if donor["name"] != trial.name:
            checkpoints_of(trial.train).replace_all(donor["step"], Path(folder), leave_out=(_DONOR,))


def _finished(shared: Common, trial: Trial, reporter: _Reporter) -> TrialResult:
    """Train, evaluate, and say what came of it."""
    sweep = shared.sweep
    trained = _trained(sweep, trial, reporter, shared.parent)
    began = time.monotonic()
    evaluated = evaluate(
        [trained.weights],
        [Path(card) for card in sweep.corpora],
        storage=trial.train.storage,
        examples=sweep.examples,
        name=f"{trial.name} evaluated",
        parent=trained.run_id,
        device="cuda" if ray.cluster_resources().get("GPU") else "cpu",
        audio_clips=sweep.audio_clips,
        report=lambda line: None,
    )
    means = {corpus.name: _means(corpus) for corpus in evaluated.corpora}
    (system,) = evaluated.systems
    assert isinstance(system, Model)
    run = TrackedRun(trial.train.storage, trained.run_id)
    run.log(trial.train.max_steps, flat_means(means))
    run.close()
    network = load_model(trained.weights)
    shares = network.shared_shares() if isinstance(network, RWSAMambaUNet) else {}
    progress = shared.files.progress(trial.name)
    return TrialResult(
        trial=trial.name,
        point=trial.point,
        seed=trial.seed,
        status="finished",
        step=checkpoints_of(trial.train).steps()[-1],
        score=trained.best_score,
        reports=progress.reports,
        seconds=progress.seconds,
        evaluation_seconds=time.monotonic() - began,
        parameters=system.parameters,
        multiply_accumulates=cost(network).total,
        run_id=trained.run_id,
        weights=str(trained.weights),
        evaluated=shared.evaluated,
        means=means,
        clips={corpus.name: _clips(corpus) for corpus in evaluated.corpora},
        shared_shares={level: round(share.item(), 4) for level, share in shares.items()},
    )


def _trained(sweep: SweepConfig, trial: Trial, reporter: _Reporter, parent: str) -> TrainSummary:
    settings: dict[str, Any] = {
        "cpus_per_worker": sweep.cpus_per_worker,
        "parent": parent,
        "params": {axis_name(name): value for name, value in trial.point.items()},
        "tags": {"rwsa.kind": "trial", "rwsa.sweep": sweep.name},
        "on_saved": reporter,
        # Those of a driver that was killed end a little later than it; Optuna may choose a point twice.
        "wait_seconds": 60.0 if sweep.search.kind != "optuna" else math.inf,
    }
    # A cluster's head may have no CPUs, and a trial holds no GPU: then a worker elsewhere trains.
    here = _cpus_of_this_node() >= sweep.cpus_per_worker and not ray.cluster_resources().get("GPU")
    if sweep.workers or not here:
        return train(trial.train, workers=max(sweep.workers, 1), **settings)
    with _cpus_here(sweep.cpus_per_worker):
        return train(trial.train, workers=0, **settings)


def _cpus_of_this_node() -> float:
    own = ray.get_runtime_context().get_node_id()
    return float(next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == own))


@contextmanager
def _cpus_here(count: int) -> Iterator[None]:
    """Hold CPUs of this node meanwhile, and no longer: evaluations, which follow, take them as tasks.

    An actor holds them, since it ends with this process, however that ends; a placement group would not.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder = _Holder.options(num_cpus=count, scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    try:
        ray.get(holder.holds.remote())
        yield
    finally:
        ray.kill(holder)


@ray.remote
class _Holder:
    """Does nothing but be there."""

    def holds(self) -> None:
        """Return when it is."""


def axis_name(name: str) -> str:
    """What an axis is called in MLflow: short, and sorted together."""
    return f"axis.{name.rpartition('.')[2]}"


def flat_means(means: Mapping[str, Any]) -> dict[str, float]:
    """`CORPUS.METRIC` of what the network made of the input."""
    return {
        f"{corpus}.{metric}": value
        for corpus, signals in means.items()
        for metric, value in signals[ENHANCED].items()
        if value is not None
    }


def _means(corpus: CorpusScores) -> dict[str, dict[str, float | None]]:
    means = {signal: corpus.means(signal) for signal in (NOISY, ENHANCED)}
    return {signal: {name: of.get(name) for name in METRICS} for signal, of in means.items()}


def _clips(corpus: CorpusScores) -> dict[str, list[Any]]:
    """What paired tests need."""
    scores: dict[str, list[Any]] = {"clip": [clip.clip_id for clip in corpus.clips]}
    return scores | {metric: corpus.values(ENHANCED, metric) for metric in METRICS}
