"""Log-spectral distance: how far the spectrum of each moment is from the clean one.

Shapes: N frames, T samples in a frame, F frequencies.
"""

from __future__ import annotations

import numpy as np

from rwsa.metrics.values import UndefinedError

FRAME_SAMPLES, HOP_SAMPLES = 512, 256
# Powers further than this below the clean clip's highest count as equal: rounding and silence say nothing.
RANGE_DB = 50.0
_WINDOW_T = 0.5 * (1 - np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES))


def lsd(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Log-spectral distance in dB, from 0; lower is better.

    mean over frames of √(mean over frequencies of (L(S) − L(Ŝ))²), with L(X) = 10·log10(max(|X|², δ)) and δ
    50 dB below the highest |S|². Periodic Hann windows of 512 samples, half overlapped. It depends on the
    level of `enhanced`.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: fewer than 512 samples.

    Source: Gray and Markel, Distance measures for speech processing, IEEE Trans. ASSP 24(5), 1976; floor as
    in Cohen, Noise spectrum estimation in adverse environments, IEEE Trans. SAP 11(5), 2003.
    """
    if len(clean) < FRAME_SAMPLES:
        raise UndefinedError(f"{len(clean)} samples are too few: at least {FRAME_SAMPLES} are needed")
    clean_NF, enhanced_NF = _powers(clean), _powers(enhanced)
    floor = clean_NF.max() * 10 ** (-RANGE_DB / 10)
    levels = [10 * np.log10(np.maximum(power_NF, floor)) for power_NF in (clean_NF, enhanced_NF)]
    return float(np.sqrt(np.square(levels[0] - levels[1]).mean(axis=1)).mean())


def _powers(wav: np.ndarray) -> np.ndarray:
    frames_NT = np.lib.stride_tricks.sliding_window_view(wav, FRAME_SAMPLES)[::HOP_SAMPLES]
    return np.square(np.abs(np.fft.rfft(frames_NT * _WINDOW_T, axis=1)))
