"""Enhancement of files, folders and streams: equal to arrays; formats, lengths and errors."""

from __future__ import annotations

import errno
import io
import os
import resource
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from rwsa.audio import _Sink, read_audio, read_info, write_audio, write_blocks
from rwsa.enhancement import enhance
from rwsa.enhancement.files import enhance_files, enhance_stream
from rwsa.errors import InputError
from rwsa.files import WRITE_REMEDY
from rwsa.models import ModelConfig, build_model

RATE_HZ = 16_000
CONFIG = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
LENGTH = CONFIG.segment_samples


class Identity(nn.Module):
    """An identity model that counts its batches and can be interrupted in one."""

    def __init__(self, interrupted_in: int | None = None) -> None:
        super().__init__()
        self.config, self.batches, self.interrupted_in = CONFIG, 0, interrupted_in
        self.parameter = nn.Parameter(torch.zeros(()))

    def forward(self, mag_BFT: Tensor, pha_BFT: Tensor) -> tuple[Tensor, Tensor]:
        self.batches += 1
        if self.batches == self.interrupted_in:
            raise KeyboardInterrupt
        return mag_BFT, pha_BFT


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1), (8000, 3)])
def test_a_file_is_enhanced_bit_identically_to_an_array(tmp_path: Path, rate_hz: int, channels: int) -> None:
    model, wav = build_model(CONFIG, seed=1).eval(), noise(channels, rate_hz)
    write_audio(tmp_path / "a.wav", wav, rate_hz, subtype="FLOAT")
    assert enhance_files([tmp_path / "a.wav"], tmp_path / "out", model) == []
    enhanced, enhanced_rate_hz = read_audio(tmp_path / "out/a.wav")
    assert enhanced_rate_hz == rate_hz
    np.testing.assert_array_equal(enhanced, enhance(wav, rate_hz, model))


