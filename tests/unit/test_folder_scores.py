"""Scores of folders: pairing, failures, resampling, strictness, processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rwsa.audio import resample
from rwsa.errors import InputError
from rwsa.folder_scores import FOLDER_METRICS, ClipFailure, FolderScores, format_table, score_folders
from rwsa.metrics import Failure, score

QUICK = ("ssnr", "si_sdr")
RNG = np.random.default_rng(0)
CLEAN = np.round(3000 * RNG.standard_normal(16_000)) / 32768
NOISY = CLEAN + np.round(1000 * RNG.standard_normal(16_000)) / 32768


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two folders with one good pair, in a subfolder and with different extensions."""
    put(tmp_path, "clean/room/good.wav", CLEAN)
    put(tmp_path, "enhanced/room/good.flac", NOISY)
    return tmp_path


def put(root: Path, name: str, wav: np.ndarray, rate_hz: int = 16_000, subtype: str | None = None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate_hz, subtype=subtype)


def scored(root: Path, **options: Any) -> FolderScores:
    defaults: dict[str, Any] = {"metrics": QUICK, "workers": 1}
    return score_folders(root / "clean", root / "enhanced", **(defaults | options))


def test_clips_are_paired_by_path_without_extension_and_named_as_in_clean(folders: Path) -> None:
    assert scored(folders).clips == {"room/good.wav": score(CLEAN, NOISY, QUICK)}


def test_the_json_holds_all_seven_metrics_with_means_and_counts(folders: Path) -> None:
    put(folders, "clean/silent.wav", 0 * CLEAN)
    put(folders, "enhanced/silent.wav", NOISY)
    scores = scored(folders, metrics=FOLDER_METRICS).as_json()
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    lists = {"failures", "resampled", "clipped", "offset", "trimmed", "floored"}
    assert set(scores) == {"clips", "mean", "counts", "metrics_version"} | lists
    assert scores["clips"]["silent.wav"] == dict.fromkeys(FOLDER_METRICS)
    assert scores["mean"] == scores["clips"]["room/good.wav"]
    assert scores["counts"] == dict.fromkeys(FOLDER_METRICS, 1)
    assert scores["failures"] == [{"file": "silent.wav", "metric": None, "reason": "clean is silent"}]


def write_bad_clips(root: Path) -> dict[str, str]:
    """Add one clip of every fault; returns the expected reasons."""
    for name in ("long", "stereo", "damaged", "nan", "twice"):
        put(root, f"clean/{name}.wav", CLEAN)
    put(root, "enhanced/long.wav", np.r_[NOISY, 0.1])
    put(root, "enhanced/stereo.wav", np.stack([NOISY, NOISY], axis=1))
    (root / "enhanced/damaged.wav").write_bytes(b"RIFF and nothing more")
    put(root, "enhanced/nan.wav", np.r_[NOISY[:-1], np.nan], subtype="FLOAT")
    put(root, "enhanced/twice.wav", NOISY)
    put(root, "enhanced/twice.flac", NOISY)
    put(root, "clean/missing.wav", CLEAN)
    put(root, "enhanced/extra.wav", NOISY)
    for kind in ("clean", "enhanced"):
        put(root, f"{kind}/empty.wav", CLEAN[:0])
    return {
        "long.wav": "clean has 16000 samples at 16 kHz, enhanced 16001",
        "stereo.wav": "has 2 channels",
        "damaged.wav": "not readable",
        "nan.wav": "holds NaN",
        "twice.wav": "twice.flac and twice.wav; keep one",
        "empty.wav": "holds no samples",
        "missing.wav": "not in",
        "extra.wav": "not in",
    }


def test_every_fault_is_a_failure_with_its_reason(folders: Path) -> None:
    expected = write_bad_clips(folders)
    scores = scored(folders)
    reasons = {failure.file: failure.reason for failure in scores.failures}
    assert reasons.keys() == expected.keys()
    assert [file for file in expected if expected[file] not in reasons[file]] == []
    assert scores.clips.keys() == {"room/good.wav", *expected} - {"extra.wav"}
    assert scores.as_json()["mean"] == scores.clips["room/good.wav"]
    assert {(summary.count, summary.failures) for summary in scores.summaries.values()} == {(1, 7)}


