"""Sweeps on real Ray Tune: MLflow runs, failed trials, schedulers, Optuna, interruptions, lost processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import yaml
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from rwsa.audio import round_to_int16
from rwsa.config import as_mapping, build, merge
from rwsa.errors import InputError
from rwsa.files import exclusive_lock
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from tune.report import main as report_main
from tune.sweep import SweepSummary, sweep
from tune.sweep_config import SweepConfig
from tune.trial_results import ResultFolder, TrialResult

pytestmark = [pytest.mark.usefixtures("ray_address"), pytest.mark.full]
RATE_HZ = 16000
CARD = """
name: pairs
description: Tones in noise.
sample_rate_hz: 16000
licence: CC0
pairs:
  - {{root: {root}, clean: 'clean/(?P<pair>\\w+)\\.wav', noisy: 'noisy/(?P<pair>\\w+)\\.wav', split: test}}
"""
TINY = {
    "channels": 8,
    "blocks": 1,
    "d_state": 4,
    "expand": 2,
    "heads": 2,
    "middle_heads": 2,
    "segment_frames": 16,
}


def _pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    clean = 0.2 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
    noisy = clean + 0.05 * rng.standard_normal(len(time_s))
    return round_to_int16(noisy.astype(np.float32)), round_to_int16(clean.astype(np.float32))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with four examples per split, and a corpus of one pair."""
    tmp_path = tmp_path_factory.mktemp("sweeps")
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        pairs = [_pair(rng) for _ in range(4)]
        examples = [
            Example(example_id=f"{split}-{i}", noisy=noisy, clean=clean, sample_rate_hz=RATE_HZ, meta={})
            for i, (noisy, clean) in enumerate(pairs)
        ]
        write_shard(tmp_path / "shards", split, 0, examples, sample_rate_hz=RATE_HZ)
    merge_index(tmp_path / "shards")
    for kind, wav in zip(("noisy", "clean"), _pair(rng), strict=True):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "one.wav", wav, RATE_HZ)
    (tmp_path / "card.yaml").write_text(CARD.format(root=tmp_path))
    return tmp_path


def _config(data: Path, name: str, **changes: Any) -> SweepConfig:
    values = {
        "name": name,
        "question": "Does it work?",
        "base": ["base"],
        "set": {
            "model": TINY,
            "loss_weights": {"metric": 0},
            "global_batch_size": 2,
            "max_steps": 2,
            "checkpoint_every_steps": 1,
            "audio_clips": 0,
            "data": {"shards": str(data / "shards")},
            "storage": {"root": str(data), "tracking_uri": f"sqlite:///{data}/mlflow.db"},
        },
        "corpora": [str(data / "card.yaml")],
        "audio_clips": 0,
        "metric": "si_sdr",
        "workers": 0,
    }
    return build(SweepConfig, merge(values, changes), where=name)


def _reproducible(rows: list[TrialResult]) -> list[Any]:
    """Results without values that differ between any two runs."""
    return [
        dataclasses.replace(row, seconds=0, evaluation_seconds=0, run_id=None, weights=None) for row in rows
    ]


def _finished(summary: SweepSummary) -> list[TrialResult]:
    return [row for row in summary.results if row.status == "finished"]


