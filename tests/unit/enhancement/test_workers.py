"""Enhancement of files in several processes: the same outputs and errors as in one; ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from rwsa.audio import read_audio, write_audio
from rwsa.enhancement import files
from rwsa.enhancement.file_group import AudioFile
from rwsa.enhancement.files import enhance_files
from rwsa.enhancement.workers import enhance_in_workers
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model

RATE_HZ = 16_000
CONFIG = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
MODEL = build_model(CONFIG, seed=1).eval()


def write_noise(folder: Path, seconds: dict[str, float]) -> None:
    for number, (name, duration) in enumerate(seconds.items()):
        wav = np.random.default_rng(number).uniform(-0.5, 0.5, int(duration * RATE_HZ)).astype(np.float32)
        write_audio(folder / name, wav, RATE_HZ, subtype="FLOAT")


def contents(folder: Path) -> dict[str, bytes]:
    """Samples by name; files of floats also hold the time of writing."""
    return {path.name: read_audio(path)[0].tobytes() for path in folder.rglob("*") if path.is_file()}


def test_outputs_and_errors_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_GROUP_SECONDS", 0.5)
    write_noise(tmp_path / "in", {f"{i}.wav": 0.1 * (i + 1) for i in range(8)})
    for name in ("2 odd.wav", "9 odd.wav"):
        (tmp_path / "in" / name).write_text("no audio")
    failures = {
        workers: enhance_files([tmp_path / "in"], tmp_path / str(workers), MODEL, workers=workers)
        for workers in (1, 2)
    }
    assert failures[1] == failures[2]
    assert ["2 odd.wav" in failures[1][0], "9 odd.wav" in failures[1][1]] == [True, True]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "2")) == 8
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("killed", [False, True])
def test_an_end_from_outside_leaves_complete_files_only(tmp_path: Path, killed: bool) -> None:
    write_noise(tmp_path / "in", {"a.wav": 0.1, "b.wav": 60})
    (tmp_path / "out").mkdir()
    groups = [[AudioFile(path, tmp_path / "out" / path.name)] for path in sorted((tmp_path / "in").iterdir())]
    reports: list[float] = []

    def progress(seconds: float) -> None:
        reports.append(seconds)
        if len(reports) != 4:
            return
        if not killed:
            raise KeyboardInterrupt
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(InputError if killed else KeyboardInterrupt) as caught:
        list(enhance_in_workers(groups, MODEL, 0.05, 1, progress, workers=2))
    assert not multiprocessing.active_children()
    if killed:
        assert str(caught.value).endswith("was killed, most likely for memory; use fewer --workers")
    else:
        assert set(contents(tmp_path / "out")) <= {"a.wav"}


def test_the_number_of_workers_follows_cores_and_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    cpu = torch.device("cpu")
    chosen = [
        files._worker_count(None, groups, seconds, cpu)
        for groups, seconds in ((1, 3600.0), (9, 100.0), (9, 200.0), (9, 3600.0))
    ]
    assert chosen == [1, 1, 3, 4]
    assert files._worker_count(16, 9, 1.0, cpu) == 9
    assert files._worker_count(None, 9, 3600.0, torch.device("cuda")) == 1
    with pytest.raises(InputError, match="--workers is 0; at least 1 process is needed"):
        files._worker_count(0, 9, 1.0, cpu)
    with pytest.raises(InputError, match="--workers is 2, but only one process can use the device cuda"):
        files._worker_count(2, 9, 1.0, torch.device("cuda"))
