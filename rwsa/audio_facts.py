"""Signal statistics of a recording: level, peak, clipping, silence, DC offset and a hash.

All are pure functions of the decoded samples and independent of block lengths.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwsa.audio import REMEDY, read_blocks, read_info
from rwsa.errors import InputError
from rwsa.names import shown

FRAME_SECONDS = 0.02
SILENT_FRAME_DBFS = -60.0
CLIPPED_RUN_SAMPLES = 3
# A file with a larger share of clipped samples counts as clipped; even less is audible.
CLIPPED_SHARE = 0.001
_INT16_HIGH, _INT16_LOW = 32767, -32768


@dataclass(frozen=True, kw_only=True)
class AudioFacts:
    """Signal statistics of a recording; levels in dBFS, with a full-scale square wave at 0.

    Attributes:
        samples: per channel.
        rms_dbfs: over all samples; None if all are zero.
        peak: largest magnitude; lossy formats may decode beyond full scale, 1.
        clipped_share: share of samples in runs of at least `CLIPPED_RUN_SAMPLES` at one end of the 16-bit
            range. Shorter runs are peaks; a signal attenuated after clipping is not detected.
        silent_share: share of frames of `FRAME_SECONDS` whose RMS is below `SILENT_FRAME_DBFS`, including the
            last, shorter one.
        dc_offset: mean of the samples.
        sha256: of the samples as 16-bit integers at the file's own rate, without digital silence at either
            end; None for digital silence only. It is equal for WAV, FLAC and padded copies, and differs for
            resampled, lossy and scaled ones.
    """

    samples: int
    sample_rate_hz: int
    channels: int
    rms_dbfs: float | None
    peak: float
    clipped_share: float
    silent_share: float
    dc_offset: float
    sha256: str | None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


def audio_facts(path: Path, *, channel: int | None = None) -> AudioFacts:
    """Compute the statistics of a file, with one block in memory.

    Args:
        path: of the file.
        channel: index from 0, as in a manifest; None for a mono file.

    Raises:
        InputError: the file is missing, damaged or empty, contains NaN, or lacks the channel.
    """
    info = read_info(path)
    if channel is None and info.channels > 1:
        raise InputError(
            f"{shown(path)}: has {info.channels} channels; name the one to use as 'channel' in its card"
        )
    if channel is not None and channel >= info.channels:
        raise InputError(f"{shown(path)}: has {info.channels} channels, no number {channel} from 0; {REMEDY}")
    sums, clipping, digest = _Sums(), _Clipping(), _Digest()
    silence = _Silence(max(1, round(FRAME_SECONDS * info.sample_rate_hz)))
    for block in read_blocks(path):
        wav = block[channel or 0]
        rounded = _rounded(wav)
        sums.add(wav)
        clipping.add(rounded)
        silence.add(wav)
        digest.add(rounded)
    return AudioFacts(
        samples=sums.count,
        sample_rate_hz=info.sample_rate_hz,
        channels=info.channels,
        rms_dbfs=10 * math.log10(sums.squares / sums.count) if sums.squares else None,
        peak=sums.peak,
        clipped_share=clipping.clipped() / sums.count,
        silent_share=silence.share(),
        dc_offset=sums.total / sums.count,
        sha256=digest.hexdigest(),
    )


def clipped_share(wav: np.ndarray) -> float:
    """The share of clipped samples of `[samples]`, as in `AudioFacts`; NaN is not clipped."""
    clipping = _Clipping()
    clipping.add(_rounded(np.nan_to_num(wav, nan=0.0)))
    return clipping.clipped() / len(wav)


def _rounded(wav: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wav * 32768.0), _INT16_LOW, _INT16_HIGH).astype("<i2")


class _Sums:
    def __init__(self) -> None:
        self.count, self.total, self.squares, self.peak = 0, 0.0, 0.0, 0.0

    def add(self, wav: np.ndarray) -> None:
        self.count += len(wav)
        self.total += float(wav.sum(dtype=np.float64))
        self.squares += float(np.square(wav, dtype=np.float64).sum())
        self.peak = max(self.peak, float(np.abs(wav).max()))


class _Clipping:
    """Counts samples in long runs at one end of the range, across blocks."""

    def __init__(self) -> None:
        self._clipped, self._end, self._run = 0, 0, 0

    def add(self, rounded: np.ndarray) -> None:
        # Many encoders avoid -32768, so that -32767 counts as clipped too.
        ends = (rounded == _INT16_HIGH).astype(np.int8) - (rounded <= -_INT16_HIGH)
        if not ends.any():
            self._close(0)
            return
        starts = np.flatnonzero(np.diff(ends, prepend=ends[0] + 1))
        lengths = np.diff(starts, append=len(ends))
        for end, length in zip(ends[starts].tolist(), lengths.tolist(), strict=True):
            if end != self._end:
                self._close(end)
            self._run += length

    def _close(self, end: int) -> None:
        if self._end and self._run >= CLIPPED_RUN_SAMPLES:
            self._clipped += self._run
        self._end, self._run = end, 0

    def clipped(self) -> int:
        """The result over all blocks; call it last."""
        self._close(0)
        return self._clipped


class _Silence:
    """Counts silent frames; an incomplete frame is continued by the next block."""

    def __init__(self, frame_samples: int) -> None:
        self._frame_samples = frame_samples
        self._rest = np.zeros(0, np.float32)
        self._silent = self._frames = 0

    def add(self, wav: np.ndarray) -> None:
        wav = np.concatenate([self._rest, wav])
        complete = len(wav) // self._frame_samples * self._frame_samples
        self._count(wav[:complete].reshape(-1, self._frame_samples))
        self._rest = wav[complete:]

    def _count(self, frames: np.ndarray) -> None:
        powers = np.square(frames, dtype=np.float64).mean(axis=1)
        self._silent += int((powers < 10 ** (SILENT_FRAME_DBFS / 10)).sum())
        self._frames += len(frames)

    def share(self) -> float:
        """The result over all blocks; call it last."""
        if len(self._rest):
            self._count(self._rest[None])
        return self._silent / self._frames


class _Digest:
    """Hashes the samples from the first to the last nonzero one."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._started = False
        self._zeros = 0

    def add(self, rounded: np.ndarray) -> None:
        nonzero = np.flatnonzero(rounded)
        if not len(nonzero):
            self._zeros += len(rounded)
            return
        first, last = int(nonzero[0]), int(nonzero[-1])
        if self._started:
            self._add_zeros(self._zeros + first)
        self._started = True
        self._sha256.update(rounded[first : last + 1].tobytes())
        self._zeros = len(rounded) - 1 - last

    def _add_zeros(self, count: int) -> None:
        # In chunks, to bound the memory for long silence.
        chunk = bytes(2 * min(count, 1 << 16))
        while count:
            size = min(count, 1 << 16)
            self._sha256.update(chunk[: 2 * size])
            count -= size

    def hexdigest(self) -> str | None:
        return self._sha256.hexdigest() if self._started else None
