"""Enhance recordings (files or arrays) block by block; every inference uses this module.

A signal is split into overlapping segments of the training length; each is enhanced, and they are
cross-faded. So memory is bounded, and instance norm and attention see the length they were trained on.
A signal is read twice: to measure its level, and to enhance it.

Legend: P phases, C channels, L samples of a segment, S samples.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch

from rwsa.audio import AudioInfo, Resampler
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.enhancement.overlap_add import OverlapAdd, split_blocks
from rwsa.errors import InputError
from rwsa.kernels.dispatch import float32_products
from rwsa.models import Network
from rwsa.stft import istft, stft

Phase = Literal["model", "noisy"]


class Recording(Protocol):
    """A signal read in blocks. Both members may raise `InputError`."""

    @property
    def info(self) -> AudioInfo: ...

    def blocks(self) -> Iterator[np.ndarray]:
        """The signal from its start, `info.samples` in total: float32 `[C, S]`; the same at every call."""


AnyRecording = TypeVar("AnyRecording", bound=Recording)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive enhanced samples of a recording at its rate; its pieces add up to its length.

    Attributes:
        wav: `[P, C, S]`, may be empty while the resampler fills.
        segments_done, segments: done so far and in total, over all channels.
    """

    wav: np.ndarray
    segments_done: int
    segments: int


def enhance_recordings(
    recordings: Iterable[AnyRecording],
    model: Network,
    phases: Sequence[Phase],
    *,
    crossfade: float,
    batch_size: int,
) -> Iterator[tuple[AnyRecording, Piece | InputError]]:
    """Enhance recordings one after another, in memory that does not grow with their length or number.

    Batches mix segments of several recordings and channels, which changes results by rounding only.
    Arguments are as in `enhance_phases`.

    Yields:
        Each recording with its pieces, in order. An unreadable or empty one ends with the error instead.

    Raises:
        InputError: an argument out of range.
    """
    if not 0 <= crossfade <= 0.5 or batch_size < 1:
        raise InputError(
            f"crossfade ({crossfade}) must be in [0, 0.5] and batch_size ({batch_size}) at least 1"
        )
    length = model.config.segment_samples
    segments = itertools.chain.from_iterable(
        _segments(recording, length, int(length * crossfade), len(phases)) for recording in recordings
    )
    for segment in _enhance_segments(segments, model, phases, batch_size):
        yield segment.recording, segment.finish()


class _Segment(Generic[AnyRecording]):
    """One segment of all channels.

    Attributes:
        wav: `[C, L]` at level 1; silent channels unchanged.
        enhanced: `[P, C, L]`, written by the network; silent channels are copies of the input.
        waiting: channels not enhanced yet.
    """

    def __init__(self, recording: AnyRecording, output: _Output, wav_CL: np.ndarray, phases: int) -> None:
        self.recording, self.output = recording, output
        self.wav = wav_CL / output.scale_C[:, None]
        self.enhanced = np.repeat(self.wav[None], phases, axis=0)
        self.waiting: list[int] = np.flatnonzero(~output.silent_C).tolist()

    def finish(self) -> Piece:
        return self.output.add(self.enhanced)


@dataclass(frozen=True)
class _Failed(Generic[AnyRecording]):
    """The error of a recording, in its place among the segments."""

    recording: AnyRecording
    error: InputError
    waiting: Sequence[int] = ()

    def finish(self) -> InputError:
        return self.error


def _segments(
    recording: AnyRecording, length: int, overlap: int, phases: int
) -> Iterator[_Segment[AnyRecording] | _Failed[AnyRecording]]:
    try:
        samples, level_C = _measure(recording)
        output = _Output(recording.info, OverlapAdd(samples, length, overlap), level_C)
        for wav_CL in split_blocks(_at_16k(recording), output.overlap_add.starts, length, samples):
            yield _Segment(recording, output, wav_CL, phases)
    except InputError as error:
        yield _Failed(recording, error)


def _measure(recording: Recording) -> tuple[int, np.ndarray]:
    """Number of samples at 16 kHz, and the RMS of each channel, float32 `[C]`."""
    samples, energy_C = 0, np.zeros(recording.info.channels)
    for block_CS in _at_16k(recording):
        samples += block_CS.shape[1]
        energy_C += np.square(block_CS, dtype=np.float64).sum(axis=1)
    return samples, np.sqrt(energy_C / samples).astype(np.float32)


