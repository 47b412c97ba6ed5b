"""Acoustic features of noisy speech, by which corpora are compared.

Each group of features has one cause: spectra and modulation are independent of level, those of the noise are
independent of the SNR, and only `level` depends on the gain of the clip.

Legend: B bands, F frequency bins, T frames, M modulation bands.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError

MIN_SAMPLES: Final = SAMPLE_RATE_HZ

_SPECTRUM_SAMPLES: Final = 2048
_FLOOR_DB: Final = -80.0
# A hop of 5 ms, so that envelopes contain modulation up to 100 Hz.
_WINDOW_SAMPLES, _HOP_SAMPLES = 256, 80
_FRAMES_PER_SECOND: Final = SAMPLE_RATE_HZ / _HOP_SAMPLES
# Bands this far below the loudest contain the file's quantization noise rather than sound.
_AUDIBLE_DB: Final = -50.0
_DECAY_FRAMES: Final = round(0.2 * _FRAMES_PER_SECOND)
_DECAY_RANGE_DB: Final = 40.0
_MIN_DECAYS: Final = 20


@dataclass(frozen=True, kw_only=True)
class FeatureGroup:
    """Features with one cause.

    Attributes:
        name: of the group.
        names: of the features.
        unit: of all features.
        least_spread: minimum standard deviation used for scaling, in `unit`, so that distances to a corpus
            with a constant value (all clips at −26 dBFS) stay finite.
        about: a description.
    """

    name: str
    names: tuple[str, ...]
    unit: str
    least_spread: float
    about: str


def _third_octaves() -> tuple[np.ndarray, np.ndarray]:
    """Centres and edges of third-octave bands, 100 Hz to the Nyquist frequency (IEC 61260-1, base 2)."""
    centres = 1000 * 2 ** (np.arange(-10, 10) / 3)
    edges = np.append(centres, centres[-1] * 2 ** (1 / 3)) * 2 ** (-1 / 6)
    return centres, np.minimum(edges, SAMPLE_RATE_HZ / 2)


SPECTRUM_HZ: Final[tuple[float, ...]] = tuple(_third_octaves()[0])
MODULATION_HZ: Final = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_ENVELOPE_HZ: Final = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)

_SPECTRUM_NAMES = tuple(f"{hz:.0f} Hz" for hz in SPECTRUM_HZ)
_MODULATION_NAMES = tuple(f"{hz:g} Hz" for hz in MODULATION_HZ)
_SPECTRUM_ABOUT = "long-term spectrum in third octaves, relative to all power: voices, devices, bandwidth"
_MODULATION_ABOUT = "energy of the envelopes of six octave bands, by how fast they change"

GROUPS: Final[tuple[FeatureGroup, ...]] = (
    FeatureGroup(
        name="speech spectrum",
        names=_SPECTRUM_NAMES,
        unit="dB",
        least_spread=1.0,
        about=_SPECTRUM_ABOUT,
    ),
    FeatureGroup(
        name="speech modulation",
        names=_MODULATION_NAMES,
        unit="dB",
        least_spread=1.0,
        about=f"{_MODULATION_ABOUT}: pace, pauses, rooms",
    ),
    FeatureGroup(
        name="speech decay",
        names=("median", "slowest tenth"),
        unit="s",
        least_spread=0.02,
        about="time in which falling speech would decay by 60 dB: longer in reverberant rooms, but also for"
        " slow speech and above a recording's own noise; not a reverberation time",
    ),
    FeatureGroup(
        name="noise spectrum",
        names=_SPECTRUM_NAMES,
        unit="dB",
        least_spread=1.0,
        about="the same of noisy minus clean: kinds of noise",
    ),
    FeatureGroup(
        name="noise modulation",
        names=_MODULATION_NAMES,
        unit="dB",
        least_spread=1.0,
        about=f"{_MODULATION_ABOUT}: low for steady noise, high for babble and impacts",
    ),
    FeatureGroup(
        name="SNR",
        names=("SNR",),
        unit="dB",
        least_spread=1.0,
        about="power of the clean clip over that of the noise, over the complete clip",
    ),
    FeatureGroup(
        name="level",
        names=("level",),
        unit="dBFS",
        least_spread=1.0,
        about="RMS of the noisy clip",
    ),
)


def clip_features(noisy: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the features of one clip.

    Noise is noisy − clean, so degradations of the mixture and reverberation that the clean target lacks
    count as noise. Zero padding at either end of the clean clip is excluded from the speech features.

    Args:
        noisy: `[samples]` at 16 kHz, at least one second.
        clean: its target, of equal length and aligned.

    Returns:
        By name of each of `GROUPS`, float64 `[len(group.names)]`.

    Raises:
        InputError: the clip is short, or its speech or its noise is silent.
    """
    if noisy.shape != clean.shape or noisy.ndim != 1:
        raise InputError(
            f"noisy {noisy.shape} and clean {clean.shape} must both be [samples], of equal length"
        )
    noisy, clean = noisy.astype(np.float64), clean.astype(np.float64)
    noise = noisy - clean
    speech = _without_padding(clean)
    if len(speech) < MIN_SAMPLES:
        raise InputError(f"has {len(speech) / SAMPLE_RATE_HZ:.2f} s of speech; features need a second")
    if not noise.any() or not noisy.any():
        raise InputError("noisy is silent, or the same as clean: there is no noise to compare")
    return {
        "speech spectrum": spectrum_db(speech),
        "speech modulation": modulation_db(speech),
        "speech decay": decay_seconds(speech),
        "noise spectrum": spectrum_db(noise),
        "noise modulation": modulation_db(noise),
        "SNR": np.array([10 * np.log10(np.mean(clean**2) / np.mean(noise**2))]),
        "level": np.array([10 * np.log10(np.mean(noisy**2))]),
    }


