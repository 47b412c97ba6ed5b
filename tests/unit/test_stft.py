"""The STFT and its inverse; the paper's segment gives 256 × 256."""

from __future__ import annotations

import pytest
import torch

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.stft import SpectralConfig, complex_parts, istft, stft

PAPER = SpectralConfig()
CONFIGS = [PAPER, SpectralConfig(n_fft=400, hop_samples=100, window_samples=400, compression=0.5)]


def noise(batch: int, samples: int) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


def test_the_papers_segment_is_square() -> None:
    mag_BFT, pha_BFT = stft(noise(2, 30_600), PAPER)
    assert mag_BFT.shape == pha_BFT.shape == (2, 256, 256)
    assert (PAPER.bins, PAPER.frames(30_600), PAPER.samples(256)) == (256, 256, 30_600)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("samples", [400, 1199, 1200, 1201, 7777])
def test_the_inverse_restores_the_signal(config: SpectralConfig, samples: int) -> None:
    wav = noise(2, samples)
    mag_BFT, pha_BFT = stft(wav, config)
    assert mag_BFT.shape == (2, config.bins, config.frames(samples))
    torch.testing.assert_close(istft(mag_BFT, pha_BFT, config, samples), wav, rtol=0, atol=1e-5)


def test_inverse_in_double_precision_is_exact() -> None:
    wav = noise(1, 5000).double()
    torch.testing.assert_close(istft(*stft(wav, PAPER), PAPER, 5000), wav, rtol=0, atol=1e-13)


def test_shortest_signal_with_a_number_of_frames() -> None:
    for frames in (6, 32, 256):
        samples = PAPER.samples(frames)
        assert PAPER.frames(samples) == frames
        assert PAPER.frames(samples - 1) == frames - 1
        assert istft(*stft(noise(1, samples), PAPER), PAPER).shape == (1, samples)


def test_magnitude_is_compressed() -> None:
    wav = noise(1, 3000)
    mag_BFT, pha_BFT = stft(wav, PAPER)
    louder_BFT, same_BFT = stft(8 * wav, PAPER)
    torch.testing.assert_close(louder_BFT, mag_BFT * 8**0.3)
    torch.testing.assert_close(same_BFT, pha_BFT)


def test_epsilon_keeps_gradients_finite_at_silence() -> None:
    wav = torch.zeros(1, 3000, requires_grad=True)
    parts = complex_parts(*stft(wav, PAPER, epsilon=1e-10))
    # The real part alone: at silence, the gradients of both parts cancel but for rounding.
    (gradient,) = torch.autograd.grad(parts[..., 0].sum(), wav)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_complex_parts_equal_the_complex_spectrum() -> None:
    mag_BFT, pha_BFT = stft(noise(1, 3000), PAPER)
    parts = complex_parts(mag_BFT, pha_BFT)
    torch.testing.assert_close(torch.view_as_complex(parts), torch.polar(mag_BFT, pha_BFT))


@pytest.mark.parametrize(
    "values", [{"n_fft": 0}, {"hop_samples": -1}, {"compression": 0}, {"compression": 1.1}]
)
def test_invalid_parameters_are_refused(values: dict[str, float]) -> None:
    (key,) = values
    with pytest.raises(InputError, match=f"'{key}' is"):
        build(SpectralConfig, values, where="f.yaml")
