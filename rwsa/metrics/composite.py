"""Composite measures of Hu and Loizou: CSIG, CBAK and COVL, and their components LLR and WSS.

They follow CMGAN's compute_metrics, the basis of published tables: wide-band PESQ, LLR not clipped at 2, LPC
order 16.

Shapes: N frames, T samples in a frame, P + 1 lags or LPC coefficients, F bins, C critical bands.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.frames import FRAME_SAMPLES, frame_count, per_frame

_LPC_ORDER = 16
_RETAINED_SHARE = 0.95
_FFT_SAMPLES = 1024
_POWER_FLOOR = 1e-10
# compute_metrics divides by 32768 as if its input were int16, although CMGAN passes floats in ±1. Published
# numbers include this second division, which matters because of the power floor above.
_WSS_SCALE = 1 / 32768
_KLATT_GLOBAL_DB = 20.0
_KLATT_LOCAL_DB = 1.0
# Klatt's critical bands as in Loizou's WSS: (centre, width) in Hz. They end below 4 kHz at any rate.
# fmt: off
_BANDS_HZ = (
    (50.0, 70.0), (120.0, 70.0), (190.0, 70.0), (260.0, 70.0), (330.0, 70.0),
    (400.0, 70.0), (470.0, 70.0), (540.0, 77.3724), (617.372, 86.0056), (703.378, 95.3398),
    (798.717, 105.411), (904.128, 116.256), (1020.38, 127.914), (1148.30, 140.423), (1288.72, 153.823),
    (1442.54, 168.154), (1610.70, 183.457), (1794.16, 199.776), (1993.93, 217.153), (2211.08, 235.631),
    (2446.71, 255.255), (2701.97, 276.072), (2978.04, 298.126), (3276.17, 321.465), (3597.63, 346.136),
)
# fmt: on


def csig(pesq: float, llr: float, wss: float) -> float:
    """Predicted rating of signal distortion in MOS, 1 to 5: 3.093 − 1.029·LLR + 0.603·PESQ − 0.009·WSS.

    Source: Hu and Loizou, Evaluation of objective quality measures for speech enhancement, IEEE TASLP
    16(1), 2008; CMGAN's compute_metrics.
    """
    return _rating(3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss)


def cbak(pesq: float, wss: float, ssnr: float) -> float:
    """Predicted rating of background noise in MOS, 1 to 5: 1.634 + 0.478·PESQ − 0.007·WSS + 0.063·SSNR.

    Source: see `csig`.
    """
    return _rating(1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * ssnr)


def covl(pesq: float, llr: float, wss: float) -> float:
    """Predicted rating of overall quality in MOS, 1 to 5: 1.594 + 0.805·PESQ − 0.512·LLR − 0.007·WSS.

    Source: see `csig`.
    """
    return _rating(1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss)


def _rating(score: float) -> float:
    return min(5.0, max(1.0, score))


@dataclass(frozen=True, kw_only=True)
class Envelopes:
    """Intermediate values of LLR for a clean clip.

    Attributes:
        lags_NP: autocorrelation of each frame, lags 0 … P.
        error_N: prediction error of each frame by its own LPC coefficients.
    """

    lags_NP: np.ndarray
    error_N: np.ndarray


def envelopes(clean: np.ndarray) -> Envelopes:
    """The clean side of `llr`.

    Args:
        clean: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: fewer than 600 samples.
    """
    lags_and_error_NP = per_frame(_clean_envelope, clean)
    return Envelopes(lags_NP=lags_and_error_NP[:, :-1], error_N=lags_and_error_NP[:, -1])


# Silent frames give 0 / 0, here and in `_frame_llr`.
@np.errstate(divide="ignore", invalid="ignore")
def _clean_envelope(clean_NT: np.ndarray) -> np.ndarray:
    lags_NP = _autocorrelation(clean_NT)
    return np.column_stack([lags_NP, _prediction_error(_lpc(lags_NP), lags_NP)])


def llr(clean: Envelopes, enhanced: np.ndarray) -> float:
    """Log-likelihood ratio, 0 (equal spectral envelopes) or more: mean over the lowest 95% of frames.

    log(aᵀRa / bᵀRb) per frame, with R the autocorrelation of the clean frame, b its LPC coefficients and
    a those of the enhanced frame. Unit: 1 (a natural logarithm).

    Digitally silent frames have no LPC coefficients and count as infinite: up to 5% of them are trimmed, more
    make the mean infinite, and CSIG and COVL their minimum of 1. compute_metrics has the same result (by
    sorting NaN last, and by `max(1, nan)`), so published tables include it; `floored_by_silence` detects it.

    Args:
        clean: see `envelopes`.
        enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: fewer than 600 samples.

    Source: Quackenbush et al., Objective Measures of Speech Quality, 1988; Hu and Loizou 2008; CMGAN's
    compute_metrics.
    """
    return _trimmed_mean(per_frame(_frame_llr, enhanced, known=(clean.lags_NP, clean.error_N)))


def floored_by_silence(clean: np.ndarray, enhanced: np.ndarray) -> bool:
    """Whether CSIG and COVL are 1 only because more than 5% of frames are digitally silent."""
    return frame_count(len(clean)) > 0 and math.isinf(llr(envelopes(clean), enhanced))


def _trimmed_mean(values: np.ndarray) -> float:
    return float(np.sort(values)[: round(len(values) * _RETAINED_SHARE)].mean())


@np.errstate(divide="ignore", invalid="ignore")
def _frame_llr(enhanced_NT: np.ndarray, lags_NP: np.ndarray, clean_error_N: np.ndarray) -> np.ndarray:
    enhanced_error_N = _prediction_error(_lpc(_autocorrelation(enhanced_NT)), lags_NP)
    ratios_N = np.log(enhanced_error_N / clean_error_N)
    return np.where(np.isfinite(ratios_N), ratios_N, np.inf)


def _autocorrelation(frames_NT: np.ndarray) -> np.ndarray:
    """Lags 0 … P of each frame, `[N, P + 1]`."""
    lags = [
        np.einsum("nt,nt->n", frames_NT[:, : FRAME_SAMPLES - lag], frames_NT[:, lag:])
        for lag in range(_LPC_ORDER + 1)
    ]
    return np.stack(lags, axis=1)


def _lpc(lags_NP: np.ndarray) -> np.ndarray:
    """Prediction error filters by the Levinson-Durbin recursion, `[N, P + 1]`, the first entry 1."""
    filters_NP = np.zeros_like(lags_NP)
    filters_NP[:, 0] = 1.0
    error_N = lags_NP[:, 0].copy()
    for order in range(1, _LPC_ORDER + 1):
        residual_N = np.sum(filters_NP[:, :order] * lags_NP[:, order:0:-1], axis=1)
        reflection_N = -residual_N / error_N
        mirrored = filters_NP[:, order - 1 :: -1]
        filters_NP[:, 1 : order + 1] = filters_NP[:, 1 : order + 1] + reflection_N[:, None] * mirrored
        error_N *= 1 - np.square(reflection_N)
    return filters_NP


def _prediction_error(filters_NP: np.ndarray, lags_NP: np.ndarray) -> np.ndarray:
    """aᵀRa per frame, R being the Toeplitz matrix of the lags; `[N]`."""
    order = np.arange(_LPC_ORDER + 1)
    matrix_NPP = lags_NP[:, np.abs(order[:, None] - order)]
    return np.einsum("np,npq,nq->n", filters_NP, matrix_NPP, filters_NP)


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Intermediate values of WSS for one clip: levels of critical bands and weights of their slopes."""

    levels_db_NC: np.ndarray
    weights_NC: np.ndarray


