"""The dataset report shows the complete contents of the shards, and has no scripts."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.dataset_page import log_page, main, write_page
from pipelines.inspection.dataset_facts import environments, read_dataset_facts
from rwsa.audio import round_to_int16
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.mixing.recipes import Recipe, recipe_hash
from rwsa.shards import Example, write_shard
from rwsa.shards.index import Failure, merge_index
from tests.parsed_page import HOSTILE, check_escaped

RATE_HZ = 16000
RECIPE = Recipe(name="made", seconds=1.0, min_snr_db=-5.0, max_snr_db=10.0, examples={"train": 30})


def example(split: str, number: int, **meta: Any) -> Example:
    rng = np.random.default_rng(number)
    clean = np.sin(2 * np.pi * (200 + 40 * number) * np.arange(RATE_HZ) / RATE_HZ) * 0.1
    noisy = clean + rng.normal(scale=0.02, size=RATE_HZ)
    known = {
        "speech": f"corpus/{split}/speech-{number % 7}",
        "speech_licence": "CC BY 4.0",
        "noise": f"corpus/{split}/noise-{number % 3}",
        "noise_licence": "CC BY-NC 3.0" if number % 3 else HOSTILE,
        "speaker": f"{split}-speaker-{number % 4}",
        "environment": ("café", "street", HOSTILE)[number % 3],
        "snr_db": float((7 * number) % 30) / 2 - 5,
        "peak_gain_db": -1.5 if number % 10 == 0 else 0.0,
        "degradations": [{"of": "mixture", "name": "Clip"}] if number % 5 == 0 else [],
    }
    return Example(
        example_id=f"made-{split}-{number:07d}",
        noisy=round_to_int16(noisy.astype(np.float32)),
        clean=round_to_int16(clean.astype(np.float32)),
        sample_rate_hz=RATE_HZ,
        meta={**known, **meta},
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "shards & more"
    kept = {"sample_rate_hz": RATE_HZ, "corpus": "corpus", "recipe_hash": recipe_hash(RECIPE)}
    failure = Failure(example_id="made-train-0000030", reason=f"{HOSTILE}.wav: silent")
    for number in range(3):
        items = [example("train", 10 * number + one) for one in range(10)]
        write_shard(folder, "train", number, [*items, *([failure] if number == 2 else [])], **kept)
    write_shard(folder, "valid", 0, [example("valid", one) for one in range(4)], **kept)
    merge_index(folder)
    return folder


@pytest.fixture(scope="module")
def page(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("pages") / "page.html"
    write_page(shards, out, recipe=RECIPE, report=quiet)
    return out.read_text()


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    """Shards that a test may change."""
    return Path(shutil.copytree(shards, tmp_path / "copied"))


def quiet(text: str) -> None:
    """Ignores progress lines."""


def test_facts_count_everything_once(shards: Path) -> None:
    facts = read_dataset_facts(shards)
    train, valid = facts.splits
    assert (train.split, train.examples, train.shards, train.failed, train.speakers) == ("train", 30, 3, 1, 4)
    assert train.hours == pytest.approx(30 / 3600)
    assert facts.examples == 34
    assert facts.index_sha256 == sha256_of(shards / "index.json")
    assert (train.recordings_of("speech"), train.recordings_of("noise"), train.recordings_of("room")) == (
        7,
        3,
        0,
    )
    assert train.source_examples == {
        ("speech", "CC BY 4.0"): 30,
        ("noise", "CC BY-NC 3.0"): 20,
        ("noise", HOSTILE): 10,
    }
    assert train.environment_seconds == {"café": 10.0, "street": 10.0, HOSTILE: 10.0}
    assert train.degraded == {"Clip": 6}
    np.testing.assert_allclose(
        sorted(train.snr_db), sorted(example("train", n).meta["snr_db"] for n in range(30))
    )
    assert valid.examples == 4


def test_several_noises_rooms_and_generated_ones_are_sources_too(tmp_path: Path) -> None:
    noises = [
        {
            "kind": "recording",
            "environment": "street",
            "layers": [
                {"gain_db": 0.0, "parts": [{"clip": "n/1", "licence": "A"}, {"clip": "n/2", "licence": "B"}]}
            ],
            "room": {"clip": "r/1", "licence": "R"},
        },
        {"kind": "babble", "environment": None, "layers": [{"parts": [{"clip": "s/9", "licence": "A"}]}]},
    ]
    meta = {
        "noises": noises,
        "room": {"clip": "r/2", "licence": "R"},
        "more_speech": [{"clip": "s/2", "licence": "S"}],
        "speaker": None,
        "noise": None,
        "snr_db": None,
    }
    write_shard(tmp_path, "train", 0, [example("train", 1, **meta)], sample_rate_hz=RATE_HZ)
    merge_index(tmp_path)
    (train,) = read_dataset_facts(tmp_path).splits
    assert environments(meta) == ["street", "babble"]
    assert {role: train.recordings_of(role) for role in ("speech", "noise", "room")} == {
        "speech": 2,
        "noise": 3,
        "room": 2,
    }
    assert train.source_examples["room", "R"] == 1
    assert train.speakers == 0
    write_page(tmp_path, tmp_path / "page.html", report=quiet)
    page = (tmp_path / "page.html").read_text()
    assert "SNR unknown" in page
    assert "not named" in page


def test_page_describes_the_shards(shards: Path, page: str) -> None:
    for text in (
        sha256_of(shards / "index.json"),
        recipe_hash(RECIPE),
        "max_snr_db: 10.0",
        "made-train-0000030",
        "1 of 35 examples failed",
        '<th scope="row">train</th><td>0.008</td><td>30</td><td>1</td><td>3</td>',
        '<th scope="row">CC BY 4.0</th><td>speech</td><td>30</td><td>7</td><td>4</td><td>4</td>',
        '<th scope="row">street</th><td>0.2</td>',
        '<th scope="row">Clip</th><td>20.0%</td><td>25.0%</td>',
    ):
        assert text in page, text


def test_hostile_names_stay_text_and_nothing_is_fetched(page: str) -> None:
    check_escaped(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "shards &amp; more" in page
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert page.count("<img ") == len(re.findall(r'<img alt="[^"]+"', page)) == 1 + 10


def test_ten_examples_spread_over_the_snr_and_are_the_shards_audio(page: str) -> None:
    snrs_db = [float(text) for text in re.findall(r"<h3>SNR (-?[\d.]+) dB", page)]
    every = sorted(example("train", number).meta["snr_db"] for number in range(30))
    assert len(snrs_db) == 10
    assert snrs_db == sorted(snrs_db)
    assert (snrs_db[0], snrs_db[-1]) == (every[0], every[-1])
    assert max(np.diff(snrs_db)) < 3
    sources = re.findall(r'src="data:audio/flac;base64,([^"]*)"', page)
    assert len(sources) == 20
    number = int(re.findall(r"made-train-(\d+)", page.partition("<h3>SNR")[2])[0])
    wav, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(sources[0])), dtype="float32")
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(wav, example("train", number).noisy, atol=2**-15)


def test_the_same_shards_give_the_same_page(shards: Path, page: str, tmp_path: Path) -> None:
    write_page(shards, tmp_path / "again.html", recipe=RECIPE, report=quiet)
    assert (tmp_path / "again.html").read_text() == page


def test_the_recipe_comes_from_the_plan_table(copied: Path, tmp_path: Path) -> None:
    values = {**dataclasses.asdict(RECIPE), "description": "from the plan"}
    schema = pa.schema([("plan_row", pa.int64())], {b"rwsa.plan": json.dumps({"recipe": values}).encode()})
    pq.write_table(pa.table({"plan_row": [0]}, schema=schema), copied / "train.plan.parquet")
    write_page(copied, tmp_path / "page.html", report=quiet)
    assert "description: from the plan" in (tmp_path / "page.html").read_text()
    (copied / "train.plan.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"train\.plan\.parquet: not a plan table"):
        write_page(copied, tmp_path / "page.html", report=quiet)


def test_another_recipe_is_refused(shards: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(RECIPE, max_snr_db=20.0)
    with pytest.raises(InputError, match=rf"hash {recipe_hash(other)}, but .* {recipe_hash(RECIPE)}"):
        write_page(shards, tmp_path / "page.html", recipe=other, report=quiet)
    assert not (tmp_path / "page.html").exists()


def test_damage_is_named(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = copied / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(b'"snr_db"')
    data[at : at + 8] = b'"snr_bd"'
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"train-000001\.tar: member made-train-\d+\.json: its checksum"):
        read_dataset_facts(copied)
    tar.unlink()
    assert main(["--shards", str(copied), "--out", str(tmp_path / "page.html")]) == 2
    assert "train-000001.tar: No such file or directory" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such index"):
        read_dataset_facts(tmp_path / "nowhere")


def test_a_run_for_each_index_keeps_the_page(shards: Path, tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    page = tmp_path / "dataset.html"
    facts = write_page(shards, page, report=quiet)
    run_id = log_page(storage, facts, page, shards=shards)
    assert log_page(storage, facts, page, shards=shards) == run_id
    client = Tracker(storage).client
    run = client.get_run(run_id)
    assert run.data.params["index_sha256"] == run.data.tags["rwsa.index_sha256"] == facts.index_sha256
    assert run.data.params["train.examples"] == "30"
    assert [file.path for file in client.list_artifacts(run_id)] == ["dataset.html"]
    used = run.inputs.dataset_inputs[0].dataset
    assert (used.name, used.digest) == (f"{facts.corpora[0]} train", facts.index_sha256[:16])
    profile = json.loads(used.profile)
    train = facts.splits[0]
    assert (profile["examples"], profile["speakers"]) == (30, train.speakers)
    assert RECIPE.min_snr_db <= profile["min_snr_db"] <= profile["max_snr_db"] <= RECIPE.max_snr_db
