"""The page of a workflow: its graph, times, scores, steps with their results, parameters and file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from pipelines.evaluation.published_tables import published_tables
from pipelines.reports.page import fill_template
from pipelines.reports.workflow_graph import graph_svg
from pipelines.reports.workflow_scores import ScoreFile, workflow_score_blocks
from pipelines.reports.workflow_steps import STATES, PageLink, PageStep, counted, short_duration
from pipelines.reports.workflow_timeline import period, timeline_svg

PAGE = "workflow.html"
# How often a browser loads the page of a running workflow again.
_RELOAD_SECONDS = 15
_LONGEST_VALUE = 300
# Instances of a step in these states share a row of the table if they are many.
_NOT_RUN, _FEWEST_JOINED = ("new", "waiting", "not selected"), 4


@dataclass(frozen=True, kw_only=True)
class WorkflowPage:
    """What the page of a workflow shows.

    Attributes:
        params: resolved parameters.
        about: further properties, such as the commit, label to text.
        source: the workflow's YAML.
        scores: step of the file -> what its evaluations wrote.
        run: of the workflow in MLflow.
        is_running: whether the page will be written again.
        written: when, in seconds since the epoch; of a workflow that does not run, when its last step ended,
            0 if none ran: the page of an unchanged workflow is the same.
    """

    name: str
    description: str
    steps: Sequence[PageStep]
    params: Mapping[str, Any]
    about: Mapping[str, str]
    source: str
    scores: Mapping[str, Sequence[ScoreFile]] = field(default_factory=dict)
    run: PageLink | None = None
    is_running: bool
    written: float


def workflow_html(page: WorkflowPage, *, links: bool = True) -> str:
    """The page as HTML; without `links` to files, for MLflow's copy, which cannot open them."""
    states = [step.state for step in page.steps]
    published = published_tables() if page.scores else None
    return fill_template(
        "workflow_report.html",
        title=f"Workflow {page.name}",
        description=page.description,
        summary=list(_summary(page)),
        about={**page.about, **_when(page)},
        run=page.run,
        reload=_RELOAD_SECONDS if page.is_running else 0,
        failed=[step for step in page.steps if step.state == "failed"],
        graph=Markup(graph_svg(page.steps)),
        legend=[(STATES[state], state) for state in counted(states)],
        timeline=Markup(timeline_svg(page.steps, now=page.written)),
        period=period(page.steps, page.written),
        scores={
            base: workflow_score_blocks(files, published)
            for base, files in page.scores.items()
            if published is not None
        },
        models=[step for step in page.steps if step.model],
        rows=list(_rows(page.steps)),
        params={name: _shown(value) for name, value in page.params.items()},
        source=page.source,
        links=links,
        duration=short_duration,
    )


def markdown(page: WorkflowPage) -> str:
    """The steps as a table for the description of an MLflow run."""
    lines = [page.description, "", "| step | state | took | MLflow runs |", "|:--|:--|--:|:--|"]
    for step in page.steps:
        runs = ", ".join(f"[{run.text}]({run.mlflow_path})" for run in step.runs if run.mlflow_path)
        took = "" if step.seconds is None else short_duration(step.seconds)
        state = f"{step.state}: {step.why}" if step.state == "failed" else step.state
        lines.append(f"| {step.name} | {state.replace('|', '/')} | {took} | {runs} |")
    return "\n".join(lines).strip()


def _summary(page: WorkflowPage) -> Iterator[str]:
    counts = counted([step.state for step in page.steps])
    total = len(page.steps)
    done = counts.pop("done", 0)
    words = [f"{done} of {total} {'step' if total == 1 else 'steps'} done"]
    yield ", ".join([*words, *(f"{count} {state}" for state, count in counts.items())])
    if took := sum(step.seconds or 0.0 for step in page.steps):
        yield f"the steps took {short_duration(took)}"


def _rows(steps: Sequence[PageStep]) -> Iterator[Sequence[PageStep]]:
    """The steps of each row of the table: many instances that have not run share one."""
    bases: dict[str, dict[str, list[PageStep]]] = {}
    for step in steps:
        bases.setdefault(step.base, {}).setdefault("" if step.log else step.state, []).append(step)
    for states in bases.values():
        for state, alike in states.items():
            if state in _NOT_RUN and len(alike) >= _FEWEST_JOINED:
                yield alike
            else:
                yield from ([step] for step in alike)


def _when(page: WorkflowPage) -> dict[str, str]:
    label = "written" if page.is_running else "the last step ended"
    return {label: _moment(page.written)} if page.written else {}


def _moment(at: float) -> str:
    moment = time.gmtime(at)
    return f"{moment.tm_mday} {time.strftime('%B %Y, %H:%M:%S', moment)} UTC"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