def bands(wav: np.ndarray) -> Bands:
    """One side of `wss`.

    Args:
        wav: float64 `[samples]` at 16 kHz, full scale ±1.

    Raises:
        UndefinedError: fewer than 600 samples.
    """
    levels_db_NC = per_frame(_band_levels_db, wav)
    return Bands(levels_db_NC=levels_db_NC, weights_NC=_klatt_weights(levels_db_NC))


def wss(clean: Bands, enhanced: np.ndarray) -> float:
    """Weighted spectral slope distance in dB², 0 or more: mean over the lowest 95% of frames.

    Σ w·(Δ clean − Δ enhanced)² / Σ w per frame: squared differences of the slopes Δ between neighbouring
    critical bands (dB), weighted towards bands near the frame's highest band and near a local peak.

    Args:
        clean: see `bands`.
        enhanced: float64 `[samples]` at 16 kHz, full scale ±1.

    Raises:
        UndefinedError: fewer than 600 samples.

    Source: Klatt, ICASSP 1982; Hu and Loizou 2008; scale and floor as in CMGAN's compute_metrics.
    """
    other = bands(enhanced)
    weights_NC = (clean.weights_NC + other.weights_NC) / 2
    distances_NC = np.square(np.diff(clean.levels_db_NC) - np.diff(other.levels_db_NC))
    return _trimmed_mean(np.sum(weights_NC * distances_NC, axis=1) / np.sum(weights_NC, axis=1))


