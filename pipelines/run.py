"""Run a workflow: a YAML file of steps, each done once.

    python -m pipelines.run pipelines/workflows/demo.yaml

Steps that do not need each other run at the same time, as Ray tasks. A step is done if its verb, options,
inputs and code are those of a completed run, so the same command goes on after an interruption, redoes what a
change affects, and does nothing if nothing changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.cli import cluster_argument, verb
from pipelines.core.progress import duration
from pipelines.workflow.estimates import Estimates
from pipelines.workflow.latest import LatestResults
from pipelines.workflow.prepare import Preparation, PreparedStep
from pipelines.workflow.recorder import WorkflowRecorder
from pipelines.workflow.records import Output
from pipelines.workflow.references import nearest
from pipelines.workflow.runner import Runner, StepResult
from pipelines.workflow.schema import read_workflow
from pipelines.workflow.steps import Step, steps_of
from pipelines.workflow.summary import summary_of
from rwsa.command_line import INTERRUPTED, text_argument
from rwsa.errors import InputError
from rwsa.files import location, write_json
from rwsa.lease import exclusive_lock, holder_of
from rwsa.training.context import StopSignal


def select(
    steps: Mapping[str, Step],
    *,
    first: Collection[str] = (),
    last: Collection[str] = (),
    only: Collection[str] = (),
) -> list[str]:
    """The steps to run: from `first` on, up to `last`, or `only` those; all by default.

    Raises:
        InputError: there is no such step.
    """
    chosen = set(steps)
    if first:
        chosen &= _downstream(steps, named(steps, first, "--from"))
    if last:
        chosen &= _upstream(steps, named(steps, last, "--until"))
    if only:
        chosen &= named(steps, only, "--only")
    return [name for name in steps if name in chosen]


def named(steps: Mapping[str, Step], names: Collection[str], option: str) -> set[str]:
    """The steps of these names; the name of a step with `foreach` stands for all its instances."""
    found = set[str]()
    for name in names:
        instances = {step.name for step in steps.values() if name in (step.name, step.base)}
        if not instances:
            valid = {*steps, *(step.base for step in steps.values())}
            raise InputError(f"{option} {name}: is not a step{nearest(name, valid)}")
        found |= instances
    return found


def _upstream(steps: Mapping[str, Step], names: set[str]) -> set[str]:
    found = set(names)
    for name in reversed(list(steps)):  # each stands after those it needs
        if name in found:
            found.update(steps[name].needs)
    return found


def _downstream(steps: Mapping[str, Step], names: set[str]) -> set[str]:
    found = set(names)
    for name, step in steps.items():
        if found.intersection(step.needs):
            found.add(name)
    return found


def status(
    preparation: Preparation,
    selected: Collection[str],
    forced: Collection[str],
    estimates: Estimates | None = None,
    show: Callable[[Step, str, str, PreparedStep | None], None] | None = None,
) -> Iterator[tuple[str, str, str]]:
    """(step, state, why) of every selected step, as far as it can be known before others have run.

    A step whose inputs are missing is `invalid`; the others are listed all the same. With `estimates`, the
    reason of a step that is not done also says what it takes. `show` receives every step, also those that
    are not selected.
    """
    outputs: dict[str, Mapping[str, Output]] = {}
    for name, step in preparation.steps.items():
        waits_for = [need for need in step.needs if need not in outputs]
        prepared = None
        if waits_for:
            state, why = "waiting", f"for {', '.join(waits_for)}"
        else:
            try:
                prepared = preparation.prepare(step, outputs, force=name in forced)
            except InputError as error:
                state, why = "invalid", str(error)
            else:
                state, why = prepared.state, prepared.why
                if prepared.record is not None:
                    outputs[name] = prepared.record.outputs
        if show is not None:
            show(step, state, why, prepared)
        if name in selected:
            if (
                estimates is not None
                and state not in ("done", "invalid")
                and (takes := estimates.of(step, outputs))
            ):
                why = f"{why}\n{textwrap.indent(takes, '    ')}"
            yield name, state, why


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workflow", type=Path, metavar="WORKFLOW.yaml", help="such as those in pipelines/workflows"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would run, why, and what it takes as far as that can be known now, and exit",
    )
    parser.add_argument(
        "--status", action="store_true", help="print where every step stands, write the page, and exit"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="use the parameters for a run of minutes on two cores"
    )
    for option, dest, text in (
        ("--from", "first", "run these steps and those that need them"),
        ("--until", "last", "run these steps and those they need"),
        ("--only", "only", "run only these steps; what they need must be done"),
        ("--force", "forced", "run these steps again even if they are done"),
    ):
        parser.add_argument(
            option, dest=dest, nargs="+", action="extend", default=[], metavar="STEP", help=text
        )
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change parameters, or storage.root, storage.tracking_uri, storage.experiment",
    )  # fmt: skip
    parser.add_argument("--storage", metavar="ROOT", help="short for --set storage.root=ROOT")
    parser.add_argument(
        "--json",
        type=text_argument,
        metavar="FILE",
        help="also write what happened to each step to this file; - prints it as one line, the last",
    )


@verb("pipelines.run", __doc__, _arguments, cluster_argument, failure="a step failed")
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    settings = [*options.settings, *([f"storage.root={options.storage}"] if options.storage else [])]
    workflow = read_workflow(options.workflow, settings, smoke=options.smoke)
    steps = steps_of(workflow)
    selected = select(steps, first=options.first, last=options.last, only=options.only)
    forced = named(steps, options.forced, "--force")
    preparation = Preparation(workflow, steps)
    recorder = WorkflowRecorder(preparation, options.workflow, selected=selected)
    if options.dry_run or options.status:
        if (holder := holder_of(preparation.folder)) is not None:
            print(f"running: {holder}")
        width = max(map(len, selected), default=0)
        with Estimates(preparation) as estimates:
            for row in status(
                preparation, selected, forced, estimates if options.dry_run else None, recorder.show
            ):
                _print_row(*row, width=width)
        if options.status and holder is None:
            _write_page(recorder, preparation)
        return 0
    started = time.monotonic()
    with exclusive_lock(preparation.folder), StopSignal() as stop, recorder:
        runner = Runner(
            preparation, selected=selected, forced=forced, report=_report, stop=stop, recorder=recorder
        )
        results = runner.run()
        latest = LatestResults(preparation)
        _link(latest, results.values())
    _print_table([(name, one.result, _outcome(one)) for name, one in results.items()])
    print(f"{workflow.name}: {_counted(results)} in {time.monotonic() - started:.1f} s")
    print(f"to look at  {recorder.page}")
    for line in latest.where_to_look(results.values()):
        print(line)
    if options.json:
        _write_summary(options.json, summary_of(workflow.name, recorder.page, results))
    if stop.received:
        return 128 + (stop.number or INTERRUPTED - 128)
    return 0 if all(one.result in ("done", "finished") for one in results.values()) else 1


def _write_page(recorder: WorkflowRecorder, preparation: Preparation) -> None:
    """Write the page, unless the workflow runs, which writes it itself."""
    try:
        with exclusive_lock(preparation.folder):
            recorder.write_page()
    except InputError as error:
        print(f"{recorder.page} is not written now ({error})")
    else:
        print(f"page: {recorder.page}")


def _write_summary(where: str, summary: dict[str, Any]) -> None:
    if where == "-":
        print(json.dumps(summary))
    else:
        write_json(location(where), summary, sort_keys=False)


def _report(line: str) -> None:
    print(line, flush=True)


def _link(latest: LatestResults, results: Collection[StepResult]) -> None:
    try:
        latest.link(results)
    except OSError as error:  # not every file system has links; the table has the locations
        _report(f"no links to the newest results: {error}")


def _outcome(result: StepResult) -> str:
    if not result.outputs:
        return result.why
    places = ", ".join(output.value for output in result.outputs.values())
    return f"{duration(result.seconds)} · {places}"


def _counted(results: Mapping[str, StepResult]) -> str:
    counts: dict[str, int] = {}
    for result in results.values():
        counts[result.result] = counts.get(result.result, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _print_table(rows: Collection[tuple[str, str, str]]) -> None:
    width = max((len(name) for name, _, _ in rows), default=0)
    for row in rows:
        _print_row(*row, width=width)


def _print_row(name: str, state: str, why: str, *, width: int) -> None:
    first, newline, rest = why.partition("\n")
    print(f"{name:{width}}  {state:8}  {first}".rstrip() + newline + rest, flush=True)


if __name__ == "__main__":
    sys.exit(main())
