"""What the process of a workflow's step knows of the workflow, and what it leaves beside its results.

The runner passes a `StepContext` in environment variables. What a step logs is recorded in the step's folder,
so that a later run of the workflow finds it without asking MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rwsa.files import StoragePath, is_file, list_folder, location, read_json, write_json

_WORKFLOW, _STEP, _FOLDER, _RUN = "RWSA_WORKFLOW", "RWSA_STEP", "RWSA_STEP_FOLDER", "RWSA_WORKFLOW_RUN"
_RUNS, _MODEL = "mlflow", "registered.json"


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """The step that this process is.

    Attributes:
        workflow, step: names.
        folder: of the step's results.
        run_id: of the workflow's run in MLflow.
    """

    workflow: str
    step: str
    folder: str
    run_id: str

    def environment(self) -> dict[str, str]:
        """The variables of the step's process."""
        return {_WORKFLOW: self.workflow, _STEP: self.step, _FOLDER: self.folder, _RUN: self.run_id}

    def tags(self) -> dict[str, str]:
        """Tags of the step's MLflow runs."""
        return {"rwsa.workflow": self.workflow, "rwsa.step": self.step}

    def record_run(self, run_id: str, *, name: str, experiment_id: str, uri: str) -> None:
        """Record a run that the step logged, or found as it would log it."""
        path = location(self.folder) / _RUNS / f"{run_id}.json"
        if not is_file(path):
            write_json(path, {"name": name, "experiment_id": experiment_id, "uri": uri})

    def record_model(
        self, name: str, version: str, about: Mapping[str, str], *, experiment_id: str, uri: str
    ) -> None:
        """Record the version of a model that the step registered, with its tags."""
        values = {
            "name": name,
            "version": version,
            "about": dict(about),
            "experiment_id": experiment_id,
            "uri": uri,
        }
        write_json(location(self.folder) / _MODEL, values)


def step_context() -> StepContext | None:
    """The step that this process is; None outside a workflow."""
    values = [os.environ.get(name, "") for name in (_WORKFLOW, _STEP, _FOLDER, _RUN)]
    if not all(values):
        return None
    workflow, step, folder, run_id = values
    return StepContext(workflow=workflow, step=step, folder=folder, run_id=run_id)


def recorded_runs(folder: StoragePath) -> dict[str, Mapping[str, str]]:
    """Id -> name, experiment and server of the MLflow runs of a step."""
    files = [path for path in list_folder(folder / _RUNS) if path.suffix == ".json"]
    return {path.stem: read_json(path) for path in files}


def recorded_model(folder: StoragePath) -> Mapping[str, Any] | None:
    """The model that a step registered."""
    path = folder / _MODEL
    return read_json(path) if is_file(path) else None