def _band_levels_db(frames_NT: np.ndarray) -> np.ndarray:
    power_NF = np.square(np.abs(np.fft.rfft(frames_NT * _WSS_SCALE, _FFT_SAMPLES)[:, :-1]))
    return 10 * np.log10(np.maximum(power_NF @ _band_filters().T, _POWER_FLOOR))


@functools.cache
def _band_filters() -> np.ndarray:
    """Gaussian critical-band filters of equal area, zero below −30 dB; `[C, F]`."""
    bin_hz = SAMPLE_RATE_HZ / _FFT_SAMPLES
    centres_hz, widths_hz = np.array(_BANDS_HZ).T[:, :, None]
    centre_bins = np.floor(centres_hz / bin_hz)
    offsets_CF = (np.arange(_FFT_SAMPLES // 2) - centre_bins) / (widths_hz / bin_hz)
    filters_CF = np.exp(-11 * np.square(offsets_CF)) * (widths_hz[0] / widths_hz)
    return np.where(filters_CF > np.exp(-30 / (2 * 2.303)), filters_CF, 0.0)


def _klatt_weights(levels_db_NC: np.ndarray) -> np.ndarray:
    """Klatt's weight of each slope, by its lower band; `[N, C − 1]`."""
    lower_db_NC = levels_db_NC[:, :-1]
    below_highest_db = levels_db_NC.max(axis=1, keepdims=True) - lower_db_NC
    below_peak_db = _nearest_peaks_db(levels_db_NC) - lower_db_NC
    return (_KLATT_GLOBAL_DB / (_KLATT_GLOBAL_DB + below_highest_db)) * (
        _KLATT_LOCAL_DB / (_KLATT_LOCAL_DB + below_peak_db)
    )


def _nearest_peaks_db(levels_db_NC: np.ndarray) -> np.ndarray:
    """Level of the local peak nearest to each slope, `[N, C − 1]`.

    For a falling slope it is the top of the fall, to the left. For a rising slope it is the last band that
    still rises, one below the top: as in Loizou's code and hence in all published values.
    """
    rising_NC = np.diff(levels_db_NC) > 0
    left_db, right_db = levels_db_NC[:, :-1].copy(), levels_db_NC[:, :-1].copy()
    last = rising_NC.shape[1] - 1
    for band in range(1, last + 1):
        falls_on = ~rising_NC[:, band - 1]
        left_db[:, band] = np.where(falls_on, left_db[:, band - 1], left_db[:, band])
        mirror = last - band
        rises_on = rising_NC[:, mirror + 1]
        right_db[:, mirror] = np.where(rises_on, right_db[:, mirror + 1], right_db[:, mirror])
    return np.where(rising_NC, right_db, left_db)
