"""Training on real Ray workers: the curve of one process, resumed where it stopped, logged to MLflow."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipelines.train import config_paths, main, train
from pipelines.training.config import TrainRunConfig
from rwsa.audio import round_to_int16, write_audio
from rwsa.config import read_config
from rwsa.errors import InputError
from rwsa.files import read_json
from tests.train_verb import (
    RATE_HZ,
    TINY,
    loss_curve,
    run_config,
    settings_of,
    start_training,
    wait_for_step,
    write_tone_shards,
)

pytestmark = pytest.mark.usefixtures("ray_address")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_shards(tmp_path_factory.mktemp("shards"))


def test_ray_workers_give_the_curve_of_one_process_and_each_resumes_the_other(
    shards: Path, tmp_path: Path
) -> None:
    """Two workers, then one process, then two workers, against one process throughout."""
    alone = loss_curve(tmp_path / "alone", train(run_config(shards, tmp_path / "alone", steps=4)).run_id)
    root = tmp_path / "ray"
    runs = [
        train(run_config(shards, root, steps=steps), workers=workers).run_id
        for steps, workers in ((2, 2), (3, 0), (4, 2))
    ]
    assert len(set(runs)) == 1
    curve = loss_curve(root, runs[0])
    assert sorted(curve) == sorted(alone) == [1, 2, 3, 4]
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        for split in ("train", "valid"):
            wav = round_to_int16(0.1 * rng.standard_normal(RATE_HZ).astype(np.float32))
            write_audio(tmp_path / kind / split / f"{split}-{kind}.wav", wav, RATE_HZ)
    (tmp_path / "card.yaml").write_text(CARD)
    (tmp_path / "mix.yaml").write_text(MIX)
    monkeypatch.chdir(tmp_path)  # card and roots are relative to here, and Ray's workers run elsewhere
    curves = []
    for name, workers in (("alone", 0), ("ray", 2)):
        root = tmp_path / name
        settings = [*TINY, f"name={name}", "max_steps=4", "checkpoint_every_steps=4", f"storage.root={root}"]
        # AdamW's first steps are as long for gradients of rounding; small ones let the curve show the data.
        settings += [f"storage.tracking_uri=sqlite:///{root}/mlflow.db", "optimiser.learning_rate=1e-5"]
        config = read_config(TrainRunConfig, [*config_paths(["base"]), tmp_path / "mix.yaml"], settings)
        curve = loss_curve(root, train(config, workers=workers).run_id)
        assert sorted(curve) == [1, 2, 3, 4]
        curves.append(torch.tensor([curve[step] for step in sorted(curve)]))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=0)


@pytest.mark.full
def test_a_signal_saves_and_the_same_command_resumes(shards: Path, tmp_path: Path, ray_address: str) -> None:
    """SIGTERM to one command and SIGINT to another, which run side by side with a worker each."""
    settings = {
        number: settings_of(shards, tmp_path / number.name, "checkpoint_every_steps=100000")
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    joining = {"RAY_ADDRESS": ray_address, "RWSA_SHARED_CHECKOUT": "1"}
    children = {
        number: start_training(1, [*each, "max_steps=100000"], **joining) for number, each in settings.items()
    }
    for number, child in children.items():
        with child:
            assert "loss" in wait_for_step(child, 1)
            child.send_signal(number)
            _, errors = child.communicate(timeout=200)
        assert child.returncode == 128 + number
        assert "the same command resumes" in errors
    for number, each in settings.items():
        (saved,) = (tmp_path / number.name).rglob("state.json")
        reached = read_json(saved)["step"]
        assert main(["base", "--workers", "1", "--set", *each, f"max_steps={reached + 1}"]) == 0
        client = MlflowClient(f"sqlite:///{tmp_path / number.name}/mlflow.db")
        (run,) = client.search_runs(["1"])
        assert run.info.status == "FINISHED"
        # Each step once: the resumed command took one step and none again.
        logged = client.get_metric_history(run.info.run_id, "loss/total")
        assert sorted(point.step for point in logged) == list(range(1, reached + 2))


def test_more_workers_than_the_machine_has_are_refused_at_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        InputError, match=r"--workers 3: requires 3 CPUs, and Ray has 2 on this machine; use fewer"
    ):
        train(run_config(shards, tmp_path, steps=1), workers=3)
    with pytest.raises(InputError, match=r"--workers 1: requires 1 GPUs, and Ray has 0 on this machine"):
        train(run_config(shards, tmp_path, steps=1), workers=1, gpu=True)
