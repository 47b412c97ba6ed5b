"""The frames that SSNR, LLR and WSS share: 30 ms, a quarter apart, under one window.

Shapes: N frames, T samples in a frame.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rwsa.metrics.values import SAMPLE_RATE_HZ, UndefinedError

FRAME_SAMPLES = 480
HOP_SAMPLES = 120
# Not one of the usual Hann windows: Loizou's MATLAB code counts n from 1 and divides by T + 1.
WINDOW_T = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, FRAME_SAMPLES + 1) / (FRAME_SAMPLES + 1)))
_BLOCK_FRAMES = 2048


def frame_count(samples: int) -> int:
    """How many frames CMGAN's compute_metrics looks at: the last whole one is left out."""
    return max(0, (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def per_frame(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray], clean: np.ndarray, enhanced: np.ndarray
) -> np.ndarray:
    """Apply `measure` to the windowed frames of both clips, some thousands at a time.

    Blocks keep the memory for an hour of audio the same as for a minute.

    Args:
        measure: from two `[N, T]` to one `[N]`.
        clean, enhanced: float64 `[samples]`, of one length.

    Returns:
        One number a frame, `[frames]`.

    Raises:
        UndefinedError: the clips are shorter than one frame and one hop.
    """
    count = frame_count(len(clean))
    if count == 0:
        least_ms = 1000 * (FRAME_SAMPLES + HOP_SAMPLES) / SAMPLE_RATE_HZ
        raise UndefinedError(f"{len(clean)} samples are too few: {least_ms:g} ms hold the first frame")
    blocks = (slice(first, min(first + _BLOCK_FRAMES, count)) for first in range(0, count, _BLOCK_FRAMES))
    clean_NT, enhanced_NT = _frames(clean), _frames(enhanced)
    return np.concatenate(
        [measure(clean_NT[block] * WINDOW_T, enhanced_NT[block] * WINDOW_T) for block in blocks]
    )


def _frames(wav: np.ndarray) -> np.ndarray:
    """A view of all frames, `[N, T]`, without a copy."""
    return np.lib.stride_tricks.sliding_window_view(wav, FRAME_SAMPLES)[::HOP_SAMPLES]