def _at_16k(recording: Recording) -> Iterator[np.ndarray]:
    """The recording at 16 kHz, float32 `[C, S]`; at least one sample."""
    channels, samples = recording.info.channels, 0
    resampler = Resampler(recording.info.sample_rate_hz, SAMPLE_RATE_HZ, channels)
    for block_CS in recording.blocks():
        ready_CS = resampler(block_CS)
        samples += ready_CS.shape[1]
        yield ready_CS
    rest_CS = resampler(np.empty((channels, 0), np.float32), last=True)
    # One sample at 48 kHz resamples to none at 16 kHz.
    yield rest_CS if samples + rest_CS.shape[1] else np.zeros((channels, 1), np.float32)


class _Output:
    """Converts enhanced segments to pieces of the recording's rate, level and length."""

    def __init__(self, info: AudioInfo, overlap_add: OverlapAdd, level_C: np.ndarray) -> None:
        self.info, self.overlap_add = info, overlap_add
        self.silent_C = level_C < np.finfo(np.float32).tiny  # or too quiet to divide by
        self.scale_C = np.where(self.silent_C, np.float32(1), level_C)
        self.resampler: Resampler | None = None
        self.remaining = info.samples

    def add(self, enhanced_PCL: np.ndarray) -> Piece:
        phases, channels, _ = enhanced_PCL.shape
        if self.resampler is None:
            self.resampler = Resampler(SAMPLE_RATE_HZ, self.info.sample_rate_hz, phases * channels)
        at_16k_PCS = self.overlap_add.add(enhanced_PCL) * self.scale_C[:, None]
        done, segments = self.overlap_add.added, len(self.overlap_add.starts)
        wav = self.resampler(at_16k_PCS.reshape(phases * channels, -1), last=done == segments)
        # Resampling may add or lose a sample or two at the end.
        wav = wav[:, : self.remaining]
        self.remaining -= wav.shape[1]
        if done == segments:
            wav = np.pad(wav, ((0, 0), (0, self.remaining)))
        return Piece(
            wav=wav.reshape(phases, channels, -1),
            segments_done=done * channels,
            segments=segments * channels,
        )


def _enhance_segments(
    segments: Iterable[_Segment[AnyRecording] | _Failed[AnyRecording]],
    model: Network,
    phases: Sequence[Phase],
    batch_size: int,
) -> Iterator[_Segment[AnyRecording] | _Failed[AnyRecording]]:
    """The same segments in order, enhanced in batches of `batch_size` channels.

    A model whose clips depend on each other (MP-SENet as published) gets them one by one.
    """
    batch_size = 1 if model.config.mixes_clips else batch_size
    queue: deque[_Segment[AnyRecording] | _Failed[AnyRecording]] = deque()
    rows: list[tuple[_Segment[AnyRecording], int]] = []
    for segment in segments:
        queue.append(segment)
        if isinstance(segment, _Segment):
            rows += [(segment, channel) for channel in segment.waiting]
        # Silent segments must not pile up behind one that waits for a full batch.
        while len(rows) >= batch_size or len(queue) > batch_size:
            _enhance_batch(rows[:batch_size], model, phases)
            del rows[:batch_size]
            while queue and not queue[0].waiting:
                yield queue.popleft()
    while rows:
        _enhance_batch(rows[:batch_size], model, phases)
        del rows[:batch_size]
    yield from queue


def _enhance_batch(
    rows: Sequence[tuple[_Segment[AnyRecording], int]], model: Network, phases: Sequence[Phase]
) -> None:
    if not rows:
        return
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack([segment.wav[channel] for segment, channel in rows]))
    with torch.inference_mode(), float32_products(device, tf32=False):
        spectral, length = model.config.spectral, batch.shape[1]
        mag, pha = stft(batch.to(device), spectral)
        enhanced_mag, enhanced_pha = model(mag, pha)
        phase_of = {"model": enhanced_pha, "noisy": pha}
        wavs = [istft(enhanced_mag, phase_of[phase], spectral, length).cpu().numpy() for phase in phases]
    for row, (segment, channel) in enumerate(rows):
        for phase, wav in enumerate(wavs):
            segment.enhanced[phase, channel] = wav[row]
        segment.waiting.remove(channel)
