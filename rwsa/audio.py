"""Reading, writing and resampling audio files; errors are `InputError`s that name the file."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from rwsa.audio_folders import OTHER_SUFFIXES
from rwsa.audio_lengths import LengthError, Patch, check_length
from rwsa.errors import InputError
from rwsa.files import atomic_write
from rwsa.names import shown

REMEDY = "replace or remove the file"
_CONVERT = "convert it to WAV or FLAC, for example with ffmpeg, or remove it"
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 10_000_000
# The most samples (over all channels) that a byte of a file stands for, by its format: more is a
# wrong header. FLAC and Ogg can code silence in a few bytes per block.
_SAMPLES_PER_BYTE = {"FLAC": 1 << 16, "OGG": 1 << 13, "MP3": 128}
_OTHER_SAMPLES_PER_BYTE = 1 << 13


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """Contents of a file's header.

    Attributes:
        samples: of one channel.
        format, subtype: libsndfile's names (`WAV`, `PCM_16`); None without a file.
    """

    sample_rate_hz: int
    channels: int
    samples: int
    format: str | None = None
    subtype: str | None = None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


def read_info(path: Path) -> AudioInfo:
    """Read a header.

    Raises:
        InputError: the file is missing, is not audio, or is empty.
    """
    with _opened(path) as file:
        return AudioInfo(
            sample_rate_hz=file.samplerate,
            channels=file.channels,
            samples=file.frames,
            format=file.format,
            subtype=file.subtype,
        )


def read_audio(path: Path, *, start: int = 0, samples: int = -1) -> tuple[np.ndarray, int]:
    """Read `samples` samples from `start` (by default to the end), at the file's own rate.

    Returns:
        wav: float32 `[channels, samples]`, full scale ±1.
        sample_rate_hz.

    Raises:
        InputError: the file is missing, corrupt, empty, shorter than requested, or contains NaN or infinity.
    """
    with _opened(path) as file:
        try:
            if start:
                file.seek(start)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise InputError(f"{shown(path)}: damaged audio ({_reason(error)}); {REMEDY}") from error
        wav = _read(path, file, start, samples if samples >= 0 else file.frames - start)
        return wav, file.samplerate


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """Read a file in blocks at its own rate, with one block in memory.

    Yields:
        float32 `[channels, samples]`, full scale ±1, `block_samples` long except the last; in total as many
        samples as `read_info` reports.

    Raises:
        InputError: see `read_audio`; defects are reported when their block is read.
    """
    with _opened(path) as file:
        step = block_samples(file.samplerate)
        for start in range(0, file.frames, step):
            yield _read(path, file, start, min(step, file.frames - start))


def block_samples(sample_rate_hz: int) -> int:
    """Length of a block in samples: one second, at most 65,536."""
    return min(sample_rate_hz, 1 << 16)


def read_mono(path: Path, sample_rate_hz: int, *, start: int = 0, samples: int = -1) -> np.ndarray:
    """Read a mono file that must be at `sample_rate_hz`; float32 `[samples]`.

    Raises:
        InputError: see `read_audio`; or the file has several channels or another rate.
    """
    wav, rate = read_audio(path, start=start, samples=samples)
    if len(wav) != 1:
        raise InputError(f"{shown(path)}: has {len(wav)} channels where one is expected; mix it down first")
    if rate != sample_rate_hz:
        raise InputError(
            f"{shown(path)}: is at {rate} Hz where {sample_rate_hz} Hz is expected; resample it first"
        )
    return wav[0]


def write_audio(path: Path, wav: np.ndarray, sample_rate_hz: int, *, subtype: str | None = None) -> None:
    """Write `wav` (`[samples]` or `[channels, samples]`, full scale ±1) atomically.

    The suffix determines the format. `subtype` is libsndfile's (`PCM_16`, `FLOAT`, …), by default that of the
    format.

    Raises:
        InputError: the folder is not writable or full, or libsndfile cannot write this suffix.
    """
    write_blocks(path, [np.atleast_2d(wav)], sample_rate_hz, subtype=subtype)


def write_blocks(
    path: Path,
    blocks: Iterable[np.ndarray],
    sample_rate_hz: int,
    *,
    format: str | None = None,
    subtype: str | None = None,
) -> None:
    """Write a signal given in blocks `[channels, samples]`, atomically.

    The first block is requested before a file is created, and an exception from `blocks` leaves no file.
    `format` is libsndfile's (`WAV`, `FLAC`, …), by default that of the suffix; otherwise as `write_audio`.
    """
    blocks = iter(blocks)
    first = next(blocks)
    format = format or path.suffix[1:].upper()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        try:
            with soundfile.SoundFile(
                sink, "w", sample_rate_hz, len(first), subtype=subtype, format=format
            ) as sound:
                for block in itertools.chain([first], blocks):
                    sound.write(block.T)
                    sink.check()
        except InputError:  # from `blocks`
            raise
        except (soundfile.LibsndfileError, AssertionError, TypeError, ValueError) as error:
            sink.check()
            raise InputError(
                f"{shown(path)}: cannot be written ({_reason(error)}); choose a format that libsndfile writes"
            ) from error
        sink.check()


class _Sink:
    """A file that libsndfile writes; it does not pass on the reason of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.name = file.name
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:  # of what was buffered
            self.error = self.error or error
            return -1

    def tell(self) -> int:
        return self.file.tell()

    def check(self) -> None:
        """Raise the first error, if any."""
        if self.error is not None:
            raise self.error


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample float32 `[..., samples]` with soxr's very high quality, each channel separately."""
    if from_hz == to_hz:
        return wav
    flat = wav.reshape(-1, wav.shape[-1])
    parts = [soxr.resample(channel, from_hz, to_hz, quality="VHQ") for channel in flat]
    return np.stack(parts).reshape(*wav.shape[:-1], -1).astype(np.float32, copy=False)


