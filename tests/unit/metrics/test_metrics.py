import dataclasses
import importlib
import importlib.metadata
import importlib.util
import math
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz, toeplitz
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from rwsa.audio import read_mono
from rwsa.audio_folders import find_audio
from rwsa.errors import InputError
from rwsa.global_random import seeded_globals
from rwsa.metrics import (
    METRICS,
    Failure,
    Reference,
    check_metrics,
    composite,
    floored_by_silence,
    frames,
    metrics_version,
    registry,
    score,
    summarise,
)
from rwsa.metrics.pesq_process import PesqProcess
from rwsa.metrics.phones import edit_distance

DNSMOS = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
# PocketSphinx is an optional package that `make .venv` need not have.
AVAILABLE = tuple(
    name for name in METRICS if name != "phone_error" or importlib.util.find_spec("pocketsphinx") is not None
)
INTRUSIVE = tuple(name for name in AVAILABLE if not name.startswith("dnsmos"))
SEEDS = st.integers(0, 2**32 - 1)


def speech_like(seconds, seed=0):
    """Slightly tilted noise in syllables of 0.25 s, in which PESQ finds utterances."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16_000)
    noise = np.convolve(rng.standard_normal(samples + 1), [1, 0.5], "valid")
    syllables = 0.02 + np.square(np.sin(2 * np.pi * 2 * np.arange(samples) / 16_000))
    return 0.02 * noise * syllables


def noisy(clean, snr_db, seed=1):
    noise = np.random.default_rng(seed).standard_normal(len(clean))
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    return clean + noise


def llr(clean, enhanced):
    return composite.llr(composite.envelopes(clean), enhanced)


def wss(clean, enhanced):
    return composite.wss(composite.bands(clean), enhanced)


# DNSMOS doubles clips until they have 9.01 s, and a second more is a second window: 2.3 s need one.
CLEAN = speech_like(2.3)
NOISY = noisy(CLEAN, 5)


def test_every_metric_has_a_value_within_its_bounds():
    values = score(CLEAN, NOISY, AVAILABLE)
    assert list(values) == list(AVAILABLE)
    for name, value in values.items():
        assert METRICS[name].lowest <= value <= METRICS[name].highest


def test_every_metric_prefers_less_noise():
    better, worse = (score(CLEAN, noisy(CLEAN, snr_db), INTRUSIVE) for snr_db in (15, 0))
    signs = {name: -1 if METRICS[name].lower_is_better else 1 for name in INTRUSIVE}
    # Noise-like speech has no phones to lose.
    compared = [name for name in INTRUSIVE if name != "phone_error"]
    assert [name for name in compared if signs[name] * (better[name] - worse[name]) <= 0] == []


def test_shared_values_are_computed_once(monkeypatch):
    package = importlib.import_module("pesq")
    real, calls = package.pesq, []
    monkeypatch.setattr(package, "pesq", lambda *arguments: calls.append(1) or real(*arguments))
    score(CLEAN, NOISY, ("covl", "csig", "pesq", "cbak"))
    assert len(calls) == 1


def test_float32_and_float64_samples_have_equal_scores():
    clean, enhanced = CLEAN.astype(np.float32), NOISY.astype(np.float32)
    in_double = score(clean.astype(np.float64), enhanced.astype(np.float64), AVAILABLE)
    assert score(clean, enhanced, AVAILABLE) == in_double


# Several estimates of one clean clip


def test_a_reference_scores_each_estimate_independently():
    reference = Reference(CLEAN)
    estimates = [noisy(CLEAN, snr_db) for snr_db in (20, 5, -5)] + [0 * CLEAN, CLEAN]
    scores = [reference.score(estimate, INTRUSIVE) for estimate in (*estimates, estimates[0])]
    assert scores[:-1] == [score(CLEAN, estimate, INTRUSIVE) for estimate in estimates]
    assert scores[-1] == scores[0]


def test_a_reference_computes_clean_values_once(monkeypatch):
    calls = []
    clean_sides = {name for name in registry.STEPS if registry.roots(name) == ("clean",)}
    assert clean_sides == {"clean envelopes", "clean bands", "clean segments", "clean phones"}
    counted = {
        name: dataclasses.replace(
            step, measure=lambda *inputs, step=step: calls.append(step.name) or step.measure(*inputs)
        )
        for name, step in registry.STEPS.items()
    }
    monkeypatch.setattr("rwsa.metrics.reference.STEPS", counted)
    reference = Reference(CLEAN)
    for snr_db in (10, 0):
        reference.score(noisy(CLEAN, snr_db), INTRUSIVE)
    assert {name: calls.count(name) for name in calls} == {
        name: 1 if name in clean_sides else 2 for name in calls
    }


def test_the_version_contains_the_code_and_the_packages_in_use(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{12} numpy-\S+", metrics_version(("si_sdr", "ssnr")))
    assert re.search(r" numpy-\S+ pesq-\S+ pystoi-\S+ scipy-\S+$", metrics_version(("covl", "estoi")))
    assert "speechmos-" in metrics_version()
    before = metrics_version(("pesq",))
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")
    assert metrics_version(("pesq",)) == f"{before.split()[0]} numpy-0 pesq-0"
    with pytest.raises(InputError, match="did you mean 'pesq'"):
        metrics_version(("pesk",))


# Single metrics


def test_ssnr_is_the_mean_of_clamped_frame_snrs():
    window = [0.5 * (1 - math.cos(2 * math.pi * n / 481)) for n in range(1, 481)]
    snrs_db = []
    for frame in range(int(len(CLEAN) / 120 - 4)):
        part = slice(120 * frame, 120 * frame + 480)
        speech, error = CLEAN[part] * window, (CLEAN[part] - NOISY[part]) * window
        snrs_db.append(min(35, max(-10, 10 * math.log10(np.sum(speech**2) / np.sum(error**2)))))
    assert score(CLEAN, NOISY, ("ssnr",))["ssnr"] == pytest.approx(np.mean(snrs_db), abs=1e-6)


@pytest.mark.parametrize(
    ("enhanced", "expected_db"), [(CLEAN, 35), (CLEAN / 2, 6.0206), (0 * CLEAN, 0), (CLEAN + 100, -10)]
)
def test_ssnr_of_known_errors(enhanced, expected_db):
    assert score(CLEAN, enhanced, ("ssnr",))["ssnr"] == pytest.approx(expected_db, abs=1e-4)


@given(seed=SEEDS, samples=st.integers(600, 3000), exponent=st.floats(-6, 6))
@settings(max_examples=30, deadline=None)
def test_ssnr_is_within_its_bounds(seed, samples, exponent):
    clean, error = np.random.default_rng(seed).standard_normal((2, samples))
    assert -10 <= score(clean, clean + 10**exponent * error, ("ssnr",))["ssnr"] <= 35


@given(snr_db=st.floats(-40, 60), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_si_sdr_is_the_snr_of_orthogonal_noise(snr_db, seed):
    clean, noise = np.random.default_rng(seed).standard_normal((2, 1000))
    noise -= np.dot(noise, clean) / np.dot(clean, clean) * clean
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    assert score(clean, clean + noise, ("si_sdr",))["si_sdr"] == pytest.approx(snr_db, abs=1e-6)


@given(gain=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_si_sdr_ignores_the_scale_of_either_clip(gain, sign, seed):
    clean, enhanced = np.random.default_rng(seed).standard_normal((2, 1000))
    enhanced += clean
    expected_db = pytest.approx(score(clean, enhanced, ("si_sdr",))["si_sdr"], abs=1e-6)
    assert score(clean, sign * gain * enhanced, ("si_sdr",))["si_sdr"] == expected_db
    assert score(sign * gain * clean, enhanced, ("si_sdr",))["si_sdr"] == expected_db


def test_llr_agrees_with_solved_normal_equations():
    def lags(frame):
        return np.array([np.dot(frame[: 480 - lag], frame[lag:]) for lag in range(17)])

    ratios = []
    for frame in range(frames.frame_count(len(CLEAN))):
        part = slice(120 * frame, 120 * frame + 480)
        r_clean, r_noisy = lags(CLEAN[part] * frames.WINDOW_T), lags(NOISY[part] * frames.WINDOW_T)
        filters = [np.r_[1, -solve_toeplitz(r[:-1], r[1:])] for r in (r_noisy, r_clean)]
        energies = [a @ toeplitz(r_clean) @ a for a in filters]
        ratios.append(math.log(energies[0] / energies[1]))
    kept = sorted(ratios)[: round(0.95 * len(ratios))]
    assert llr(CLEAN, NOISY) == pytest.approx(np.mean(kept), rel=1e-6)


@given(gain=st.floats(0.01, 100), seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_llr_compares_envelopes_not_levels(gain, seed):
    clean, enhanced = np.random.default_rng(seed).standard_normal((2, 1200))
    assert llr(clean, gain * clean) == pytest.approx(0, abs=1e-9)
    assert llr(clean, gain * enhanced) == pytest.approx(llr(clean, enhanced), rel=1e-6)
    assert llr(clean, enhanced) > 0


def test_wss_of_equal_clips_is_zero_and_grows_with_noise():
    distances = [wss(CLEAN, noisy(CLEAN, snr_db)) for snr_db in (300, 20, 10, 0)]
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert distances == sorted(distances)
    assert distances[-1] > 1


def test_wss_peaks_of_falling_and_rising_slopes():
    levels_db = np.array([[3.0, 1.0, 2.0, 5.0, 9.0, 9.0, 4.0, 6.0]])
    # slopes:             fall  rise  rise  rise  flat  fall  rise
    expected_db = np.array([[3.0, 5.0, 5.0, 5.0, 9.0, 9.0, 4.0]])
    np.testing.assert_array_equal(composite._nearest_peaks_db(levels_db), expected_db)


def test_composites_are_the_published_combinations_clipped():
    assert composite.csig(2, 0.5, 30) == pytest.approx(3.093 - 0.5145 + 1.206 - 0.27)
    assert composite.cbak(2, 30, 5) == pytest.approx(1.634 + 0.956 - 0.21 + 0.315)
    assert composite.covl(2, 0.5, 30) == pytest.approx(1.594 + 1.61 - 0.256 - 0.21)
    assert (composite.csig(4.6, -9, 0), composite.covl(1, 9, 90)) == (5, 1)


def test_frames_do_not_depend_on_the_block_size(monkeypatch):
    whole = wss(CLEAN, NOISY)
    monkeypatch.setattr(frames, "_BLOCK_FRAMES", 7)
    assert wss(CLEAN, NOISY) == pytest.approx(whole, rel=1e-12)


def test_estoi_is_reproducible_and_keeps_the_global_generator():
    gated = np.where(np.arange(len(NOISY)) < 20_000, NOISY, 0)
    np.random.seed(3)
    expected_draw = np.random.random()
    np.random.seed(3)
    first = score(CLEAN, gated, ("estoi",))
    assert np.random.random() == expected_draw
    assert score(CLEAN, gated, ("estoi",)) == first


@pytest.mark.parametrize("name", ["stoi", "estoi"])
@pytest.mark.parametrize("snr_db", [10, -5])
def test_stoi_equals_the_package_bit_for_bit(name, snr_db):
    enhanced = noisy(CLEAN, snr_db)
    with seeded_globals(0):
        expected = importlib.import_module("pystoi").stoi(CLEAN, enhanced, 16_000, extended=name == "estoi")
    assert score(CLEAN, enhanced, (name,))[name] == expected


# Less than a window, exactly one, and eight, of which rounding makes the last a sample too short.
@pytest.mark.parametrize("samples", [9_100, 144_160, 272_000])
def test_dnsmos_equals_the_package_bit_for_bit(samples):
    clip = speech_like(samples / 16_000)
    expected = importlib.import_module("speechmos.dnsmos").run(clip, 16_000)
    values = score(None, clip, DNSMOS)
    assert values == {
        "dnsmos_sig": expected["sig_mos"],
        "dnsmos_bak": expected["bak_mos"],
        "dnsmos_ovrl": expected["ovrl_mos"],
    }
    # librosa sums in another order.
    assert score(None, clip, ("dnsmos_p808",))["dnsmos_p808"] == pytest.approx(expected["p808_mos"], abs=1e-4)


def test_dnsmos_beyond_full_scale_is_a_failure_with_the_peak():
    loud = NOISY / np.abs(NOISY).max()
    assert isinstance(score(CLEAN, loud, ("dnsmos_ovrl",))["dnsmos_ovrl"], float)
    value = score(CLEAN, 1.25 * loud, ("dnsmos_ovrl", "si_sdr"))
    assert isinstance(value["si_sdr"], float)
    assert "beyond, the furthest at 1.250" in value["dnsmos_ovrl"].reason


def test_narrow_band_pesq_equals_the_package_also_in_the_child_process():
    package = importlib.import_module("pesq")
    assert score(CLEAN, NOISY, ("pesq_nb",))["pesq_nb"] == package.pesq(16_000, CLEAN, NOISY, "nb")
    with PesqProcess("nb") as process:
        assert process.score(CLEAN, NOISY) == package.pesq(16_000, CLEAN, NOISY, "nb")


def test_log_spectral_distance_agrees_with_scipys_spectra():
    transform = ShortTimeFFT(hann(512, sym=False), 256, 16_000)
    powers = [np.square(np.abs(transform.stft(wav, p0=1, p1=len(wav) // 256))) for wav in (CLEAN, NOISY)]
    clean_db, noisy_db = (10 * np.log10(np.maximum(power, powers[0].max() / 1e5)) for power in powers)
    expected = np.sqrt(np.square(clean_db - noisy_db).mean(axis=0)).mean()
    assert score(CLEAN, NOISY, ("lsd",))["lsd"] == pytest.approx(expected, rel=1e-9)
    assert score(CLEAN, CLEAN, ("lsd",))["lsd"] == 0


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance


def test_lost_and_invented_words_show_in_the_phone_error(recordings):
    pytest.importorskip("pocketsphinx")
    path = find_audio(recordings / "pairs/vbdmd/clean")[0]
    clean = read_mono(path, 16_000)[16_000:48_000].astype(np.float64)
    lost, invented = clean.copy(), clean.copy()
    lost[len(clean) // 2 :] *= 1e-3
    invented[: len(clean) // 2] += clean[-(len(clean) // 2) :]
    values = [
        score(clean, wav, ("phone_error",))["phone_error"] for wav in (clean, 0.3 * clean, lost, invented)
    ]
    assert values[:2] == [0, pytest.approx(0, abs=0.1)]
    assert min(values[2:]) > 0.2
    assert score(clean, 0 * clean, ("phone_error",))["phone_error"] == 1


def test_pesq_of_long_clips_is_the_same_in_the_child_process():
    clean = speech_like(20)
    enhanced = noisy(clean, 10)
    expected = importlib.import_module("pesq").pesq(16_000, clean, enhanced, "wb")
    assert score(clean, enhanced, ("pesq",))["pesq"] == expected


# Failures


def test_a_crash_of_the_pesq_package_is_a_failure():
    burst = np.r_[0.1 * np.random.default_rng(0).standard_normal(4000), np.zeros(4000)]
    clean = np.tile(burst, 60)
    value = score(clean, noisy(clean, 20), ("pesq",))["pesq"]
    assert isinstance(value, Failure)
    assert "50 utterances" in value.reason


def test_pesq_refusals_in_the_child_process_are_failures():
    too_quiet_for_single_precision = np.full(20 * 16_000, 1e-300)
    value = score(too_quiet_for_single_precision, speech_like(20), ("pesq",))["pesq"]
    assert isinstance(value, Failure)
    assert "No utterances" in value.reason


@pytest.mark.parametrize(
    ("clean", "enhanced", "reason"),
    [
        (0 * CLEAN, NOISY, "clean is silent"),
        (CLEAN, np.r_[NOISY[:-2], np.nan, np.inf], "enhanced holds 2 NaN or infinite samples"),
        (np.r_[CLEAN[:-1], np.nan], NOISY, "clean holds 1 NaN or infinite samples"),
    ],
)
def test_unusable_clips_fail_in_every_metric(clean, enhanced, reason):
    assert score(clean, enhanced, INTRUSIVE) == dict.fromkeys(INTRUSIVE, Failure(reason))


def test_metrics_without_reference_need_no_usable_clean_clip():
    expected = score(None, NOISY, DNSMOS)
    assert all(isinstance(value, float) for value in expected.values())
    assert score(0 * CLEAN, NOISY, DNSMOS) == expected
    broken = score(CLEAN, np.r_[NOISY[:-1], np.nan], DNSMOS)
    assert broken == dict.fromkeys(DNSMOS, Failure("enhanced holds 1 NaN or infinite samples"))


def test_a_silent_estimate_fails_where_undefined():
    values = score(CLEAN, 0 * CLEAN, AVAILABLE)
    failed = {name for name, value in values.items() if isinstance(value, Failure)}
    assert failed == set(AVAILABLE) - {"ssnr", "lsd", "phone_error"}
    assert values["csig"] == Failure("needs pesq: enhanced is silent")


@pytest.mark.parametrize("enhanced", [CLEAN, -4 * CLEAN])
def test_infinite_si_sdr_is_a_failure(enhanced):
    assert "+∞" in score(CLEAN, enhanced, ("si_sdr",))["si_sdr"].reason


def test_orthogonal_clips_have_no_si_sdr():
    assert "−∞" in score(np.array([1.0, 0.0]), np.array([0.0, 1.0]), ("si_sdr",))["si_sdr"].reason


@pytest.mark.parametrize(
    ("name", "samples", "words"),
    [
        ("ssnr", 599, "at least 37.5 ms"),
        ("pesq", 3999, "1/4 of a second"),
        ("stoi", 6559, "STOI needs 0.41 s"),
        ("estoi", 6559, "STOI needs 0.41 s"),
        ("dnsmos_sig", 0, "enhanced is silent"),
        ("cbak", 500, "needs pesq"),
        ("ssnr", 0, "clean is silent"),
    ],
)
def test_short_clips_are_failures(name, samples, words):
    value = score(CLEAN[:samples], NOISY[:samples], (name,))[name]
    assert isinstance(value, Failure)
    assert words in value.reason


def test_clips_of_the_minimum_length_have_values():
    assert isinstance(score(CLEAN[:600], NOISY[:600], ("ssnr",))["ssnr"], float)
    steady = np.random.default_rng(0).standard_normal(6560)
    assert isinstance(score(steady, noisy(steady, 5), ("estoi",))["estoi"], float)


@pytest.mark.parametrize(
    ("name", "words"), [("stoi", "Not enough STFT frames"), ("estoi", "frames remain without the silent")]
)
def test_stoi_of_mostly_silent_speech_is_a_failure(name, words):
    clean = np.where(np.arange(len(CLEAN)) < 2000, CLEAN, 1e-6 * CLEAN)
    value = score(clean, noisy(clean, 5), (name,))[name]
    assert isinstance(value, Failure)
    assert words in value.reason
    assert "1e-5" not in value.reason


def test_a_nan_from_a_package_is_a_failure_of_all_dependent_metrics(monkeypatch):
    monkeypatch.setattr(importlib.import_module("pesq"), "pesq", lambda *arguments: math.nan)
    values = score(CLEAN, NOISY, ("pesq", "csig"))
    assert values == {"pesq": Failure("pesq is nan"), "csig": Failure("needs pesq: pesq is nan")}


def with_silence(share):
    """Clips of 2.015 s (264 frames) whose clean side ends in about this share of silent frames."""
    clean, enhanced = speech_like(2.015), noisy(speech_like(2.015), 5)
    clean[int(len(clean) * (1 - share)) :] = 0
    return clean, enhanced


def test_csig_and_covl_ignore_few_silent_frames_and_are_floored_by_many():
    few, many = with_silence(0.04), with_silence(0.2)
    assert not floored_by_silence(*few)
    assert score(*few, ("csig",))["csig"] > 1
    assert floored_by_silence(*many)
    assert score(*many, ("csig", "covl")) == {"csig": 1, "covl": 1}
    assert score(*many, ("cbak",))["cbak"] > 1


# Errors of the caller


@pytest.mark.parametrize(
    ("clean", "enhanced", "words"),
    [
        (CLEAN, NOISY[:-1], "clean has 36800 samples and enhanced 36799"),
        (CLEAN[None], NOISY[None], r"clean has shape \(1, 36800\)"),
        (CLEAN, (NOISY * 32768).astype(np.int16), "enhanced holds int16"),
    ],
)
def test_wrong_arrays_raise(clean, enhanced, words):
    with pytest.raises(InputError, match=words):
        score(clean, enhanced)


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown metric 'sisdr'; did you mean 'si_sdr'"):
        score(CLEAN, NOISY, ("sisdr",))


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("pesq", "covl", "metrics"),
        ("pystoi", "estoi", "metrics"),
        ("speechmos", "dnsmos_bak", "dnsmos"),
        ("pocketsphinx", "phone_error", "phones"),
    ],
)
def test_a_missing_package_is_reported(monkeypatch, package, name, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'rwsa\[{extra}\]'"):
        check_metrics((name,))
    check_metrics(("ssnr", "si_sdr"))


def test_a_missing_clean_clip_is_reported():
    with pytest.raises(InputError, match="pesq, covl: a clean clip is needed"):
        score(None, NOISY, ("dnsmos_sig", "pesq", "covl"))


# Summaries


def test_failures_are_counted_and_never_averaged():
    rows = [{"pesq": 2.0, "ssnr": 1.0}, {"pesq": Failure("x"), "ssnr": 2.0}, {"pesq": 3.0, "ssnr": 6.0}]
    summary = summarise(rows)
    assert (summary["pesq"].mean, summary["pesq"].count, summary["pesq"].failures) == (2.5, 2, 1)
    assert (summary["ssnr"].mean, summary["ssnr"].count, summary["ssnr"].failures) == (3.0, 3, 0)


def test_a_metric_without_values_has_no_mean():
    assert summarise([{"pesq": Failure("x")}])["pesq"].mean is None


@given(st.lists(st.floats(-100, 100) | st.just(Failure("x")), min_size=1))
def test_counts_and_failures_add_up_and_the_mean_is_within_the_values(column):
    summary = summarise([{"pesq": value} for value in column])["pesq"]
    values = [value for value in column if isinstance(value, float)]
    assert (summary.count, summary.failures) == (len(values), len(column) - len(values))
    assert (summary.mean is None) == (not values)
    if values:
        assert min(values) - 1e-9 <= summary.mean <= max(values) + 1e-9
