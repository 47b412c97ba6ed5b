"""Files whose header and contents disagree are refused by name; lengths left open are read to the end."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rwsa.audio import read_audio, read_blocks, read_info
from rwsa.errors import InputError

RATE_HZ, SAMPLES = 16_000, 100_000
WAV = np.random.default_rng(0).normal(scale=0.1, size=SAMPLES)


def written(folder: Path, format: str, subtype: str | None = None) -> Path:
    path = folder / f"a.{format.lower()}"
    soundfile.write(path, WAV, RATE_HZ, format=format, subtype=subtype)
    return path


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def refused(path: Path, message: str, *, by_header: bool = True) -> None:
    for read in (read_info, read_audio, lambda path: list(read_blocks(path)))[not by_header :]:
        with pytest.raises(InputError, match=rf"a\.\w+: {message}.*; replace or remove the file$"):
            read(path)


@pytest.mark.parametrize("share", [0.3, 0.99])
@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        *((format, "PCM_16") for format in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST")),
        *(("WAV", subtype) for subtype in ("FLOAT", "ULAW", "IMA_ADPCM", "GSM610")),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("FLAC", "PCM_16"),
    ],
)
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, format: str, subtype: str, share: float) -> None:
    path = written(tmp_path, format, subtype)
    assert read_info(path).samples >= SAMPLES
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    in_last_frame = format == "FLAC" and share > 0.9
    refused(path, r"(is cut off|has [\d,]+ samples, but|damaged)", by_header=not in_last_frame)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
@pytest.mark.parametrize("form", ["PCM_16", "with a tag"])
def test_a_wav_length_left_open_is_read_to_the_end(tmp_path: Path, length: int, form: str) -> None:
    path = written(tmp_path, "WAV", "PCM_16")
    whole = read_audio(path)[0]
    patch(path, 40, struct.pack("<I", length))
    if form == "with a tag":  # as ffmpeg writes before the audio
        data = path.read_bytes()
        path.write_bytes(data[:36] + b"LIST\4\0\0\0INFO" + data[36:])
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    assert sum(block.shape[1] for block in read_blocks(path)) == read_info(path).samples == SAMPLES


def test_a_flac_length_left_open_is_that_of_its_frames(tmp_path: Path) -> None:
    path = written(tmp_path, "FLAC")
    whole = read_audio(path)[0]
    patch(path, 21, bytes([path.read_bytes()[21] & 0xF0, 0, 0, 0, 0]))
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    assert read_info(path).samples == SAMPLES


@pytest.mark.parametrize("samples", [1 << 35, 2 * SAMPLES, SAMPLES + 1, SAMPLES // 2])
def test_a_flac_header_of_another_length_is_refused(tmp_path: Path, samples: int) -> None:
    path = written(tmp_path, "FLAC")
    first = path.read_bytes()[21] & 0xF0 | samples >> 32
    patch(path, 21, bytes([first]) + struct.pack(">I", samples & 0xFFFFFFFF))
    refused(path, f"has 100,000 samples, but its header declares {samples:,}")


@pytest.mark.parametrize(("format", "at", "order"), [("WAV", 40, "<"), ("AU", 8, ">")])
def test_a_header_of_too_few_samples_is_refused(tmp_path: Path, format: str, at: int, order: str) -> None:
    path = written(tmp_path, format, "PCM_16")
    patch(path, at, struct.pack(f"{order}I", SAMPLES))
    refused(path, "has a wrong header, which declares 100,000 bytes of audio, while 100,000 more follow")


def test_what_may_follow_the_audio_is_accepted(tmp_path: Path) -> None:
    path = written(tmp_path, "WAV", "PCM_16")
    data = path.read_bytes()
    for tail in (b"LIST" + struct.pack("<I", 20_000) + b"x" * 20_000, b"\0" * 30_000, b"TAG" + b" " * 125):
        path.write_bytes(data + tail)
        assert read_info(path).samples == SAMPLES


@pytest.mark.parametrize("rate_hz", [0, 1, 2**31 - 1, 2**32 - 1])
def test_a_rate_that_cannot_be_is_refused(tmp_path: Path, rate_hz: int) -> None:
    path = written(tmp_path, "WAV", "PCM_16")
    patch(path, 24, struct.pack("<I", rate_hz))
    refused(path, "(is at|not readable)")


@pytest.mark.parametrize("keep", [0, 3, 12, 20, 43, 44])
def test_a_part_of_a_header_is_refused(tmp_path: Path, keep: int) -> None:
    for format in ("WAV", "FLAC", "OGG", "AIFF", "AU", "W64"):
        path = written(tmp_path, format)
        path.write_bytes(path.read_bytes()[:keep])
        refused(path, "")
