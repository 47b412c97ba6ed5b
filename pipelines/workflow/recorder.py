"""Where a workflow stands: on its page, ROOT/workflows/NAME/workflow.html, and in its MLflow run.

The MLflow run is started when a step really runs: a workflow with nothing to do needs no MLflow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import yaml

from pipelines.core.step_records import StepContext
from pipelines.core.tracking import TrackedRun, Tracker, commit
from pipelines.reports.workflow_graph import graph_svg
from pipelines.reports.workflow_report import PAGE, WorkflowPage, markdown, workflow_html
from pipelines.reports.workflow_scores import ScoreFile, readable
from pipelines.reports.workflow_steps import PageLink, PageStep, counted
from pipelines.workflow.attempts import begin_attempt, end_attempt, ended, read_attempts
from pipelines.workflow.page_links import PageLinks
from pipelines.workflow.prepare import Preparation, PreparedStep
from pipelines.workflow.records import Output
from pipelines.workflow.steps import Step
from rwsa.errors import InputError, PreemptedError
from rwsa.files import StoragePath, atomic_write, is_file, location, read_json, write_json

if TYPE_CHECKING:
    from pipelines.workflow.runner import StepResult

KIND = "workflow"
# Between pages of a workflow of which no step begins or ends.
_PAGE_SECONDS = 15.0
_NAMED_NEEDS = 3
_WORDS = {"finished": "done", "partial": "interrupted"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StepState:
    """What is known of a step; `folder` is empty until its identity is known."""

    state: str
    why: str = ""
    seconds: float = 0.0
    folder: str = ""
    log: str = ""
    outputs: Mapping[str, Output] = dataclasses.field(default_factory=dict)


class WorkflowRecorder:
    """Records the states of a workflow's steps; a context manager around one run of it."""

    def __init__(self, preparation: Preparation, file: Path, *, selected: Collection[str]) -> None:
        self._preparation, self._selected = preparation, selected
        self._workflow, self._steps = preparation.workflow, preparation.steps
        self._file, self._source = file, file.read_text(encoding="utf-8")
        self._links = PageLinks(preparation.root, preparation.folder)
        self._states: dict[str, _StepState] = {}
        self._run: TrackedRun | None = None
        self._written = 0.0
        self._unchanged: dict[str, PageStep] = {}

    @property
    def page(self) -> str:
        """Location of the page."""
        return str(self._preparation.folder / PAGE)

    def start(self) -> TrackedRun:
        """Start or resume the workflow's run in MLflow, before its first step runs.

        Raises:
            InputError: MLflow cannot be used.
        """
        if self._run is None:
            self._run = self._new_run()
        return self._run

    def begin(self, prepared: PreparedStep) -> dict[str, str]:
        """Record that a step starts; returns the variables of its process."""
        run, step = self.start(), prepared.step.name
        begin_attempt(location(prepared.place), time.time())
        self._set(step, _StepState(state="running", folder=prepared.place, log=prepared.log))
        run.tag(**{f"step.{step}": "running"})
        self.write_page(is_running=True)
        context = StepContext(
            workflow=self._workflow.name, step=step, folder=prepared.place, run_id=run.run_id
        )
        return context.environment()

    def end(self, result: StepResult) -> None:
        """Record how a step ended, or that it was done before."""
        name, ran = result.step.name, self._state(result.step.name) == "running"
        state = _WORDS.get(result.result, result.result)
        if ran:
            end_attempt(location(result.folder), time.time(), state)
        known = _StepState(
            state=state,
            why=result.why,
            seconds=result.seconds,
            folder=result.folder,
            log=result.log,
            outputs=result.outputs,
        )
        self._set(name, known)
        if self._run is not None:
            self._run.tag(**{f"step.{name}": state})
            if ran:
                self._run.log_metrics(0, {f"seconds/{name}": result.seconds})
            self.write_page(is_running=True)

    def show(self, step: Step, state: str, why: str, prepared: PreparedStep | None) -> None:
        """Take over where a step stands, for a page without running anything."""
        if prepared is None:
            self._set(step.name, _StepState(state=state, why=why))
            return
        record = prepared.record
        known = _StepState(
            state=_WORDS.get(state, state),
            why=why,
            seconds=record.seconds if record else 0.0,
            folder=prepared.place,
            log=prepared.log,
            outputs=record.outputs if record else {},
        )
        self._set(step.name, known)

    def tick(self) -> None:
        """Write the page if the last one is old."""
        if self._run is not None and time.time() - self._written > _PAGE_SECONDS:
            self.write_page(is_running=True)

    def write_page(self, *, is_running: bool = False) -> WorkflowPage:
        """Write the page, if it changed."""
        page, path = self._content(is_running=is_running), location(self.page)
        content = workflow_html(page).encode()
        if not is_file(path) or path.read_bytes() != content:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        self._written = time.time()
        return page

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, one in list(self._states.items()):
            if one.state == "running":  # the run of the workflow broke off
                self._set(name, dataclasses.replace(one, state="interrupted"))
        try:
            page = self.write_page()
            if self._run is None and error is None:
                self._finish_earlier_run()
            if self._run is not None:
                self._close(self._run, page, error)
        except InputError as cannot_write:
            if error is None:
                raise
            print(cannot_write, flush=True)  # the first error is the one to raise

    def _close(self, run: TrackedRun, page: WorkflowPage, error: BaseException | None) -> None:
        states = [step.state for step in page.steps]
        run.log_metrics(0, {f"steps/{state}": count for state, count in counted(states).items()})
        run.log_metrics(0, {"seconds/all steps": sum(step.seconds or 0.0 for step in page.steps)})
        run.tag(**{f"step.{step.name}": step.state for step in page.steps})
        run.tag(mlflow__note__content=markdown(page))
        graph = graph_svg(page.steps, links=False)
        run.log_contents({PAGE: workflow_html(page, links=False).encode(), "graph.svg": graph.encode()})
        if error is None and self._is_complete:
            status = "FINISHED"
        elif "failed" in states or not isinstance(error, KeyboardInterrupt | PreemptedError | None):
            status = "FAILED"
        else:
            status = "KILLED"
        run.close(status)
        write_json(self._run_record, read_json(self._run_record) | {"status": status})

    def _finish_earlier_run(self) -> None:
        """Resume the run in MLflow, to be closed, if it broke off after its last step; else do nothing."""
        if self._is_complete and is_file(self._run_record):
            if read_json(self._run_record).get("status") == "FINISHED":
                return
            try:
                self.start()
            except InputError as error:
                print(f"the workflow's MLflow run stays open: {error}", flush=True)

    def _new_run(self) -> TrackedRun:
        tracker = Tracker(self._workflow.storage)
        about = {"file": str(self._file), "root": self._preparation.root, "steps": len(self._steps)}
        run = tracker.run(
            self._workflow.name,
            key=f"workflow {self._workflow.name} in {self._preparation.root}: {self._digest}",
            params={**self._workflow.params, "workflow": about},
            tags={"rwsa.kind": KIND, "rwsa.workflow": self._workflow.name},
        )
        resolved = yaml.safe_dump(dataclasses.asdict(self._workflow), sort_keys=False, allow_unicode=True)
        run.log_contents({"workflow.yaml": self._source.encode(), "resolved.yaml": resolved.encode()})
        record = {
            "run_id": run.run_id,
            "experiment_id": tracker.experiment_id,
            "uri": self._workflow.storage.tracking_uri,
        }
        write_json(self._run_record, record)
        return run

    @cached_property
    def _commit(self) -> str:
        return commit()

    @property
    def _digest(self) -> str:
        """Hash of the workflow with its parameters: another one is another run."""
        values = dataclasses.asdict(self._workflow) | {"storage": self._preparation.root}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]

    @property
    def _is_complete(self) -> bool:
        return all(self._state(name) == "done" for name in self._selected)

    @property
    def _run_record(self) -> StoragePath:
        return self._preparation.folder / f"mlflow-run-{self._digest}.json"

    def _set(self, name: str, known: _StepState) -> None:
        self._states[name] = known
        self._unchanged.pop(name, None)

    def _state(self, name: str) -> str:
        return self._states[name].state if name in self._states else ""

    def _content(self, *, is_running: bool) -> WorkflowPage:
        steps = [self._page_step(step, is_running=is_running) for step in self._steps.values()]
        record = self._run_record
        storage = self._workflow.storage
        last = max((one.ended or 0.0 for step in steps for one in step.attempts), default=0.0)
        run = read_json(record) if is_file(record) else None
        return WorkflowPage(
            name=self._workflow.name,
            description=self._workflow.description,
            steps=steps,
            params=self._workflow.params,
            about={
                "file": str(self._file),
                "storage": self._preparation.root,
                "MLflow": f"{storage.tracking_uri}, experiment {storage.experiment}",
                "commit": self._commit,
            },
            source=self._source,
            scores=self._scores(),
            run=None if run is None else self._links.run(run["run_id"], {**run, "name": run["run_id"]}),
            is_running=is_running,
            written=time.time() if is_running else last,
        )

    def _page_step(self, step: Step, *, is_running: bool) -> PageStep:
        known = self._states.get(step.name)
        if known is None:
            known = _StepState(state="waiting" if step.name in self._selected else "not selected")
        why = known.why
        if known.state == "waiting" and not why:
            missing = [need for need in step.needs if self._state(need) != "done"]
            more = f" and {len(missing) - _NAMED_NEEDS} more" if len(missing) > _NAMED_NEEDS else ""
            why = f"needs {', '.join(missing[:_NAMED_NEEDS])}{more}" if missing else ""
        module = step.verb.module
        bare = PageStep(
            name=step.name,
            base=step.base,
            verb=self._workflow.steps[step.base].verb,
            needs=step.needs,
            state=known.state,
            why=why,
        )
        if not known.folder:
            return bare
        if step.name not in self._unchanged:
            self._unchanged[step.name] = self._with_files(bare, module, known, is_running=is_running)
        found = self._unchanged[step.name]
        if known.state == "running":
            del self._unchanged[step.name]
        return found

    def _with_files(self, bare: PageStep, module: str, known: _StepState, *, is_running: bool) -> PageStep:
        """A step with what is in its folder."""
        folder = location(known.folder)
        attempts = read_attempts(folder) if is_running and known.state == "running" else ended(folder)
        times = [(time.time() if one.ended is None else one.ended) - one.started for one in attempts]
        return dataclasses.replace(
            bare,
            seconds=sum(times) if times else known.seconds or None,
            attempts=attempts,
            results=tuple(self._links.results(module, known.outputs)),
            log=self._log(known.log),
            runs=tuple(self._links.runs(module, folder)),
            model=self._links.model(folder),
        )

    def _log(self, log: str) -> PageLink | None:
        if not log or not is_file(location(log)):
            return None
        return PageLink(text="log", href=self._links.file(log).href)

    def _scores(self) -> dict[str, list[ScoreFile]]:
        """Step of the file -> what its instances scored, of evaluations that are done."""
        found: dict[str, list[ScoreFile]] = {}
        for name, step in self._steps.items():
            known = self._states.get(name)
            if known is None or step.verb.module != "pipelines.evaluate" or "scores" not in known.outputs:
                continue
            values = read_json(location(known.outputs["scores"].value))
            if readable(values):
                instance = name.removeprefix(step.base).lstrip("-")
                found.setdefault(step.base, []).append(
                    ScoreFile(
                        name=instance, corpora=values["corpora"], trained_on=values.get("trained_on", {})
                    )
                )
        return found
