"""Running a workflow: independent steps at the same time, as Ray tasks, each after what it needs."""

from __future__ import annotations

import graphlib
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from pipelines.core.cli import ADDRESS
from pipelines.core.ray_cluster import start_ray
from pipelines.workflow.prepare import Preparation, PreparedStep
from pipelines.workflow.records import LOG, Output, Record
from pipelines.workflow.run_step import StepOutcome, run_step
from pipelines.workflow.steps import Step
from rwsa.errors import InputError
from rwsa.training.context import StopSignal

_POLL_SECONDS = 0.5
# A step of a lost node runs again elsewhere and resumes.
_RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What happened to a step: `done` before, `finished` now, `failed`, `stopped` or `waiting`."""

    step: Step
    result: str
    why: str = ""
    seconds: float = 0.0
    log: str = ""
    outputs: Mapping[str, Output] | None = None


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
    ) -> None:
        self._preparation, self._selected, self._forced = preparation, selected, forced
        self._report, self._stop = report, stop
        self._results: dict[str, StepResult] = {}
        self._outputs: dict[str, Mapping[str, Output]] = {}
        self._running: dict[Any, PreparedStep] = {}
        self._cancelled = False

    def run(self) -> dict[str, StepResult]:
        """Run what is not done; returns the result of every selected step, in the order of the workflow.

        Raises:
            InputError: Ray cannot be used.
        """
        steps = self._preparation.steps
        sorter = graphlib.TopologicalSorter({name: step.needs for name, step in steps.items()})
        sorter.prepare()
        ready = sorter.get_ready()
        while ready or self._running:
            complete = [name for name in ready if not self._stop.received and self._begin(steps[name])]
            complete = complete or self._wait()
            sorter.done(*complete)
            ready = sorter.get_ready()
        for name in self._selected:
            if name not in self._results:
                self._results[name] = StepResult(
                    step=steps[name], result="waiting", why=self._reason(steps[name])
                )
        return {name: self._results[name] for name in steps if name in self._selected}

    def _begin(self, step: Step) -> bool:
        """Start a step; whether it is complete already."""
        try:
            prepared = self._preparation.prepare(step, self._outputs, force=step.name in self._forced)
        except InputError as error:
            self._end(StepResult(step=step, result="failed", why=str(error)))
            return False
        if prepared.record is not None:
            assert prepared.record.outputs is not None
            self._outputs[step.name] = prepared.record.outputs
            self._results[step.name] = StepResult(
                step=step, result="done", seconds=prepared.record.seconds, outputs=prepared.record.outputs
            )
            return True
        if step.name not in self._selected:
            self._end(StepResult(step=step, result="failed", why="is needed, not done, and not selected"))
            return False
        self._submit(prepared)
        return False

    def _submit(self, prepared: PreparedStep) -> None:
        start_ray()
        step, folder = prepared.step, prepared.folder.of(prepared.identity)
        prepared.folder.start(prepared.identity, prepared.command)
        why = f" ({prepared.why})" if prepared.why else ""
        self._report(f"{step.name}: starts{why}\n  $ {shlex.join(['python', *prepared.command[1:]])}")
        task = ray.remote(run_step).options(num_cpus=step.verb.cpus, max_retries=_RETRIES, name=step.name)
        reference = task.remote(prepared.command, _environment(), str(folder / LOG))
        self._running[reference] = prepared

    def _wait(self) -> list[str]:
        """Wait a moment for running steps; returns those that completed."""
        if not self._running:
            return []
        if self._stop.received and not self._cancelled:
            self._cancelled = True
            for reference in self._running:
                ray.cancel(reference)
        done, _ = ray.wait(list(self._running), timeout=_POLL_SECONDS)
        return [name for reference in done if (name := self._finish(reference))]

    def _finish(self, reference: Any) -> str | None:
        """Record how a step ended; its name if it completed."""
        prepared = self._running.pop(reference)
        step, log = prepared.step, str(prepared.folder.of(prepared.identity) / LOG)
        try:
            outcome: StepOutcome = ray.get(reference)
        except (ray.exceptions.TaskCancelledError, ray.exceptions.RayTaskError) as error:
            why = (
                "stopped; the same command resumes it"
                if self._cancelled
                else str(error).strip().splitlines()[-1]
            )
            self._end(
                StepResult(step=step, result="stopped" if self._cancelled else "failed", why=why, log=log)
            )
            return None
        except ray.exceptions.RayError as error:
            self._end(StepResult(step=step, result="failed", why=str(error).strip().splitlines()[0], log=log))
            return None
        if outcome.status:
            why = outcome.last_lines[-1] if outcome.last_lines else f"exit status {outcome.status}"
            result = "stopped" if self._stop.received else "failed"
            self._end(StepResult(step=step, result=result, why=why, seconds=outcome.seconds, log=log))
            return None
        try:
            outputs = prepared.outputs()
        except InputError as error:
            self._end(
                StepResult(step=step, result="failed", why=str(error), seconds=outcome.seconds, log=log)
            )
            return None
        record = Record(
            identity=prepared.identity, outputs=outputs, seconds=outcome.seconds, finished=time.time()
        )
        prepared.folder.finish(record)
        self._outputs[step.name] = outputs
        self._end(StepResult(step=step, result="finished", seconds=outcome.seconds, log=log, outputs=outputs))
        return step.name

    def _end(self, result: StepResult) -> None:
        self._results[result.step.name] = result
        why = f": {result.why}" if result.why else ""
        log = f"\n  its output: {result.log}" if result.result == "failed" and result.log else ""
        self._report(f"{result.step.name}: {result.result} after {result.seconds:.1f} s{why}{log}")

    def _reason(self, step: Step) -> str:
        if self._stop.received:
            return "stopped before it began"
        missing = [name for name in step.needs if name not in self._outputs]
        return f"needs {', '.join(missing)}"


def _environment() -> dict[str, str]:
    """Variables with which a step joins the same Ray."""
    environment = {ADDRESS: ray.get_runtime_context().gcs_address}
    if ADDRESS not in os.environ:
        environment["RWSA_SHARED_CHECKOUT"] = "1"
    return environment
