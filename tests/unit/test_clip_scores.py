"""Scoring one clip: the same numbers as the library gives, and the magnitude with the noisy phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from pipelines.clip_scores import METRICS, NOISY_PHASE, hear_clip, score_clip, snr_db
from pipelines.clips import EvaluationClip, load_clip
from rwsa.enhancement import enhance, enhance_phases
from rwsa.manifest import Pair
from rwsa.metrics import Failure, score
from rwsa.models import ModelConfig, RWSAMambaUNet, build_model

RATE_HZ = 16000
TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)


class FlatPhase(RWSAMambaUNet):
    """Keeps the magnitude and forgets the phase."""

    def forward(self, mag: Tensor, pha: Tensor) -> tuple[Tensor, Tensor]:
        return mag, torch.zeros_like(pha)


@pytest.fixture
def model() -> RWSAMambaUNet:
    return build_model(TINY).eval()


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics that come and go like syllables, so that PESQ and STOI find utterances."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    pitch = 110 + 20 * seed + 8 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    wave = sum(np.sin(k * phase) / k for k in range(1, 25))
    return (0.1 * wave * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)).astype(np.float32)


def write_pair(folder: Path, seconds: float = 1.5, rate_hz: int = RATE_HZ) -> EvaluationClip:
    clean = voice(seconds)
    noisy = clean + np.random.default_rng(0).normal(scale=0.02, size=len(clean)).astype(np.float32)
    for name, wav in (("clean", clean), ("noisy", noisy)):
        soundfile.write(folder / f"{name}.wav", wav, rate_hz, subtype="FLOAT")
    pair = Pair(
        clip_id="toy/noisy",
        clean=str(folder / "clean.wav"),
        noisy=str(folder / "noisy.wav"),
        split="test",
        samples=len(clean),
        sample_rate_hz=rate_hz,
        speaker="s",
        licence="CC0",
    )
    return EvaluationClip(
        corpus="toy", clip_id="toy/noisy", seconds=seconds, speaker="s", environment=None, source=pair
    )


def test_scores_are_those_of_the_metrics(tmp_path: Path, model: RWSAMambaUNet) -> None:
    clip = write_pair(tmp_path)
    scores = score_clip(clip, model)
    noisy, clean = load_clip(clip)
    enhanced = np.asarray(enhance(noisy, RATE_HZ, model))
    assert scores.noisy == score(clean, noisy)
    assert {name: scores.enhanced[name] for name in METRICS} == score(clean, enhanced)
    np.testing.assert_array_equal(hear_clip(clip, model).enhanced, enhanced)
    assert scores.failures == ()
    assert scores.input_snr_db == pytest.approx(snr_db(clean, noisy))


def test_noisy_phase_with_a_magnitude_that_is_kept_gives_the_input_back(tmp_path: Path) -> None:
    clip = write_pair(tmp_path)
    scores = score_clip(clip, FlatPhase(TINY).eval())
    assert scores.enhanced[NOISY_PHASE] == pytest.approx(scores.noisy["si_sdr"], abs=1e-3)
    assert scores.enhanced["si_sdr"] < scores.noisy["si_sdr"] - 5  # type: ignore[operator]


def test_phases_come_from_one_pass_and_keep_kind_and_shape(model: RWSAMambaUNet) -> None:
    wav = torch.from_numpy(np.stack([voice(0.9), voice(0.9, seed=1)])).double()
    own, noisy = enhance_phases(wav, 44100, model, ("model", "noisy"))
    assert isinstance(own, Tensor)
    assert isinstance(noisy, Tensor)
    assert own.shape == noisy.shape == wav.shape
    assert own.dtype == noisy.dtype == wav.dtype
    torch.testing.assert_close(own, enhance(wav, 44100, model), rtol=0, atol=0)
    assert not torch.equal(own, noisy)
    silent = enhance_phases(np.zeros(5000, np.float32), RATE_HZ, model, ("noisy", "model"))
    assert [float(np.abs(signal).max()) for signal in silent] == [0.0, 0.0]


def test_a_damaged_clip_gets_failures_for_scores(tmp_path: Path, model: RWSAMambaUNet) -> None:
    clip = write_pair(tmp_path)
    (tmp_path / "noisy.wav").write_text("no audio")
    scores = score_clip(clip, model)
    assert scores.error is not None
    assert "noisy.wav: not readable as audio" in scores.error
    assert all(isinstance(value, Failure) for value in (*scores.noisy.values(), *scores.enhanced.values()))
    assert scores.failures == (scores.error,)
    assert scores.gain("si_sdr") is None


def test_a_model_that_diverged_is_a_failure_with_a_reason(tmp_path: Path, model: RWSAMambaUNet) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    scores = score_clip(write_pair(tmp_path), model)
    assert scores.error is None
    assert isinstance(scores.noisy["pesq"], float)
    failure = scores.enhanced["pesq"]
    assert isinstance(failure, Failure)
    assert "NaN" in failure.reason


def test_pairs_at_another_rate_are_scored_at_16_khz(tmp_path: Path) -> None:
    noisy, clean = load_clip(write_pair(tmp_path, seconds=2.0, rate_hz=8000))
    assert len(noisy) == len(clean) == 64000


def test_input_snr() -> None:
    clean = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    assert snr_db(clean, clean + np.float32(0.1)) == pytest.approx(20.0, abs=1e-4)
    assert snr_db(clean, clean) is None
