"""Scoring one clip: the same numbers as the library gives, the magnitude with the noisy phase, and outputs
of other systems.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from pipelines.clip_scores import (
    METRICS,
    NOISY_PHASE,
    ClipScores,
    SignalScores,
    enhance_clip,
    read_output,
    score_enhanced,
    score_signal,
    snr_db,
    unscored,
)
from pipelines.clips import EvaluationClip, load_clip
from rwsa.enhancement import enhance, enhance_phases
from rwsa.errors import InputError
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
    noisy, clean = load_clip(write_pair(tmp_path))
    enhanced = np.asarray(enhance(noisy, RATE_HZ, model))
    enhanced_PS = enhance_clip(noisy, model)
    np.testing.assert_array_equal(enhanced_PS[0], enhanced)
    assert score_signal(clean, noisy).values == score(clean, noisy)
    assert score_signal(clean, noisy).snr_db == snr_db(clean, noisy)
    values = score_enhanced(clean, enhanced_PS).values
    assert {name: values[name] for name in METRICS} == score(clean, enhanced)


def test_noisy_phase_with_a_magnitude_that_is_kept_gives_the_input_back(tmp_path: Path) -> None:
    noisy, clean = load_clip(write_pair(tmp_path))
    values = score_enhanced(clean, enhance_clip(noisy, FlatPhase(TINY).eval())).values
    before = score(clean, noisy)["si_sdr"]
    assert values[NOISY_PHASE] == pytest.approx(before, abs=1e-3)
    assert values["si_sdr"] < before - 5  # type: ignore[operator]


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


def clip_scores(**signals: SignalScores) -> ClipScores:
    return ClipScores(
        corpus="toy", clip_id="toy/a", seconds=1.0, speaker=None, environment=None, signals=signals
    )


def test_failures_are_told_once_where_all_failed_for_one_reason() -> None:
    good = SignalScores(values=dict.fromkeys(METRICS, 1.0), snr_db=3.0)
    half = SignalScores(values={**good.values, "pesq": Failure("no utterance")})
    scores = clip_scores(noisy=good, model=unscored("diverged", model=True), other=half)
    assert scores.failures == ("model: diverged", "other.pesq: no utterance")
    assert scores.gain("si_sdr", "model") is None
    assert scores.gain("si_sdr", "other") == 0.0
    assert scores.value("other", NOISY_PHASE) is None
    assert scores.input_snr_db == 3.0
    assert set(scores.signals["model"].values) == {*METRICS, NOISY_PHASE}


def test_a_model_that_diverged_is_a_failure_with_a_reason(tmp_path: Path, model: RWSAMambaUNet) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    noisy, clean = load_clip(write_pair(tmp_path))
    scores = score_enhanced(clean, enhance_clip(noisy, model))
    failure = scores.values["pesq"]
    assert isinstance(failure, Failure)
    assert "NaN" in failure.reason
    assert scores.snr_db is None


def test_clipped_signals_are_known() -> None:
    clean = voice(1.0)
    assert score_signal(clean, clean).clipped_share == 0.0
    loud = np.clip(clean * 20, -1, 1).astype(np.float32)
    assert score_signal(clean, loud).clipped_share > 0.05


def test_short_and_silent_clips_are_failures_with_reasons() -> None:
    clean = voice(1.0)
    short = score_signal(clean[:2000], clean[:2000] * 0.5).values
    assert isinstance(short["pesq"], Failure)
    assert isinstance(short["estoi"], Failure)
    silent = score_signal(np.zeros_like(clean), clean)
    assert {value.reason for value in silent.values.values() if isinstance(value, Failure)} == {
        "clean is silent"
    }
    assert silent.snr_db is None


def test_outputs_of_other_systems_are_read_and_checked(tmp_path: Path) -> None:
    clip = write_pair(tmp_path, seconds=1.0)
    path, wav = tmp_path / "out.wav", voice(1.0)
    soundfile.write(path, wav, RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_output(path, clip, RATE_HZ), wav)
    with pytest.raises(InputError, match="has 16000 samples at 16 kHz and the clean clip 15999"):
        read_output(path, clip, RATE_HZ - 1)
    soundfile.write(path, wav, 8000)
    with pytest.raises(InputError, match=r"out.wav: is at 8000 Hz; 16000 Hz is expected"):
        read_output(path, clip, RATE_HZ)
    soundfile.write(path, np.stack([wav, wav], axis=1), RATE_HZ)
    with pytest.raises(InputError, match="has 2 channels"):
        read_output(path, clip, RATE_HZ)
    path.write_bytes(b"no audio")
    with pytest.raises(InputError, match="not readable as audio"):
        read_output(path, clip, RATE_HZ)


def test_outputs_at_the_rate_of_the_corpus_are_resampled_as_it_is(tmp_path: Path) -> None:
    clip = write_pair(tmp_path, seconds=1.0, rate_hz=48000)
    _, clean = load_clip(clip)
    np.testing.assert_array_equal(read_output(tmp_path / "clean.wav", clip, len(clean)), clean)


def test_pairs_at_another_rate_are_scored_at_16_khz(tmp_path: Path) -> None:
    noisy, clean = load_clip(write_pair(tmp_path, seconds=2.0, rate_hz=8000))
    assert len(noisy) == len(clean) == 64000


def test_input_snr() -> None:
    clean = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    assert snr_db(clean, clean + np.float32(0.1)) == pytest.approx(20.0, abs=1e-4)
    assert snr_db(clean, clean) is None