def test_one_failed_metric_does_not_affect_the_others(folders: Path) -> None:
    put(folders, "clean/same.wav", CLEAN)
    put(folders, "enhanced/same.wav", CLEAN)
    scores = scored(folders)
    assert scores.clips["same.wav"]["ssnr"] == pytest.approx(35)
    assert isinstance(scores.clips["same.wav"]["si_sdr"], Failure)
    assert [(failure.file, failure.metric) for failure in scores.failures] == [("same.wav", "si_sdr")]
    assert (scores.summaries["ssnr"].count, scores.summaries["si_sdr"].count) == (2, 1)


def test_clips_shorter_than_a_window_fail_in_windowed_metrics(folders: Path) -> None:
    put(folders, "clean/short.wav", CLEAN[:500])
    put(folders, "enhanced/short.wav", NOISY[:500])
    scores = scored(folders, metrics=FOLDER_METRICS)
    failed = {failure.metric for failure in scores.failures}
    assert failed == set(FOLDER_METRICS) - {"si_sdr"}
    assert {(name, scores.summaries[name].count) for name in failed} == {(name, 1) for name in failed}
    table = format_table(scores)
    assert "short.wav: ssnr: 500 samples are too few" in table
    assert f"failures ({len(failed)}):" in table


@pytest.mark.parametrize(
    ("file", "wav", "message"),
    [
        ("clean/missing.wav", CLEAN, "missing.wav: not in"),
        ("enhanced/extra.wav", NOISY, "extra.wav: not in"),
        ("enhanced/room/good.flac", CLEAN, "good.wav: si_sdr: enhanced equals clean"),
        ("clean/room/good.wav", 0 * CLEAN, "good.wav: clean is silent"),
    ],
)
def test_strict_stops_at_the_first_failure(folders: Path, file: str, wav: np.ndarray, message: str) -> None:
    put(folders, file, wav)
    with pytest.raises(InputError, match=message):
        scored(folders, strict=True)


def test_strict_accepts_valid_folders(folders: Path) -> None:
    assert scored(folders, strict=True) == scored(folders)


def test_other_rates_are_resampled_and_listed(tmp_path: Path) -> None:
    seconds = np.arange(48_000) / 48_000
    tones = 0.3 * np.sin(2 * np.pi * 440 * seconds), 0.1 * np.sin(2 * np.pi * 1000 * seconds)
    put(tmp_path, "clean/tone.wav", tones[0][::3])
    put(tmp_path, "enhanced/tone.wav", tones[0] + tones[1], 48_000)
    scores = scored(tmp_path)
    assert scores.resampled == ("tone.wav",)
    assert scores.clips["tone.wav"]["si_sdr"] == pytest.approx(20 * np.log10(3), abs=0.05)
    assert "resampled to 16 kHz before scoring (1):\n  tone.wav" in format_table(scores)


def test_clipped_clips_are_scored_and_listed(folders: Path) -> None:
    put(folders, "clean/flat.wav", CLEAN)
    put(folders, "enhanced/flat.wav", np.where(np.arange(16_000) % 100 < 5, 1, NOISY))
    put(folders, "clean/peak.wav", CLEAN)
    put(folders, "enhanced/peak.wav", np.r_[1, NOISY[1:]])
    scores = scored(folders)
    assert isinstance(scores.clips["flat.wav"]["si_sdr"], float)
    assert scores.clipped == ("flat.wav",)
    assert "clipped in either folder, scored anyway (1):\n  flat.wav" in format_table(scores)


def test_ratings_floored_by_silence_are_listed(folders: Path) -> None:
    put(folders, "clean/room/good.wav", np.where(np.arange(16_000) < 12_000, CLEAN, 0))
    scores = scored(folders, metrics=("csig", "covl"))
    assert scores.clips["room/good.wav"] == {"csig": 1.0, "covl": 1.0}
    assert scores.floored == ("room/good.wav",)
    assert "1 due to digital silence" in format_table(scores)


