"""The frames that SSNR, LLR and WSS share: 30 ms, a quarter apart, under one window.

Shapes: N frames, T samples in a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.values import UndefinedError

FRAME_SAMPLES = 480
HOP_SAMPLES = 120
# Not one of the usual Hann windows: Loizou's MATLAB code counts n from 1 and divides by T + 1.
WINDOW_T = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, FRAME_SAMPLES + 1) / (FRAME_SAMPLES + 1)))
_BLOCK_FRAMES = 2048


def frame_count(samples: int) -> int:
    """How many frames CMGAN's compute_metrics looks at: the last whole one is left out."""
    return max(0, (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def per_frame(
    measure: Callable[..., np.ndarray], *wavs: np.ndarray, known: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Apply `measure` to the windowed frames of clips, some thousands at a time.

    Blocks keep the memory for an hour of audio the same as for a minute.

    Args:
        measure: from one `[N, T]` a clip, and then the same N rows of each of `known`, to `[N, …]`.
        wavs: float64 `[samples]`, of one length.
        known: what was computed of the frames before, `[frames, …]`.

    Returns:
        What `measure` gives, `[frames, …]`.

    Raises:
        UndefinedError: the clips are shorter than one frame and one hop.
    """
    count = frame_count(len(wavs[0]))
    if count == 0:
        least_ms = 1000 * (FRAME_SAMPLES + HOP_SAMPLES) / SAMPLE_RATE_HZ
        raise UndefinedError(f"{len(wavs[0])} samples are too few: {least_ms:g} ms hold the first frame")
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
