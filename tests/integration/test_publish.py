"""Publishing: a real run of a few steps becomes weights, a card and a curve, and nothing else is accepted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.core.storage import StorageConfig
from pipelines.publish import main, publish
from pipelines.register import register
from pipelines.train import config_paths, train
from pipelines.training.config import TrainRunConfig
from rwsa import shipped
from rwsa.config import read_config
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.models import load_model
from rwsa.models.weights import weights_of
from tests.toy_corpus import write_corpus
from tests.train_verb import TINY

# Corpora of the peers among them, so that the card has that table.
CORPORA = {"toy": 12, "pairs-vbdmd": 34, "pairs-dns2020": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("publish")
    write_corpus(root)
    return root


@pytest.fixture(scope="module")
def storage(root: Path) -> StorageConfig:
    return StorageConfig(root=str(root / "outputs"), tracking_uri=f"sqlite:///{root}/mlflow.db")


@pytest.fixture(scope="module")
def weights(root: Path, storage: StorageConfig) -> Path:
    """Four steps on the toy corpus, with a learning rate of its own."""
    settings = [
        *TINY,
        "name=toy",
        "max_steps=4",
        "checkpoint_every_steps=2",
        "optimiser.learning_rate=0.002",
        "data={valid_examples: 2, mix: {workers: 0}}",
        f"data.mix.card={root}/card.yaml",
        f"data.mix.recipe={root}/recipe.yaml",
        f"storage.root={storage.root}",
        f"storage.tracking_uri={storage.tracking_uri}",
    ]
    return Path(str(train(read_config(TrainRunConfig, config_paths(["base"]), settings)).weights))


@pytest.fixture(scope="module")
def scores(root: Path, weights: Path) -> Path:
    return write_scores(root / "scores.json", sha256_of(weights))


def write_scores(path: Path, sha256: str) -> Path:
    """What `pipelines.evaluate --json` writes, with made-up scores."""
    rows = {
        "noisy": {"pesq": 1.2, "ssnr": 1.0, "estoi": 0.6, "si_sdr": 3.0},
        "enhanced": {"pesq": 1.5, "ssnr": 4.0, "estoi": 0.55, "si_sdr": 8.0},
    }
    interval = {metric: [0.5, 9.0] for metric in rows["noisy"]}
    values = {
        "corpora": {corpus: {"clips": clips, **rows} for corpus, clips in CORPORA.items()},
        "intervals": {
            corpus: {system: interval if corpus == "toy" else {} for system in rows} for corpus in CORPORA
        },
        "units": dict.fromkeys(CORPORA, "95% intervals by bootstrap over 5 speakers"),
        "weights": {"enhanced": sha256},
    }
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def published(root: Path, weights: Path, scores: Path, storage: StorageConfig) -> Path:
    arguments = ["--weights", str(weights), "--name", "rwsa-toy", "--scores", str(scores), "--default"]
    settings = [f"storage.{name}={value}" for name, value in vars(storage).items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.publishing.scores._CLIP_SECONDS", 1)  # instead of ten
        assert main([*arguments, "--out", str(root / "package"), "--set", *settings]) == 0
    return root / "package" / "rwsa-toy.safetensors"


def test_the_published_weights_are_those_of_the_run_and_describe_themselves(
    published: Path, weights: Path
) -> None:
    assert sorted(path.name for path in published.parent.iterdir()) == [
        "default.txt", "rwsa-toy.md", "rwsa-toy.safetensors", "rwsa-toy.svg",
    ]  # fmt: skip
    ours, theirs = weights_of(load_model(published)), weights_of(load_model(weights))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    facts = shipped.about(published)
    assert facts["run_sha256"] == sha256_of(weights)
    assert (facts["licence"], facts["corpus"], facts["steps"], facts["seed"]) == ("cc-by-4.0", "toy", 4, 0)
    assert facts["scores"]["toy"]["enhanced"]["si_sdr"] == [8.0, 0.5, 9.0]
    assert facts["scores"]["pairs-dns2020"]["noisy"]["pesq"] == [1.2]
    assert facts["core_hours"] >= 0
    assert facts["real_time_factor"] > 0
    lines = "\n".join(shipped.description(published))
    assert "licence cc-by-4.0 · trained on toy · 4 steps" in lines
    assert "PESQ 1.20 → 1.50 · SSNR 1.0 → 4.0 · ESTOI 0.600 → 0.550 · SI-SDR 3.0 → 8.0" in lines


def test_the_card_says_what_was_measured(published: Path, weights: Path) -> None:
    text = published.with_suffix(".md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    about: dict[str, Any] = yaml.safe_load(header)
    assert (about["license"], about["datasets"]) == ("cc-by-4.0", ["toy"])
    assert about["metrics"] == ["pesq", "ssnr", "estoi", "si_sdr"]
    results = about["model-index"][0]["results"]
    assert [one["dataset"]["name"] for one in results] == list(CORPORA)
    assert {"type": "pesq", "name": "PESQ (MOS)", "value": 1.5} in results[0]["metrics"]
    assert "| toy | 12 | noisy | 1.200 [0.500, 9.000] |" in body
    assert "| GTCRN | 24 k | DNS3 | 2.530 / 9.00 / 0.838 / 15.34 | 2.000 / 8.14 / 0.813 / 13.12 |" in body
    assert "| FastEnhancer M | 492 k | VoiceBank+DEMAND | – / – / – / – | 1.710 / 7.99" in body
    assert "| **rwsa-toy** | " in body
    assert f"`{sha256_of(weights)}`" in body
    assert f"`{sha256_of(published)}`" in body
    assert "- On toy enhancing lowers ESTOI (0.600 → 0.550)." in body
    assert "- pairs-dns2020: fewer than 10 clips" in body
    assert "| speech | CC0 | " in body
    assert "All training data allow commercial use" in body
    assert "![Validation score by step](rwsa-toy.svg)" in body
    assert published.with_suffix(".svg").read_bytes().startswith(b"<?xml")


def test_the_command_of_the_card_gives_the_run_s_settings(published: Path, root: Path) -> None:
    command = shlex.split(shipped.about(published)["command"])
    assert command[:5] == ["python", "-m", "pipelines.train", "base", "--set"]
    settings = [*command[5:], f"data.mix.card={root}/card.yaml", f"data.mix.recipe={root}/recipe.yaml"]
    config = read_config(TrainRunConfig, config_paths(["base"]), settings)
    assert (config.name, config.max_steps, config.model.segment_frames) == ("toy", 4, 16)
    assert config.optimiser.learning_rate == 0.002
    assert str(root) not in " ".join(command), "no path of the machine that trained"


def test_a_registered_version_of_published_weights_leads_back_to_their_run(
    published: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.core.tracking import Tracker

    monkeypatch.setattr(shipped, "FOLDER", published.parent)
    registered = register(Path("rwsa-toy"), storage=storage)
    assert registered.name == "rwsa-toy"
    tags = Tracker(storage).client.get_model_version(registered.name, registered.version).tags
    assert tags["licence"] == "cc-by-4.0"
    assert "toy" in tags["training_name"]
    assert tags["weights_sha256"] == sha256_of(published)


def test_what_cannot_be_published_is_one_error_and_writes_nothing(
    root: Path, weights: Path, scores: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, overlays = root / "none", config_paths(["base"])

    def refused(match: str, file: Path = weights, name: str = "toy", scored: Path = scores) -> None:
        with pytest.raises(InputError, match=match):
            publish(file, name, out=out, scores=[scored], overlays=overlays, storage=storage)
        assert not out.exists()

    refused("--name 'nano': give up to 40 of", name="nano")
    refused("has no scores of these weights", scored=write_scores(root / "other.json", "0" * 64))
    (root / "old.json").write_text('{"corpora": {"toy": {"clips": 1, "noisy": {"pesq": 1.0}}}}')
    refused("holds no scores with intervals; write it with", scored=root / "old.json")
    (root / "alone.safetensors").write_bytes(weights.read_bytes())
    refused("has no checkpoints beside it", file=root / "alone.safetensors")
    monkeypatch.setattr("pipelines.publish.MAX_BYTES", 1000)
    refused("and the package 0 MB at most; remove other weights")
