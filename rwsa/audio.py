"""Reading, writing and resampling audio files; errors are `InputError`s that name the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from rwsa.errors import InputError
from rwsa.files import atomic_write

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
REMEDY = "replace or remove the file"


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
            raise InputError(f"{path}: damaged audio ({_reason(error)}); {REMEDY}") from error
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
        raise InputError(f"{path}: has {len(wav)} channels where one is expected; mix it down first")
    if rate != sample_rate_hz:
        raise InputError(f"{path}: is at {rate} Hz where {sample_rate_hz} Hz is expected; resample it first")
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
    with atomic_write(path) as temporary:
        try:
            with soundfile.SoundFile(
                temporary, "w", sample_rate_hz, len(first), subtype=subtype, format=format
            ) as file:
                for block in itertools.chain([first], blocks):
                    file.write(block.T)
        except InputError:  # from `blocks`
            raise
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            remedy = "choose a format that libsndfile writes, and a disk with space"
            raise InputError(f"{path}: cannot be written ({_reason(error)}); {remedy}") from error


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


def find_audio(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted, without hidden (partially written) files.

    Raises:
        InputError: the folder is missing or contains no audio.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    if not paths:
        raise InputError(f"{folder}: holds no audio ({', '.join(sorted(SUFFIXES))})")
    return paths


def rms(wav: np.ndarray) -> float:
    """Root mean square over all samples, accumulated in float64."""
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))


def round_to_int16(wav: np.ndarray) -> np.ndarray:
    """Clip to full scale and round to 16-bit values; float32 in, float32 out."""
    # + 0.0 turns -0.0 into 0.0, which is what reading the file would give.
    return (np.clip(np.rint(wav * 32768.0) + 0.0, -32768, 32767) / 32768.0).astype(np.float32)


def _opened(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{path}: not readable as audio ({_reason(error)}); {REMEDY}") from error
    if file.frames == 0:
        file.close()
        raise InputError(f"{path}: holds no samples; {REMEDY}")
    return file


def _read(path: Path, file: soundfile.SoundFile, start: int, samples: int) -> np.ndarray:
    """The next `samples` samples, float32 `[channels, samples]`; the file is at `start`."""
    try:
        wav = file.read(max(samples, 0), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{path}: damaged audio ({_reason(error)}); {REMEDY}") from error
    if len(wav) == 0 or len(wav) != samples:
        raise InputError(f"{path}: ends after {start + len(wav)} samples; {REMEDY}")
    if not np.isfinite(wav).all():
        raise InputError(f"{path}: holds NaN or infinite samples; {REMEDY}")
    return np.ascontiguousarray(wav.T)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
