"""The STFT and its inverse; the paper's segment gives 256 × 256."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.stft import SpectralConfig, complex_parts, istft, overlap_add, stft

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


@pytest.mark.parametrize("samples", [2280, 2300, 2399])
def test_the_inverse_on_gpus_is_torchs_own(samples: int) -> None:
    config = SpectralConfig(window_samples=400)
    parts = torch.randn(2, 2, 256, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum, window = torch.complex(*parts), torch.hann_window(400, dtype=torch.float64)
    sizes = config.n_fft, config.hop_samples, config.window_samples
    expected = torch.istft(spectrum, *sizes, window, length=samples)
    torch.testing.assert_close(overlap_add(spectrum, window, config, samples), expected)


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


# The last three: a window shorter than the transform, and odd ones, whose first frame is not real.
REAL_FRAMES = [
    (SpectralConfig(), 30_600, {0}),
    (SpectralConfig(), 30_601, {0, 255}),
    (SpectralConfig(n_fft=400, hop_samples=100, window_samples=400), 3_201, {0, 32}),
    (SpectralConfig(n_fft=400, hop_samples=100, window_samples=300), 3_233, {0}),
    (SpectralConfig(n_fft=401, hop_samples=100, window_samples=401), 3_201, set()),
    (SpectralConfig(n_fft=400, hop_samples=100, window_samples=301), 3_201, set()),
]


@pytest.mark.parametrize(("config", "samples", "frames"), REAL_FRAMES)
def test_what_is_real_up_to_rounding_is_found_and_made_real(
    config: SpectralConfig, samples: int, frames: set[int]
) -> None:
    wav = noise(2, samples).double()
    window = torch.hann_window(config.window_samples, dtype=torch.float64)
    spectrum = torch.stft(
        wav, config.n_fft, config.hop_samples, config.window_samples, window, return_complex=True
    )
    real_FT = (spectrum.imag.abs() < 1e-9 * spectrum.abs().amax()).all(dim=0)
    assert set(real_FT.all(dim=0).nonzero().flatten().tolist()) == frames
    _, pha_BFT = stft(wav, config)
    phases = pha_BFT[:, real_FT]
    assert ((phases == 0) | (phases == torch.pi)).all()
    assert (phases == torch.pi).any()
    others = pha_BFT[:, ~real_FT]
    torch.testing.assert_close(others, spectrum.angle()[:, ~real_FT])


@pytest.mark.parametrize("seed", range(10))
def test_a_wave_has_one_phase_in_every_precision_and_batch(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    config = CONFIGS[seed % 2]
    samples = 601 + int(torch.randint(0, 3000, (), generator=rng))
    wav = torch.randn(5, samples, generator=rng)
    _, pha_BFT = stft(wav, config)
    rolled, double = stft(wav.roll(2, dims=0), config)[1].roll(-2, dims=0), stft(wav.double(), config)[1]
    alone = torch.cat([stft(one, config)[1] for one in wav.split(1)])
    from_numpy = torch.from_numpy(numpy_phase(wav.double().numpy(), config))
    for other in (rolled, alone, double.float(), from_numpy.float()):
        # Beside real bins, a phase may lie within rounding of ±π.
        apart = (pha_BFT - other).abs()
        assert torch.minimum(apart, (apart - 2 * torch.pi).abs()).max() < 0.05
        real = torch.stack((apart[:, 0], apart[:, -1]), dim=-1)
        assert real.max() == apart[:, :, config.real_frames(samples)].max() == 0


def numpy_phase(wav: np.ndarray, config: SpectralConfig) -> np.ndarray:
    """The phase by NumPy's Fourier transform, whose rounding differs; real bins as the library has them."""
    padded = np.pad(wav, ((0, 0), (config.n_fft // 2,) * 2), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)
    starts = range(0, padded.shape[1] - config.n_fft + 1, config.hop_samples)
    frames = np.stack([padded[:, start : start + config.n_fft] * window for start in starts], axis=-1)
    spectrum = np.fft.rfft(frames, axis=1)
    spectrum.imag[:, [0, -1]] = 0
    spectrum.imag[:, :, config.real_frames(wav.shape[1])] = 0
    return np.angle(spectrum)


@pytest.mark.parametrize("silence", [0.0, -0.0])
def test_digital_silence_has_the_phase_zero(silence: float) -> None:
    wav = torch.full((2, 3000), silence)
    wav[1, 2000:] = noise(1, 1000)
    _, pha_BFT = stft(wav, PAPER)
    assert not pha_BFT[0].any()
    assert not torch.signbit(pha_BFT[0]).any()
    assert not pha_BFT[1, :, :10].any()


@pytest.mark.parametrize(
    "values", [{"n_fft": 0}, {"hop_samples": -1}, {"compression": 0}, {"compression": 1.1}]
)
def test_invalid_parameters_are_refused(values: dict[str, float]) -> None:
    (key,) = values
    with pytest.raises(InputError, match=f"'{key}' is"):
        build(SpectralConfig, values, where="f.yaml")
