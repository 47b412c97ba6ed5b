"""The only place that knows MLflow: runs, figures, files. Figures travel in batches, off the caller's way."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines.cluster import CHECKOUT
from rwsa.errors import InputError
from rwsa.training.config import StorageConfig
from rwsa.training.loop import PreemptedError

_BATCH = 1000  # MLflow's own limit of metrics in one call
_PARAMS_BATCH = 100
_SECONDS_BETWEEN_SENDS = 2.0
_SECONDS_TO_ANSWER = 5.0


class Tracker:
    """One experiment on one MLflow server (or SQLite file)."""

    def __init__(self, storage: StorageConfig) -> None:
        """Connect.

        Raises:
            InputError: the server does not answer, or the database file cannot be made.
        """
        self.storage = storage
        _check_reachable(storage.tracking_uri)
        try:
            self.client = MlflowClient(storage.tracking_uri)
            self.experiment_id = self._experiment()
        except (MlflowException, OSError) as error:
            raise InputError(
                f"MLflow at {storage.tracking_uri} cannot be used ({error}); start it, or set"
                " storage.tracking_uri to one that answers"
            ) from error

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.storage.experiment)
        if found is not None:
            return found.experiment_id
        return self.client.create_experiment(self.storage.experiment, _artifact_location(self.storage))

    def run(
        self,
        name: str,
        *,
        key: str | None = None,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """Start a run, or go on with the one that has this key.

        Args:
            name: shown in the user interface.
            key: identity of the work; a second run of the same key continues the first.
            parent: id of the run to nest it under.
            params: nested mappings are flattened to `a.b`.
            tags: beside the git commit, which is always set.
        """
        run_id = self._existing(key) if key else None
        if run_id is None:
            every = {**_commit_tag(), **(tags or {})}
            every |= {"rwsa.key": key} if key else {}
            every |= {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
            created = self.client.create_run(self.experiment_id, run_name=name, tags=every)
            run_id = created.info.run_id
            flat = [Param(k, str(v)) for k, v in flatten(params or {}).items()]
            for at in range(0, len(flat), _PARAMS_BATCH):
                self.client.log_batch(run_id, params=flat[at : at + _PARAMS_BATCH])
        else:
            self.client.update_run(run_id, status="RUNNING")
        return TrackedRun(self.storage, run_id)

    def _existing(self, key: str) -> str | None:
        runs = self.client.search_runs([self.experiment_id], f"tags.`rwsa.key` = '{key}'", max_results=1)
        return runs[0].info.run_id if runs else None


class TrackedRun:
    """One run. `log` only queues; a thread sends. What cannot be sent is kept on disk and sent later.

    Use as a context manager: leaving it sends what is left and marks the run finished, failed, or, where
    somebody ended it, killed.
    """

    def __init__(self, storage: StorageConfig, run_id: str) -> None:
        self.run_id, self._storage = run_id, storage
        self.client = MlflowClient(storage.tracking_uri)
        self._unsent = Path(storage.root) / "unsent" / f"{run_id}.jsonl"
        self._queue: list[Metric] = self._recovered()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._sender = threading.Thread(target=self._send_forever, name="rwsa-mlflow", daemon=True)
        self._sender.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue figures of a step; returns at once."""
        now = int(time.time() * 1000)
        with self._lock:
            self._queue += [Metric(name, float(value), now, step) for name, value in values.items()]

    def tag(self, **tags: str) -> None:
        """Set tags."""
        self.client.log_batch(self.run_id, tags=[RunTag(k.replace("__", "."), v) for k, v in tags.items()])

    def file(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or everything in a folder, as artifacts."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Log a table that MLflow's interface shows and compares."""
        self.client.log_table(self.run_id, {k: list(v) for k, v in columns.items()}, name)

    def close(self, status: str | None = "FINISHED") -> None:
        """Send what is left, or keep it on disk where MLflow does not answer.

        Args:
            status: to end the run with; None leaves that to another process that has it open.
        """
        self._closing.set()
        self._sender.join()
        try:
            self._send()
            if status is not None:
                self.client.set_terminated(self.run_id, status)
        except (MlflowException, OSError) as error:
            print(f"MLflow did not take the last figures ({error}); they wait in {self._unsent}", flush=True)
            self._keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt | PreemptedError)
        self.close("FINISHED" if error is None else "KILLED" if stopped else "FAILED")

    def _send_forever(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_SENDS):
            try:
                self._send()
            except (MlflowException, OSError):
                continue  # the queue still holds them; `close` reports if it stays so

    def _send(self) -> None:
        while self._queue:
            batch = self._queue[:_BATCH]
            self.client.log_batch(self.run_id, metrics=batch)
            with self._lock:
                del self._queue[: len(batch)]
        self._unsent.unlink(missing_ok=True)

    def _keep(self) -> None:
        self._unsent.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps([m.key, m.value, m.timestamp, m.step]) for m in self._queue)
        self._unsent.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _recovered(self) -> list[Metric]:
        if not self._unsent.exists():
            return []
        lines = self._unsent.read_text(encoding="utf-8").splitlines()
        return [Metric(*json.loads(line)) for line in lines]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def commit() -> str:
    """The checkout's git commit, with `-dirty` where files differ; `unknown` outside a repository."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _commit_tag() -> dict[str, str]:
    return {"mlflow.source.git.commit": commit()}


def _artifact_location(storage: StorageConfig) -> str | None:
    """Beside a SQLite file; a server decides for itself."""
    if not storage.tracking_uri.startswith("sqlite:///"):
        return None
    database = Path(storage.tracking_uri.removeprefix("sqlite:///")).resolve()
    return (database.parent / "mlartifacts").as_uri()


def _check_reachable(uri: str) -> None:
    """Ask before MLflow's client does, whose retries take minutes."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"storage.tracking_uri {uri}: {folder} cannot be made ({error.strerror})"
            ) from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"storage.tracking_uri {uri}: {folder} is not writable")
    elif urlsplit(uri).scheme in ("http", "https"):
        try:
            with urlopen(f"{uri.rstrip('/')}/health", timeout=_SECONDS_TO_ANSWER):
                pass
        except (URLError, OSError) as error:
            raise InputError(
                f"MLflow at {uri} does not answer ({error}); start it with `mlflow server`, or set"
                " storage.tracking_uri to another"
            ) from error
    else:
        raise InputError(f"storage.tracking_uri {uri}: give sqlite:///FILE or http(s)://HOST:PORT")
