"""Audio samples for reports and MLflow, as FLAC bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import soundfile


def flac(wav: np.ndarray, sample_rate_hz: int, *, gain: float = 1.0) -> bytes:
    """A signal as 16-bit FLAC, which browsers play."""
    target = io.BytesIO()
    soundfile.write(target, wav * gain, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return target.getvalue()


def common_gain(wavs: Iterable[np.ndarray]) -> float:
    """One gain for all signals that keeps the loudest from clipping, so that they stay comparable by ear."""
    peak = max(float(np.abs(wav).max()) for wav in wavs)
    return min(1.0, 0.999 / peak if peak else 1.0)
