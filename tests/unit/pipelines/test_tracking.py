"""Tracked runs: a record that was sent but not removed blocks no other; each server has its own queue."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.core import mlflow_guard, record_queue
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import TrackedRun, Tracker
from pipelines.media.figures import new_figure, png


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_an_image_that_was_sent_but_not_removed_blocks_nothing(
    storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 1000.0)
    tracker = Tracker(storage)
    with tracker.run("first") as first:
        run_id = first.run_id
    cut = TrackedRun(storage, run_id)
    cut.log_image("spectrogram", 1, png(new_figure(height_inches=1)))
    cut.log_metrics(1, {"after": 2.0})
    # As after a kill between sending the image and removing its record.
    (files,) = tmp_path.glob("unsent/*/*.files")
    shutil.rmtree(files)
    cut.close(status=None)
    assert tracker.client.get_run(run_id).data.metrics["after"] == 2.0
    assert not list(tmp_path.glob("unsent/*/*"))


def test_records_for_one_server_are_not_sent_to_another(storage: StorageConfig, tmp_path: Path) -> None:
    other = StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/other.db")
    with Tracker(other).run("there") as there:
        lost = TrackedRun(other, there.run_id)
        lost.log_metrics(1, {"x": 1.0})
        lost._queue._closing.set()  # as if its process had ended before it sent anything
        lost._queue._thread.join()
        lost._queue._file.close()
    assert len(list(tmp_path.glob("unsent/*/*.jsonl"))) == 1
    Tracker(storage)
    assert len(list(tmp_path.glob("unsent/*/*.jsonl"))) == 1
    client = Tracker(other).client
    assert client.get_run(there.run_id).data.metrics["x"] == 1.0
    assert not list(tmp_path.glob("unsent/*/*.jsonl"))


def test_tables_that_are_still_being_made_are_waited_for(storage: StorageConfig, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert not mlflow_guard._has_tables(file)
    Tracker(storage)
    assert mlflow_guard._has_tables(file)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # MLflow's first change
    assert not mlflow_guard._has_tables(file)
