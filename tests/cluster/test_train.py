"""Training on real Ray workers: the same curve as alone, resumed where it stopped, logged to MLflow."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import commit
from pipelines.train import _publish, config_paths, main, train
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import exclusive_lock
from rwsa.audio import read_audio, round_to_int16, write_audio
from rwsa.config import read_config
from rwsa.errors import InputError, PreemptedError
from rwsa.files import location, read_json
from rwsa.models import load_model
from rwsa.models.weights import read_weights
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from rwsa.training.context import StopSignal
from tests.object_store import environment, served

RATE = 16000
TINY = [
    "model={channels: 8, blocks: 1, d_state: 4, expand: 2, heads: 2, middle_heads: 2, segment_frames: 16}",
    "loss_weights.metric=0",
    "best_metric=si_sdr",
    "global_batch_size=2",
    "log_every_steps=1",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy tones, eight to train on and four to validate on."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("valid", 4)):
        write_shard(
            folder, split, 0, [_example(rng, f"{split}-{i}") for i in range(count)], sample_rate_hz=RATE
        )
    merge_index(folder)
    return folder


def _example(rng: np.random.Generator, name: str) -> Example:
    time_s = np.arange(4000) / RATE
    clean = 0.2 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
    noisy = clean + 0.05 * rng.standard_normal(len(time_s))
    return Example(
        example_id=name,
        noisy=round_to_int16(noisy.astype(np.float32)),
        clean=round_to_int16(clean.astype(np.float32)),
        sample_rate_hz=RATE,
        meta={},
    )


def _config(shards: Path, root: Path, *, steps: int, name: str = "tiny") -> TrainRunConfig:
    settings = [
        *TINY,
        f"name={name}",
        f"max_steps={steps}",
        "checkpoint_every_steps=2",
        f"data.shards={shards}",
        f"storage.root={root}",
        f"storage.tracking_uri=sqlite:///{root}/mlflow.db",
    ]
    return read_config(TrainRunConfig, config_paths(["base"]), settings)


def _curve(root: Path, run_id: str, name: str = "loss/total") -> dict[int, float]:
    history = MlflowClient(f"sqlite:///{root}/mlflow.db").get_metric_history(run_id, name)
    return {point.step: point.value for point in history}


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The loss curve of four steps in this process."""
    root = tmp_path_factory.mktemp("alone")
    return _curve(root, train(_config(shards, root, steps=4)).run_id)


def test_alone_logs_every_step_and_leaves_loadable_weights(
    alone: dict[int, float], shards: Path, tmp_path: Path
) -> None:
    assert sorted(alone) == [1, 2, 3, 4]
    summary = train(_config(shards, tmp_path, steps=2))
    assert load_model(summary.weights).config.channels == 8
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.channels"] == "8"
    assert run.data.metrics["valid/clips"] == 4


@pytest.mark.full
@pytest.mark.parametrize(("begun_with", "gone_on_with"), [(2, 2), (0, 2), (2, 0)])
def test_ray_workers_give_the_curve_of_one_process_and_each_goes_on_for_the_other(
    alone: dict[int, float],
    shards: Path,
    tmp_path: Path,
    ray_address: str,
    begun_with: int,
    gone_on_with: int,
) -> None:
    first = train(_config(shards, tmp_path, steps=2), workers=begun_with)
    again = train(_config(shards, tmp_path, steps=4), workers=gone_on_with)
    assert again.run_id == first.run_id
    curve = _curve(tmp_path, again.run_id)
    assert sorted(curve) == [1, 2, 3, 4]
    torch.testing.assert_close(
        torch.tensor([curve[step] for step in sorted(curve)]),
        torch.tensor([alone[step] for step in sorted(alone)]),
        rtol=1e-3,
        atol=0,
    )


