"""Running a workflow: independent steps at the same time, as Ray tasks, each after what it needs."""

from __future__ import annotations

import graphlib
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.core.cli import ADDRESS
from pipelines.core.progress import duration
from pipelines.core.ray_cluster import start_ray
from pipelines.core.runtime_env import CHECKOUT
from pipelines.training.launch import LOCAL_RAY
from pipelines.workflow.prepare import Preparation, PreparedStep
from pipelines.workflow.recorder import WorkflowRecorder
from pipelines.workflow.records import Output, Record
from pipelines.workflow.run_step import StepOutcome, last_line_of, run_step
from pipelines.workflow.steps import Step
from rwsa.errors import InputError
from rwsa.files import is_file, location
from rwsa.training.context import StopSignal

_POLL_SECONDS = 0.5
_PROGRESS_SECONDS = 30.0
# A step of a lost node runs again elsewhere and resumes.
_RETRIES = 2
# A process that waits for the cluster takes half a gigabyte of this machine.
_AT_ONCE = range(2, 17)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What happened to a step: `done` before, `finished` now, `failed`, `stopped` or `waiting`.

    Attributes:
        seconds: that it took; of a step that was done, then.
        log: location of its output.
        folder: of its results; empty if that is not known yet.
    """

    step: Step
    result: str
    why: str = ""
    seconds: float = 0.0
    log: str = ""
    folder: str = ""
    outputs: Mapping[str, Output] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Running:
    """A step that was submitted."""

    prepared: PreparedStep
    started: float
    reported: float


class Runner:
    """Runs the selected steps of a workflow; use once."""

    def __init__(
        self,
        preparation: Preparation,
        *,
        selected: Collection[str],
        forced: Collection[str],
        report: Callable[[str], None],
        stop: StopSignal,
        recorder: WorkflowRecorder,
    ) -> None:
        self._preparation, self._selected, self._forced = preparation, selected, forced
        self._report, self._stop, self._recorder = report, stop, recorder
        self._results: dict[str, StepResult] = {}
        self._outputs: dict[str, Mapping[str, Output]] = {}
        self._ready: list[PreparedStep] = []
        self._running: dict[Any, _Running] = {}
        self._cancelled = False

    def run(self) -> dict[str, StepResult]:
        """Run what is not done; returns the result of every selected step, in the order of the workflow.

        Raises:
            InputError: Ray cannot be used.
        """
        steps = self._preparation.steps
        sorter = graphlib.TopologicalSorter({name: step.needs for name, step in steps.items()})
        sorter.prepare()
        free = sorter.get_ready()
        while free or self._ready or self._running:
            complete = [name for name in free if not self._stop.received and self._consider(steps[name])]
            self._submit_ready()
            if not complete:
                complete = self._wait()
            sorter.done(*complete)
            free = sorter.get_ready()
            if self._stop.received and not self._running:
                break
        for name in self._selected:
            if name not in self._results:
                self._results[name] = StepResult(
                    step=steps[name], result="waiting", why=self._reason(steps[name])
                )
        return {name: self._results[name] for name in steps if name in self._selected}

    def _consider(self, step: Step) -> bool:
        """Queue a step whose needs are complete; returns whether it is complete already."""
        try:
            prepared = self._preparation.prepare(step, self._outputs, force=step.name in self._forced)
        except InputError as error:
            self._end(StepResult(step=step, result="failed", why=str(error)))
            return False
        if prepared.record is not None:
            self._outputs[step.name] = prepared.record.outputs
            self._results[step.name] = StepResult(
                step=step,
                result="done",
                seconds=prepared.record.seconds,
                log=prepared.log,
                folder=prepared.place,
                outputs=prepared.record.outputs,
            )
            self._recorder.end(self._results[step.name])
            return True
        if step.name not in self._selected:
            why = f"is needed, and not done ({prepared.state}); run it too, with --until or without --only"
            self._end(StepResult(step=step, result="failed", why=why))
            return False
        self._ready.append(prepared)
        return False

    def _submit_ready(self) -> None:
        for prepared in list(self._ready):
            if self._stop.received or len(self._running) >= self._at_once():
                return
            if self._running and (prepared.alone or self._one_runs_alone):
                continue
            self._ready.remove(prepared)
            self._submit(prepared)

    def _submit(self, prepared: PreparedStep) -> None:
        self._recorder.start()
        self._start_ray()
        step = prepared.step
        prepared.folder.start(prepared.identity, prepared.command)
        why = "" if prepared.state == "new" else f" ({prepared.state}: {prepared.why})"
        self._report(f"{step.name}: starts{why}\n  $ {shlex.join(['python', *prepared.command[1:]])}")
        # Ray may remove a node whose processes hold no CPU; this one stays as long as the workflow.
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        task = ray.remote(run_step).options(
            num_cpus=prepared.cpus,
            num_gpus=step.gpus,
            max_retries=_RETRIES,
            name=step.name,
            scheduling_strategy="DEFAULT" if prepared.cpus or step.gpus else this_node,
        )
        folder = "" if Path.cwd() == CHECKOUT else str(Path.cwd())
        variables = _environment() | self._recorder.begin(prepared)
        reference = task.remote(prepared.command, variables, prepared.log, folder)
        now = time.monotonic()
        self._running[reference] = _Running(prepared=prepared, started=now, reported=now)

    def _start_ray(self) -> None:
        start_ray()
        self._stop.install()  # Ray replaces the signal handlers

    @property
    def _one_runs_alone(self) -> bool:
        return any(one.prepared.alone for one in self._running.values())

    def _at_once(self) -> int:
        """How many steps may run now: one per CPU that the cluster has by now, since it may grow."""
        cpus = int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else 0
        return max(_AT_ONCE[0], min(_AT_ONCE[-1], cpus))

    def _wait(self) -> list[str]:
        """Wait a moment for running steps; returns those that completed."""
        if not self._running:
            return []
        if self._stop.received and not self._cancelled:
            self._cancelled = True
            self._report("stopping: running steps save first (Ctrl-C again stops at once)")
            for reference in self._running:
                ray.cancel(reference)
        self._recorder.tick()
        done, _ = ray.wait(list(self._running), timeout=_POLL_SECONDS)
        for reference, running in self._running.items():
            if reference not in done and time.monotonic() - running.reported > _PROGRESS_SECONDS:
                running.reported = time.monotonic()
                self._report(_progress(running))
        return [name for reference in done if (name := self._finish(reference))]

    def _finish(self, reference: Any) -> str | None:
        """Record how a step ended; its name if it completed."""
        running = self._running.pop(reference)
        prepared, seconds = running.prepared, time.monotonic() - running.started
        result, why = "failed", ""
        try:
            outcome: StepOutcome = ray.get(reference)
            if outcome.status == 0:
                outputs = prepared.outputs()
                record = Record(
                    identity=prepared.identity, outputs=outputs, seconds=outcome.seconds, finished=time.time()
                )
                prepared.folder.finish(record)
                self._outputs[prepared.step.name] = outputs
                self._end_of(prepared, "finished", "", outcome.seconds, outputs)
                return prepared.step.name
            seconds, why = outcome.seconds, _ended(outcome)
            result = "stopped" if outcome.stopped or self._stop.received else "failed"
        except ray.exceptions.TaskCancelledError:
            result, why = "stopped", "the same command resumes it"
        except (InputError, ray.exceptions.RayError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if result == "failed":
            prepared.folder.fail(prepared.identity, why)
        self._end_of(prepared, result, why, seconds)
        return None

    def _end_of(
        self,
        prepared: PreparedStep,
        result: str,
        why: str,
        seconds: float,
        outputs: Mapping[str, Output] | None = None,
    ) -> None:
        self._end(
            StepResult(
                step=prepared.step,
                result=result,
                why=why,
                seconds=seconds,
                log=prepared.log,
                folder=prepared.place,
                outputs=outputs or {},
            )
        )

    def _end(self, result: StepResult) -> None:
        self._results[result.step.name] = result
        self._recorder.end(result)
        why = f": {result.why}" if result.why else ""
        after = f" after {duration(result.seconds)}" if result.seconds else ""
        log = f"\n  its output: {result.log}" if result.result == "failed" and result.log else ""
        self._report(f"{result.step.name}: {result.result}{after}{why}{log}")

    def _reason(self, step: Step) -> str:
        if self._stop.received:
            return "stopped before it began"
        missing = [name for name in step.needs if name not in self._outputs]
        return f"needs {', '.join(missing)}"


def _ended(outcome: StepOutcome) -> str:
    if outcome.status < 0:
        return f"killed by signal {-outcome.status}; its last line: {outcome.last_line}"
    return outcome.last_line or f"exit status {outcome.status}"


def _progress(running: _Running) -> str:
    path = location(running.prepared.log)
    line = last_line_of(path) if is_file(path) else "waits for the cluster"
    elapsed = duration(time.monotonic() - running.started)
    return f"{running.prepared.step.name}: {elapsed}: {line}"


def _environment() -> dict[str, str]:
    """Variables with which a step joins the same Ray."""
    environment = {ADDRESS: ray.get_runtime_context().gcs_address}
    if ADDRESS not in os.environ:
        environment |= {"RWSA_SHARED_CHECKOUT": "1", LOCAL_RAY: "1"}
    return environment
