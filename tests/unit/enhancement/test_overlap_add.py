"""Segments cover a signal however it is read, and fade into each other to give it back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwsa.enhancement.overlap_add import OverlapAdd, fade_window, segment_starts, split_blocks
from rwsa.errors import InputError


@given(samples=st.integers(1, 5000), length=st.integers(2, 500), share=st.floats(0, 0.5))
def test_segments_cover_everything_and_overlap(samples: int, length: int, share: float) -> None:
    overlap = int(length * share)
    starts = segment_starts(samples, length, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(samples - length, 0)
    for one, next_one in itertools.pairwise(starts):
        assert 0 < next_one - one <= length - overlap


@given(length=st.integers(1, 3000), share=st.floats(0, 0.5))
def test_the_window_fades_to_one_and_is_never_zero(length: int, share: float) -> None:
    overlap = int(length * share)
    window = fade_window(length, overlap)
    assert window.shape == (length,)
    assert (window > 0).all()
    np.testing.assert_allclose(window[:overlap] + window[length - overlap :], 1, atol=1e-6)
    assert (window[overlap : length - overlap] == 1).all()
    np.testing.assert_allclose(window, window[::-1], atol=1e-6)


@settings(deadline=None)
@given(
    samples=st.integers(1, 3000),
    length=st.integers(2, 500),
    share=st.floats(0, 0.5),
    step=st.integers(1, 800),
)
def test_overlap_add_restores_the_signal(samples: int, length: int, share: float, step: int) -> None:
    wav = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    joined = OverlapAdd(samples, length, int(length * share))
    step = max(step, samples // 50)
    blocks = (wav[:, at : at + step] for at in range(0, samples, step))
    finished = [joined.add(segment) for segment in split_blocks(blocks, joined.starts, length, samples)]
    assert all(0 < part.shape[1] <= length for part in finished)
    np.testing.assert_allclose(np.concatenate(finished, axis=1), wav, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("present", "counted"), [(99, 100), (60, 100), (0, 1), (3, 5)])
def test_a_signal_shorter_than_measured_is_refused(present: int, counted: int) -> None:
    starts = segment_starts(counted, 40, 4)
    with pytest.raises(InputError, match=f"ends after {present} samples where {counted} were counted"):
        list(split_blocks([np.zeros((1, present))], starts, 40, counted))
