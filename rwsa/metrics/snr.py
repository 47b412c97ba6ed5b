"""Signal-to-noise measures in dB: segmental SNR and SI-SDR.

Shapes: N frames, T samples in a frame.
"""

from __future__ import annotations

import numpy as np

from rwsa.metrics.frames import per_frame
from rwsa.metrics.values import UndefinedError

_LOWEST_SNR_DB = -10.0
_HIGHEST_SNR_DB = 35.0
_EPSILON = float(np.finfo(np.float64).eps)


def ssnr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Segmental SNR in dB, from −10 to 35.

    mean over frames of clamp(10·log10(Σ(ws)² / Σ(w(s − ŝ))²), −10, 35), with windowed frames w of
    480 samples and a hop of 120. It depends on the level of `enhanced`: at half the level it tends to 6 dB.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz, full scale ±1.

    Raises:
        UndefinedError: fewer than 600 samples.

    Source: Hansen and Pellom, ICSLP 1998; Loizou, Speech Enhancement, 2nd ed., ch. 11; frames and
    clamps as in CMGAN's compute_metrics.
    """
    return float(per_frame(_frame_snr_db, clean, enhanced).mean())


def _frame_snr_db(clean_NT: np.ndarray, enhanced_NT: np.ndarray) -> np.ndarray:
    speech_N = np.square(clean_NT).sum(axis=1)
    error_N = np.square(clean_NT - enhanced_NT).sum(axis=1)
    snr_db_N = 10 * np.log10(speech_N / (error_N + _EPSILON) + _EPSILON)
    return np.clip(snr_db_N, _LOWEST_SNR_DB, _HIGHEST_SNR_DB)


def si_sdr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, unbounded.

    10·log10(‖αs‖² / ‖αs − ŝ‖²) with α = ⟨ŝ, s⟩ / ‖s‖². No mean is removed.

    Args:
        clean, enhanced: float64 `[samples]`, at the same rate and any level.

    Raises:
        UndefinedError: either clip is silent, the two are orthogonal (−∞), or equal up to scale (+∞).

    Source: Le Roux et al., SDR – half-baked or well done?, ICASSP 2019.
    """
    # Not np.dot, whose last bits depend on the number of BLAS threads.
    clean_energy = np.sum(np.square(clean))
    if clean_energy == 0 or not enhanced.any():
        raise UndefinedError(f"{'clean' if clean_energy == 0 else 'enhanced'} is silent")
    target = np.sum(enhanced * clean) / clean_energy * clean
    target_energy = np.sum(np.square(target))
    error_energy = np.sum(np.square(target - enhanced))
    if target_energy == 0:
        raise UndefinedError("enhanced is orthogonal to clean (−∞ dB)")
    if error_energy == 0:
        raise UndefinedError("enhanced equals clean up to scale (+∞ dB)")
    return float(10 * np.log10(target_energy / error_energy))