MIX = """
data:
  mix:
    card: card.yaml
    recipe: {name: toy, seconds: 0.25, min_speech_seconds: 0.1, min_snr_db: 0, max_snr_db: 10,
             examples: {train: 8, valid: 2}}
    fresh: true
    workers: 1
"""
CARD = """
name: toy
description: Noise in place of speech.
sample_rate_hz: 16000
licence: CC0
speech: [{root: speech, pattern: '(?P<split>[a-z]+)/(?P<speaker>[a-z-]+)[.]wav'}]
noise: [{root: noise, pattern: '(?P<split>[a-z]+)/(?P<recording>[a-z-]+)[.]wav'}]
"""


@pytest.mark.full
def test_two_ray_workers_mix_for_themselves_as_one_process_does(
    tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        for split in ("train", "valid"):
            wav = round_to_int16(0.1 * rng.standard_normal(RATE).astype(np.float32))
            write_audio(tmp_path / kind / split / f"{split}-{kind}.wav", wav, RATE)
    (tmp_path / "card.yaml").write_text(CARD)
    (tmp_path / "mix.yaml").write_text(MIX)
    monkeypatch.chdir(tmp_path)  # card and roots are relative to here, and Ray's workers run elsewhere
    curves = []
    for name, workers in (("alone", 0), ("ray", 2)):
        root = tmp_path / name
        settings = [*TINY, f"name={name}", "max_steps=4", "checkpoint_every_steps=4", f"storage.root={root}"]
        settings.append(f"storage.tracking_uri=sqlite:///{root}/mlflow.db")
        config = read_config(TrainRunConfig, [*config_paths(["base"]), tmp_path / "mix.yaml"], settings)
        curve = _curve(root, train(config, workers=workers).run_id)
        assert sorted(curve) == [1, 2, 3, 4]
        curves.append(torch.tensor([curve[step] for step in sorted(curve)]))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-3, atol=0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("workers", "number"), [("0", signal.SIGTERM), ("1", signal.SIGTERM), ("1", signal.SIGINT)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    shards: Path,
    tmp_path: Path,
    ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
    number: signal.Signals,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setenv("RWSA_SHARED_CHECKOUT", "1")
    settings = [
        *TINY,
        "name=cut",
        f"data.shards={shards}",
        f"storage.root={tmp_path}",
        f"storage.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "checkpoint_every_steps=100000",
    ]
    command = [sys.executable, "-m", "pipelines.train", "base", "--workers", workers, "--set", *settings]
    with subprocess.Popen(
        [*command, "max_steps=100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        first = next(line for line in child.stdout if "step " in line)
        child.send_signal(number)
        _, errors = child.communicate(timeout=200)
    assert "loss" in first
    assert child.returncode == 128 + number
    assert "the same command goes on from there" in errors
    (saved,) = tmp_path.rglob("state.json")
    reached = read_json(saved)["step"]
    done = subprocess.run([*command, f"max_steps={reached + 1}"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"step {reached + 1}/{reached + 1}" in done.stdout
    assert f"step {reached}/" not in done.stdout
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_mlflow_has_each_start_the_audio_and_the_machine(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path, steps=2)
    config = dataclasses.replace(config, audio_every_steps=1, audio_clips=1)
    run_id = train(config).run_id
    train(dataclasses.replace(config, max_steps=3))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    starts = [read_json(path) for path in sorted((folder / "starts").iterdir())]
    assert [start["config"]["max_steps"] for start in starts] == [2, 3]
    assert starts[0]["commit"] == commit()
    assert starts[0]["environment"]["packages"]["torch"] == torch.__version__
    for step in (1, 2, 3):
        names = {path.name for path in (folder / f"validation/step-{step:06d}/valid-0").iterdir()}
        assert names == {"noisy.flac", "enhanced.flac", "clean.flac"}
    assert read_audio(folder / "validation/step-000003/valid-0/enhanced.flac")[0].shape[-1] == 4000
    pictures = [path.name for path in (folder / "images").iterdir() if path.suffix == ".png"]
    assert sum(name.startswith("validation-valid-0") for name in pictures) == 3


def test_a_run_in_a_store_resumes_from_there(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as store:
        for name, value in environment(store.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(InputError, match=r"s3://bucket/results/runs/far/.*make the bucket first"):
            train(
                dataclasses.replace(
                    _config(shards, tmp_path, steps=1), storage=far_storage(tmp_path), name="far"
                )
            )
        location("s3://bucket").mkdir()
        straight = train(_config(shards, tmp_path, steps=4))
        for steps in (2, 4):
            config = _config(shards, tmp_path, steps=steps)
            far = train(dataclasses.replace(config, storage=far_storage(tmp_path), name="far"))
        assert str(far.weights) == "s3://bucket/results/runs/far/model.safetensors"
        (tmp_path / "far.safetensors").write_bytes(far.weights.read_bytes())
    ours, theirs = read_weights(straight.weights), read_weights(tmp_path / "far.safetensors")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def far_storage(root: Path) -> StorageConfig:
    return StorageConfig(root="s3://bucket/results", tracking_uri=f"sqlite:///{root}/mlflow.db")


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"data.shards={shards}", f"storage.root={tmp_path}/out", "name=dry", "max_steps=100"]
    status = main(["base", "--dry-run", "--workers", "2", "--set", *TINY, *places])
    said = capsys.readouterr().out
    assert status == 0
    assert "8 examples in 1 shard, from" in said
    assert "2 segments of 0.11 s over 2 workers, 1 each" in said
    assert "100 steps, 4.0 an epoch, 25.0 epochs" in said
    assert "no discriminator" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_validated_can_be_ended_where_it_is(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(_config(shards, tmp_path, steps=9), checkpoint_every_steps=9)
    stop = StopSignal()
    stop.number = signal.SIGTERM  # it came before the first step
    with pytest.raises(PreemptedError):
        train(config, stop=stop)
    summary = train(dataclasses.replace(config, max_steps=1))
    assert math.isnan(summary.best_score)
    assert load_model(summary.weights).config.channels == 8


def test_damaged_best_weights_are_not_published(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path, steps=2)
    train(config)
    weights = tmp_path / "runs" / "tiny" / "checkpoints" / "step-000002" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"step-000002/generator.safetensors: damaged"):
        _publish(config, tmp_path / "published.safetensors")
    assert not (tmp_path / "published.safetensors").exists()


def test_two_processes_do_not_train_one_run(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path, steps=1)
    with (
        exclusive_lock(tmp_path / "runs" / "tiny"),
        pytest.raises(InputError, match="another process is at work there"),
    ):
        train(config)
    train(config)


@pytest.mark.full
def test_more_workers_than_the_machine_has_are_refused_at_once(
    shards: Path, tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        InputError, match=r"--workers 3: want 3 CPUs, and this machine gives Ray 2; use fewer"
    ):
        train(_config(shards, tmp_path, steps=1), workers=3)
    with pytest.raises(InputError, match=r"--workers 1: want 1 GPUs, and this machine gives Ray 0"):
        train(_config(shards, tmp_path, steps=1), workers=1, gpu=True)


def test_missing_shards_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["base", "nano", "--set", "name=x", f"data.shards={tmp_path}", f"storage.root={tmp_path}"]
    status = main([*arguments, f"storage.tracking_uri=sqlite:///{tmp_path}/mlflow.db"])
    (message,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert message.startswith(f"error: {tmp_path / 'index.json'}: no such index")


def test_unknown_key_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        ["base", "nano", "--print-config", "--set", "name=x", "data.shards=y", "optimiser.lerning_rate=1"]
    )
    assert status == 2
    assert "did you mean 'learning_rate'" in capsys.readouterr().err


def test_unreachable_mlflow_is_one_clear_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["name=x", f"data.shards={shards}", f"storage.root={tmp_path}"]
    status = main(["base", "nano", "--set", *settings, "storage.tracking_uri=http://127.0.0.1:9"])
    message = capsys.readouterr().err
    assert status == 2
    assert "http://127.0.0.1:9 does not answer" in message
