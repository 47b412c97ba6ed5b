"""The workflows in pipelines/workflows on a real Ray, at smoke scale: every step, and what it leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines import starter
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.run import main
from pipelines.training.best_weights import validated
from rwsa.files import read_json, sha256_of
from rwsa.models import load_model
from rwsa.shards.index import read_index

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "pipelines" / "workflows"
pytestmark = [pytest.mark.full, pytest.mark.usefixtures("recordings")]


def arguments(name: str, folder: Path, *options: str) -> list[str]:
    uri = f"storage.tracking_uri=sqlite:///{folder}/mlflow.db"
    return [str(FOLDER / f"{name}.yaml"), "--smoke", "--storage", str(folder), "--set", uri, *options]


def run(name: str, folder: Path) -> Path:
    """Run a workflow at smoke scale; returns the folder of its newest results."""
    assert main(arguments(name, folder)) == 0
    return folder / "latest" / name


def tracker(name: str, folder: Path) -> Tracker:
    uri = f"sqlite:///{folder}/mlflow.db"
    return Tracker(StorageConfig(root=str(folder), tracking_uri=uri, experiment=name))


def corpora(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "evaluate" / "scores.json")["corpora"])


@pytest.mark.usefixtures("ray_address")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run("demo", tmp_path)
    assert list(corpora(results)) == ["libri-esc50", "commands-urban", "voices-ambient"]
    assert load_model(results / "train" / "weights.safetensors").config.channels == 8
    assert "dataset" in (results / "page" / "dataset.html").read_text()
    assert (results / "sweep" / "folder" / "report.html").is_file()
    assert (
        f"rwsa enhance noisy.wav --out enhanced --weights {results}/train/weights" in capsys.readouterr().out
    )
    assert main(arguments("demo", tmp_path)) == 0
    assert "demo: 6 done in " in capsys.readouterr().out
    assert list((results / "enhance" / "enhanced").glob("*.flac"))


def test_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With prompts that are noise; `test_starter.py` downloads the real ones."""
    monkeypatch.setattr(starter, "_NOISE_SECONDS", 1)
    rng = np.random.default_rng(0)
    for voice in (
        "en_US_f_Allison",
        "es_MX_f_Allison",
        "fr_CA_f_June",
        "it_IT_m_Carlo",
        "ru_RU_f_IvrvoiceRU",
    ):
        for name, seconds in (("vm-intro", 3.0), ("digits/7", 0.5)):
            path = tmp_path / "sounds" / voice / f"{name}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.bytes(int(8000 * seconds)))
    starter.build_starter(tmp_path / "sounds", tmp_path / "starter")
    # A process and a Ray of its own, whose workers have the variable too.
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RWSA_STARTER"] = str(tmp_path / "starter")
    command = [sys.executable, "-m", "pipelines.run", *arguments("starter", tmp_path)]
    result = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = corpora(tmp_path / "latest" / "starter")
    assert list(found) == ["starter", "starter-languages", "starter-noises"]
    assert all({"noisy", "starter"} <= set(one) for one in found.values())


@pytest.mark.usefixtures("ray_address")
def test_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run("paper", tmp_path)
    finding = read_json(results / "verify" / "report.json")["sections"][0]["findings"][-1]
    assert (finding["check"], finding["severity"]) == ("published", "ok")
    assert set(corpora(results)["smoke-vbdmd"]) == {"clips", "noisy", "nano 1", "nano 2"}
    assert sum(read_index(results / "import" / "shards", "train").shard_sizes) == 14
    weights = [validated(path.resolve()) for path in sorted(results.glob("train-*/weights.safetensors"))]
    best = max(weights, key=lambda one: one.score)
    client = tracker("paper", tmp_path).client
    for name in ("rwsa-smoke", "rwsa-smoke-nano"):
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert version.tags["weights_sha256"] == sha256_of(best.weights)


@pytest.mark.usefixtures("ray_address")
def test_paper_refuses_a_copy_with_another_noisy_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = yaml.safe_load((FOLDER / "smoke" / "vbdmd.yaml").read_text())
    card["noisy_row"]["pesq"] += 0.01
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    options = ["--set", f"corpus={tmp_path}/card.yaml", "--until", "train"]
    assert main(arguments("paper", tmp_path, *options)) == 1
    shown = capsys.readouterr().out
    assert re.search(
        r"^verify: failed .*; published: not the published corpus: PESQ 2\.02\d", shown, re.MULTILINE
    )
    assert re.search(r"^train-nano-0 +waiting +needs verify", shown, re.MULTILINE)


@pytest.mark.usefixtures("ray_address")
def test_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run("ablation", tmp_path)
    gap = read_json(results / "domain-gap" / "domain_gap" / "domain_gap.json")
    assert [one["name"] for one in gap["corpora"]] == ["libri-esc50", "commands-urban"]
    page = (results / "trade-off" / "trade-off.html").read_text()
    assert "libri-esc50" in page
    assert "commands-urban" in page


@pytest.mark.usefixtures("ray_address")
def test_generalise(tmp_path: Path) -> None:
    results = run("generalise", tmp_path)
    scores = read_json(results / "evaluate" / "scores.json")
    assert scores["trained_on"] == {"nano libri_nature": "libri-nature", "nano libri_city": "libri-city"}
    systems = {"nano libri_nature", "nano libri_city"}
    assert {name: systems & set(one) for name, one in scores["corpora"].items()} == {
        "libri-nature": systems, "libri-city": systems,
    }  # fmt: skip
    found = tracker("generalise", tmp_path)
    children = found.client.search_runs([found.experiment_id], "tags.`rwsa.domain` = 'in'")
    assert {(run.data.tags["rwsa.system"], run.data.tags["rwsa.corpus"]) for run in children} == {
        ("nano libri_nature", "libri-nature"), ("nano libri_city", "libri-city"),
    }  # fmt: skip


@pytest.mark.usefixtures("ray_address")
def test_at_scale(tmp_path: Path) -> None:
    results = run("at-scale", tmp_path)
    index = read_index(results / "mix" / "shards", "train")
    assert index.shard_sizes == (4, 4, 4, 4)
    assert read_json(results / "check" / "report.json")["errors"] == 0
    assert (results / "page" / "dataset.html").is_file()
