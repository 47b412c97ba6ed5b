"""Scores of one clip equal the library's; noisy phase; outputs of other systems; the Ray task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile
import torch
from torch import Tensor

from pipelines.evaluation import score_task
from pipelines.evaluation.clip_scores import (
    NOISY_PHASE,
    ClipScorer,
    ClipScores,
    SignalScores,
    enhance_clip,
    read_output,
    snr_db,
    unscored,
    with_table1,
)
from pipelines.evaluation.clips import EvaluationClip, load_clip
from pipelines.evaluation.score_task import ScoreTask
from rwsa.corpora.manifest import ClipPair
from rwsa.enhancement import enhance, enhance_phases
from rwsa.errors import InputError
from rwsa.metrics import TABLE1_METRICS, Failure, reference, score
from rwsa.metrics.values import MetricStep
from rwsa.models import ModelConfig, RWSAMambaUNet, build_model

RATE_HZ = 16000
TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)


class FlatPhase(RWSAMambaUNet):
    """Returns the magnitude unchanged and zero phase."""

    def forward(self, mag: Tensor, pha: Tensor) -> tuple[Tensor, Tensor]:
        return mag, torch.zeros_like(pha)


@pytest.fixture
def model() -> RWSAMambaUNet:
    return build_model(TINY).eval()


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics with a syllable rhythm, in which PESQ and STOI find utterances."""
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
    pair = ClipPair(
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


def test_scores_equal_those_of_the_library(tmp_path: Path, model: RWSAMambaUNet) -> None:
    noisy, clean = load_clip(write_pair(tmp_path))
    enhanced = np.asarray(enhance(noisy, RATE_HZ, model))
    enhanced_PS = enhance_clip(noisy, model)
    np.testing.assert_array_equal(enhanced_PS[0], enhanced)
    assert ClipScorer(clean).score(noisy).values == score(clean, noisy)
    assert ClipScorer(clean).score(noisy).snr_db == snr_db(clean, noisy)
    values = ClipScorer(clean).score_model(enhanced_PS).values
    assert {name: values[name] for name in TABLE1_METRICS} == score(clean, enhanced)


def test_the_clean_side_is_computed_once_and_scores_are_the_same_to_the_last_bit(
    tmp_path: Path, model: RWSAMambaUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, clean = load_clip(write_pair(tmp_path))
    every = with_table1(["csig", "cbak", "covl", "stoi"])
    enhanced_PS = enhance_clip(noisy, model)
    expected = [score(clean, wav, every) for wav in (noisy, enhanced_PS[0], noisy * 0.5)]
    computed: Counter[str] = Counter()
    compute = reference._compute

    def counted(step: MetricStep, inputs: Sequence[object]) -> object:
        computed[step.name] += 1
        return compute(step, inputs)

    monkeypatch.setattr(reference, "_compute", counted)
    scorer = ClipScorer(clean, every)
    found = [scorer.score(noisy), scorer.score_model(enhanced_PS), scorer.score(noisy * 0.5)]
    assert [{name: one.values[name] for name in every} for one in found] == expected
    assert [computed[name] for name in ("clean bands", "clean envelopes", "clean segments")] == [1, 1, 1]
    assert [computed[name] for name in ("pesq", "estoi", "si_sdr")] == [3, 3, 4]


def test_cached_scores_are_not_computed_again(tmp_path: Path, model: RWSAMambaUNet) -> None:
    noisy, clean = load_clip(write_pair(tmp_path))
    complete = ClipScorer(clean, with_table1(["csig", "stoi"])).score_model(enhance_clip(noisy, model))
    four = ClipScorer(clean).score_model(enhance_clip(noisy, model))
    added = ClipScorer(clean, with_table1(["csig", "stoi"])).score_model(enhance_clip(noisy, model), four)
    assert added == complete
    assert list(added.values) == [*TABLE1_METRICS, "csig", "stoi", NOISY_PHASE]
    # CSIG uses the cached PESQ, even if it is a failure.
    failed = SignalScores(values={"pesq": Failure("no utterance")})
    values = ClipScorer(clean, with_table1(["csig"])).score(noisy, failed).values
    assert values["csig"] == Failure("needs pesq: no utterance")
    assert isinstance(values["estoi"], float)


def test_a_task_gives_the_same_scores_whether_a_gpu_enhanced_its_clip_before_or_not(
    tmp_path: Path, model: RWSAMambaUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_task, "_network", lambda reference, device: model)
    task = ScoreTask(clip=write_pair(tmp_path), noisy=True, models={"tiny": ray.ObjectRef.nil()})
    enhanced = score_task.enhance_models(task)
    scored = score_task.score_clip(task)
    assert list(scored.signals) == ["noisy", "tiny"]
    assert score_task.score_clip(task, enhanced).signals == scored.signals
    sample = score_task.enhance_sample(task, enhanced).signals["tiny"]
    np.testing.assert_array_equal(sample, score_task.enhance_sample(task).signals["tiny"])
    assert sample.shape == (24000,)
    (tmp_path / "noisy.wav").write_bytes(b"no audio")
    for failed in (score_task.score_clip(task), score_task.score_clip(task, enhanced)):
        assert "noisy.wav" in str(failed.error)
        assert failed.failed


def test_noisy_phase_with_an_unchanged_magnitude_gives_the_input_back(tmp_path: Path) -> None:
    noisy, clean = load_clip(write_pair(tmp_path))
    values = ClipScorer(clean).score_model(enhance_clip(noisy, FlatPhase(TINY).eval())).values
    before = score(clean, noisy)["si_sdr"]
    assert values[NOISY_PHASE] == pytest.approx(before, abs=1e-3)
    assert values["si_sdr"] < before - 5  # type: ignore[operator]


def test_phases_come_from_one_pass_with_the_type_and_shape_of_the_input(model: RWSAMambaUNet) -> None:
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


def test_failures_with_one_reason_are_one_line() -> None:
    good = SignalScores(values=dict.fromkeys(TABLE1_METRICS, 1.0), snr_db=3.0)
    half = SignalScores(values={**good.values, "pesq": Failure("no utterance")})
    scores = clip_scores(noisy=good, model=unscored("diverged", model=True), other=half)
    assert scores.failures == ("model: diverged", "other.pesq: no utterance")
    silent = SignalScores(values={**good.values, **dict.fromkeys(("estoi", "stoi"), Failure("is silent"))})
    assert clip_scores(noisy=good, other=silent).failures == ("other.estoi, stoi: is silent",)
    assert scores.gain("si_sdr", "model") is None
    assert scores.gain("si_sdr", "other") == 0.0
    assert scores.value("other", NOISY_PHASE) is None
    assert scores.input_snr_db == 3.0
    assert set(scores.signals["model"].values) == {*TABLE1_METRICS, NOISY_PHASE}


def test_a_model_that_diverged_is_a_failure_with_a_reason(tmp_path: Path, model: RWSAMambaUNet) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    noisy, clean = load_clip(write_pair(tmp_path))
    scores = ClipScorer(clean).score_model(enhance_clip(noisy, model))
    failure = scores.values["pesq"]
    assert isinstance(failure, Failure)
    assert "NaN" in failure.reason
    assert scores.snr_db is None


def test_ratings_due_to_digital_silence_are_flagged() -> None:
    clean = voice(1.5) + np.random.default_rng(0).normal(scale=1e-3, size=24000).astype(np.float32)
    gated = np.where(np.arange(len(clean)) % 4000 < 2000, clean, 0).astype(np.float32)
    rated = ClipScorer(clean, with_table1(["csig"]))
    assert rated.score(gated).values["csig"] == 1.0
    assert rated.score(gated).floored
    assert not rated.score(clean * np.float32(0.5)).floored
    assert not ClipScorer(clean).score(gated).floored


def test_clipped_signals_are_flagged() -> None:
    clean = voice(1.0)
    assert ClipScorer(clean).score(clean).clipped_share == 0.0
    loud = np.clip(clean * 20, -1, 1).astype(np.float32)
    assert ClipScorer(clean).score(loud).clipped_share > 0.05


def test_short_and_silent_clips_are_failures_with_reasons() -> None:
    clean = voice(1.0)
    short = ClipScorer(clean[:2000]).score(clean[:2000] * 0.5).values
    assert isinstance(short["pesq"], Failure)
    assert isinstance(short["estoi"], Failure)
    silent = ClipScorer(np.zeros_like(clean)).score(clean)
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


def test_outputs_at_the_rate_of_the_corpus_are_resampled(tmp_path: Path) -> None:
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
