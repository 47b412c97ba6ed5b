"""Reading, writing and resampling audio. Every failure is an `InputError` that names the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from rwsa.errors import InputError
from rwsa.files import written_aside

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate_hz: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


def read_info(path: Path) -> AudioInfo:
    """Read a header.

    Raises:
        InputError: the file is missing, is not audio, or is empty.
    """
    with _opened(path) as file:
        return AudioInfo(sample_rate_hz=file.samplerate, channels=file.channels, samples=file.frames)


def read_audio(path: Path, *, start: int = 0, samples: int = -1) -> tuple[np.ndarray, int]:
    """Read `samples` samples from `start` on (to the end by default), at the file's own rate.

    Returns:
        wav: float32 `[channels, samples]`, full scale ±1.
        sample_rate_hz.

    Raises:
        InputError: the file is missing, corrupt, empty, shorter than asked, or holds NaN or infinity.
    """
    with _opened(path) as file:
        rate = file.samplerate
        try:
            file.seek(start)
            wav = file.read(samples, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = f"damaged audio ({_reason(error)})"
            raise InputError(f"{path}: {reason}; replace or remove the file") from error
    expected = samples if samples >= 0 else None
    if len(wav) == 0 or (expected is not None and len(wav) != expected):
        raise InputError(f"{path}: ends after {start + len(wav)} samples; replace or remove the file")
    if not np.isfinite(wav).all():
        raise InputError(f"{path}: holds NaN or infinite samples; replace or remove the file")
    return np.ascontiguousarray(wav.T), rate


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

    The format follows the suffix. `subtype` is libsndfile's (`PCM_16`, `FLOAT`, …); the default is
    the format's own.

    Raises:
        InputError: the folder is not writable or full, or libsndfile cannot write this suffix.
    """
    with written_aside(path) as aside:
        try:
            soundfile.write(aside, wav.T, sample_rate_hz, subtype=subtype)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot be written ({_reason(error)})") from error


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample float32 `[..., samples]` with soxr's very high quality, channels apart."""
    if from_hz == to_hz:
        return wav
    flat = wav.reshape(-1, wav.shape[-1])
    parts = [soxr.resample(channel, from_hz, to_hz, quality="VHQ") for channel in flat]
    return np.stack(parts).reshape(*wav.shape[:-1], -1).astype(np.float32, copy=False)


def find_audio(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted; hidden ones (half-written) left out.

    Raises:
        InputError: the folder is missing or holds no audio.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    if not found:
        raise InputError(f"{folder}: holds no audio ({', '.join(sorted(SUFFIXES))})")
    return found


def rms(wav: np.ndarray) -> float:
    """Root mean square over all samples, accumulated in float64."""
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))


def round_to_int16(wav: np.ndarray) -> np.ndarray:
    """Clip to full scale and round to what a 16-bit file can hold; float32 in, float32 out."""
    return (np.clip(np.rint(wav * 32768.0), -32768, 32767) / 32768.0).astype(np.float32)


def _opened(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = f"not readable as audio ({_reason(error)})"
        raise InputError(f"{path}: {reason}; replace or remove the file") from error
    if file.frames == 0:
        file.close()
        raise InputError(f"{path}: holds no samples; replace or remove the file")
    return file


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
