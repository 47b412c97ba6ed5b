"""Enhance an array of any length, sample rate and channel count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rwsa.audio import AudioInfo, block_samples
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.enhancement.recordings import Phase, enhance_recordings
from rwsa.errors import InputError
from rwsa.models import Network

Progress = Callable[[int, int], None]
Signal = TypeVar("Signal", np.ndarray, Tensor)


def enhance(
    wav: Signal,
    sample_rate_hz: int,
    model: Network,
    *,
    crossfade: float = DEFAULT_CROSSFADE,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Signal:
    """Remove noise from speech.

    Args:
        wav: `[samples]` or `[channels, samples]`, floating point, NumPy or torch. Channels are enhanced
            separately. The level is normalised over the whole signal and restored; silence stays silence.
        sample_rate_hz: of `wav`. Other rates are resampled to 16 kHz and back, so the output has no
            content above 8 kHz.
        model: from `rwsa.load_model`, on any device.
        crossfade: overlap of neighbouring segments, as a share of a segment, in [0, 0.5].
        batch_size: segments per forward pass.
        progress: called with (segments done, total segments).

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
    crossfade: float = DEFAULT_CROSSFADE,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[Signal, ...]:
    """Enhance with several phases: one pass of the model, one signal per phase.

    Args:
        phases: phases to combine with the model's magnitude: `model`, its own (as `enhance` does), or
            `noisy`, the input's, which isolates the effect of the magnitude.

    Other arguments and errors are those of `enhance`.
    """
    samples = _as_numpy(wav) if isinstance(wav, Tensor) else np.asarray(wav)
    recording = ArrayRecording(samples, sample_rate_hz)
    enhanced_PCS = np.empty((len(phases), recording.info.channels, recording.info.samples), np.float32)
    done = 0
    for _, piece in enhance_recordings(
        [recording], model, phases, crossfade=crossfade, batch_size=batch_size
    ):
        if isinstance(piece, InputError):
            raise piece
        enhanced_PCS[..., done : done + piece.wav.shape[-1]] = piece.wav
        done += piece.wav.shape[-1]
        if progress is not None:
            progress(piece.segments_done, piece.segments)
    signals = [signal.reshape(samples.shape) for signal in enhanced_PCS]
    if isinstance(wav, Tensor):
        return tuple(torch.from_numpy(signal).to(wav.device, wav.dtype) for signal in signals)
    return tuple(signal.astype(samples.dtype, copy=False) for signal in signals)


@dataclass(frozen=True)
class ArrayRecording:
    """An array as a `Recording`, `[samples]` or `[channels, samples]`.

    Raises:
        InputError: wrong shape or type, no samples; while reading, NaN.
    """

    samples: np.ndarray
    sample_rate_hz: int

    def __post_init__(self) -> None:
        samples = self.samples
        if samples.ndim not in (1, 2) or 0 in samples.shape:
            raise InputError(f"wav has shape {list(samples.shape)}; give [samples] or [channels, samples]")
        if not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"wav holds {samples.dtype}; give floating point with full scale ±1")
        if self.sample_rate_hz <= 0:
            raise InputError(f"sample_rate_hz ({self.sample_rate_hz}) must be positive")

    @property
    def info(self) -> AudioInfo:
        channels, samples = np.atleast_2d(self.samples).shape
        return AudioInfo(sample_rate_hz=self.sample_rate_hz, channels=channels, samples=samples)

    def blocks(self) -> Iterator[np.ndarray]:
        wav_CS, step = np.atleast_2d(self.samples), block_samples(self.sample_rate_hz)
        for start in range(0, wav_CS.shape[1], step):
            with np.errstate(over="ignore"):  # checked below
                block = wav_CS[:, start : start + step].astype(np.float32, copy=False)
            if not np.isfinite(block).all():
                raise InputError("wav holds NaN or infinite samples")
            yield block


def _as_numpy(wav: Tensor) -> np.ndarray:
    wav = wav.detach().cpu()
    return (wav.float() if wav.dtype is torch.bfloat16 else wav).numpy()  # NumPy has no bfloat16
