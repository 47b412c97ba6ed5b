"""Tracked runs: what was sent and not noted blocks nothing; servers' journals are apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.core import record_queue
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import TrackedRun, Tracker
from pipelines.media.figures import new_figure, png


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_a_picture_that_was_sent_and_not_noted_holds_up_nothing(
    storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 1000.0)
    tracker = Tracker(storage)
    with tracker.run("first") as first:
        run_id = first.run_id
    cut = TrackedRun(storage, run_id)
    cut.image("spectrogram", 1, png(new_figure(height_inches=1)))
    cut.log(1, {"after": 2.0})
    # As after a kill between sending the picture and noting that it was sent.
    (files,) = tmp_path.glob("unsent/*/*.files")
    shutil.rmtree(files)
    cut.close(status=None)
    assert tracker.client.get_run(run_id).data.metrics["after"] == 2.0
    assert not list(tmp_path.glob("unsent/*/*"))


def test_what_waits_for_one_server_is_not_offered_to_another(storage: StorageConfig, tmp_path: Path) -> None:
    other = StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/other.db")
    with Tracker(other).run("there") as there:
        lost = TrackedRun(other, there.run_id)
        lost.log(1, {"x": 1.0})
        lost._journal._closing.set()  # as if its process had gone before it sent anything
        lost._journal._thread.join()
        lost._journal._file.close()
    assert len(list(tmp_path.glob("unsent/*/*.jsonl"))) == 1
    Tracker(storage)
    assert len(list(tmp_path.glob("unsent/*/*.jsonl"))) == 1
    client = Tracker(other).client
    assert client.get_run(there.run_id).data.metrics["x"] == 1.0
    assert not list(tmp_path.glob("unsent/*/*.jsonl"))
