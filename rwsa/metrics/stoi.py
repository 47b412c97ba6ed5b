"""STOI and ESTOI by the package `pystoi`, reproducible and with typed failures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.global_random import seeded_globals
from rwsa.metrics.packages import import_package
from rwsa.metrics.values import UndefinedError

# Parameters of STOI, section II of its paper; third octaves from 150 Hz.
_RATE_HZ = 10_000
_FRAME_SAMPLES, _FFT_SAMPLES = 256, 512
_BANDS, _LOWEST_HZ = 15, 150
_SEGMENT_FRAMES = 30
_SPEECH_RANGE_DB = 40
# 31 frames with a hop of half a frame; removing silent frames loses the last one.
_LEAST_SECONDS = 0.41


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Intermediate values of ESTOI for a clean clip.

    Attributes:
        clean: `[samples]` at 10 kHz, silent frames included.
        normalised: third-octave envelopes of overlapping segments, `[segments, bands, frames]`, rows and
            columns of each normalised.
        generator: state of NumPy's global generator afterwards; pystoi dithers with it.
    """

    clean: np.ndarray
    normalised: np.ndarray
    generator: Any


def stoi(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Short-time objective intelligibility, −1 to 1, unit 1.

    The mean, over segments of 384 ms and third-octave bands, of the correlation between the clean and the
    enhanced envelope, the latter scaled to the clean one's energy and clipped 15 dB above it.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: less than 0.41 s, with or without its silent frames; `enhanced` is silent.
        InputError: the package is not installed.

    Source: Taal et al., IEEE TASLP 19(7), 2011; package pystoi.
    """
    package = import_package("pystoi")
    _check_audible(enhanced)
    _check_length(clean)
    with _reproducible_pystoi():
        return float(package.stoi(clean, enhanced, SAMPLE_RATE_HZ))


def segments(clean: np.ndarray) -> Segments:
    """The clean side of `estoi`.

    Args:
        clean: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: less than 0.41 s, with or without its silent frames.
        InputError: the package is not installed.
    """
    utils = import_package("pystoi.utils")
    _check_length(clean)
    with _reproducible_pystoi():
        at_10_khz = utils.resample_oct(clean, _RATE_HZ, SAMPLE_RATE_HZ)
        speech, _ = _speech(utils, at_10_khz, at_10_khz)
        normalised = utils.row_col_normalize(_segments(utils, speech))
        return Segments(clean=at_10_khz, normalised=normalised, generator=np.random.get_state())


def estoi(clean: Segments, enhanced: np.ndarray) -> float:
    """Extended STOI, −1 to 1, unit 1: correlation of spectrograms normalised over time and frequency.

    Σ x·y / 30 / segments over third-octave envelopes x and y of segments of 30 frames (384 ms), whose
    rows and then columns have zero mean and unit norm. Frames that are silent in the clean clip are
    removed from both. The steps are the package's functions in the order of its `stoi(…, extended=True)`,
    with identical results; those of the clean clip alone are computed once.

    Args:
        clean: see `segments`.
        enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: `enhanced` is silent, or constant in a segment.
        InputError: the package is not installed.

    Source: Jensen and Taal, IEEE/ACM TASLP 24(11), 2016; package pystoi, `extended=True`.
    """
    utils = import_package("pystoi.utils")
    _check_audible(enhanced)
    with _reproducible_pystoi():
        np.random.set_state(clean.generator)
        at_10_khz = utils.resample_oct(enhanced, _RATE_HZ, SAMPLE_RATE_HZ)
        _, speech = _speech(utils, clean.clean, at_10_khz)
        normalised = utils.row_col_normalize(_segments(utils, speech))
        products = clean.normalised * normalised / _SEGMENT_FRAMES
        return float(np.sum(products) / len(normalised))


def _check_audible(enhanced: np.ndarray) -> None:
    if not enhanced.any():
        raise UndefinedError("enhanced is silent")


def _check_length(clean: np.ndarray) -> None:
    if len(clean) < _LEAST_SECONDS * SAMPLE_RATE_HZ:
        raise UndefinedError(f"{len(clean)} samples are too few: STOI needs {_LEAST_SECONDS} s")


@contextmanager
def _reproducible_pystoi() -> Iterator[None]:
    """Seed pystoi's dither, and turn its warnings into `UndefinedError`.

    It dithers with NumPy's global generator, so that ESTOI would vary where a band is silent, and scoring
    would change the caller's random numbers. Where the metric is undefined, it warns and returns 1e-5.
    """
    with seeded_globals(0), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            yield
        except RuntimeWarning as warning:
            raise UndefinedError(f"STOI: {str(warning).partition(' Returning')[0]}") from None


def _speech(utils: Any, clean: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both clips without the frames in which the clean one is silent."""
    speech: tuple[np.ndarray, np.ndarray] = utils.remove_silent_frames(
        clean, other, _SPEECH_RANGE_DB, _FRAME_SAMPLES, _FRAME_SAMPLES // 2
    )
    return speech


def _segments(utils: Any, speech: np.ndarray) -> np.ndarray:
    """Third-octave envelopes of overlapping segments, `[segments, bands, frames]`."""
    spectrum_TF = utils.stft(speech, _FRAME_SAMPLES, _FFT_SAMPLES, overlap=2)
    if len(spectrum_TF) < _SEGMENT_FRAMES:
        raise UndefinedError(
            f"STOI: {len(spectrum_TF)} frames remain without the silent ones; it needs {_SEGMENT_FRAMES}"
        )
    filters, _ = utils.thirdoct(_RATE_HZ, _FFT_SAMPLES, _BANDS, _LOWEST_HZ)
    envelopes_BT = np.sqrt(np.matmul(filters, np.square(np.abs(spectrum_TF.transpose()))))
    ends = range(_SEGMENT_FRAMES, envelopes_BT.shape[1] + 1)
    return np.array([envelopes_BT[:, end - _SEGMENT_FRAMES : end] for end in ends])
