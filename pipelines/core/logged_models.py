"""Models in MLflow 3: each published checkpoint is a logged model of its training run, whose metrics belong
to a dataset; versions of the registry come from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model

from pipelines.core.mlflow_guard import TrackingError, tracked_text
from rwsa.config import as_mapping
from rwsa.models.config import SIZES, ModelConfig

WEIGHTS_TAG = "weights_sha256"
MODEL_FOLDER = "model"
_MODEL_TYPE = "enhancement"


@dataclass(frozen=True, kw_only=True)
class LoggedFiles:
    """What is recorded of a model.

    Attributes:
        name: in MLflow's pages.
        sha256: of the weights, by which it is found again.
        step: of the training run.
        tags, params: in addition to the hash.
        metrics: measured on the dataset of this name and digest, both empty without any.
    """

    name: str
    sha256: str
    step: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: tuple[str, str] | None = None
    timestamp_ms: int = 0

    def record(self) -> dict[str, Any]:
        """As values for the queue."""
        return dict(vars(self))


def model_name(name: str) -> str:
    """A name as MLflow accepts it for a logged model."""
    return re.sub(r"[/:.%\"'\\\x00-\x1f\x7f]", "_", tracked_text(name))[:250]


def size_name(config: ModelConfig) -> str:
    """The name of a named size, or `custom`."""
    return next((name for name, one in SIZES.items() if one == config), "custom")


def model_params(config: ModelConfig) -> dict[str, str]:
    """The configuration by which MLflow's table of models is sorted and filtered."""
    values = as_mapping(config)
    of_network = {name: str(value) for name, value in values.items() if not isinstance(value, Mapping)}
    return {"size": size_name(config), **of_network}


def find_model(client: MlflowClient, experiment_id: str, sha256: str) -> LoggedModel | None:
    """The newest complete logged model with these weights; None if there is none."""
    models = _with_weights(client, experiment_id, sha256)
    return next((one for one in models if one.status == LoggedModelStatus.READY), None)


def send_model(client: MlflowClient, run_id: str, record: Mapping[str, Any], folder: Path) -> LoggedModel:
    """Log a model that a run made, from `LoggedFiles.record`; sent twice, as after an outage, it is one."""
    about = LoggedFiles(**record)
    experiment_id = client.get_run(run_id).info.experiment_id
    model = log_model(client, experiment_id, about, folder, run_id=run_id)
    if about.metrics:
        dataset = about.dataset or (None, None)
        client.log_batch(
            run_id,
            metrics=[
                Metric(name, value, about.timestamp_ms, about.step, model.model_id, *dataset)
                for name, value in about.metrics.items()
            ],
        )
    return model


def log_model(
    client: MlflowClient, experiment_id: str, about: LoggedFiles, folder: Path, *, run_id: str | None = None
) -> LoggedModel:
    """Log a model, or go on with that of the same run and weights; returns it.

    Args:
        client: MLflow client.
        experiment_id: experiment to log it in.
        about: name, hash, tags and parameters.
        folder: its files, written by `pipelines.core.model_registry.write_model`.
        run_id: run that made it; None for weights from elsewhere.
    """
    model = next(
        (
            one
            for one in _with_weights(client, experiment_id, about.sha256)
            if (one.source_run_id or None) == run_id and one.status != LoggedModelStatus.FAILED
        ),
        None,
    )
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name=model_name(about.name),
            source_run_id=run_id,
            tags={**about.tags, WEIGHTS_TAG: about.sha256},
            params={name: tracked_text(str(value)) for name, value in about.params.items()},
            model_type=_MODEL_TYPE,
        )
    if model.status != LoggedModelStatus.READY:
        _upload(client, model, run_id, folder)
        if run_id is not None:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=about.step)])
    return model


def _upload(client: MlflowClient, model: LoggedModel, run_id: str | None, folder: Path) -> None:
    description = Model.load(str(folder))
    description.model_id, description.run_id = model.model_id, run_id
    description.artifact_path = model.artifact_location
    description.save(str(folder / "MLmodel"))
    try:
        client.log_model_artifacts(model.model_id, str(folder))
    except TrackingError:
        raise  # sent again later
    except BaseException:
        with suppress(TrackingError):  # the first error is the one to raise
            client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")


def _with_weights(client: MlflowClient, experiment_id: str, sha256: str) -> list[LoggedModel]:
    """Logged models with these weights, the newest first."""
    newest = [{"field_name": "creation_timestamp", "ascending": False}]
    wanted = f"tags.{WEIGHTS_TAG} = '{sha256}'"
    return list(client.search_logged_models([experiment_id], wanted, max_results=50, order_by=newest))