def test_trials_are_child_runs_failures_are_results_and_nothing_runs_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "good": {},
        "without data": {"data": {"valid": "test"}},  # no split has this name
        "diverging": {"optimiser": {"learning_rate": 1e30}},
        "too large": {"model": {"channels": 4_000_000}},
    }
    config = _config(data, "tiny", axes={"case": {"named": cases}})
    summary = sweep(config)
    finished, without_data, diverging, too_large = summary.results
    assert [row.status for row in summary.results] == ["finished", "failed", "failed", "failed"]
    assert "no split 'test'" in (without_data.reason or "")
    assert "NaN or infinite" in (diverging.reason or "")
    assert "out of memory; let each worker take" in (too_large.reason or "")
    assert [step for step, _ in finished.reports] == [1, 2]
    assert finished.parameters is not None

    client = MlflowClient(f"sqlite:///{data}/mlflow.db")
    child, parent = client.get_run(finished.run_id), client.get_run(summary.run_id)
    assert child.data.tags[MLFLOW_PARENT_RUN_ID] == summary.run_id
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.params["axis.case"] == "good"
    assert child.data.metrics["pairs.si_sdr"] == finished.means["pairs"]["enhanced"]["si_sdr"]
    assert "highest SI-SDR on the only corpus" in parent.data.tags["rwsa.rule"]
    assert parent.data.metrics["trials.failed"] == 3
    assert {one.path for one in client.list_artifacts(summary.run_id)} == {
        "report.html",
        "sweep.json",
        "trials.json",
    }
    assert "Does it work?" in summary.page.read_text()

    again = sweep(config)
    assert again.run_id == summary.run_id
    assert again.results == summary.results
    once_more = sweep(config, retry_failed=True)
    assert once_more.results[0] == finished
    assert [row.reason for row in once_more.results] == [row.reason for row in summary.results]

    settings = ["--set", f"storage.tracking_uri=sqlite:///{data}/mlflow.db", f"storage.root={data}"]
    assert report_main([summary.run_id, "--out", str(tmp_path / "report"), *settings]) == 0
    assert str(tmp_path / "report" / "report.html") in capsys.readouterr().out
    assert "Does it work?" in (tmp_path / "report" / "report.html").read_text()
    assert report_main(["nothing", *settings]) == 2
    assert "has no sweep of this id" in capsys.readouterr().err


def test_another_corpus_is_evaluated_without_training_again(data: Path) -> None:
    axes = {"seed": {"values": [3]}}
    (before,) = sweep(_config(data, "again", axes=axes)).results
    card = data / "other.yaml"
    card.write_text((data / "card.yaml").read_text().replace("name: pairs", "name: others"))
    (after,) = sweep(_config(data, "again", axes=axes, corpora=[str(data / "card.yaml"), str(card)])).results
    assert list(after.means) == ["pairs", "others"]
    assert (after.seconds, after.reports) == (before.seconds, before.reports)


def test_asha_stops_bad_trials_and_a_second_start_stops_them_again(data: Path) -> None:
    # With a learning rate near zero the scores stay those of the initial weights: -19, -26 and -27 dB.
    config = _config(
        data,
        "early",
        axes={"optimiser.learning_rate": {"values": [1e-12]}},
        seeds=[0, 1, 2],
        scheduler={"kind": "asha", "grace_steps": 1, "reduction_factor": 2},
        concurrent_trials=1,
        set={"max_steps": 4},
    )
    summary = sweep(config)
    assert [(row.status, row.step) for row in summary.results] == [
        ("finished", 4),
        ("stopped", 1),
        ("stopped", 1),
    ]
    stopped = summary.results[1:]
    assert all(row.reason == "early, by asha" and not row.means for row in stopped)
    assert summary.report.configurations[0].in_domain is not None
    assert summary.report.configurations[0].in_domain.runs == 1
    # If the driver had been lost after the first trial, the others would give the same results.
    files = ResultFolder(data / "sweeps" / "early")
    files.delete_result(stopped[-1].trial)
    assert _reproducible(sweep(config).results) == _reproducible(summary.results)


