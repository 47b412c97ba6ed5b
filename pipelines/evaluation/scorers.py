"""Enhancing and scoring on Ray, at the same time: whatever is enhanced is scored before more is begun.

On CPUs both are tasks of one CPU, so that no core waits for the other kind of work. On GPUs actors enhance,
each holding one, and the CPUs score what they give.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
import ray.exceptions

from pipelines.core.pool import wait_for_the_rest
from pipelines.core.progress import Progress
from pipelines.evaluation.clips import EvaluationClip
from pipelines.evaluation.scoring_tasks import Enhancing, GpuEnhancer, Scored, Work, enhance, score
from rwsa.errors import InputError
from rwsa.models import Network

# A GPU has its next clip at hand when it finishes one.
_CLIPS_IN_FLIGHT_A_GPU = 2
# So much waits to be scored for each CPU before a GPU gets more: signals lie in memory until then.
_CLIPS_AHEAD_A_CPU = 4
_SECONDS_BETWEEN_SIGNS = 60.0
_KILLED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
)
# Else, within a trial of Ray Tune, work would wait for room in the trial's own share.
_ANYWHERE = "DEFAULT"


@dataclass(kw_only=True)
class CpuSeconds:
    """What was spent, over all processes."""

    enhancing: float = 0.0
    scoring: float = 0.0


@dataclass(kw_only=True)
class _Begun:
    """A clip under way: what is enhanced of it, by model, and the models that are not yet."""

    number: int
    work: Work
    waiting: deque[str]
    enhanced: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Running:
    """One task; `model` is None where it scores."""

    begun: _Begun
    model: str | None = None
    audio: Any = None
    gpu: int | None = None


class ScorerPool:
    """Enhances and scores clips. Use as a context manager; leaving it waits for what is under way.

    Tasks start as CPUs become free, so on a cluster that others use too it works with what it gets. One
    whose process is killed is run again, once.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        workers: int | None,
        *,
        device: str,
        report: Callable[[str], None],
    ) -> None:
        """Use the Ray that this process has joined.

        Args:
            networks: by the names that `Work.models` has.
            workers: CPUs to use; all of Ray's by default.
            device: to enhance on: `cpu`, or `cuda`, which is every GPU that Ray has.
            report: takes progress lines.

        Raises:
            InputError: the device is `cuda` and Ray has no GPU.
        """
        self.cpu_seconds = CpuSeconds()
        self._report = report
        self._models = {name: [ray.put(network)] for name, network in networks.items()}
        self._cpus = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 1, "scheduling_strategy": _ANYWHERE}
        self._enhance: Any = ray.remote(num_returns=2, **options)(enhance)
        self._score: Any = ray.remote(**options)(score)
        self._gpus: list[Any] = [self._gpu_enhancer() for _ in range(_gpus(device) if networks else 0)]
        self._running: dict[ray.ObjectRef, _Running] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait_for_the_rest([reference for reference, running in self._running.items() if running.gpu is None])
        for actor in self._gpus:
            ray.kill(actor)

    @staticmethod
    def _gpu_enhancer() -> Any:
        remote: Any = ray.remote
        actor = remote(
            num_gpus=1, num_cpus=0, max_restarts=1, max_task_retries=1, scheduling_strategy=_ANYWHERE
        )(GpuEnhancer)
        return actor.remote()

    def score(self, works: Sequence[Work]) -> Iterator[tuple[int, Scored]]:
        """(number of the work, its scores) in the order of completion, the longest clips first.

        Raises:
            InputError: a process was killed twice.
        """
        order = sorted(range(len(works)), key=lambda number: -works[number].clip.seconds)
        waiting = deque(
            _Begun(number=number, work=works[number], waiting=deque(works[number].models)) for number in order
        )
        # Those that have models left to start, and those to be scored, in the order begun.
        begun: deque[_Begun] = deque()
        ready: deque[_Begun] = deque()
        failures = 0
        with Progress(len(works), "score", "clips", self._report) as progress:
            while waiting or begun or ready or self._running:
                self._fill(waiting, begun, ready)
                for one, scored in self._finished(self._wait(), ready):
                    failures += scored.failed
                    progress.set_postfix_str(f"failures {failures}", refresh=False)
                    progress.update()
                    yield one.number, scored

    def hear(self, clips: Sequence[tuple[str, EvaluationClip]]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, enhanced signal `[samples]`) of each (model, clip), in the order of completion.

        Raises:
            InputError: a process was killed twice; a clip cannot be read (any longer).
        """
        waiting = deque(enumerate(clips))
        numbers: dict[ray.ObjectRef, int] = {}
        while waiting or self._running:
            while waiting and (place := self._place_to_enhance(0)) is not None:
                number, (model, clip) = waiting.popleft()
                begun = _Begun(number=number, work=Work(clip=clip, outputs={}), waiting=deque([model]))
                numbers[self._start_enhancing(begun, place)] = number
            reference = self._wait()
            running = self._running.pop(reference)
            how: Enhancing = _fetched(reference)
            self.cpu_seconds.enhancing += how.cpu_seconds
            if how.error is not None:
                raise InputError(how.error)
            yield numbers.pop(reference), _fetched(running.audio)[0]

    def _fill(self, waiting: deque[_Begun], begun: deque[_Begun], ready: deque[_Begun]) -> None:
        """Start as much as there is room for: scoring first, then enhancing, of clips begun before others."""
        while True:
            if ready and self._on_cpus() < self._cpus:
                one = ready.popleft()
                enhanced = [one.enhanced[name] for name in one.work.models]
                reference = self._score.remote(one.work, *enhanced)
                self._running[reference] = _Running(begun=one)
            elif begun and (place := self._place_to_enhance(len(ready))) is not None:
                self._start_enhancing(begun[0], place)
                if not begun[0].waiting:
                    begun.popleft()
            elif waiting and not begun and self._may_begin(waiting[0], ready):
                (begun if waiting[0].waiting else ready).append(waiting.popleft())
            else:
                return

    def _may_begin(self, one: _Begun, ready: deque[_Begun]) -> bool:
        if one.waiting:
            return self._place_to_enhance(len(ready)) is not None
        return self._on_cpus() < self._cpus

    def _on_cpus(self) -> int:
        return sum(running.gpu is None for running in self._running.values())

    def _place_to_enhance(self, ready: int) -> int | None:
        """The GPU with room for a clip, −1 for a CPU, None where there is no room."""
        if not self._gpus:
            return -1 if self._on_cpus() < self._cpus else None
        if ready >= _CLIPS_AHEAD_A_CPU * self._cpus:
            return None
        loads = [sum(r.gpu == gpu for r in self._running.values()) for gpu in range(len(self._gpus))]
        gpu = loads.index(min(loads))
        return gpu if loads[gpu] < _CLIPS_IN_FLIGHT_A_GPU else None

    def _start_enhancing(self, begun: _Begun, place: int) -> ray.ObjectRef:
        model = begun.waiting.popleft()
        if place < 0:
            how, audio = self._enhance.remote(self._models[model], begun.work.clip, "cpu")
        else:
            enhancer = self._gpus[place].enhance.options(num_returns=2)
            how, audio = enhancer.remote(self._models[model], begun.work.clip)
        gpu = place if place >= 0 else None
        self._running[how] = _Running(begun=begun, model=model, audio=audio, gpu=gpu)
        return how

    def _finished(self, reference: ray.ObjectRef, ready: deque[_Begun]) -> Iterator[tuple[_Begun, Scored]]:
        """What a task that has ended leads to: the scores of a clip, or that it can be scored now."""
        running = self._running.pop(reference)
        one = running.begun
        if running.model is None:
            scored: Scored = _fetched(reference)
            self.cpu_seconds.scoring += scored.cpu_seconds
            yield one, scored
            return
        how: Enhancing = _fetched(reference)
        self.cpu_seconds.enhancing += how.cpu_seconds
        one.enhanced[running.model] = running.audio
        one.error = one.error or how.error
        if len(one.enhanced) == len(one.work.models):
            if one.error is None:
                ready.append(one)
            else:
                yield one, Scored(signals={}, cpu_seconds=0.0, error=one.error)

    def _wait(self) -> ray.ObjectRef:
        """The next task to end."""
        while True:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=_SECONDS_BETWEEN_SIGNS)
            if done:
                return done[0]
            self._report("still scoring; where nothing goes on, other work on this Ray holds its CPUs")


def _gpus(device: str) -> int:
    if device == "cpu":
        return 0
    count = int(ray.cluster_resources().get("GPU", 0))
    if not count:
        raise InputError(
            "--device cuda: this Ray has no GPU; start it where there is one, or use --device cpu"
        )
    return count


def _fetched(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except _KILLED as error:
        raise InputError(
            f"a scoring process or its machine was lost ({type(error).__name__}), most likely for memory; use"
            " fewer --workers, and run again: what was scored is kept"
        ) from error
