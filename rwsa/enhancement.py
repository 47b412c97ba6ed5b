"""Enhance a signal of any length, rate and channel count: the only inference path.

The signal is cut into segments as long as the model was trained on, which overlap; each is enhanced,
and they are cross-faded. So memory is bounded, and instance norm and attention see what they know.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rwsa.audio import resample
from rwsa.errors import InputError
from rwsa.models.unet import RWSAMambaUNet
from rwsa.spectral import SAMPLE_RATE_HZ, istft, stft

Progress = Callable[[int, int], None]


def enhance(
    wav: np.ndarray | Tensor,
    sample_rate_hz: int,
    model: RWSAMambaUNet,
    *,
    crossfade: float = 0.1,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> np.ndarray | Tensor:
    """Remove noise from speech.

    Args:
        wav: `[samples]` or `[channels, samples]`, floating point, NumPy or torch. Channels are enhanced
            apart. The level is normalised over the whole signal and restored; silence passes through.
        sample_rate_hz: of `wav`. Rates other than 16 kHz are resampled there and back, so nothing above
            8 kHz comes out.
        model: from `rwsa.load_model`, on any device.
        crossfade: overlap of neighbouring segments, as a share of a segment, in [0, 0.5].
        batch_size: segments enhanced at once.
        progress: called with (segments done, segments in all).

    Returns:
        The same kind, shape, dtype and rate as `wav`.

    Raises:
        InputError: wrong shape or type, no samples, NaN, or an argument out of range.
    """
    samples = wav.detach().cpu().numpy() if isinstance(wav, Tensor) else np.asarray(wav)
    _check(samples, sample_rate_hz, crossfade, batch_size)
    channels = np.atleast_2d(samples).astype(np.float32, copy=False)
    at_16k = resample(channels, sample_rate_hz, SAMPLE_RATE_HZ)
    enhancer = _Enhancer(model, crossfade, batch_size, progress, len(at_16k))
    enhanced = resample(np.stack([enhancer(channel) for channel in at_16k]), SAMPLE_RATE_HZ, sample_rate_hz)
    enhanced = _exactly(enhanced, samples.shape[-1]).reshape(samples.shape)
    if isinstance(wav, Tensor):
        return torch.from_numpy(enhanced).to(wav.device, wav.dtype)
    return enhanced.astype(samples.dtype)


def _check(samples: np.ndarray, sample_rate_hz: int, crossfade: float, batch_size: int) -> None:
    if samples.ndim not in (1, 2) or 0 in samples.shape:
        raise InputError(f"wav has shape {list(samples.shape)}; give [samples] or [channels, samples]")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"wav holds {samples.dtype}; give floating point with full scale ±1")
    if not np.isfinite(samples).all():
        raise InputError("wav holds NaN or infinite samples")
    if sample_rate_hz <= 0 or not 0 <= crossfade <= 0.5 or batch_size < 1:
        raise InputError(
            f"sample_rate_hz ({sample_rate_hz}) must be positive, crossfade ({crossfade}) in [0, 0.5]"
            f" and batch_size ({batch_size}) at least 1"
        )


def _exactly(wav: np.ndarray, samples: int) -> np.ndarray:
    """Undo the sample or two that resampling there and back may add or lose at the end."""
    return np.pad(wav[..., :samples], ((0, 0), (0, max(0, samples - wav.shape[-1]))))


class _Enhancer:
    """One 16 kHz channel in, the same out."""

    def __init__(
        self, model: RWSAMambaUNet, crossfade: float, batch_size: int, progress: Progress | None, channels: int
    ) -> None:
        self.model, self.batch_size, self.progress = model, batch_size, progress
        self.length = model.config.segment_samples
        self.overlap = int(self.length * crossfade)
        self.window = fade_window(self.length, self.overlap)
        self.device = next(model.parameters()).device
        self.channels, self.done = channels, 0

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        level = float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))
        starts = segment_starts(len(wav), self.length, self.overlap)
        if level == 0:
            self._count(len(starts), len(starts))
            return wav
        total, weight = np.zeros_like(wav), np.zeros_like(wav)
        for at in range(0, len(starts), self.batch_size):
            group = starts[at : at + self.batch_size]
            for start, segment in zip(group, self._segments(wav / np.float32(level), group), strict=True):
                here = slice(start, min(start + self.length, len(wav)))
                size = here.stop - here.start
                total[here] += segment[:size] * self.window[:size]
                weight[here] += self.window[:size]
            self._count(len(group), len(starts))
        return total / weight * np.float32(level)

    def _segments(self, wav: np.ndarray, starts: list[int]) -> np.ndarray:
        cut = np.zeros((len(starts), self.length), np.float32)
        for row, start in zip(cut, starts, strict=True):
            piece = wav[start : start + self.length]
            row[: len(piece)] = piece
        with torch.inference_mode():
            mag, pha = stft(torch.from_numpy(cut).to(self.device), self.model.config.spectral)
            return istft(*self.model(mag, pha), self.model.config.spectral, self.length).cpu().numpy()

    def _count(self, segments: int, of: int) -> None:
        self.done += segments
        if self.progress is not None:
            self.progress(self.done, of * self.channels)


def segment_starts(samples: int, length: int, overlap: int) -> list[int]:
    """Where segments of `length` start, so that they cover `samples`.

    Neighbours overlap by `overlap`; the last segment is moved back to end with the signal, so that
    it holds sound rather than padding. A signal shorter than a segment has one, padded at its end.
    """
    last = max(samples - length, 0)
    return [*range(0, last, length - overlap), last]


def fade_window(length: int, overlap: int) -> np.ndarray:
    """Weights of a segment `[length]`, float32: 1 inside, sin² rises over the overlap; never 0."""
    window = np.ones(length)
    if overlap:
        rise = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
        window[:overlap], window[-overlap:] = rise, rise[::-1]
    return window.astype(np.float32)