@pytest.mark.parametrize(
    ("name", "format", "subtype", "expected"),
    [
        ("a.wav", "WAV", "PCM_16", "PCM_16"),
        ("a.wav", "WAV", "PCM_24", "PCM_24"),
        ("a.wav", "WAV", "FLOAT", "FLOAT"),
        ("a.wav", "RF64", "PCM_16", "PCM_16"),
        ("a.wav", "WAV", "PCM_U8", "PCM_16"),
        ("a.wav", "WAV", "ULAW", "PCM_16"),
        ("a.wav", "WAV", "IMA_ADPCM", "PCM_16"),
        ("a.wav", "WAV", "GSM610", "PCM_16"),
        ("a.wav", "FLAC", "PCM_16", "PCM_16"),  # a misleading name
        ("a.flac", "FLAC", "PCM_24", "PCM_24"),
        ("a.aif", "AIFF", "PCM_16", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS", "VORBIS"),
        ("a.opus", "OGG", "OPUS", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III", "MPEG_LAYER_III"),
    ],
)
def test_outputs_have_format_and_length_of_their_inputs(
    tmp_path: Path, name: str, format: str, subtype: str, expected: str
) -> None:
    wav = 0.1 * np.sin(np.arange(12_345) / 7).astype(np.float32)
    soundfile.write(tmp_path / name, wav, RATE_HZ, format=format, subtype=subtype)
    assert enhance_files([tmp_path / name], tmp_path / "out", Identity()) == []
    before, after = read_info(tmp_path / name), read_info(tmp_path / "out" / name)
    assert (after.samples, after.channels, after.sample_rate_hz, after.format, after.subtype) == (
        before.samples,
        1,
        RATE_HZ,
        before.format,
        expected,
    )
    inputs, outputs = (read_audio(folder / name)[0][0] for folder in (tmp_path, tmp_path / "out"))
    assert np.corrcoef(inputs, outputs)[0, 1] > 0.99


def test_folders_keep_their_structure_and_files_their_names(tmp_path: Path) -> None:
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/.half.wav", "alone.wav"):
        write_audio(tmp_path / name, noise(3000), RATE_HZ)
    (tmp_path / "in/notes.txt").touch()
    out = tmp_path / "new/out"
    assert enhance_files([tmp_path / "in", tmp_path / "alone.wav"], out, Identity()) == []
    assert files_below(out) == ["a.wav", "alone.wav", "deep/er/b.flac"]


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write bad files and two good ones; returns the expected errors."""
    folder.mkdir()
    for name in ("a good.wav", "z good.wav"):
        write_audio(folder / name, noise(2 * LENGTH), RATE_HZ)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    write_audio(folder / "no samples.wav", np.zeros(0), RATE_HZ)
    wav = noise(9 * LENGTH)
    wav[-1] = np.nan
    write_audio(folder / "nan.wav", wav, RATE_HZ, subtype="FLOAT")
    write_audio(folder / "half.flac", noise(9 * LENGTH), RATE_HZ)
    data = (folder / "half.flac").read_bytes()
    (folder / "half.flac").write_bytes(data[: len(data) // 2])
    return {
        "empty.wav": "not readable as audio",
        "half.flac": "has 20,480 samples, but its header declares 33,480",
        "nan.wav": "holds NaN or infinite samples",
        "no samples.wav": "holds no samples",
        "text.wav": "not readable as audio",
    }


def test_bad_files_are_reported_in_order_and_skipped(tmp_path: Path) -> None:
    expected = write_bad_files(tmp_path / "in")
    failures = enhance_files([tmp_path / "in"], tmp_path / "out", Identity())
    assert len(failures) == len(expected)
    for failure, (name, message) in zip(failures, expected.items(), strict=True):
        assert failure.startswith(f"{tmp_path / 'in' / name}: {message}")
        assert failure.endswith("; replace or remove the file")
    assert files_below(tmp_path / "out") == ["a good.wav", "z good.wav"]


def test_strict_stops_at_the_first_bad_file(tmp_path: Path) -> None:
    write_bad_files(tmp_path / "in")
    with pytest.raises(InputError, match=r"empty\.wav: not readable as audio"):
        enhance_files([tmp_path / "in"], tmp_path / "out", Identity(), strict=True)
    assert files_below(tmp_path / "out") == ["a good.wav"]


def test_a_file_that_cannot_be_written_is_reported_and_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("long.wav", "short.wav"):
        write_audio(tmp_path / "in" / name, noise(100 * LENGTH if name == "long.wav" else 10), RATE_HZ)
    write = soundfile.SoundFile.write

    def write_or_fail(file: soundfile.SoundFile, wav: np.ndarray) -> None:
        if file.frames > 2 * LENGTH:
            raise soundfile.LibsndfileError(2)
        write(file, wav)

    monkeypatch.setattr(soundfile.SoundFile, "write", write_or_fail)
    model = Identity()
    (failure,) = enhance_files([tmp_path / "in"], tmp_path / "out", model)
    assert failure.startswith(f"{tmp_path}/out/long.wav: cannot be written (")
    assert files_below(tmp_path / "out") == ["short.wav"]
    assert model.batches < 20


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_a_write_that_fails_is_named_with_its_reason(tmp_path: Path, suffix: str) -> None:
    write_audio(tmp_path / f"in/long.{suffix}", noise(300_000), RATE_HZ)
    write_audio(tmp_path / f"in/short.{suffix}", noise(10), RATE_HZ)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    try:
        (failure,) = enhance_files([tmp_path / "in"], tmp_path / "out", Identity())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out = tmp_path / f"out/long.{suffix}"
    assert failure == f"{out}: cannot be written (File too large); {WRITE_REMEDY}"
    assert files_below(tmp_path / "out") == [f"short.{suffix}"]


def test_a_full_disk_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.flac", "b.flac"):
        write_audio(tmp_path / "in" / name, noise(10), RATE_HZ)

    def full(sink: _Sink, data: bytes) -> int:
        sink.error = OSError(errno.ENOSPC, "No space left on device")
        return 0

    monkeypatch.setattr(_Sink, "write", full)
    with pytest.raises(InputError) as caught:
        enhance_files([tmp_path / "in"], tmp_path / "out", Identity())
    assert str(caught.value) == (
        f"{tmp_path}/out/a.flac: cannot be written (No space left on device); {WRITE_REMEDY}"
    )
    assert files_below(tmp_path / "out") == []


def test_linked_folders_and_odd_files_are_enhanced_or_named(tmp_path: Path) -> None:
    write_audio(tmp_path / "in/a.wav", noise(10), RATE_HZ)
    write_audio(tmp_path / "data/b.wav", noise(10), RATE_HZ)
    (tmp_path / "in/linked").symlink_to("../data")
    (tmp_path / "in/broken.wav").symlink_to("nothing")
    (tmp_path / "in/itself.wav").symlink_to("itself.wav")
    (tmp_path / "in/phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (tmp_path / "in/page.wav").write_text("<html>")
    (tmp_path / "in/folder.wav").mkdir()
    os.mkfifo(tmp_path / "in/pipe.wav")
    latin_1 = os.fsencode(tmp_path) + b"/in/caf\xe9.wav"
    (tmp_path / "in/a.wav").rename(os.fsdecode(latin_1))
    failures = enhance_files([tmp_path / "in"], tmp_path / "out", Identity())
    expected = {
        "broken.wav": "is a broken link; replace or remove the file",
        "itself.wav": "is a broken link; replace or remove the file",
        "page.wav": "not readable as audio (",
        "phone.m4a": "not readable as audio (Format not recognised); convert it to WAV or FLAC",
        "pipe.wav": "is not a regular file; replace or remove the file",
    }
    assert len(failures) == len(expected)
    for failure, (name, message) in zip(failures, expected.items(), strict=True):
        assert failure.startswith(f"{tmp_path}/in/{name}: {message}")
    assert files_below(tmp_path / "out") == [os.fsdecode(b"caf\xe9.wav"), "linked/b.wav"]
    for name in ("broken.wav", "pipe.wav"):  # also if named on the command line
        (failure,) = enhance_files([tmp_path / "in" / name], tmp_path / "out", Identity())
        assert failure.startswith(f"{tmp_path}/in/{name}: {expected[name]}")


@pytest.mark.parametrize("out", ["/proc/rwsa", "file"])
def test_an_unwritable_output_folder_is_refused_first(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    write_audio(tmp_path / "a.wav", noise(10), RATE_HZ)
    model = Identity()
    with pytest.raises(InputError, match=r"cannot be written to \(.+\); choose another --out$"):
        enhance_files([tmp_path / "a.wav"], tmp_path / out, model)
    assert model.batches == 0


def test_inputs_are_not_overwritten_and_outputs_are_unique(tmp_path: Path) -> None:
    for name in ("one/a.wav", "two/a.wav", "three/b.wav"):
        write_audio(tmp_path / name, noise(10), RATE_HZ)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for inputs, out, message in (
        ([one], one, "one/a.wav: is an input and would be overwritten"),
        ([one, two / "a.wav"], three, "would both be written to .*three/a.wav; enhance them separately"),
        ([one / "a.wav", three], one, "one/a.wav: is an input"),
        ([three, one / "b.wav"], one, "one/b.wav: no such file or folder"),
        ([two / "none"], one, "none: no such file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            enhance_files(inputs, out, Identity())
    assert files_below(tmp_path) == ["one/a.wav", "three/b.wav", "two/a.wav"]


def test_an_interruption_leaves_complete_files_only(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"in/{name}.wav", noise(10 * LENGTH), RATE_HZ)
    with pytest.raises(KeyboardInterrupt):
        enhance_files([tmp_path / "in"], tmp_path / "out", Identity(interrupted_in=5))
    assert files_below(tmp_path / "out") == ["a.wav"]
    assert read_info(tmp_path / "out/a.wav").samples == 10 * LENGTH


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = {}
    for seconds in (10, 100):
        blocks = (noise(2, 48_000, seed=second) for second in range(seconds))
        write_blocks(tmp_path / f"{seconds}.wav", blocks, 48_000)
        tracemalloc.start()
        assert enhance_files([tmp_path / f"{seconds}.wav"], tmp_path / "out", Identity()) == []
        peaks[seconds] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[100] < 1.1 * peaks[10]


def stream(data: bytes, **options: Any) -> bytes:
    sink = io.BytesIO()
    try:
        enhance_stream(io.BytesIO(data), sink, Identity(), **options)
    except InputError:
        assert sink.getvalue() == b""
        raise
    return sink.getvalue()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_stream_equals_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise(2, 50_000), 44_100)
    enhance_files([path], tmp_path / "out", Identity())
    assert stream(path.read_bytes()) == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize("claimed_bytes", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_stream_with_unknown_length_gets_a_correct_header(tmp_path: Path, claimed_bytes: int) -> None:
    write_audio(tmp_path / "a.wav", noise(50_000), RATE_HZ)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = struct.pack("<I", claimed_bytes)
    (tmp_path / "enhanced.wav").write_bytes(stream(bytes(data)))
    assert read_info(tmp_path / "enhanced.wav").samples == 50_000
    header = (tmp_path / "enhanced.wav").read_bytes()[:44]
    assert struct.unpack("<I", header[40:]) == (100_000,)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "stdin: not readable as audio ("),
        ("text", "stdin: not readable as audio ("),
        ("no samples", "stdin: holds no samples; "),
        ("nan", "stdin: holds NaN or infinite samples; "),
        ("half", "stdin: has 45,056 samples, but its header declares 90,000; "),
    ],
)
def test_a_bad_stream_is_an_error_and_writes_nothing(tmp_path: Path, kind: str, message: str) -> None:
    wav = np.full(10, np.nan) if kind == "nan" else noise(0 if kind == "no samples" else 90_000)
    path = tmp_path / ("a.flac" if kind == "half" else "a.wav")
    write_audio(path, wav, RATE_HZ, subtype="FLOAT" if kind == "nan" else "PCM_16")
    data = path.read_bytes()
    data = {"empty": b"", "text": b"no audio", "half": data[: len(data) // 2]}.get(kind, data)
    with pytest.raises(InputError) as caught:
        stream(data)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; pipe in one complete audio file")


def test_a_closed_sink_is_an_error(tmp_path: Path) -> None:
    class Closed(io.RawIOBase):
        def write(self, _: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    write_audio(tmp_path / "a.wav", noise(10), RATE_HZ)
    with pytest.raises(InputError, match=r"stdin could not be enhanced to stdout \(Broken pipe\)"):
        enhance_stream(io.BytesIO((tmp_path / "a.wav").read_bytes()), Closed(), Identity())
