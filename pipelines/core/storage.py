"""Storage of results and the MLflow experiment that records them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rwsa.config import config
from rwsa.files import absolute_location
from rwsa.variables import PathText


@config
class StorageConfig:
    """Result folder and MLflow experiment.

    Attributes:
        root: folder or URL (`s3://…`, `gs://…`) of results: runs, shards, score caches.
        tracking_uri: MLflow's address: `sqlite:///FILE` on one machine, `http://HOST:PORT` on a cluster.
        experiment: MLflow experiment.
    """

    root: PathText = "outputs"
    tracking_uri: PathText = "sqlite:///outputs/mlflow.db"
    experiment: str = "rwsa"


def absolute_storage(storage: StorageConfig) -> StorageConfig:
    """The storage with an absolute root and SQLite file."""
    uri = storage.tracking_uri
    if uri.startswith("sqlite:///"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return dataclasses.replace(storage, root=absolute_location(storage.root), tracking_uri=uri)
