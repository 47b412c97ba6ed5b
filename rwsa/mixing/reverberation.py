"""Rooms: speech or noise heard through a room impulse response (RIR), aligned with the direct sound.

The direct sound is the RIR's largest sample, in magnitude. The RIR is scaled so that it is 1: the direct
sound keeps the level, polarity and time of the dry signal, and all that is reverberation comes on top.
"""

from __future__ import annotations

import numpy as np

from rwsa.errors import InputError


def reverberate(
    dry: np.ndarray, rir: np.ndarray, sample_rate_hz: int, *, early_ms: float | None = None
) -> np.ndarray:
    """`dry` in a room: float32 `[samples]`, as long as `dry` (what rings on after its end is cut off).

    Args:
        dry: float32 `[samples]`.
        rir: `[taps]`, at the same rate.
        sample_rate_hz: of both.
        early_ms: leave out reflections that come later than this after the direct sound (50 ms is the
            usual limit, as in ISO 3382-1's D50); None takes all.

    Raises:
        InputError: the RIR is silent.
    """
    from scipy.signal import oaconvolve  # late: importing it takes a while, and dry recipes need none of it

    direct = int(np.argmax(np.abs(rir)))
    if rir[direct] == 0:
        raise InputError("the impulse response is silent; remove the file")
    end = len(rir) if early_ms is None else direct + round(early_ms / 1000 * sample_rate_hz) + 1
    taps = rir[:end].astype(np.float64) / rir[direct]
    return oaconvolve(dry.astype(np.float64), taps)[direct : direct + len(dry)].astype(np.float32)
