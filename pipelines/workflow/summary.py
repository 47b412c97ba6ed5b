"""What happened to each step of a workflow, as plain values for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.workflow.runner import StepResult
from rwsa.files import is_file, location, read_json


def summary_of(workflow: str, page: str, results: Mapping[str, StepResult]) -> dict[str, Any]:
    """`{"workflow": NAME, "page": LOCATION, "steps": [{"step": …, "result": …, …}, …]}`.

    Each step has the fields of `StepResult`, `identity` (of what decides its result, empty if that is not
    known), and, if it left them, `scores` as `pipelines.evaluate --json` writes them and the number of
    `errors` and `warnings` of `pipelines.check`.
    """
    return {"workflow": workflow, "page": page, "steps": [_step(result) for result in results.values()]}


def _step(result: StepResult) -> dict[str, Any]:
    values = {
        "step": result.step.name,
        "result": result.result,
        "why": result.why,
        "seconds": round(result.seconds, 1),
        "identity": result.folder.rpartition("/")[2],
        "folder": result.folder,
        "log": result.log,
        "outputs": {name: output.value for name, output in result.outputs.items()},
    }
    if (scores := _left(result, "scores")) is not None:
        values["scores"] = scores.get("corpora", scores)
    if (report := _left(result, "report")) is not None:
        values |= {name: report[name] for name in ("errors", "warnings")}
    return values


def _left(result: StepResult, output: str) -> Any:
    """The content of a JSON file that a step leaves even if it fails; None if there is none."""
    option = result.step.verb.outputs.get(output, "")
    name = result.step.verb.place.get(option)
    if name is None or not result.folder:
        return None
    given = result.outputs.get(output)
    path = location(given.value) if given else location(result.folder) / name
    return read_json(path) if is_file(path) else None
