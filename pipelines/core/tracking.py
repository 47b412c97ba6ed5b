"""MLflow runs: metrics, tags, files, images and tables, queued on disk and sent in the background."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from pipelines.core.record_queue import SPOOLED, Record, RecordQueue, abandoned_keys
from pipelines.core.runtime_env import CHECKOUT
from pipelines.core.storage import StorageConfig
from rwsa.errors import InputError, PreemptedError, UnreachableError
from rwsa.files import StoragePath, is_remote, local_copy, local_state_folder, location

_BATCH = 1000  # metrics per call, MLflow's limit
_PARAMS_BATCH = 100
_ANSWER_SECONDS = 5.0
# Otherwise MLflow's UI treats an experiment with tables as one on language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# Short, since the queue retries anyway.
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class Tracker:
    """One experiment on one MLflow server (or SQLite file)."""

    def __init__(self, storage: StorageConfig) -> None:
        """Connect, and send records that earlier processes left unsent.

        Raises:
            InputError: the server does not answer, or the database file cannot be created.
        """
        self.storage = storage
        _limit_retries()
        _check_reachable(storage.tracking_uri)
        try:
            self.client = MlflowClient(storage.tracking_uri)
            self.experiment_id = self._experiment()
        except (MlflowException, OSError) as error:
            raise UnreachableError(
                f"MLflow at {storage.tracking_uri} cannot be used ({error}); start it, or set"
                " storage.tracking_uri to another server"
            ) from error
        for run_id in abandoned_keys(_unsent(storage)):
            TrackedRun(storage, run_id).close(status=None)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.storage.experiment)
        if found is not None:
            return found.experiment_id
        return self.client.create_experiment(
            self.storage.experiment, _artifact_location(self.storage), tags=_EXPERIMENT_TAGS
        )

    def run(
        self,
        name: str,
        *,
        key: str | None = None,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """Start a run, or resume the run that has this key.

        Args:
            name: shown in MLflow's UI.
            key: identity of the work; a second call with the same key resumes the same run.
            parent: id of the run to nest it under.
            params: nested mappings are flattened to `a.b`.
            tags: in addition to the git commit.
        """
        run_id = self._existing(key) if key else None
        if run_id is None:
            every = {**resolve_tags(), **_commit_tag(), **(tags or {})}
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
    """One run, whose records are queued on disk and sent by a thread.

    While MLflow does not answer, records stay on disk; the next process that opens the run, or a `Tracker` of
    the same storage, sends them. As a context manager it sends the rest on exit and marks the run finished,
    failed or, after Ctrl-C or preemption, killed.
    """

    def __init__(self, storage: StorageConfig, run_id: str) -> None:
        _limit_retries()
        self.run_id, self._uri = run_id, storage.tracking_uri
        self.client = MlflowClient(storage.tracking_uri)
        self._queue = RecordQueue(_unsent(storage), run_id, self._send, retry_on=(MlflowException, OSError))

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics of a step; returns at once."""
        now = int(time.time() * 1000)
        self._queue.add({"metrics": [[name, float(value), now, step] for name, value in values.items()]})

    def tag(self, **tags: str) -> None:
        """Set tags; `__` in a name stands for a dot."""
        self._queue.add({"tags": {name.replace("__", "."): value for name, value in tags.items()}})

    def log_file(self, path: StoragePath, folder: str | None = None) -> None:
        """Upload a file, or everything in a folder, as artifacts; the caller may delete it at once."""
        with self._queue.spooled({"artifacts": folder}) as spooled:
            if not is_remote(path) and path.is_dir():
                shutil.copytree(path, spooled, dirs_exist_ok=True)
            else:
                with local_copy(path) as file:
                    shutil.copyfile(file, spooled / path.name)

    def log_contents(self, files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Upload bytes in memory as artifacts under the given file names."""
        with self._queue.spooled({"artifacts": folder}) as spooled:
            for name, content in files.items():
                (spooled / name).write_bytes(content)

    def log_image(self, key: str, step: int, png: bytes) -> None:
        """Record an image of a step; MLflow's UI shows the images of one key as a series."""
        record = {"image": {"key": key, "step": step, "timestamp": int(time.time() * 1000)}}
        with self._queue.spooled(record) as spooled:
            (spooled / "image.png").write_bytes(png)

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Record a table, which MLflow's UI shows and compares between runs."""
        self._queue.add({"table": name, "columns": {key: list(values) for key, values in columns.items()}})

    def close(self, status: str | None = "FINISHED") -> None:
        """Send the rest; records that MLflow does not accept stay on disk.

        Args:
            status: final status of the run; None leaves it open for another process.
        """
        if status is not None:
            self._queue.add({"status": status, "at": int(time.time() * 1000)})
        if not self._queue.close():
            print(
                f"MLflow did not accept all records ({self._queue.last_error}); the rest is queued in"
                f" {self._queue.path}, and the next command with this storage sends it",
                flush=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt | PreemptedError)
        try:
            self.close("FINISHED" if error is None else "KILLED" if stopped else "FAILED")
        except InputError as cannot_write:
            if error is None:
                raise
            print(cannot_write, flush=True)  # the first error is the one to raise

    def _send(self, records: list[Record]) -> int:
        """Send the first record, or all leading metric records that fit one call; returns how many."""
        _ping(self._uri)
        first, spooled = records[0], Path(records[0].get(SPOOLED, ""))
        if SPOOLED in first and not spooled.is_dir():
            return 1  # already sent by a process that was killed before it could remove the record
        if "metrics" in first:
            return self._send_metrics(records)
        if "tags" in first:
            self.client.log_batch(self.run_id, tags=[RunTag(*pair) for pair in first["tags"].items()])
        elif "artifacts" in first:
            self.client.log_artifacts(self.run_id, str(spooled), first["artifacts"])
        elif "image" in first:
            with Image.open(spooled / "image.png") as picture:
                self.client.log_image(self.run_id, picture, **first["image"], synchronous=True)
        elif "table" in first:
            self.client.log_table(self.run_id, first["columns"], first["table"])
        else:
            self.client.set_terminated(self.run_id, first["status"], first["at"])
        return 1

    def _send_metrics(self, records: list[Record]) -> int:
        batch, count = list[Metric](), 0
        for record in itertools.takewhile(lambda record: "metrics" in record, records):
            if count and len(batch) + len(record["metrics"]) > _BATCH:
                break
            batch += [Metric(*values) for values in record["metrics"]]
            count += 1
        for at in range(0, len(batch), _BATCH):
            self.client.log_batch(self.run_id, metrics=batch[at : at + _BATCH])
        return count


def _unsent(storage: StorageConfig) -> Path:
    """Folder of the queues for one server: below the storage root, so that any node finds it.

    If the root is in an object store, on this machine.
    """
    server = hashlib.sha256(storage.tracking_uri.encode()).hexdigest()[:8]
    return local_state_folder(location(storage.root)) / "unsent" / server


def _limit_retries() -> None:
    """Make MLflow's client give up early."""
    for name, value in _RETRIES.items():
        os.environ.setdefault(name, value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def commit() -> str:
    """The checkout's git commit, with `-dirty` if files differ.

    Outside a repository, as in a job's copy or an image: the value of `RWSA_COMMIT`, or `unknown`.
    """
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("RWSA_COMMIT") or "unknown"


def _commit_tag() -> dict[str, str]:
    return {"mlflow.source.git.commit": commit()}


def _artifact_location(storage: StorageConfig) -> str | None:
    """A folder next to a SQLite file; None for a server, which has its own."""
    if not storage.tracking_uri.startswith("sqlite:///"):
        return None
    database = Path(storage.tracking_uri.removeprefix("sqlite:///")).resolve()
    return (database.parent / "mlartifacts").as_uri()


def _check_reachable(uri: str) -> None:
    """Check that the server answers, since MLflow's client would retry for minutes."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"storage.tracking_uri {uri}: {folder} cannot be created ({error.strerror})"
            ) from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"storage.tracking_uri {uri}: {folder} is not writable")
    elif urlsplit(uri).scheme in ("http", "https"):
        if urlsplit(uri).password is not None:
            raise InputError(
                "storage.tracking_uri: contains a password, which every run would show; remove it and set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )
        try:
            _ping(uri)
        except OSError as error:
            raise UnreachableError(
                f"MLflow at {uri} does not answer ({error}); start it with `mlflow server`, or set"
                " storage.tracking_uri to another"
            ) from error
    else:
        raise InputError(f"storage.tracking_uri {uri}: give sqlite:///FILE or http(s)://HOST:PORT")


def _ping(uri: str) -> None:
    """Raise OSError if a server does not answer."""
    if urlsplit(uri).scheme in ("http", "https"):
        with urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS):
            pass
