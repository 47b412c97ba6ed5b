"""Storage of results and the MLflow experiment that records them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import unquote

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.files import absolute_location
from rwsa.variables import PathText

_SQLITE = "sqlite:///"


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
    file, uri = sqlite_file(storage.tracking_uri), storage.tracking_uri
    if file is not None and not file.is_absolute():
        # SQLAlchemy decodes %XX.
        folder = str(Path.cwd()).replace("%", "%25").replace("?", "%3F")
        uri = f"{_SQLITE}{folder}/{uri.removeprefix(_SQLITE)}"
    return dataclasses.replace(storage, root=absolute_location(storage.root), tracking_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, None for another address.

    Raises:
        InputError: the address names no file.
    """
    if not uri.startswith(_SQLITE):
        return None
    name = unquote(uri.removeprefix(_SQLITE))
    if name in ("", ":memory:") or "?" in uri or "\0" in name:
        raise InputError(f"storage.tracking_uri {uri!r}: name a file, as in sqlite:///FOLDER/mlflow.db")
    return Path(name)
