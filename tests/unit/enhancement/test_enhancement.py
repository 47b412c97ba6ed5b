"""Enhancement of arrays: length, seams, channels, levels, silence, types."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rwsa
from rwsa.enhancement import enhance, enhance_phases
from rwsa.enhancement.overlap_add import segment_starts
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model
from rwsa.stft import istft, stft

RATE_HZ = 16_000
CONFIG = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
LENGTH = CONFIG.segment_samples
Spectrum = tuple[Tensor, Tensor]


class Fake(nn.Module):
    """A model that applies `change` to magnitude and phase, and records its batch sizes."""

    def __init__(self, change: Callable[[Tensor, Tensor], Spectrum] = lambda mag, pha: (mag, pha)) -> None:
        super().__init__()
        self.config, self.change, self.batches = CONFIG, change, list[int]()
        self.parameter = nn.Parameter(torch.zeros(()))

    def forward(self, mag_BFT: Tensor, pha_BFT: Tensor) -> Spectrum:
        self.batches.append(len(mag_BFT))
        return self.change(mag_BFT, pha_BFT)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 100_000),
    rate_hz=st.sampled_from([8000, 16_000, 44_100, 48_000]),
    channels=st.integers(1, 2),
    crossfade=st.sampled_from([0.0, 0.1, 0.5]),
)
@example(samples=1, rate_hz=48_000, channels=1, crossfade=0.1)
@example(samples=1, rate_hz=44_100, channels=2, crossfade=0.1)
@example(samples=2, rate_hz=48_000, channels=2, crossfade=0.0)
@example(samples=1, rate_hz=16_000, channels=1, crossfade=0.5)
@example(samples=LENGTH + 1, rate_hz=16_000, channels=1, crossfade=0.5)
def test_output_length_equals_input_length(
    samples: int, rate_hz: int, channels: int, crossfade: float
) -> None:
    wav = noise(channels, samples)
    enhanced = enhance(wav, rate_hz, Fake(), crossfade=crossfade, batch_size=16)
    assert enhanced.shape == wav.shape
    assert np.isfinite(enhanced).all()


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(1, 8 * LENGTH),
    crossfade=st.sampled_from([0.0, 0.05, 0.1, 0.37, 0.5]),
    batch_size=st.integers(1, 5),
)
@example(samples=2 * LENGTH, crossfade=0.0, batch_size=1)
@example(samples=LENGTH + 1, crossfade=0.5, batch_size=2)
def test_an_identity_model_returns_the_input(samples: int, crossfade: float, batch_size: int) -> None:
    wav = noise(samples)
    enhanced = enhance(wav, RATE_HZ, Fake(), crossfade=crossfade, batch_size=batch_size)
    np.testing.assert_allclose(enhanced, wav, rtol=0, atol=1e-5)


def border_steps(crossfade: float) -> tuple[np.ndarray, np.ndarray]:
    """Absolute sample differences of a tone enhanced by a network, at segment borders and elsewhere."""
    model = build_model(CONFIG, seed=1).eval()
    seconds = np.arange(int(6.3 * LENGTH)) / RATE_HZ
    wav = (0.3 * np.sin(2 * np.pi * 220 * seconds) + 0.02 * noise(len(seconds))).astype(np.float32)
    steps = np.abs(np.diff(enhance(wav, RATE_HZ, model, crossfade=crossfade)))
    starts = segment_starts(len(wav), LENGTH, int(LENGTH * crossfade))
    borders = np.array([*starts[1:], *(start + LENGTH for start in starts[:-1])]) - 1
    return steps[borders], np.delete(steps, borders)


@pytest.mark.parametrize("crossfade", [0.05, 0.1, 0.25, 0.5])
def test_a_network_leaves_no_seams(crossfade: float) -> None:
    at_borders, elsewhere = border_steps(crossfade)
    assert at_borders.max() <= np.quantile(elsewhere, 0.999)
    assert np.median(at_borders) <= 2 * np.median(elsewhere)


def test_without_a_crossfade_there_are_seams() -> None:
    at_borders, elsewhere = border_steps(0.0)
    assert at_borders.max() > np.quantile(elsewhere, 0.999)
    assert np.median(at_borders) > 2 * np.median(elsewhere)


def test_a_signal_of_one_segment_is_the_models_output() -> None:
    model, wav = build_model(CONFIG, seed=1).eval(), noise(LENGTH)
    level = np.sqrt(np.mean(np.square(wav, dtype=np.float64)))
    with torch.inference_mode():
        spectrum = stft(torch.from_numpy(wav / np.float32(level))[None], CONFIG.spectral)
        expected = istft(*model(*spectrum), CONFIG.spectral, LENGTH)[0].numpy() * level
    np.testing.assert_allclose(enhance(wav, RATE_HZ, model), expected, rtol=0, atol=1e-6)


def test_channels_are_enhanced_separately() -> None:
    model, wav = build_model(CONFIG, seed=1).eval(), noise(2, 2 * LENGTH + 100)
    wav[1] *= 0.01
    both = enhance(wav, RATE_HZ, model)
    for channel, enhanced in zip(wav, both, strict=True):
        np.testing.assert_allclose(enhance(channel, RATE_HZ, model), enhanced, rtol=0, atol=1e-6)


def test_silence_stays_silence() -> None:
    loud = Fake(lambda mag, pha: (mag + 1, pha))
    wav = np.zeros((2, 3 * LENGTH), np.float32)
    assert not enhance(wav, RATE_HZ, loud).any()
    assert loud.batches == []
    wav[1] = noise(3 * LENGTH)
    enhanced = enhance(wav, RATE_HZ, loud)
    assert not enhanced[0].any()
    assert enhanced[1].any()


@pytest.mark.parametrize("exponent", [-100, -20, 3, 20])
def test_scaling_by_a_power_of_two_is_bit_exact(exponent: int) -> None:
    model, wav, gain = build_model(CONFIG, seed=1).eval(), noise(2 * LENGTH), np.float32(2.0**exponent)
    np.testing.assert_array_equal(enhance(wav * gain, RATE_HZ, model), enhance(wav, RATE_HZ, model) * gain)


@pytest.mark.parametrize("gain", [1e-30, 0.013, 30_000])
def test_scaling_the_input_scales_the_output(gain: float) -> None:
    # Not a network, which would amplify the rounding of a scaled signal.
    compressor, wav = Fake(lambda mag, pha: (mag.tanh(), pha)), noise(2 * LENGTH)
    expected = enhance(wav, RATE_HZ, compressor) * np.float32(gain)
    assert np.abs(expected - wav * np.float32(gain)).max() > 0.1 * gain
    scaled = enhance(wav * np.float32(gain), RATE_HZ, compressor)
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-38])
def test_a_subnormal_click_stays_finite(value: float) -> None:
    wav = np.zeros(5 * LENGTH, np.float32)
    wav[100] = value
    assert np.isfinite(enhance(wav, RATE_HZ, Fake())).all()


def test_the_level_is_measured_over_the_whole_signal() -> None:
    seen = list[float]()

    def record_level(mag: Tensor, pha: Tensor) -> Spectrum:
        seen.append(istft(mag, pha, CONFIG.spectral, LENGTH).square().mean().item())
        return mag, pha

    wav = noise(10 * LENGTH)
    wav[5 * LENGTH :] *= 0.1
    enhance(wav, RATE_HZ, Fake(record_level), batch_size=1, crossfade=0.0)
    assert seen[0] == pytest.approx(2, rel=0.1)
    assert seen[-1] == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2000,), (1, 2000), (2, 2000)])
def test_numpy_output_has_dtype_and_shape_of_the_input(dtype: Any, shape: tuple[int, ...]) -> None:
    wav = noise(*shape).astype(dtype)
    before = wav.copy()
    enhanced = enhance(wav, RATE_HZ, Fake())
    assert isinstance(enhanced, np.ndarray)
    assert (enhanced.dtype, enhanced.shape) == (wav.dtype, shape)
    np.testing.assert_array_equal(wav, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_torch_output_has_dtype_and_shape_of_the_input(dtype: torch.dtype) -> None:
    wav = torch.from_numpy(noise(2, 2000)).to(dtype).requires_grad_()
    enhanced = enhance(wav, RATE_HZ, Fake())
    assert isinstance(enhanced, Tensor)
    assert (enhanced.dtype, enhanced.shape, enhanced.requires_grad) == (dtype, wav.shape, False)
    torch.testing.assert_close(enhanced, wav.detach(), rtol=0, atol=1e-5 if dtype.itemsize > 2 else 5e-3)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(0, np.float32), r"wav has shape \[0\]; give \[samples\]"),
        (np.zeros((0, 5), np.float32), r"wav has shape \[0, 5\]"),
        (np.zeros((2, 0), np.float32), r"wav has shape \[2, 0\]"),
        (np.zeros((1, 2, 3), np.float32), r"wav has shape \[1, 2, 3\]"),
        (np.float32(3), r"wav has shape \[\]"),
        (np.ones(5, np.int16), "wav holds int16; give floating point"),
        (torch.ones(5, dtype=torch.int32), "wav holds int32; give floating point"),
        (np.ones(5, np.complex64), "wav holds complex64"),
        (np.array([0.1, math.nan], np.float32), "wav holds NaN or infinite samples"),
        (torch.tensor([0.1, math.inf]), "wav holds NaN or infinite samples"),
        (np.array([0.1, 1e39]), "wav holds NaN or infinite samples"),
    ],
)
def test_invalid_signals_are_refused(wav: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        enhance(wav, RATE_HZ, Fake())


@pytest.mark.parametrize(
    "changes", [{"crossfade": 0.6}, {"crossfade": -0.1}, {"batch_size": 0}, {"sample_rate_hz": 0}]
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(InputError, match=name):
        enhance(**{"wav": noise(10), "sample_rate_hz": RATE_HZ, "model": Fake()} | changes)


def test_progress_counts_every_segment_of_every_channel() -> None:
    wav, seen = noise(2, 4 * LENGTH), list[tuple[int, int]]()
    wav[0] = 0
    enhance(wav, RATE_HZ, Fake(), batch_size=2, progress=lambda done, total: seen.append((done, total)))
    each = len(segment_starts(4 * LENGTH, LENGTH, int(0.1 * LENGTH)))
    assert seen[-1] == (2 * each, 2 * each)
    assert seen == sorted(seen)


def test_no_batch_exceeds_batch_size() -> None:
    model = Fake()
    enhance(noise(9 * LENGTH), RATE_HZ, model, crossfade=0.0, batch_size=4)
    assert model.batches == [4, 4, 1]


def test_phases_use_one_pass_of_the_model() -> None:
    model = Fake(lambda mag, pha: (mag, pha + 1))
    wav = noise(2, LENGTH + 50)
    own, noisy = enhance_phases(wav, RATE_HZ, model, ("model", "noisy"))
    np.testing.assert_allclose(noisy, wav, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(own, enhance(wav, RATE_HZ, model))
    assert np.abs(own - wav).max() > 0.1
    assert sum(model.batches) == 8  # two segments of two channels, twice


def test_the_package_exports_it() -> None:
    assert rwsa.enhance is enhance
