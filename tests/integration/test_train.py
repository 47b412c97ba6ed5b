"""Training in one process, logged to MLflow: what it leaves, resuming, storage over S3, wrong input."""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path

import mlflow.data
import pytest
import torch
from mlflow import MlflowClient

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import commit
from pipelines.train import _publish, main, train
from rwsa.audio import read_audio
from rwsa.errors import InputError, PreemptedError
from rwsa.files import location, read_json, sha256_of
from rwsa.lease import exclusive_lock
from rwsa.models import load_model
from rwsa.models.weights import read_weights
from rwsa.shards.index import index_sha256
from rwsa.training.context import StopSignal
from tests.object_store import environment, served
from tests.train_verb import (
    TINY,
    loss_curve,
    run_config,
    settings_of,
    start_training,
    wait_for_step,
    write_tone_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_shards(tmp_path_factory.mktemp("shards"))


def test_it_logs_every_step_and_leaves_loadable_weights(shards: Path, tmp_path: Path) -> None:
    summary = train(run_config(shards, tmp_path, steps=4))
    assert sorted(loss_curve(tmp_path, summary.run_id)) == [1, 2, 3, 4]
    assert load_model(summary.weights).config.channels == 8
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.channels"] == "8"
    # By these a registered model leads back to the shards.
    assert run.data.params["index_sha256"] == index_sha256(shards)
    assert run.data.tags["weights_sha256"] == sha256_of(summary.weights)
    assert run.data.metrics["valid/clips"] == 4
    assert (run.info.run_name, run.data.tags["rwsa.kind"]) == (
        "train custom on unnamed data (tiny)",
        "training",
    )
    digest = index_sha256(shards)[:16]
    used = {one.dataset.name: (one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs}
    assert used == {"unnamed train": (digest, "training"), "unnamed valid": (digest, "validation")}
    source = mlflow.data.get_source(run.inputs.dataset_inputs[0].dataset)
    assert source.load() == str(shards)
    (made,) = run.outputs.model_outputs
    model = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_logged_model(made.model_id)
    assert (model.status, model.tags["weights_sha256"]) == ("READY", sha256_of(summary.weights))
    (score,) = model.metrics
    assert (score.value, score.dataset_name) == (summary.best_score, "unnamed valid")
    files = Path(model.artifact_location.removeprefix("file://"))
    assert sha256_of(files / "artifacts/model.safetensors") == sha256_of(summary.weights)


def test_sigterm_saves_and_the_same_command_resumes(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(shards, tmp_path, "checkpoint_every_steps=100000")
    with start_training(0, [*settings, "max_steps=100000"]) as child:
        assert "loss" in wait_for_step(child, 1)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=200)
    assert child.returncode == 128 + signal.SIGTERM
    assert "the same command resumes" in errors
    (saved,) = tmp_path.rglob("state.json")
    reached = read_json(saved)["step"]
    assert main(["base", "--workers", "0", "--set", *settings, f"max_steps={reached + 1}"]) == 0
    printed = capsys.readouterr().out
    assert f"step {reached + 1}/{reached + 1}" in printed
    assert f"step {reached}/" not in printed
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_mlflow_has_each_start_the_audio_and_the_machine(shards: Path, tmp_path: Path) -> None:
    config = run_config(shards, tmp_path, steps=2)
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
        with pytest.raises(InputError, match=r"s3://bucket/results/runs/far/.*create the bucket first"):
            train(
                dataclasses.replace(
                    run_config(shards, tmp_path, steps=1), storage=far_storage(tmp_path), name="far"
                )
            )
        location("s3://bucket").mkdir()
        straight = train(run_config(shards, tmp_path, steps=4))
        for steps in (2, 4):
            config = run_config(shards, tmp_path, steps=steps)
            far = train(dataclasses.replace(config, storage=far_storage(tmp_path), name="far"))
        assert str(far.weights) == "s3://bucket/results/runs/far/model.safetensors"
        (tmp_path / "far.safetensors").write_bytes(far.weights.read_bytes())
    ours, theirs = read_weights(straight.weights), read_weights(tmp_path / "far.safetensors")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def far_storage(root: Path) -> StorageConfig:
    return StorageConfig(root="s3://bucket/results", tracking_uri=f"sqlite:///{root}/mlflow.db")


def test_a_dry_run_reports_its_cost_and_writes_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"data.shards={shards}", f"storage.root={tmp_path}/out", "name=dry", "max_steps=100"]
    status = main(["base", "--dry-run", "--workers", "2", "--set", *TINY, *places])
    output = capsys.readouterr().out
    assert status == 0
    assert "8 examples in 1 shard, from" in output
    assert "2 segments of 0.11 s over 2 workers, 1 each" in output
    assert "100 steps, 4.0 per epoch, 25.0 epochs" in output
    assert "no discriminator" in output
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_validated_can_be_ended_where_it_is(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(run_config(shards, tmp_path, steps=9), checkpoint_every_steps=9)
    stop = StopSignal()
    stop.number = signal.SIGTERM  # it came before the first step
    with pytest.raises(PreemptedError):
        train(config, stop=stop)
    summary = train(dataclasses.replace(config, max_steps=1))
    assert math.isnan(summary.best_score)
    assert load_model(summary.weights).config.channels == 8


def test_damaged_best_weights_are_not_published(shards: Path, tmp_path: Path) -> None:
    config = run_config(shards, tmp_path, steps=2)
    train(config)
    weights = tmp_path / "runs" / "tiny" / "checkpoints" / "step-000002" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"step-000002/generator.safetensors: damaged"):
        _publish(config, tmp_path / "published.safetensors")
    assert not (tmp_path / "published.safetensors").exists()


def test_two_processes_do_not_train_one_run(shards: Path, tmp_path: Path) -> None:
    config = run_config(shards, tmp_path, steps=1)
    with (
        exclusive_lock(tmp_path / "runs" / "tiny"),
        pytest.raises(InputError, match="in use by"),
    ):
        train(config)
    train(config)


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
