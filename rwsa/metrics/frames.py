"""Framing for SSNR, LLR and WSS: 30 ms windows with a hop of a quarter.

Shapes: N frames, T samples in a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.values import UndefinedError

FRAME_SAMPLES = 480
HOP_SAMPLES = 120
# Unlike the usual Hann windows, Loizou's MATLAB code counts n from 1 and divides by T + 1.
WINDOW_T = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, FRAME_SAMPLES + 1) / (FRAME_SAMPLES + 1)))
_BLOCK_FRAMES = 2048


def frame_count(samples: int) -> int:
    """Number of frames as in CMGAN's compute_metrics, which omits the last complete one."""
    return max(0, (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def per_frame(
    measure: Callable[..., np.ndarray], *wavs: np.ndarray, known: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Apply `measure` to the windowed frames of clips, in blocks that bound the memory.

    Args:
        measure: function of `[N, T]` per clip and the same N rows of each of `known`, with result `[N, …]`.
        wavs: float64 `[samples]`, of one length.
        known: values of the same frames computed before, `[frames, …]`.

    Returns:
        Results of `measure`, `[frames, …]`.

    Raises:
        UndefinedError: the clips are shorter than one frame and one hop.
    """
    count = frame_count(len(wavs[0]))
    if count == 0:
        least_ms = 1000 * (FRAME_SAMPLES + HOP_SAMPLES) / SAMPLE_RATE_HZ
        raise UndefinedError(f"{len(wavs[0])} samples are too few: at least {least_ms:g} ms are needed")
    blocks = (slice(first, min(first + _BLOCK_FRAMES, count)) for first in range(0, count, _BLOCK_FRAMES))
    frames = [_frames(wav) for wav in wavs]
    return np.concatenate(
        [
            measure(*(wav_NT[block] * WINDOW_T for wav_NT in frames), *(rows[block] for rows in known))
            for block in blocks
        ]
    )


def _frames(wav: np.ndarray) -> np.ndarray:
    """A view of all frames, `[N, T]`, without a copy."""
    return np.lib.stride_tricks.sliding_window_view(wav, FRAME_SAMPLES)[::HOP_SAMPLES]