def test_optuna_chooses_points_and_a_second_start_reuses_them(data: Path) -> None:
    config = _config(
        data,
        "chosen",
        axes={"optimiser.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        search={"kind": "optuna", "trials": 3, "seed": 1},
        concurrent_trials=1,
        set={"max_steps": 1},
    )
    summary = sweep(config)
    rates = [row.point["optimiser.learning_rate"] for row in _finished(summary)]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert sweep(config).results == summary.results


def test_population_based_training_continues_from_the_best_trial(data: Path) -> None:
    config = _config(
        data,
        "population",
        axes={"optimiser.learning_rate": {"log_uniform": [1e-12, 1e-2]}},
        search={"kind": "random", "trials": 2, "seed": 3},
        scheduler={"kind": "pbt", "interval_steps": 2},
        set={"max_steps": 4},
    )
    summary = sweep(config)
    assert [row.status for row in summary.results] == ["finished", "finished"]
    assert all(row.step == 4 for row in summary.results)
    files = ResultFolder(data / "sweeps" / "population")
    initial = {row.trial: row.trial.split("learning_rate_")[1].split("-seed")[0] for row in summary.results}
    now = {row.trial: files.progress(row.trial).point for row in summary.results}
    changed = [name for name in initial if f"{now[name]['optimiser.learning_rate']}" != initial[name]]
    # One of two trials is always the worse; at the last step nothing is exchanged.
    assert len(changed) == 1


def test_trials_train_on_workers_and_report_scores(data: Path) -> None:
    config = _config(data, "workers", axes={"seed": {"values": [0]}}, workers=1)
    (row,) = sweep(config).results
    assert (row.status, row.reason) == ("finished", None)
    assert [step for step, _ in row.reports] == [1, 2]


def test_a_driver_killed_three_times_gives_the_same_results(data: Path) -> None:
    """The command and its Ray are killed (SIGKILL) at random moments; the same command resumes."""
    axes = {"optimiser.learning_rate": {"values": [1e-3, 1e-2]}}
    undisturbed = sweep(_config(data, "undisturbed", axes=axes, set={"max_steps": 4}))
    config = as_mapping(_config(data, "killed", axes=axes, set={"max_steps": 4}))
    path = data / "killed.yaml"
    path.write_text(yaml.safe_dump({**config, "axes": axes, "search": {}, "scheduler": {}}))
    command = [sys.executable, "-m", "tune.sweep", str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    rng = np.random.default_rng(5)
    files = ResultFolder(data / "sweeps" / "killed")
    for _ in range(3):
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen = len(_saved(files))
        assert _within(120, lambda seen=seen: len(_saved(files)) > seen), "the sweep resumes each time"
        time.sleep(float(rng.uniform(0, 2)))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [
        dataclasses.replace(row, trial=row.trial.replace("killed", "undisturbed").rsplit("-", 1)[0])
        for name in files.trial_names()
        if (row := files.result(name)) is not None
    ]
    expected = [
        dataclasses.replace(row, trial=row.trial.rsplit("-", 1)[0])
        for row in sorted(undisturbed.results, key=lambda row: row.trial)
    ]
    assert _reproducible(rows) == _reproducible(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_sweep_reports_finished_trials(data: Path, number: signal.Signals) -> None:
    name = f"ended-{number.value}"
    axes = {"seed": {"values": [0, 1]}}
    config = as_mapping(_config(data, name, axes=axes, set={"max_steps": 500}))
    path = data / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "axes": axes, "search": {}, "scheduler": {}}))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tune.sweep", str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert _within(120, lambda: bool(_saved(ResultFolder(data / "sweeps" / name))))
    process.send_signal(number)
    assert process.wait(timeout=90) == 128 + number
    page = (data / "sweeps" / name / "report.html").read_text()
    assert "2 waiting" in page
    assert "interrupted after step" in page


def _saved(files: ResultFolder) -> list[tuple[str, int]]:
    return [(name, step) for name in files.trial_names() for step, _ in files.progress(name).reports]


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("workers", "process"), [(0, "ray::ImplicitFunc"), (1, "ray::RayTrainWorker")])
def test_a_trial_resumes_when_its_process_or_worker_is_killed(data: Path, workers: int, process: str) -> None:
    name = f"lost-{workers}"
    config = _config(data, name, axes={"seed": {"values": [0]}}, workers=workers, set={"max_steps": 15})
    killed: list[int] = []

    def kill() -> None:
        if _within(60, lambda: bool(_saved(ResultFolder(data / "sweeps" / name)))):
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
    config = as_mapping(
        _config(data, "budget", axes=axes, set={"max_steps": 100_000}, budget_hours=25 / 3600)
    )
    path = data / "budget.yaml"
    path.write_text(yaml.safe_dump({**config, "axes": axes, "search": {}, "scheduler": {}}))
    # In a separate process: Ray Tune 2.60 leaves files open when its time budget ends.
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    saved = []
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "tune.sweep", str(path)], env=environment, check=True)
        saved.append(_saved(ResultFolder(data / "sweeps" / "budget")))
        assert "1 waiting" in (data / "sweeps" / "budget" / "report.html").read_text()
    first, both = saved
    assert 0 < len(first) < len(both)
    assert both[: len(first)] == first


def test_two_drivers_of_one_sweep_are_refused(data: Path) -> None:
    config = _config(data, "busy", axes={"seed": {"values": [0]}})
    with (
        exclusive_lock(data / "sweeps" / "busy"),
        pytest.raises(InputError, match="another process is using it"),
    ):
        sweep(config)