class Resampler:
    """`resample` for a signal in blocks; the result does not depend on the block lengths."""

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        self.stream = (
            None
            if from_hz == to_hz
            else soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality="VHQ")
        )

    def __call__(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Output available after a block `[channels, samples]`; after the last one, all remaining output."""
        if self.stream is None:
            return block
        return self.stream.resample_chunk(np.ascontiguousarray(block.T), last=last).T


def rms(wav: np.ndarray) -> float:
    """Root mean square over all samples, accumulated in float64."""
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))


def round_to_int16(wav: np.ndarray) -> np.ndarray:
    """Clip to full scale and round to 16-bit values; float32 in, float32 out."""
    # + 0.0 turns -0.0 into 0.0, which is what reading the file would give.
    return (np.clip(np.rint(wav * 32768.0) + 0.0, -32768, 32767) / 32768.0).astype(np.float32)


def _opened(path: Path) -> soundfile.SoundFile:
    where = shown(path)
    patch = _checked_length(path, where)
    try:
        # As bytes: soundfile cannot encode a name that is not UTF-8.
        file = soundfile.SoundFile(os.fsencode(path) if patch is None else _Patched(path, patch))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{where}: not readable as audio ({_reason(error)}); {_remedy(path)}") from error
    if (fault := _fault(file, path)) is not None:
        file.close()
        raise InputError(f"{where}: {fault}; {REMEDY}")
    return file


def _checked_length(path: Path, where: str) -> Patch | None:
    """See `rwsa.audio_lengths.check_length`."""
    try:
        if not path.is_file():
            absent = f"is a broken link; {REMEDY}" if path.is_symlink() else "no such file"
            kind = f"is not a regular file; {REMEDY}" if path.exists() else absent
            raise InputError(f"{where}: {kind}")
        with path.open("rb") as file:
            return check_length(file, os.fstat(file.fileno()).st_size)
    except LengthError as error:
        raise InputError(f"{where}: {error}; {REMEDY}") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); check its permissions") from error


def _remedy(path: Path) -> str:
    return _CONVERT if path.suffix.lower() in OTHER_SUFFIXES else REMEDY


def _fault(file: soundfile.SoundFile, path: Path) -> str | None:
    """Why the contents of a header cannot be right, if so."""
    if file.format == "RAW":  # libsndfile's guess from the suffix: .au and .snd hold µ-law at 8 kHz
        return "not readable as audio (it has no header)"
    if file.frames == 0:
        return "holds no samples"
    if not LOWEST_RATE_HZ <= file.samplerate <= HIGHEST_RATE_HZ:
        return (
            f"is at {file.samplerate} Hz by its header, which is outside"
            f" {LOWEST_RATE_HZ:,} to {HIGHEST_RATE_HZ:,} Hz"
        )
    size = path.stat().st_size
    if file.frames * file.channels > size * _SAMPLES_PER_BYTE.get(file.format, _OTHER_SAMPLES_PER_BYTE):
        return f"cannot hold the {file.frames:,} samples that its header declares in {size:,} bytes"
    return None


class _Patched(io.FileIO):
    """A file, read with other bytes in its header."""

    def __init__(self, path: Path, patch: Patch) -> None:
        super().__init__(path)
        self.patch = patch

    def __del__(self) -> None:  # soundfile closes files that it opened only
        self.close()

    def readinto(self, buffer: Any) -> int:
        start, count = self.tell(), super().readinto(buffer)
        at, data = self.patch
        for offset in range(max(at, start), min(at + len(data), start + count)):
            memoryview(buffer)[offset - start : offset - start + 1] = data[offset - at : offset - at + 1]
        return count


def _read(path: Path, file: soundfile.SoundFile, start: int, samples: int) -> np.ndarray:
    """The next `samples` samples, float32 `[channels, samples]`; the file is at `start`."""
    try:
        wav = file.read(max(samples, 0), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{shown(path)}: damaged audio ({_reason(error)}); {REMEDY}") from error
    except MemoryError as error:
        raise InputError(
            f"{shown(path)}: its {samples:,} samples do not fit into memory; split it"
        ) from error
    if len(wav) == 0 or len(wav) != samples:
        raise InputError(f"{shown(path)}: ends after {start + len(wav)} samples; {REMEDY}")
    if not np.isfinite(wav).all():
        raise InputError(f"{shown(path)}: holds NaN or infinite samples; {REMEDY}")
    return np.ascontiguousarray(wav.T)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
