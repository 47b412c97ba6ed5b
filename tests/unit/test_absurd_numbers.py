"""Numbers that would hang, overflow or exhaust memory are refused in one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.train import config_paths
from pipelines.training.config import TrainRunConfig
from rwsa.config import build, read_config
from rwsa.corpora.cards import CorpusCard
from rwsa.errors import InputError
from rwsa.mixing import read_recipe
from tune.sweep_config import SweepConfig

DEMO = Path(__file__).parents[2] / "datasets" / "recipes" / "demo.yaml"
CARD = {
    **{"name": "a", "description": "", "licence": "", "sample_rate_hz": 16000},
    "speech": [{"root": "r", "pattern": "p", "split": "train"}],
}
SWEEP = {
    **{"name": "a", "question": "q", "base": ["base"], "corpora": ["c"]},
    "axes": {"seed": {"values": [1, 2]}},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("global_batch_size", value) for value in ("1000000000", "1e300", "-1", ".5", "nan", "inf")),
        *(("model.channels", value) for value in ("1000000000", "0", "1e300", "'nan'")),
        *((f"model.{key}", "1000000000") for key in ("blocks", "heads", "d_state", "d_conv", "expand")),
        ("model.segment_frames", "1000000000000"),
        *((f"model.spectral.{key}", "1000000000") for key in ("n_fft", "hop_samples", "window_samples")),
        *(("optimiser.learning_rate", value) for value in ("nan", "inf", "1e999", "-1")),
        *(("loss_weights.time", value) for value in ("nan", "inf")),
        *((f"data.{key}", "1000000000") for key in ("loader_threads", "prefetch_batches")),
        *((key, "1000000000") for key in ("pesq_processes", "valid_batch_size", "accumulate")),
        *((key, "1" + "0" * 30) for key in ("seed", "max_steps", "log_every_steps", "audio_clips")),
    ],
)
def test_of_a_training_configuration(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"'{key}' is ") as caught:
        read_config(TrainRunConfig, config_paths(["base", "nano", "demo"]), ["name=a", f"{key}={value}"])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seconds", value) for value in ("1e300", "1000000000", "nan", "inf", "-1", "0")),
        *(("examples.train", value) for value in ("1000000000000000", "-1", "1e300", "nan")),
        *(("sample_rate_hz", value) for value in ("1000000000000000000", "0", "-16000")),
        *(("min_snr_db", value) for value in ("-1e300", "nan", "-inf")),
        *(
            ("noise.max_count", "1000000000"),
            ("noise.max_talkers", "1000000000"),
            ("noise.kinds.babble", "inf"),
        ),
        *(("seed", "1" + "0" * 30), ("min_level_dbfs", "-1e300"), ("early_ms", "1e300"), ("max_peak", "nan")),
    ],
)
def test_of_a_recipe(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"'{key}' is ") as caught:
        read_recipe(DEMO, [f"{key}={value}"])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "values",
    [
        {"sample_rate_hz": 10**18},
        {"evaluation": {"recipe": "r", "examples": 10**15}},
        {"evaluation": {"recipe": "r", "examples": -1}},
        {"evaluation": {"recipe": "r", "examples": 1, "seed": 10**30}},
        {"noisy_row": {"pesq": float("nan"), "ssnr": 1, "estoi": 1, "si_sdr": 1}},
    ],
)
def test_of_a_card(values: dict) -> None:
    with pytest.raises(InputError, match="' is "):
        build(CorpusCard, CARD | values, where="a.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"budget_hours": 1e300},
        {"budget_hours": float("nan")},
        {"workers": 10**9},
        {"cpus_per_worker": 10**18},
        {"search": {"kind": "random", "trials": 10**9}},
        {"axes": {f"a{axis}": {"values": list(range(10))} for axis in range(9)}},
    ],
)
def test_of_a_sweep(values: dict) -> None:
    build(SweepConfig, SWEEP, where="a.yaml")
    with pytest.raises(InputError, match=r"' is |points; choose fewer"):
        build(SweepConfig, SWEEP | values, where="a.yaml")
