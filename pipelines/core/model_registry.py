"""Registration of weights as an MLflow model: code and safetensors, without pickle."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModel
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from packaging.requirements import Requirement

from pipelines.core import served_model
from pipelines.core.mlflow_guard import TrackingError, mlflow_errors
from pipelines.core.served_model import SAMPLE_RATE_HZ, WAV, WEIGHTS
from rwsa import constants
from rwsa.errors import InputError
from rwsa.files import StoragePath, local_copy
from rwsa.models import load_model, save_model

# Tag of a version: MLflow's databases do not store of which logged model it is.
MODEL_ID_TAG = "model_id"
_EXAMPLE_SAMPLES = 1_600


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        uri: for `mlflow.pyfunc.load_model` and `mlflow models serve`.
    """

    name: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def register_model(
    client: MlflowClient,
    model: LoggedModel,
    run_id: str,
    *,
    name: str,
    alias: str,
    tags: dict[str, str],
    description: str = "",
) -> RegisteredVersion:
    """Register a logged model as a new version.

    Args:
        client: MLflow client.
        model: with its files.
        run_id: run that the version names.
        name: registered model, created if missing.
        alias: alias that moves to the new version.
        tags: of the version.
        description: of the version, in Markdown.

    Raises:
        InputError: the registry refuses the name or alias.
    """
    check_model_name(name, alias)
    try:
        _make_registered_model(client, name)
        version = client.create_model_version(
            name,
            model.artifact_location,
            run_id=run_id,
            tags={**tags, MODEL_ID_TAG: model.model_id},
            description=description,
            model_id=model.model_id,
        ).version
        _link(client, model.model_id, name, str(version))
    except TrackingError as error:
        raise TrackingError(f"--name {name}: {error}", error.code) from error
    return point_alias(client, name=name, alias=alias, version=str(version))


def _link(client: MlflowClient, model_id: str, name: str, version: str) -> None:
    """Link the logged model to a version, as MLflow's table of models shows it."""
    tags = client.get_logged_model(model_id).tags
    versions = json.loads(tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if not any((one["name"], str(one["version"])) == (name, version) for one in versions):
        versions.append({"name": name, "version": version})
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(versions)})


def existing_version(client: MlflowClient, name: str, sha256: str) -> str | None:
    """The newest version of a registered model with these weights; None if there is none."""
    found = client.search_model_versions(f"tags.`weights_sha256` = '{sha256}'")
    return max((str(one.version) for one in found if one.name == name), key=int, default=None)


def point_alias(client: MlflowClient, *, name: str, alias: str, version: str) -> RegisteredVersion:
    """Move an alias to a version of a registered model.

    Raises:
        InputError: the registry refuses the alias.
    """
    try:
        client.set_registered_model_alias(name, alias, version)
    except TrackingError as error:
        raise TrackingError(f"--name {name} --alias {alias}: {error}", error.code) from error
    return RegisteredVersion(name=name, version=version, alias=alias)


def check_model_name(name: str, alias: str) -> None:
    """Check what MLflow would refuse only after the model is logged, or not find again in a `models:/` URI.

    Raises:
        InputError: the registry refuses the name or alias.
    """
    where = f"--name {name[:80]!r} --alias {alias[:80]!r}: MLflow refuses it"
    if not re.fullmatch(r"[^/:@?#%\\\x00-\x1f\x7f\ud800-\udfff]{1,250}", name) or not name.strip(" ."):
        raise InputError(f"{where} (a name has at most 250 characters, without / : @ ? # % and line breaks)")
    if not re.fullmatch(r"[\w-]{1,250}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise InputError(f"{where} (an alias has letters, digits, _ and -, and is neither latest nor v1)")


def _make_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except TrackingError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


def write_model(path: Path, weights: StoragePath, *, check: bool = True) -> None:
    """Write the model's folder: code, safetensors, description; nothing is pickled.

    Args:
        path: folder, which must not exist.
        weights: a file that `rwsa.load_model` reads; the published format is converted to safetensors.
        check: test it on the input example.

    Raises:
        InputError: the weights cannot be read; rwsa is not installed.
    """
    with ExitStack() as stack:
        file = stack.enter_context(local_copy(weights))
        if file.suffix != ".safetensors":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rwsa-weights-"))
            converted = Path(folder) / f"{file.stem}.safetensors"
            save_model(converted, load_model(file))
            file = converted
        _write_folder(path, file, check=check)


def _write_folder(path: Path, weights: Path, *, check: bool) -> None:
    _quieten()
    columns = Schema([ColSpec(Array(DataType.double), WAV), ColSpec(DataType.long, SAMPLE_RATE_HZ)])
    example = _example()
    with mlflow_errors(str(path)):
        pyfunc.save_model(
            path=str(path),
            python_model=served_model.__file__,
            artifacts={WEIGHTS: str(weights)},
            signature=ModelSignature(inputs=columns, outputs=columns),
            input_example=example,
            pip_requirements=requirements(),
        )
        if not check:
            return
        enhanced = pyfunc.load_model(str(path)).predict(example)[WAV][0]
    if len(enhanced) != _EXAMPLE_SAMPLES:
        raise RuntimeError(f"{weights}: {_EXAMPLE_SAMPLES} samples became {len(enhanced)}")


def _quieten() -> None:
    """Silence MLflow's progress bar for a single file, and its note that it validates the example."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)


def requirements() -> list[str]:
    """pip requirements of the model: this version of rwsa, and the bounds of its dependencies and MLflow.

    Raises:
        InputError: rwsa is not installed.
    """
    try:
        listed = importlib.metadata.requires("rwsa") or []
        version = importlib.metadata.version("rwsa")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            "rwsa is not installed, so its requirements are unknown; pip install -e ."
        ) from error
    bounds = []
    for requirement in map(Requirement, listed):
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always or requirement.name == "mlflow":
            bounds.append(f"{requirement.name}{requirement.specifier}")
    return [f"rwsa=={version}", *bounds]


def _example() -> pd.DataFrame:
    """A decaying tone in noise, a tenth of a second, rounded to four decimals."""
    seconds = np.arange(_EXAMPLE_SAMPLES) / constants.SAMPLE_RATE_HZ
    tone = 0.1 * np.sin(2 * np.pi * 440 * seconds) * np.exp(-20 * seconds)
    noisy = tone + 0.01 * np.random.default_rng(0).standard_normal(_EXAMPLE_SAMPLES)
    return pd.DataFrame({WAV: [noisy.round(4).tolist()], SAMPLE_RATE_HZ: [constants.SAMPLE_RATE_HZ]})
