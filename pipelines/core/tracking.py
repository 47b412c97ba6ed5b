"""MLflow runs: metrics, tags, files, images and tables, queued on disk and sent in the background."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow.entities import LoggedModelInput, Metric, Param, RunTag
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from pipelines.core.datasets import LoggedDataset, dataset_input
from pipelines.core.logged_models import MODEL_FOLDER, LoggedFiles, send_model
from pipelines.core.mlflow_guard import (
    TrackingError,
    check_reachable,
    file_name,
    mlflow_errors,
    open_client,
    ping,
    run_name,
    searchable,
    tracked_key,
    tracked_text,
)
from pipelines.core.record_queue import SPOOLED, Record, RecordQueue, abandoned_keys
from pipelines.core.runtime_env import CHECKOUT
from pipelines.core.step_records import step_context
from pipelines.core.storage import StorageConfig, sqlite_file
from rwsa.errors import InputError, PreemptedError
from rwsa.files import StoragePath, is_remote, local_copy, local_state_folder, location

_BATCH = 1000  # metrics per call, MLflow's limit
_PARAMS_BATCH = 100
# Otherwise MLflow's UI treats an experiment with tables as one on language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# Codes with which MLflow refuses what a record says, whenever it is sent.
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


class Tracker:
    """One experiment on one MLflow server (or SQLite file)."""

    def __init__(self, storage: StorageConfig) -> None:
        """Connect, and send records that earlier processes left unsent.

        Raises:
            InputError: MLflow cannot be used, as for its methods; or the experiment is in the trash.
        """
        self.storage = storage
        check_reachable(storage.tracking_uri)
        self.client = open_client(storage.tracking_uri)
        self.experiment_id = self._experiment()
        for run_id in abandoned_keys(_unsent(storage)):
            TrackedRun(storage, run_id).close(status=None)

    def _experiment(self) -> str:
        name, uri = self.storage.experiment, self.storage.tracking_uri
        short = repr(name if len(name) < 80 else f"{name[:80]}…")
        if not name.strip() or name != tracked_text(name):
            raise InputError(f"storage.experiment {short}: give a name of visible characters")
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(
                    name, _artifact_location(self.storage), tags=_EXPERIMENT_TAGS
                )
            except TrackingError as error:
                found = self.client.get_experiment_by_name(name)
                if found is None:  # otherwise another process was faster
                    raise TrackingError(f"storage.experiment {short}: {error}", error.code) from error
        if not found.experiment_id:
            raise TrackingError(f"{uri} is not an MLflow server; set storage.tracking_uri to one")
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"storage.experiment {short} was deleted in MLflow at {uri}; restore it with"
                f" `MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id"
                f" {found.experiment_id}`, or set storage.experiment to another name",
                "DELETED",
            )
        return found.experiment_id

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
            parent: id of the run to nest it under; in a workflow, that of the workflow by default.
            params: nested mappings are flattened to `a.b`.
            tags: in addition to the git commit.
        """
        key, step = searchable(key) if key else None, step_context()
        run_id = self._existing(key) if key else None
        if run_id is None:
            every = {**resolve_tags(), **_commit_tag(), **(step.tags() if step else {}), **(tags or {})}
            every |= {"rwsa.key": key} if key else {}
            above = parent or (step.run_id if step else None)
            every |= {MLFLOW_PARENT_RUN_ID: above} if above else {}
            every = {tracked_key(k): tracked_text(v) for k, v in every.items()}
            created = self.client.create_run(self.experiment_id, run_name=run_name(name), tags=every)
            run_id = created.info.run_id
            flat = [Param(tracked_key(k), tracked_text(str(v))) for k, v in flatten(params or {}).items()]
            for at in range(0, len(flat), _PARAMS_BATCH):
                self.client.log_batch(run_id, params=flat[at : at + _PARAMS_BATCH])
        else:
            self.client.update_run(run_id, status="RUNNING")
        if parent is None:
            self.record(run_id, name)
        return TrackedRun(self.storage, run_id)

    def record(self, run_id: str, name: str) -> None:
        """Record a run as one of this step; does nothing outside a workflow."""
        if (step := step_context()) is not None:
            step.record_run(
                run_id, name=name, experiment_id=self.experiment_id, uri=self.storage.tracking_uri
            )

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
        self.run_id, self._uri, self._outage_reported = run_id, storage.tracking_uri, False
        self._left_out = 0
        self.client = open_client(storage.tracking_uri)
        self._queue = RecordQueue(_unsent(storage), run_id, self._send, retry_on=(TrackingError,))

    def log_metrics(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        model_id: str | None = None,
        dataset: LoggedDataset | None = None,
    ) -> None:
        """Record metrics of a step; returns at once.

        Args:
            step: on MLflow's axis.
            values: by name.
            model_id: logged model that they belong to as well.
            dataset: that they were measured on.
        """
        now = int(time.time() * 1000)
        about = [] if model_id is None else [model_id, *((dataset.name, dataset.digest) if dataset else ())]
        figures = [[tracked_key(name), float(value), now, step, *about] for name, value in values.items()]
        self._queue.add({"metrics": figures})

    def log_datasets(self, *datasets: LoggedDataset) -> None:
        """Record what the run trained on or was scored on."""
        if datasets:
            self._queue.add({"datasets": [one.record() for one in datasets]})

    def log_model(self, model: LoggedFiles, write: Callable[[Path], None]) -> None:
        """Record a model whose files `write` leaves in a folder; see `pipelines.core.logged_models`."""
        with self._queue.spooled({"model": model.record()}) as spooled:
            write(spooled / MODEL_FOLDER)

    def use_model(self, model_id: str) -> None:
        """Record a logged model as an input of the run."""
        self._queue.add({"model_input": model_id})

    def tag(self, **tags: str) -> None:
        """Set tags; `__` in a name stands for a dot."""
        named = {tracked_key(name.replace("__", ".")): tracked_text(value) for name, value in tags.items()}
        self._queue.add({"tags": named})

    def log_file(self, path: StoragePath, folder: str | None = None) -> None:
        """Upload a file, or everything in a folder, as artifacts; the caller may delete it at once."""
        with self._queue.spooled({"artifacts": folder and tracked_key(folder)}) as spooled:
            if not is_remote(path) and path.is_dir():
                shutil.copytree(path, spooled, dirs_exist_ok=True)
            else:
                with local_copy(path) as file:
                    shutil.copyfile(file, spooled / file_name(path.name))

    def log_contents(self, files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Upload bytes in memory as artifacts under the given file names."""
        with self._queue.spooled({"artifacts": folder and tracked_key(folder)}) as spooled:
            for name, content in files.items():
                (spooled / file_name(name)).write_bytes(content)

    def log_image(self, key: str, step: int, png: bytes) -> None:
        """Record an image of a step; MLflow's UI shows the images of one key as a series."""
        record = {"image": {"key": tracked_key(key), "step": step, "timestamp": int(time.time() * 1000)}}
        with self._queue.spooled(record) as spooled:
            (spooled / "image.png").write_bytes(png)

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Record a table, which MLflow's UI shows and compares between runs."""
        cells = {tracked_text(key): [_cell(value) for value in values] for key, values in columns.items()}
        self._queue.add({"table": name, "columns": cells})

    def close(self, status: str | None = "FINISHED") -> None:
        """Send the rest; records that MLflow does not accept stay on disk.

        Args:
            status: final status of the run; None leaves it open for another process.
        """
        if status is not None:
            self._queue.add({"status": status, "at": int(time.time() * 1000)})
        self._outage_reported = True  # this says it
        if not self._queue.close():
            error = self._queue.last_error
            gone = getattr(error, "code", "") in ("DELETED", "RESOURCE_DOES_NOT_EXIST")
            print(
                f"MLflow did not accept all records ({error}); the rest is queued in {self._queue.path}, and"
                f" the next command with this storage sends it{'; delete that file to give it up' * gone}",
                flush=True,
            )
        if self._left_out:
            print(
                f"run {self.run_id}: {self._left_out} records that MLflow refuses were left out", flush=True
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
        """Send the first record, or all leading metric records that fit one call; returns how many.

        A record that MLflow refuses is left out, since it would hold up all others.
        """
        try:
            with mlflow_errors(self._uri):
                return self._send_first(records)
        except TrackingError as error:
            if error.code not in _REFUSED:
                self._report_outage(error)
                raise
            if "metrics" in records[0] and len(records) > 1:
                return self._send(records[:1])
            if not self._left_out:
                print(f"run {self.run_id}: a record is left out: {error}", flush=True)
            self._left_out += 1
            return 1

    def _report_outage(self, error: TrackingError) -> None:
        if not self._outage_reported:
            print(f"{error}; until then, records are queued in {self._queue.path}", flush=True)
        self._outage_reported = True

    def _send_first(self, records: list[Record]) -> int:
        ping(self._uri)
        first, spooled = records[0], Path(records[0].get(SPOOLED, ""))
        if SPOOLED in first and not spooled.is_dir():
            return 1  # already sent by a process that was killed before it could remove the record
        if "metrics" in first:
            return self._send_metrics(records)
        if "tags" in first:
            self.client.log_batch(self.run_id, tags=[RunTag(*pair) for pair in first["tags"].items()])
        elif "datasets" in first:
            self.client.log_inputs(self.run_id, datasets=[dataset_input(one) for one in first["datasets"]])
        elif "model_input" in first:
            self.client.log_inputs(self.run_id, models=[LoggedModelInput(first["model_input"])])
        elif "model" in first:
            send_model(self.client, self.run_id, first["model"], spooled / MODEL_FOLDER)
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


def _cell(value: Any) -> Any:
    return tracked_text(value) if isinstance(value, str) else value


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
    database = sqlite_file(storage.tracking_uri)
    return None if database is None else (database.resolve().parent / "mlartifacts").as_uri()
