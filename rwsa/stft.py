"""STFT and inverse STFT with power-law compression of the magnitude; the only ones of the networks.

A frame that reflection makes symmetric has a real spectrum, and so have the lowest bin and, for an even
n_fft, the highest. A Fourier transform leaves rounding in their imaginary part, whose sign decides between
the phases +π and −π; here they are exactly real, and their phase is 0 or +π on every machine.

Legend: B batch, F frequency bins, T frames.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rwsa.config import config


@config
class SpectralConfig:
    """STFT parameters. The defaults are the paper's: 30,600 samples give 256 frames of 256 bins."""

    n_fft: Annotated[int, Field(gt=0, le=65_536)] = 510
    hop_samples: Annotated[int, Field(gt=0, le=65_536)] = 120
    window_samples: Annotated[int, Field(gt=0, le=65_536)] = 510
    compression: Annotated[float, Field(gt=0, le=1)] = 0.3

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def real_frames(self, samples: int) -> list[int]:
        """The frames that reflection makes real: the first, and the last if centred on the last sample.

        None if the window is not centred on a sample.
        """
        if self.n_fft % 2 or self.window_samples % 2:
            return []
        return [0] if (samples - 1) % self.hop_samples else [0, self.frames(samples) - 1]

    def frames(self, samples: int) -> int:
        """Number of frames of a signal of `samples` samples."""
        return samples // self.hop_samples + 1

    def samples(self, frames: int) -> int:
        """Length of the shortest signal with `frames` frames, in samples."""
        return (frames - 1) * self.hop_samples


def stft(wav: Tensor, config: SpectralConfig, *, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compressed magnitude and phase of a signal.

    Args:
        wav: `[B, samples]`.
        config: parameters; the Hann window is centred, with reflection at the ends.
        epsilon: added to the squared magnitude and to real and imaginary part for the phase, so that
            gradients are finite at silence. The paper's consistency loss uses 1e-10, all else 0.

    Returns:
        mag_BFT: |X|^compression.
        pha_BFT: angle in radians, from −π to +π; exactly 0 or +π where the spectrum is real, and 0 where it
            is 0.
    """
    window = torch.hann_window(config.window_samples, device=wav.device, dtype=wav.dtype)
    spectrum = torch.stft(
        wav,
        config.n_fft,
        config.hop_samples,
        config.window_samples,
        window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    re, im = _without_signed_zeros(spectrum.real), spectrum.imag
    im = _without_signed_zeros(im).masked_fill(_is_real(config, wav.shape[-1], im), 0.0)
    if epsilon:
        mag = torch.sqrt(re.square() + im.square() + epsilon)
        return mag.pow(config.compression), torch.atan2(im + epsilon, re + epsilon)
    return spectrum.abs().pow(config.compression), torch.atan2(im, re)


def _without_signed_zeros(x: Tensor) -> Tensor:
    """Zeros as +0, since the angle of −0 is π."""
    return x + 0.0


def _is_real(config: SpectralConfig, samples: int, spectrum_BFT: Tensor) -> Tensor:
    """Which bins are real for every signal: `[F, T]`."""
    real_FT = torch.zeros(spectrum_BFT.shape[1:], dtype=torch.bool, device=spectrum_BFT.device)
    real_FT[0] = True
    if config.n_fft % 2 == 0:
        real_FT[-1] = True
    for frame in config.real_frames(samples):
        real_FT[:, frame] = True
    return real_FT


def istft(mag_BFT: Tensor, pha_BFT: Tensor, config: SpectralConfig, samples: int | None = None) -> Tensor:
    """Signal `[B, samples]` of a compressed magnitude and phase; the inverse of `stft`."""
    window = torch.hann_window(config.window_samples, device=mag_BFT.device, dtype=mag_BFT.dtype)
    mag = mag_BFT.pow(1.0 / config.compression)
    spectrum = torch.complex(mag * torch.cos(pha_BFT), mag * torch.sin(pha_BFT))
    if spectrum.device.type != "cpu":
        samples = config.samples(spectrum.shape[-1]) if samples is None else samples
        return overlap_add(spectrum, window, config, samples)
    return torch.istft(
        spectrum,
        config.n_fft,
        config.hop_samples,
        config.window_samples,
        window,
        center=True,
        length=samples,
    )


def overlap_add(spectrum_BFT: Tensor, window: Tensor, config: SpectralConfig, samples: int) -> Tensor:
    """`torch.istft`, which waits for the device to check its window, without that check."""
    n_fft, hop, frames = config.n_fft, config.hop_samples, spectrum_BFT.shape[-1]
    edge = n_fft - len(window)
    window = F.pad(window, (edge // 2, edge - edge // 2)).view(1, -1, 1)
    length = n_fft + hop * (frames - 1)

    def added(frames_BLT: Tensor) -> Tensor:
        return F.fold(frames_BLT, (1, length), (1, n_fft), stride=(1, hop)).flatten(1)

    wav = added(torch.fft.irfft(spectrum_BFT, n_fft, dim=1) * window)
    energy = added(window.square().expand(1, n_fft, frames))
    start, stop = n_fft // 2, min(n_fft // 2 + samples, length)
    wav = wav[:, start:stop] / energy[:, start:stop]
    return F.pad(wav, (0, samples - wav.shape[1]))


def complex_parts(mag_BFT: Tensor, pha_BFT: Tensor) -> Tensor:
    """Real and imaginary part of a compressed spectrum, stacked last: `[B, F, T, 2]`."""
    return torch.stack((mag_BFT * torch.cos(pha_BFT), mag_BFT * torch.sin(pha_BFT)), dim=-1)