def _without_padding(wav: np.ndarray) -> np.ndarray:
    sounding = np.flatnonzero(wav)
    return wav[sounding[0] : sounding[-1] + 1] if len(sounding) else wav[:0]


def spectrum_db(wav: np.ndarray) -> np.ndarray:
    """Long-term average spectrum (Welch, Hann, half overlapping) in third octaves, after IEC 61260-1.

    Args:
        wav: `[samples]` at 16 kHz, not silent.

    Returns:
        `[B]`: power of each band relative to the total, in dB, at least −80.
    """
    power_F = _power(wav, _SPECTRUM_SAMPLES, _SPECTRUM_SAMPLES // 2).mean(axis=1)
    power_B = _band_weights(_SPECTRUM_SAMPLES, tuple(_third_octaves()[1])) @ power_F
    return 10 * np.log10(np.maximum(power_B / power_B.sum(), 10 ** (_FLOOR_DB / 10)))


def modulation_db(wav: np.ndarray) -> np.ndarray:
    """Modulation spectrum of the envelopes of six octave bands.

    The magnitude envelope of each octave band is divided by its mean; the power in each octave of modulation
    frequency, 2 to 64 Hz, is averaged over the audible bands. After the envelope spectra of Houtgast and
    Steeneken (J. Acoust. Soc. Am. 77, 1985); the bands are close to the modulation filters of Falk, Zheng and
    Chan's SRMR (IEEE TASLP 18, 2010).

    Args:
        wav: `[samples]` at 16 kHz, at least one second, not silent.

    Returns:
        `[M]` in dB; 0 means that a modulation octave has as much power as the envelope's mean.
    """
    envelope_BT = np.sqrt(_audible_bands(wav))
    relative_BT = envelope_BT / envelope_BT.mean(axis=1, keepdims=True) - 1
    window_T = np.hanning(relative_BT.shape[1])
    power_BF = np.abs(np.fft.rfft(relative_BT * window_T, axis=1)) ** 2
    # By Parseval's theorem, the sum over all frequencies is the variance of the relative envelope.
    power_F = 2 * power_BF.mean(axis=0) / (len(window_T) * (window_T**2).sum())
    hz_F = np.fft.rfftfreq(relative_BT.shape[1], 1 / _FRAMES_PER_SECOND)
    power_M = [
        power_F[(hz_F >= centre / np.sqrt(2)) & (hz_F < centre * np.sqrt(2))].sum()
        for centre in MODULATION_HZ
    ]
    return 10 * np.log10(np.maximum(power_M, 10 ** (_FLOOR_DB / 10)))


def decay_seconds(wav: np.ndarray) -> np.ndarray:
    """Decay times of the sound, a blind and rough indicator of reverberation.

    A line is fitted by least squares to the level of each octave band over every 0.2 s; falling lines that
    start within 40 dB of the band's maximum are its decays. Slower decays indicate a more reverberant room,
    after Wen, Habets and Naylor (ICASSP 2008), who use the distribution of decay rates. Since speech itself
    decays, and recordings decay only down to their noise floor, this compares corpora but does not measure
    rooms.

    Args:
        wav: `[samples]` at 16 kHz, at least one second, not silent.

    Returns:
        Median and 90th percentile of the decay times, in seconds per 60 dB.

    Raises:
        InputError: the level hardly ever falls (a steady tone).
    """
    level_BT = 10 * np.log10(np.maximum(_audible_bands(wav), 1e-20))
    windows_BTK = np.lib.stride_tricks.sliding_window_view(level_BT, _DECAY_FRAMES, axis=1)
    seconds_K = (np.arange(_DECAY_FRAMES) - (_DECAY_FRAMES - 1) / 2) / _FRAMES_PER_SECOND
    slope_BT = windows_BTK @ seconds_K / (seconds_K**2).sum()
    loud_BT = windows_BTK[..., 0] > level_BT.max(axis=1, keepdims=True) - _DECAY_RANGE_DB
    # Slower than 60 dB in 3 s counts as a constant level.
    decays = slope_BT[loud_BT & (slope_BT < -20.0)]
    if len(decays) < _MIN_DECAYS:
        raise InputError("the level hardly ever falls: there is no decay to measure")
    return np.percentile(-60 / decays, [50, 90])


def _audible_bands(wav: np.ndarray) -> np.ndarray:
    """Power in octave bands, `[B, T]`, without nearly empty bands."""
    edges = tuple(np.append(_ENVELOPE_HZ, 2 * _ENVELOPE_HZ[-1]) / np.sqrt(2))
    power_BT = _band_weights(_WINDOW_SAMPLES, edges) @ _power(wav, _WINDOW_SAMPLES, _HOP_SAMPLES)
    mean_B = power_BT.mean(axis=1)
    return power_BT[mean_B > mean_B.max() * 10 ** (_AUDIBLE_DB / 10)]


def _power(wav: np.ndarray, window_samples: int, hop_samples: int) -> np.ndarray:
    """Power of short Hann-windowed spectra, `[F, T]`."""
    frames_TW = np.lib.stride_tricks.sliding_window_view(wav, window_samples)[::hop_samples]
    return (np.abs(np.fft.rfft(frames_TW * np.hanning(window_samples), axis=1)) ** 2).T


@functools.cache
def _band_weights(window_samples: int, edges_hz: tuple[float, ...]) -> np.ndarray:
    """`[B, F]`: the fraction of each bin that is in each band, so that narrow bands are not empty."""
    width_hz = SAMPLE_RATE_HZ / window_samples
    low_F = np.fft.rfftfreq(window_samples, 1 / SAMPLE_RATE_HZ) - width_hz / 2
    lows, highs = np.array(edges_hz[:-1])[:, None], np.array(edges_hz[1:])[:, None]
    overlap_BF = np.minimum(highs, low_F + width_hz) - np.maximum(lows, low_F)
    return np.maximum(overlap_BF, 0) / width_hz
