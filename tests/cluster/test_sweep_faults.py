"""Sweeps on real Ray Tune whose driver, trial or worker is killed, or ended by a signal or a budget."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.sweep_runs import reproducible, saved_reports, start_sweep, sweep_config, within, write_data
from tune.sweep import sweep
from tune.trial_results import ResultFolder

pytestmark = [pytest.mark.usefixtures("ray_address"), pytest.mark.full]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("sweeps"))


def printed(data: Path, name: str) -> str:
    return (data / f"{name}.log").read_text()


def test_a_driver_killed_twice_gives_the_same_results(data: Path) -> None:
    """The command and its Ray are killed (SIGKILL) at random moments; the same command resumes."""
    axes = {"optimiser.learning_rate": {"values": [1e-3, 1e-2]}}
    undisturbed = sweep(sweep_config(data, "undisturbed", axes=axes, set={"max_steps": 4}))
    rng = np.random.default_rng(5)
    for _ in range(2):
        seen = len(saved_reports(data, "killed"))
        process = start_sweep(data, "killed", axes, set={"max_steps": 4})
        assert within(300, lambda seen=seen: len(saved_reports(data, "killed")) > seen), (
            "the sweep resumes each time"
        )
        time.sleep(float(rng.uniform(0, 2)))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = start_sweep(data, "killed", axes, set={"max_steps": 4})
    assert last.wait(timeout=300) == 0, printed(data, "killed")
    files = ResultFolder(data / "sweeps" / "killed")
    rows = [
        dataclasses.replace(row, trial=row.trial.replace("killed", "undisturbed").rsplit("-", 1)[0])
        for name in files.trial_names()
        if (row := files.result(name)) is not None
    ]
    expected = [
        dataclasses.replace(row, trial=row.trial.rsplit("-", 1)[0])
        for row in sorted(undisturbed.results, key=lambda row: row.trial)
    ]
    assert reproducible(rows) == reproducible(expected)


def test_interrupted_sweeps_report_finished_trials(data: Path) -> None:
    """Ctrl-C to one command and SIGTERM to another, which run side by side."""
    numbers = {f"ended-{number.value}": number for number in (signal.SIGINT, signal.SIGTERM)}
    axes = {"seed": {"values": [0, 1]}}
    running = {name: start_sweep(data, name, axes, set={"max_steps": 500}) for name in numbers}
    for name, process in running.items():
        assert within(300, lambda name=name: bool(saved_reports(data, name))), printed(data, name)
        process.send_signal(numbers[name])
    for name, process in running.items():
        assert process.wait(timeout=200) == 128 + numbers[name]
        page = (data / "sweeps" / name / "report.html").read_text()
        assert "2 waiting" in page
        assert "interrupted after step" in page


@pytest.mark.parametrize(("workers", "process"), [(0, "ray::ImplicitFunc"), (1, "ray::RayTrainWorker")])
def test_a_trial_resumes_when_its_process_or_worker_is_killed(data: Path, workers: int, process: str) -> None:
    name = f"lost-{workers}"
    config = sweep_config(data, name, axes={"seed": {"values": [0]}}, workers=workers, set={"max_steps": 15})
    killed: list[int] = []

    def kill() -> None:
        if within(300, lambda: bool(saved_reports(data, name))):
            for one in psutil.Process().children(recursive=True):
                if " ".join(one.cmdline()).startswith(process):
                    one.kill()
                    killed.append(one.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    (row,) = sweep(config).results
    thread.join()
    assert killed
    assert (row.status, row.step) == ("finished", 15)
    assert [step for step, _ in row.reports] == list(range(1, 16))


def test_a_time_budget_ends_a_sweep_and_the_same_command_resumes(data: Path) -> None:
    axes = {"seed": {"values": [0]}}
    saved = []
    for _ in range(2):
        # In a process of its own: Ray Tune 2.60 leaves files open when the time is up.
        process = start_sweep(data, "budget", axes, set={"max_steps": 100_000}, budget_hours=15 / 3600)
        assert process.wait(timeout=200) == 0, printed(data, "budget")
        saved.append(saved_reports(data, "budget"))
        assert "1 waiting" in (data / "sweeps" / "budget" / "report.html").read_text()
    first, both = saved
    assert 0 < len(first) < len(both)
    assert both[: len(first)] == first
