"""Reverberation keeps the level and time of the direct sound."""

from __future__ import annotations

import numpy as np
import pytest

from rwsa.errors import InputError
from rwsa.mixing.reverberation import reverberate
from tests.clips import RATE_HZ, wave


def room(direct: int = 300, gain: float = -0.4) -> np.ndarray:
    """Silence before the direct sound, a reflection 20 ms after it and one 120 ms after it."""
    rir = np.zeros(direct + RATE_HZ // 2, np.float32)
    rir[direct] = gain
    rir[direct + RATE_HZ // 50] = 0.5 * gain
    rir[direct + RATE_HZ * 12 // 100] = 0.25 * gain
    return rir


def delayed(wav: np.ndarray, samples: int) -> np.ndarray:
    return np.concatenate([np.zeros(samples, np.float32), wav])[: wav.size]


@pytest.mark.parametrize("direct", [0, 1, 300, 7000])
def test_reverberation_only_adds_reflections(direct: int) -> None:
    dry = wave(1.0)
    expected = dry + 0.5 * delayed(dry, 320) + 0.25 * delayed(dry, 1920)
    wet = reverberate(dry, room(direct), RATE_HZ)
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected, atol=1e-6)


def test_early_reflections_end_at_the_given_time() -> None:
    dry = wave(1.0)
    early = reverberate(dry, room(), RATE_HZ, early_ms=50)
    np.testing.assert_allclose(early, dry + 0.5 * delayed(dry, 320), atol=1e-6)
    np.testing.assert_allclose(reverberate(dry, room(), RATE_HZ, early_ms=0), dry, atol=1e-6)
    np.testing.assert_allclose(reverberate(dry, room(), RATE_HZ, early_ms=20), early, atol=1e-6)


def test_a_response_longer_than_the_speech_is_cut() -> None:
    dry = wave(0.1)
    assert reverberate(dry, room(), RATE_HZ).shape == dry.shape


def test_a_silent_response_is_refused() -> None:
    with pytest.raises(InputError, match="the impulse response is silent"):
        reverberate(wave(0.1), np.zeros(100, np.float32), RATE_HZ)