def test_two_processes_give_the_scores_of_one(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bad_clips(folders)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert scored(folders, workers=2) == scored(folders)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_strict_stops_a_pool_of_processes(folders: Path) -> None:
    for number in range(4):
        put(folders, f"clean/{number}.wav", CLEAN)
        put(folders, f"enhanced/{number}.wav", CLEAN)
    with pytest.raises(InputError, match=r"0.wav: si_sdr"):
        scored(folders, workers=2, strict=True)


def test_folders_without_a_common_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "clean/a.wav", CLEAN)
    put(tmp_path, "enhanced/a_enhanced.wav", NOISY)
    with pytest.raises(InputError, match=r"shares no file name with .* a_enhanced and a"):
        scored(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "--workers is 0"), ({"metrics": ("pesk",)}, "did you mean 'pesq'")],
)
def test_invalid_options_are_refused(folders: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(folders, **options)


def test_the_table_shows_means_counts_and_the_first_failures(folders: Path) -> None:
    for number in range(30):
        put(folders, f"clean/{number:02}.wav", CLEAN)
    table = format_table(scored(folders))
    ssnr_db = score(CLEAN, NOISY, ("ssnr",))["ssnr"]
    assert ["ssnr", f"{ssnr_db:.3f}", "dB", "1", "30"] in [line.split() for line in table.splitlines()]
    assert "failures (30):" in table
    assert "19.wav" in table
    assert "20.wav" not in table
    assert table.endswith("… and 10 more")


def test_the_table_marks_a_missing_mean(tmp_path: Path) -> None:
    put(tmp_path, "clean/a.wav", 0 * CLEAN)
    put(tmp_path, "enhanced/a.wav", NOISY)
    rows = [line.split() for line in format_table(scored(tmp_path)).splitlines()]
    assert ["ssnr", "–", "dB", "0", "1"] in rows


def test_a_failure_is_one_line() -> None:
    assert str(ClipFailure(file="a.wav", metric=None, reason="r")) == "a.wav: r"
    assert str(ClipFailure(file="a.wav", metric="pesq", reason="r")) == "a.wav: pesq: r"


def test_a_dc_offset_is_listed(folders: Path) -> None:
    put(folders, "clean/offset.wav", CLEAN + 0.1)
    put(folders, "enhanced/offset.wav", NOISY + 0.1)
    scores = scored(folders)
    assert scores.offset == ("offset.wav",)
    plain, shifted = (scores.clips[name]["si_sdr"] for name in ("room/good.wav", "offset.wav"))
    assert shifted > plain + 1  # why it is listed
    assert "with a DC offset in either folder, which changes SI-SDR and SSNR; remove it (1):" in format_table(
        scores
    )


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_resampled_clips_of_odd_lengths_are_scored(tmp_path: Path, rate_hz: int) -> None:
    put(
        tmp_path,
        "clean/odd.wav",
        CLEAN[:15_999][:: 16_000 // rate_hz] if rate_hz < 16_000 else CLEAN,
        rate_hz,
    )
    samples = len(resample(np.zeros(8000 if rate_hz == 8000 else 16_000, np.float32), rate_hz, 16_000))
    put(tmp_path, "enhanced/odd.wav", NOISY[: samples - 1])
    scores = scored(tmp_path)
    assert (scores.failures, scores.trimmed) == ((), {"odd.wav": 1})


def test_other_lengths_are_failures_unless_trimmed(folders: Path) -> None:
    put(folders, "clean/long.wav", CLEAN[:-1])
    put(folders, "enhanced/long.wav", NOISY)
    (failure,) = scored(folders).failures
    assert failure.reason.endswith("; align them, or cut the end of the longer clip by --trim")
    scores = scored(folders, trim=True)
    assert (scores.failures, scores.trimmed) == ((), {"long.wav": 1})
    assert scores.clips["long.wav"] == score(CLEAN[:-1], NOISY[:-1], QUICK)
    assert "  long.wav: by 1 samples at 16 kHz" in format_table(scores)
    assert scored(folders, trim=True).clips["room/good.wav"] == score(CLEAN, NOISY, QUICK)
