"""Degraded references have the SNR, DRR and RT60 of their names; results of a study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.evaluation.clips import EvaluationClip
from pipelines.reference_study import PAGE, RESULTS, main, reference_study
from pipelines.reports.reference_report import gain_rows, heads, reference_study_html, score_rows
from pipelines.studies.reference_conditions import (
    CONDITION_AXES,
    CONDITIONS,
    UNCHANGED,
    ReferenceCondition,
    decaying_rir,
    degraded,
)
from pipelines.studies.reference_results import (
    CLEAN,
    ENHANCED,
    NOISY,
    STUDIED,
    ClipStudy,
    ReferenceStudy,
    StudyClip,
    study_clip,
)
from rwsa.audio import rms, round_to_int16
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.metrics import METRICS, Failure, score
from rwsa.models import build_model, save_model

RATE_HZ = 16_000


def syllables(seconds: float = 1.2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    envelope = 0.05 + np.sin(2 * np.pi * 2 * np.arange(int(seconds * RATE_HZ)) / RATE_HZ) ** 2
    return round_to_int16((0.05 * rng.standard_normal(len(envelope)) * envelope).astype(np.float32))


def test_every_axis_starts_with_the_unchanged_reference() -> None:
    for axis in CONDITION_AXES:
        assert axis.conditions[0] == UNCHANGED
        assert len(axis.ticks) == len(axis.conditions) == len(set(axis.conditions))
    assert len({condition.name for condition in CONDITIONS}) == len(CONDITIONS) == 11


@pytest.mark.parametrize("snr_db", [40.0, 10.0])
def test_noise_has_the_snr_of_its_condition(snr_db: float) -> None:
    clean = syllables()
    noise = degraded(clean, ReferenceCondition(snr_db=snr_db), RATE_HZ, clip_id="a", seed=0) - clean
    assert 20 * np.log10(rms(clean) / rms(noise)) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize(("drr_db", "rt60_seconds"), [(15.0, 0.5), (0.0, 0.5), (5.0, 1.0)])
def test_rooms_have_the_drr_and_decay_of_their_condition(drr_db: float, rt60_seconds: float) -> None:
    rir = decaying_rir(np.random.default_rng(0), RATE_HZ, drr_db, rt60_seconds)
    assert np.argmax(np.abs(rir)) == 0
    assert -10 * np.log10(np.sum(rir[1:] ** 2)) == pytest.approx(drr_db, abs=1e-9)
    # Schroeder's backward integration: −5 to −25 dB, tripled.
    decay_db = 10 * np.log10(np.cumsum(rir[:0:-1] ** 2)[::-1] / np.sum(rir[1:] ** 2))
    fall = np.flatnonzero(decay_db <= -5)[0], np.flatnonzero(decay_db <= -25)[0]
    assert 3 * (fall[1] - fall[0]) / RATE_HZ == pytest.approx(rt60_seconds, rel=0.05)


def test_a_room_changes_neither_time_nor_level_of_the_direct_sound() -> None:
    impulse = np.zeros(RATE_HZ, np.float32)
    impulse[100] = 0.5
    wet = degraded(impulse, ReferenceCondition(drr_db=0.0, rt60_seconds=0.5), RATE_HZ, clip_id="a", seed=0)
    assert len(wet) == len(impulse)
    np.testing.assert_allclose(wet[:101], impulse[:101], atol=1e-7)


def test_a_clip_has_the_same_noise_at_every_level_and_another_clip_another() -> None:
    clean = syllables()

    def noise(snr_db: float, clip_id: str = "a", seed: int = 0) -> np.ndarray:
        return degraded(clean, ReferenceCondition(snr_db=snr_db), RATE_HZ, clip_id=clip_id, seed=seed) - clean

    np.testing.assert_allclose(noise(10), 10 * noise(30), atol=1e-6)
    assert not np.allclose(noise(10), noise(10, "b"), atol=1e-3)
    assert not np.allclose(noise(10), noise(10, seed=1), atol=1e-3)
    assert degraded(clean, UNCHANGED, RATE_HZ, clip_id="a", seed=0) is clean


def test_a_silent_reference_is_named() -> None:
    with pytest.raises(InputError, match="toy/1: the clean clip is silent"):
        degraded(np.zeros(10, np.float32), UNCHANGED, RATE_HZ, clip_id="toy/1", seed=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of three pairs, of which the last has a silent clean clip."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        clean = syllables(seed=number) if number < 2 else np.zeros(RATE_HZ, np.float32)
        noise = 0.02 * np.random.default_rng(10 + number).standard_normal(len(clean))
        for kind, wav in (("clean", clean), ("noisy", clean + noise)):
            (root / kind).mkdir(exist_ok=True)
            soundfile.write(root / kind / f"{number}.wav", wav, RATE_HZ)
    card = f"""
