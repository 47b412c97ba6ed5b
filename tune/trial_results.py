"""Results of a sweep's trials, saved as JSON in the sweep's folder so that no trial runs twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipelines.evaluation.systems import ENHANCED
from rwsa.config import as_mapping, build, config
from rwsa.files import StoragePath, is_file, location, read_json, write_json
from tune.search_space import SearchPoint, Trial

Status = Literal["finished", "stopped", "failed", "waiting"]
# Unlike a setting, a result may be infinite or NaN.
Score = Annotated[float, Field(allow_inf_nan=True)]
# Corpus → signal (`noisy`, `enhanced`) → metric → mean.
Means = dict[str, dict[str, dict[str, Score | None]]]


@config
class EvaluationSettings:
    """What a trial was evaluated on; with other settings its evaluation is repeated."""

    corpora: tuple[str, ...]
    examples: int | None


@config
class TrialResult:
    """Result of one trial.

    Attributes:
        trial, point, seed: the trial's name, its point in the search space, its seed.
        status: `finished`, trained to the last step and evaluated; `stopped` early by the scheduler;
            `failed`; `waiting`, not started or interrupted.
        reason: why it stopped or failed, or why it waits.
        step: last trained step.
        score: best validation score.
        reports: (step, validation score) of every checkpoint.
        seconds, evaluation_seconds: of training, including time spent waiting between checkpoints, and of
            evaluation.
        parameters, multiply_accumulates: of the network; the latter for one segment.
        run_id: of the trial's MLflow run.
        weights: path of the best weights.
        evaluated: what it was evaluated on.
        means: mean scores of the noisy input and of the enhanced output, by corpus, in-domain first.
        clips: corpus → metric → one score per clip; `clip` holds the clip ids.
        shared_shares: with blended attention, the encoder's share at each level.
    """

    trial: str
    point: SearchPoint
    seed: int
    status: Status
    reason: str | None = None
    step: int = 0
    score: Score | None = None
    reports: tuple[tuple[int, Score], ...] = ()
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    parameters: int | None = None
    multiply_accumulates: int | None = None
    run_id: str | None = None
    weights: str | None = None
    evaluated: EvaluationSettings | None = None
    means: Means = field(default_factory=dict)
    clips: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    shared_shares: dict[str, float] = field(default_factory=dict)

    def in_domain(self, metric: str) -> float | None:
        """Mean score on the in-domain corpus."""
        return next(iter(self.means.values()))[ENHANCED][metric]

    def out_of_domain(self, metric: str) -> float | None:
        """Mean score over the out-of-domain corpora; None without such corpora or if one has no score."""
        return mean_if_complete([signals[ENHANCED][metric] for signals in list(self.means.values())[1:]])

    def deciding_score(self, metric: str) -> float | None:
        """Score that ranks configurations: out of domain, or in domain if that is the only corpus."""
        return self.in_domain(metric) if len(self.means) == 1 else self.out_of_domain(metric)


def mean_if_complete(values: Sequence[float | None]) -> float | None:
    """Mean of values; None if one is missing or there are none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None


@config
class TrialProgress:
    """Progress of a trial.

    Attributes:
        reports: (step, validation score) of its checkpoints.
        seconds: of training so far.
        point: its current point; population-based training changes it.
    """

    reports: tuple[tuple[int, Score], ...] = ()
    seconds: float = 0.0
    point: SearchPoint | None = None

    def with_report(self, step: int, score: float, seconds: float, *, point: SearchPoint) -> TrialProgress:
        """Append a report; reports of this and later steps, from before an interruption, are dropped."""
        earlier = tuple(report for report in self.reports if report[0] < step)
        return TrialProgress(reports=(*earlier, (step, score)), seconds=self.seconds + seconds, point=point)


def if_current(result: TrialResult | None, settings: EvaluationSettings) -> TrialResult | None:
    """The result, or None if it was evaluated with other settings."""
    outdated = result is not None and result.status == "finished" and result.evaluated != settings
    return None if outdated else result


class ResultFolder:
    """Files of one sweep.

    `trials/NAME.json` is the result of a trial that has ended, `trials/NAME.progress.json` the progress of
    every started trial, `rule.json` the preregistered rule, `core_seconds.json` how long steps take.
    """

    def __init__(self, folder: str | StoragePath) -> None:
        """`folder` may be in an object store."""
        self.folder = location(folder)

    def preregister_rule(self, rule: str) -> str:
        """Save `rule` unless the sweep has one already; returns the saved one."""
        path = self.folder / "rule.json"
        if not is_file(path):
            write_json(path, rule)
        return str(read_json(path))

    def core_seconds(self) -> dict[str, float]:
        """What `save_core_seconds` saved; empty if it has not."""
        path = self.folder / "core_seconds.json"
        return dict(read_json(path)) if is_file(path) else {}

    def save_core_seconds(self, seconds: Mapping[str, float]) -> None:
        """Save core-seconds per step by `tune.core_budget.work_key`; trials keep their number of steps."""
        write_json(self.folder / "core_seconds.json", dict(seconds))

    def result(self, name: str) -> TrialResult | None:
        """Result of a trial; None if it has not ended.

        Raises:
            InputError: the file is damaged.
        """
        path = self._path(name)
        return build(TrialResult, read_json(path), where=str(path)) if path.is_file() else None

    def save_result(self, result: TrialResult) -> None:
        """Save the result of a trial."""
        # Unsorted: the first corpus is the in-domain one, and axes keep the sweep's order.
        write_json(self._path(result.trial), as_mapping(result), sort_keys=False)

    def delete_result(self, name: str) -> None:
        """Delete a trial's result, so that it runs again."""
        self._path(name).unlink(missing_ok=True)

    def progress(self, name: str) -> TrialProgress:
        """Progress of a trial."""
        path = self._path(f"{name}.progress")
        return build(TrialProgress, read_json(path), where=str(path)) if path.is_file() else TrialProgress()

    def save_progress(self, name: str, progress: TrialProgress) -> None:
        """Save the progress of a trial."""
        write_json(self._path(f"{name}.progress"), as_mapping(progress), sort_keys=False)

    def results(self, planned: Sequence[Trial], settings: EvaluationSettings) -> list[TrialResult]:
        """One result per planned trial, in order; `waiting` for those without a current result."""
        return [
            if_current(self.result(trial.name), settings)
            or self.waiting_result(trial.name, trial.point, trial.seed)
            for trial in planned
        ]

    def trial_names(self) -> list[str]:
        """Names of all trials that have started, sorted."""
        paths = (self.folder / "trials").glob("*.json")
        return sorted({path.name.removesuffix(".json").removesuffix(".progress") for path in paths})

    def waiting_result(self, name: str, point: SearchPoint, seed: int) -> TrialResult:
        """Result of a trial that has not ended or must be evaluated again."""
        reports = self.progress(name).reports
        step = reports[-1][0] if reports else 0
        reason = f"interrupted after step {step}" if step else "not started"
        if self.result(name) is not None:
            reason = "trained; was evaluated with other corpora or numbers of clips"
        return TrialResult(
            trial=name, point=point, seed=seed, status="waiting", reason=reason, step=step, reports=reports
        )

    def _path(self, name: str) -> StoragePath:
        return self.folder / "trials" / f"{name}.json"
