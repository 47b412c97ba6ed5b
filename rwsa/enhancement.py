"""Enhance a signal of any length, rate and channel count: the only inference path.

The signal is cut into segments as long as the model was trained on, which overlap; each is enhanced,
and they are cross-faded. So memory is bounded, and instance norm and attention see what they know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from rwsa.audio import resample, rms
from rwsa.errors import InputError
from rwsa.models import Network
from rwsa.spectral import SAMPLE_RATE_HZ, istft, stft

Progress = Callable[[int, int], None]
Signal = TypeVar("Signal", np.ndarray, Tensor)
Phase = Literal["model", "noisy"]


def enhance(
    wav: Signal,
    sample_rate_hz: int,
    model: Network,
    *,
    crossfade: float = 0.1,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Signal:
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
    (enhanced,) = enhance_phases(
        wav,
        sample_rate_hz,
        model,
        ("model",),
        crossfade=crossfade,
        batch_size=batch_size,
        progress=progress,
    )
    return enhanced


def enhance_phases(
    wav: Signal,
    sample_rate_hz: int,
    model: Network,
    phases: Sequence[Phase],
    *,
    crossfade: float = 0.1,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[Signal, ...]:
    """As `enhance`, with a choice of phases: one pass of the model, one signal for each phase.

    Args:
        phases: what the model's magnitude is put together with: `model`, its own phase, which is what
            `enhance` gives; `noisy`, the input's, which tells what the magnitude alone is worth.

    The rest, and what it raises, is as in `enhance`.
    """
    samples = _as_numpy(wav) if isinstance(wav, Tensor) else np.asarray(wav)
    _check(samples, sample_rate_hz, crossfade, batch_size)
    channels = np.atleast_2d(samples).astype(np.float32, copy=False)
    at_16k = resample(channels, sample_rate_hz, SAMPLE_RATE_HZ)
    at_16k = _exactly(at_16k, max(at_16k.shape[-1], 1))  # one sample at 48 kHz is none at 16 kHz
    enhancer = _Enhancer(model, phases, crossfade, batch_size, progress, len(at_16k))
    # Put together: [phases, channels, samples].
    enhanced = np.stack([enhancer(channel) for channel in at_16k], axis=1)
    enhanced = _exactly(resample(enhanced, SAMPLE_RATE_HZ, sample_rate_hz), samples.shape[-1])
    signals = [signal.reshape(samples.shape) for signal in enhanced]
    if isinstance(wav, Tensor):
        return tuple(torch.from_numpy(signal).to(wav.device, wav.dtype) for signal in signals)
    return tuple(signal.astype(samples.dtype) for signal in signals)


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


def _as_numpy(wav: Tensor) -> np.ndarray:
    wav = wav.detach().cpu()
    return (wav.float() if wav.dtype is torch.bfloat16 else wav).numpy()  # NumPy has no bfloat16


def _exactly(wav: np.ndarray, samples: int) -> np.ndarray:
    """Undo the sample or two that resampling there and back may add or lose at the end."""
    lacking = max(0, samples - wav.shape[-1])
    return np.pad(wav[..., :samples], [(0, 0)] * (wav.ndim - 1) + [(0, lacking)])


class _Enhancer:
    """One 16 kHz channel `[samples]` in, one for each phase out: `[phases, samples]`."""

    def __init__(
        self,
        model: Network,
        phases: Sequence[Phase],
        crossfade: float,
        batch_size: int,
        progress: Progress | None,
        channels: int,
    ) -> None:
        self.model, self.phases, self.batch_size, self.progress = model, phases, batch_size, progress
        self.length = model.config.segment_samples
        self.overlap = int(self.length * crossfade)
        self.window = fade_window(self.length, self.overlap)
        self.device = next(model.parameters()).device
        self.channels, self.done = channels, 0

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        level = np.float32(rms(wav))
        starts = segment_starts(len(wav), self.length, self.overlap)
        if level < np.finfo(np.float32).tiny:  # silence, or too near to it to divide by
            self._count(len(starts), len(starts))
            return np.stack([wav] * len(self.phases))
        normalised = wav / level
        total, weight = np.zeros((len(self.phases), len(wav)), np.float32), np.zeros_like(wav)
        for at in range(0, len(starts), self.batch_size):
            group = starts[at : at + self.batch_size]
            for start, segment in zip(group, self._segments(normalised, group), strict=True):
                here = slice(start, min(start + self.length, len(wav)))
                size = here.stop - here.start
                total[:, here] += segment[:, :size] * self.window[:size]
                weight[here] += self.window[:size]
            self._count(len(group), len(starts))
        return total / weight * level

    def _segments(self, wav: np.ndarray, starts: list[int]) -> np.ndarray:
        """Enhanced segments, `[segments, phases, samples]`."""
        cut = np.zeros((len(starts), self.length), np.float32)
        for row, start in zip(cut, starts, strict=True):
            piece = wav[start : start + self.length]
            row[: len(piece)] = piece
        with torch.inference_mode():
            spectral = self.model.config.spectral
            mag, pha = stft(torch.from_numpy(cut).to(self.device), spectral)
            enhanced_mag, enhanced_pha = self.model(mag, pha)
            of_phase = {"model": enhanced_pha, "noisy": pha}
            wavs = [istft(enhanced_mag, of_phase[phase], spectral, self.length) for phase in self.phases]
            return torch.stack(wavs, dim=1).cpu().numpy()

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
