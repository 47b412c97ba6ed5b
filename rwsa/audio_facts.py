"""Facts about one recording that need its samples: level, peak, clipping, silence, offset, and a hash.

All are pure functions of the decoded samples, whatever blocks they come in.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwsa.audio import REMEDY, read_blocks, read_info
from rwsa.errors import InputError

FRAME_SECONDS = 0.02
SILENT_FRAME_DBFS = -60.0
CLIPPED_RUN_SAMPLES = 3
_INT16_HIGH, _INT16_LOW = 32767, -32768


@dataclass(frozen=True, kw_only=True)
class AudioFacts:
    """What a recording is like; levels in dB relative to full scale, so a full-scale square wave is at 0.

    Attributes:
        samples: of one channel.
        rms_dbfs: over all samples; None where all are zero.
        peak: largest magnitude, full scale 1 (lossy formats may decode beyond).
        clipped_share: samples in runs of `CLIPPED_RUN_SAMPLES` and more at the same end of the 16-bit
            range. One or two samples there are a peak, not a flat top; what was clipped first and
            turned down later is not found.
        silent_share: frames of `FRAME_SECONDS` whose RMS is below `SILENT_FRAME_DBFS`; the last,
            shorter one counts as a frame.
        dc_offset: mean of the samples.
        sha256: of the samples as 16-bit integers at the file's own rate, without the digital silence at
            either end; None where nothing else is there. So the same recording has the same hash as WAV
            and as FLAC, padded or not; resampled, in a lossy format, or at another level it has not.
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
    """Read a recording from end to end, holding a block at a time.

    Args:
        channel: of several (from 0), as a manifest names it; None for a mono file.

    Raises:
        InputError: the file is missing, damaged or empty, holds NaN, or has no such channel.
    """
    info = read_info(path)
    if channel is None and info.channels > 1:
        raise InputError(
            f"{path}: has {info.channels} channels; name the one to use as 'channel' in its card"
        )
    if channel is not None and channel >= info.channels:
        raise InputError(f"{path}: has {info.channels} channels, no number {channel} from 0; {REMEDY}")
    sums, clipping, silence, digest = (
        _Sums(),
        _Clipping(),
        _Silence(max(1, round(FRAME_SECONDS * info.sample_rate_hz))),
        _Digest(),
    )
    for block in read_blocks(path):
        wav = block[channel or 0]
        rounded = _as_int16(wav)
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


def clipped_samples(wav: np.ndarray) -> int:
    """How many samples of `[samples]` are clipped, in the sense of `AudioFacts.clipped_share`."""
    clipping = _Clipping()
    clipping.add(_as_int16(wav))
    return clipping.clipped()


def _as_int16(wav: np.ndarray) -> np.ndarray:
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
    """Counts samples in long runs at one end of the range; a run may go on from block to block."""

    def __init__(self) -> None:
        self._clipped, self._end, self._run = 0, 0, 0

    def add(self, rounded: np.ndarray) -> None:
        # Many encoders keep clear of -32768, so that -32767 is an end too.
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
        """Of all blocks; call it last."""
        self._close(0)
        return self._clipped


class _Silence:
    """Counts silent frames; what does not fill a frame waits for the next block."""

    def __init__(self, frame_samples: int) -> None:
        self._frame_samples = frame_samples
        self._rest = np.zeros(0, np.float32)
        self._silent = self._frames = 0

    def add(self, wav: np.ndarray) -> None:
        wav = np.concatenate([self._rest, wav])
        whole = len(wav) // self._frame_samples * self._frame_samples
        self._count(wav[:whole].reshape(-1, self._frame_samples))
        self._rest = wav[whole:]

    def _count(self, frames: np.ndarray) -> None:
        powers = np.square(frames, dtype=np.float64).mean(axis=1)
        self._silent += int((powers < 10 ** (SILENT_FRAME_DBFS / 10)).sum())
        self._frames += len(frames)

    def share(self) -> float:
        """Of all blocks; call it last."""
        if len(self._rest):
            self._count(self._rest[None])
        return self._silent / self._frames


class _Digest:
    """Hashes samples between the first and the last that is not zero."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._begun = False
        self._zeros = 0

    def add(self, rounded: np.ndarray) -> None:
        loud = np.flatnonzero(rounded)
        if not len(loud):
            self._zeros += len(rounded)
            return
        first, last = int(loud[0]), int(loud[-1])
        if self._begun:
            self._add_zeros(self._zeros + first)
        self._begun = True
        self._sha256.update(rounded[first : last + 1].tobytes())
        self._zeros = len(rounded) - 1 - last

    def _add_zeros(self, count: int) -> None:
        # In pieces: an hour of silence in the midst is no reason to hold an hour.
        piece = bytes(2 * min(count, 1 << 16))
        while count:
            taken = min(count, 1 << 16)
            self._sha256.update(piece[: 2 * taken])
            count -= taken

    def hexdigest(self) -> str | None:
        return self._sha256.hexdigest() if self._begun else None
