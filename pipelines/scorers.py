"""Scoring clips on Ray: actors that each hold the model, and take the next clip when they are free.

Every actor imports this file, so it must not pull in what only the driver needs (Ray Data, MLflow).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import ray
import ray.exceptions
import torch

from pipelines.clip_scores import ClipAudio, ClipScores, hear_clip, score_clip
from pipelines.clips import EvaluationClip
from pipelines.progress import Ticker, duration
from rwsa.errors import InputError
from rwsa.models import Network

# An actor has its next clip at hand when it finishes one.
_CLIPS_IN_FLIGHT = 2
_SECONDS_BETWEEN_SIGNS = 60.0


class _Scorer:
    """The actor: one thread, one copy of the model.

    The model comes with the calls, as a reference in a list, which Ray does not follow by itself: so
    it is fetched once, and again after a restart.
    """

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model: Network | None = None

    def prepare(self, shared: list[ray.ObjectRef]) -> None:
        """Fetch the model, unless it is here."""
        self._model_of(shared)

    def score(self, shared: list[ray.ObjectRef], clip: EvaluationClip) -> ClipScores:
        return score_clip(clip, self._model_of(shared))

    def hear(self, shared: list[ray.ObjectRef], clip: EvaluationClip) -> ClipAudio:
        return hear_clip(clip, self._model_of(shared))

    def _model_of(self, shared: list[ray.ObjectRef]) -> Network:
        if self._model is None:
            self._model = ray.get(shared[0])
        return self._model


class ScorerPool:
    """As many actors as there are CPUs, or as asked. Use as a context manager; leaving it ends them.

    They join as CPUs become free, so a pool that is larger than the free part of a cluster works with
    what it gets.
    """

    def __init__(self, model: Network, workers: int | None, report: Callable[[str], None]) -> None:
        """Start the actors on the Ray that this process has joined; returns when the first is ready.

        Raises:
            InputError: `workers` is below 1; or an actor was killed twice.
        """
        if workers is not None and workers < 1:
            raise InputError(f"--workers {workers}: must be at least 1")
        self._report, self._shared = report, [ray.put(model)]
        scorer: Any = ray.remote(
            num_cpus=1,
            max_restarts=1,
            max_task_retries=1,
            # Else, within a trial of Ray Tune, they would wait for room in the trial's own share.
            scheduling_strategy="DEFAULT",
        )(_Scorer)
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        self._actors = [scorer.remote() for _ in range(count)]
        self._ready: list[Any] = []
        self._starting = {actor.prepare.remote(self._shared): actor for actor in self._actors}
        while not self._ready:
            self._welcome(self._wait(list(self._starting)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def score(self, clips: Sequence[EvaluationClip], *, strict: bool = False) -> list[ClipScores]:
        """Enhance and score clips; results in the order of `clips`.

        Raises:
            InputError: an actor was killed twice; or, when `strict`, the first failure.
        """
        results: dict[int, ClipScores] = {}
        progress = _Progress(len(clips), self._report)
        for index, scores in self._each("score", clips):
            if strict and scores.failures:
                raise InputError(f"{scores.clip_id}: {scores.failures[0]} (strict)")
            results[index] = scores
            progress.add(scores)
        return [results[index] for index in range(len(clips))]

    def hear(self, clips: Sequence[EvaluationClip]) -> list[ClipAudio]:
        """The audio of clips that were scored, in their order.

        Raises:
            InputError: an actor was killed twice.
        """
        results: dict[int, ClipAudio] = dict(self._each("hear", clips))
        return [results[index] for index in range(len(clips))]

    def _each(
        self, method: Literal["score", "hear"], clips: Sequence[EvaluationClip]
    ) -> Iterator[tuple[int, Any]]:
        """(index, result) in the order of completion, the longest clips first so that none is last alone."""
        waiting = deque(sorted(range(len(clips)), key=lambda index: -clips[index].seconds))
        running: dict[ray.ObjectRef, tuple[int, Any]] = {}

        def give(actor: Any, count: int) -> None:
            for index in [waiting.popleft() for _ in range(min(count, len(waiting)))]:
                running[getattr(actor, method).remote(self._shared, clips[index])] = (index, actor)

        for actor in self._ready:
            give(actor, _CLIPS_IN_FLIGHT)
        while running:
            reference = self._wait([*running, *self._starting])
            if reference in running:
                index, actor = running.pop(reference)
                yield index, _fetched(reference)
                give(actor, 1)
            else:
                give(self._welcome(reference), _CLIPS_IN_FLIGHT)

    def _welcome(self, reference: ray.ObjectRef) -> Any:
        """The actor whose start this is, now one of those that take clips."""
        _fetched(reference)
        self._ready.append(self._starting.pop(reference))
        return self._ready[-1]

    def _wait(self, references: list[ray.ObjectRef]) -> ray.ObjectRef:
        """The next of these to finish."""
        while True:
            done, _ = ray.wait(references, num_returns=1, timeout=_SECONDS_BETWEEN_SIGNS)
            if done:
                return done[0]
            self._report(
                "still scoring"
                if self._ready
                else "waiting for a free CPU: other work on this Ray holds them all"
            )


def _fetched(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayActorError as error:
        raise InputError(
            "a scoring process was killed, most likely for memory; use fewer --workers"
        ) from error


class _Progress:
    """Says how far scoring is, every few seconds and at its end."""

    def __init__(self, clips: int, report: Callable[[str], None]) -> None:
        self._clips, self._report = clips, report
        self._done, self._failed = 0, 0
        self._started, self._ticker = time.monotonic(), Ticker()

    def add(self, scores: ClipScores) -> None:
        self._done += 1
        self._failed += bool(scores.failures)
        if self._ticker.due() or self._done == self._clips:
            a_second = self._done / (time.monotonic() - self._started)
            left = (self._clips - self._done) / a_second
            self._report(
                f"clips {self._done}/{self._clips} ({a_second:.1f}/s), failures {self._failed},"
                f" {duration(left)} left"
            )
