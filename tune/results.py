"""What became of each trial, kept beside the sweep so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from rwsa.config import as_mapping, build, config
from rwsa.files import is_file, location, read_json, write_json
from tune.spaces import Point, Trial

Status = Literal["finished", "stopped", "failed", "waiting"]
# Corpus to signal (`noisy`, `enhanced`) to metric to mean.
Means = dict[str, dict[str, dict[str, float | None]]]


@config
class Evaluated:
    """On what a trial was evaluated; on anything else it must be again."""

    corpora: tuple[str, ...]
    examples: int | None


@config
class TrialResult:
    """One row of a sweep.

    Attributes:
        trial, point, seed: which it is.
        status: `finished`, trained to its end and evaluated; `stopped` early by the scheduler; `failed`;
            `waiting`, not there yet.
        reason: why it stopped or failed, or what it waits for.
        step: how far it was trained.
        score: the best validation score.
        reports: step and validation score of every checkpoint.
        seconds, evaluation_seconds: from checkpoint to checkpoint, waiting included, and of evaluating.
        parameters, multiply_accumulates: of the network, for one segment.
        run_id: in MLflow.
        weights: where they are.
        evaluated: on what.
        means: by corpus, of the noisy input and of what the network made of it.
        clips: corpus to metric to a score a clip (`clip` has their names).
        shared_shares: where decoder blocks mix the encoder's attention with their own, its share a level.
    """

    trial: str
    point: Point
    seed: int
    status: Status
    reason: str | None = None
    step: int = 0
    score: float | None = None
    reports: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    parameters: int | None = None
    multiply_accumulates: int | None = None
    run_id: str | None = None
    weights: str | None = None
    evaluated: Evaluated | None = None
    means: Means = field(default_factory=dict)
    clips: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    shared_shares: dict[str, float] = field(default_factory=dict)


@config
class Progress:
    """How far a trial has come: step and score of its checkpoints, the seconds that it took, and its values,
    which a population's scheduler changes.
    """

    reports: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    point: Point | None = None

    def with_report(self, step: int, score: float, seconds: float, *, point: Point) -> Progress:
        """The same with one more; what came after that step before an interruption is forgotten."""
        before = tuple(report for report in self.reports if report[0] < step)
        return Progress(reports=(*before, (step, score)), seconds=self.seconds + seconds, point=point)


def ended_on(result: TrialResult | None, evaluated: Evaluated) -> TrialResult | None:
    """The row, unless its evaluation was on something else."""
    other = result is not None and result.status == "finished" and result.evaluated != evaluated
    return None if other else result


class ResultFolder:
    """The files of one sweep: `trials/NAME.json` of what has ended, `trials/NAME.progress.json` of all, and
    `rule.json`, by which a winner was to be found before there was any.
    """

    def __init__(self, folder: str | Path) -> None:
        """`folder` may lie in a store."""
        self.folder = location(folder)

    def stated_rule(self, rule: str) -> str:
        """The rule that was the first to be asked for here, which is `rule` where none was before."""
        path = self.folder / "rule.json"
        if not is_file(path):
            write_json(path, rule)
        return str(read_json(path))

    def result(self, name: str) -> TrialResult | None:
        """What became of a trial; None where it has not ended.

        Raises:
            InputError: the file is damaged.
        """
        path = self._path(name)
        return build(TrialResult, read_json(path), where=str(path)) if path.is_file() else None

    def put(self, result: TrialResult) -> None:
        """Keep what became of a trial."""
        # The order of corpora and axes has a meaning.
        write_json(self._path(result.trial), as_mapping(result), sort_keys=False)

    def forget(self, name: str) -> None:
        """Let a trial be run again."""
        self._path(name).unlink(missing_ok=True)

    def progress(self, name: str) -> Progress:
        """How far a trial has come."""
        path = self._path(f"{name}.progress")
        return build(Progress, read_json(path), where=str(path)) if path.is_file() else Progress()

    def put_progress(self, name: str, progress: Progress) -> None:
        """Keep how far it has come."""
        write_json(self._path(f"{name}.progress"), as_mapping(progress), sort_keys=False)

    def rows(self, planned: Sequence[Trial], evaluated: Evaluated) -> list[TrialResult]:
        """A row a trial, in their order; what has not ended, or was evaluated on something else, waits."""
        return [
            ended_on(self.result(one.name), evaluated) or self.waiting(one.name, one.point, one.seed)
            for one in planned
        ]

    def names(self) -> list[str]:
        """Of all trials that have begun or ended, sorted."""
        folder = self.folder / "trials"
        found = {path.name.removesuffix(".json").removesuffix(".progress") for path in folder.glob("*.json")}
        return sorted(found)

    def waiting(self, name: str, point: Point, seed: int) -> TrialResult:
        """The row of a trial that is yet to end."""
        progress = self.progress(name)
        step = progress.reports[-1][0] if progress.reports else 0
        reason = f"interrupted after step {step}" if step else "not begun"
        if self.result(name) is not None:
            reason = "trained; evaluated on something else than now"
        return TrialResult(
            trial=name,
            point=point,
            seed=seed,
            status="waiting",
            reason=reason,
            step=step,
            reports=progress.reports,
        )

    def _path(self, name: str) -> Path:
        return self.folder / "trials" / f"{name}.json"