name: toy
description: Syllables of noise.
sample_rate_hz: 16000
licence: CC0
pairs: [{{root: {root}, clean: 'clean/(?P<pair>\\d)\\.wav', noisy: 'noisy/(?P<pair>\\d)\\.wav', split: test}}]
"""
    (root / "card.yaml").write_text(card)
    return root / "card.yaml"


@pytest.fixture(scope="module")
def studied(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceStudy, Path]:
    out = tmp_path_factory.mktemp("study")
    return reference_study(corpus, out, workers=0, report=lambda text: None), out


def test_estimates_are_scored_against_each_degraded_reference(corpus: Path) -> None:
    pair = ClipPair(
        clip_id="toy/0",
        clean=str(corpus.parent / "clean/0.wav"),
        noisy=str(corpus.parent / "noisy/0.wav"),
        samples=len(syllables()),
        sample_rate_hz=RATE_HZ,
        split="test",
        speaker=None,
        licence="CC0",
    )
    clip = EvaluationClip(
        corpus="toy", clip_id="toy/0", seconds=1.2, speaker=None, environment=None, source=pair
    )
    found = study_clip(StudyClip(clip=clip, weights=None, seed=3))
    clean, noisy = (soundfile.read(path, dtype="float32")[0] for path in (pair.clean, pair.noisy))
    assert found.rows.keys() == {(condition, name) for condition in CONDITIONS for name in (NOISY, CLEAN)}
    for condition in (UNCHANGED, CONDITIONS[3], CONDITIONS[-1]):
        reference = degraded(clean, condition, RATE_HZ, clip_id="toy/0", seed=3)
        assert found.rows[condition, NOISY] == score(reference, noisy, STUDIED)
        assert found.rows[condition, CLEAN] == score(reference, clean, STUDIED)


def test_scores_of_the_clean_clip_follow_the_degradation(
    studied: tuple[ReferenceStudy, Path],
) -> None:
    study, _ = studied
    for condition in CONDITIONS:
        si_sdr = study.over_clips(condition, CLEAN, "si_sdr")
        if condition.snr_db is not None:
            assert si_sdr.mean == pytest.approx(condition.snr_db, abs=0.3)
    assert (
        study.over_clips(UNCHANGED, CLEAN, "si_sdr").mean,
        study.over_clips(UNCHANGED, CLEAN, "pesq").count,
    ) == (
        None,
        2,
    )
    for axis in CONDITION_AXES[:2]:
        means = [study.over_clips(condition, CLEAN, "estoi").mean for condition in axis.conditions]
        assert means == sorted(means, reverse=True)


def test_clips_that_cannot_be_studied_are_counted_and_named(studied: tuple[ReferenceStudy, Path]) -> None:
    study, out = studied
    assert len(study.clips) == 3
    assert [error.partition(":")[0] for error in study.errors] == ["toy/noisy/2"]
    figures = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert len(figures["clips"]) == 2
    assert [one["name"] for one in figures["conditions"]] == [condition.name for condition in CONDITIONS]
    counts = {
        (spread["count"], spread["failures"])
        for one in figures["conditions"]
        for estimate in one["scores"].values()
        for spread in estimate.values()
    }
    assert counts == {(2, 0), (0, 2)}
    text = (out / PAGE).read_text(encoding="utf-8")
    assert "Clips left out" in text
    assert "the clean clip is silent" in text
    assert "enhanced equals clean up to scale" in text


def test_metrics_without_a_reference_are_left_out() -> None:
    assert set(METRICS) - set(STUDIED) == {
        "dnsmos_sig",
        "dnsmos_bak",
        "dnsmos_ovrl",
        "dnsmos_p808",
        "phone_error",
    }


def row(value: float) -> dict[str, float | Failure]:
    return dict.fromkeys(STUDIED, value)


def test_gains_are_over_clips_with_both_scores() -> None:
    def clip(number: int, noisy: float | Failure, enhanced: float) -> ClipStudy:
        rows = {
            (condition, estimate): {**row(1.0), "si_sdr": value}
            for condition in CONDITIONS
            for estimate, value in ((NOISY, noisy), (ENHANCED, enhanced), (CLEAN, 20.0))
        }
        return ClipStudy(clip_id=f"toy/{number}", rows=rows, floored=frozenset({(UNCHANGED, NOISY)}))

    study = ReferenceStudy(
        corpus="<toy>",
        about={},
        estimates=(NOISY, ENHANCED, CLEAN),
        clips=(clip(0, 1.0, 4.0), clip(1, Failure("gone"), 100.0)),
    )
    at = heads().index("SI-SDR (dB)")
    assert next(gain_rows(study))[at] == "+3.00"
    assert next(score_rows(study, NOISY))[at] == "1.00 (1 failed)"
    text = reference_study_html(study)
    assert "&lt;toy&gt;" in text
    assert "<toy>" not in text
    assert "Digital silence" in text


def test_the_command_with_weights_logs_its_page(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "nano.safetensors", build_model("nano").eval())
    command = ["--card", str(corpus), "--out", "out", "--examples", "1", "--workers", "0", "--mlflow"]
    command += ["--set", f"storage.root={tmp_path}", f"storage.tracking_uri=sqlite:///{tmp_path}/mlflow.db"]
    assert main([*command, "--weights", "nano.safetensors"]) == 0
    output = capsys.readouterr().out
    assert "MLflow run" in output
    assert [line.split()[0] for line in output.splitlines() if "PESQ (MOS)" in line] == [
        NOISY,
        ENHANCED,
        CLEAN,
    ]
    assert "Gain: enhanced minus noisy" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--examples", "0"], "--examples 0: must be at least 1"),
        (["--workers", "-1"], "--workers -1"),
        (["--weights", "gone.safetensors"], "gone.safetensors: no such file"),
        (["--weights", "xs"], "'xs' is a model size, not a weights file"),
    ],
)
def test_invalid_options_are_errors(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["--card", str(corpus), "--out", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
