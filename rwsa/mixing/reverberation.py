"""Reverberation by a room impulse response (RIR), aligned with the direct sound.

The direct sound is the RIR's sample of largest magnitude. The RIR is scaled so that this sample is 1: the
direct sound keeps the level, polarity and time of the dry signal, and the reflections are added to it.
Recipes use it by `room_share` and `target`; other transforms are added in `rwsa.mixing.transforms`.
"""

from __future__ import annotations

import numpy as np

from rwsa.errors import InputError
from rwsa.mixing.packages import mixing_package


def reverberate(
    dry: np.ndarray, rir: np.ndarray, sample_rate_hz: int, *, early_ms: float | None = None
) -> np.ndarray:
    """Convolve `dry` with a RIR; float32 `[samples]`, as long as `dry` (the tail after its end is cut off).

    Args:
        dry: float32 `[samples]`.
        rir: `[taps]`, at the same rate.
        sample_rate_hz: of both.
        early_ms: drop reflections later than this after the direct sound (50 ms is the usual limit, as in
            ISO 3382-1's D50); None keeps all.

    Raises:
        InputError: the RIR is silent.
    """
    # Late: importing it takes a while, and dry recipes do not need it.
    oaconvolve = mixing_package("scipy.signal", needed_by="reverberation").oaconvolve

    direct = int(np.argmax(np.abs(rir)))
    if rir[direct] == 0:
        raise InputError("the impulse response is silent; remove the file")
    end = len(rir) if early_ms is None else direct + round(early_ms / 1000 * sample_rate_hz) + 1
    taps = rir[:end].astype(np.float64) / rir[direct]
    return oaconvolve(dry.astype(np.float64), taps)[direct : direct + len(dry)].astype(np.float32)
