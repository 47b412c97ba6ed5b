"""Reading, writing and resampling: round trips, and errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from rwsa.audio import (
    Resampler,
    block_samples,
    read_audio,
    read_blocks,
    read_info,
    read_mono,
    resample,
    rms,
    round_to_int16,
    write_audio,
    write_blocks,
)
from rwsa.errors import InputError

RATE_HZ = 16_000


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(500,), (1, 500), (2, 500), (6, 500)])
def test_floats_are_preserved_by_a_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    wav = noise(*shape)
    write_audio(tmp_path / "a.wav", wav, 44_100, subtype="FLOAT")
    read, rate = read_audio(tmp_path / "a.wav")
    np.testing.assert_array_equal(read, np.atleast_2d(wav))
    assert (read.dtype, rate) == (np.float32, 44_100)
    assert read.flags.c_contiguous
    info = read_info(tmp_path / "a.wav")
    assert (info.channels, info.samples, info.sample_rate_hz) == (*np.atleast_2d(wav).shape, 44_100)
    assert info.seconds == pytest.approx(500 / 44_100)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_16_bit_samples_are_preserved_by_any_lossless_format(tmp_path: Path, suffix: str) -> None:
    wav = round_to_int16(noise(500))
    write_audio(tmp_path / f"a{suffix}", wav, RATE_HZ, subtype="PCM_16")
    # libsndfile writes floats times 32767 and reads them over 32768: at most one step.
    np.testing.assert_allclose(read_mono(tmp_path / f"a{suffix}", RATE_HZ), wav, atol=1.01 / 32768)


def test_reading_a_part(tmp_path: Path) -> None:
    wav = noise(500)
    write_audio(tmp_path / "a.wav", wav, RATE_HZ, subtype="FLOAT")
    part = read_mono(tmp_path / "a.wav", RATE_HZ, start=100, samples=50)
    np.testing.assert_array_equal(part, wav[100:150])
    tail, _ = read_audio(tmp_path / "a.wav", start=480)
    np.testing.assert_array_equal(tail[0], wav[480:])


@pytest.mark.parametrize(("start", "samples"), [(480, 21), (500, 1), (500, -1), (600, -1), (600, 5)])
def test_a_part_beyond_the_end_is_refused(tmp_path: Path, start: int, samples: int) -> None:
    write_audio(tmp_path / "a.wav", noise(500), RATE_HZ)
    with pytest.raises(InputError, match=r"a\.wav: "):
        read_audio(tmp_path / "a.wav", start=start, samples=samples)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE_HZ)
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "header only":
        write_audio(path, noise(500), RATE_HZ)
        path.write_bytes(path.read_bytes()[:20])
    elif kind in ("nan", "infinite"):
        wav = noise(500)
        wav[7] = np.nan if kind == "nan" else np.inf
        write_audio(path, wav, RATE_HZ, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is not a regular file"),
        ("empty", "not readable as audio"),
        ("no samples", "holds no samples"),
        ("random", "not readable as audio"),
        ("header only", "not readable as audio"),
        ("nan", "holds NaN or infinite samples"),
        ("infinite", "holds NaN or infinite samples"),
    ],
)
def test_a_bad_file_is_reported_with_its_fault(tmp_path: Path, kind: str, message: str) -> None:
    path = bad_file(tmp_path, kind)
    for read in (read_audio, lambda path: list(read_blocks(path))):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_half_a_compressed_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise(50_000), RATE_HZ)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for read in (read_audio, lambda path: list(read_blocks(path))):
        with pytest.raises(InputError, match=rf"a\{suffix}: (damaged audio|ends after|has [\d,]+ samples)"):
            read(path)


@pytest.mark.parametrize(("rate_hz", "samples"), [(48_000, 100_000), (1000, 3500), (192_000, 131_072)])
def test_blocks_contain_the_complete_file(tmp_path: Path, rate_hz: int, samples: int) -> None:
    path, wav = tmp_path / "a.wav", noise(2, samples)
    step = block_samples(rate_hz)
    write_blocks(path, (wav[:, at : at + 7] for at in range(0, samples, 7)), rate_hz, subtype="FLOAT")
    blocks = list(read_blocks(path))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), wav)
    assert {block.shape[1] for block in blocks[:-1]} == {step}
    assert blocks[-1].shape[1] <= step <= 1 << 16


def test_an_unseekable_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "phone.wav"
    soundfile.write(path, noise(8000), 8000, subtype="GSM610")
    assert read_info(path).subtype == "GSM610"
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path)), axis=1), read_audio(path)[0])


def test_failing_blocks_leave_the_existing_file(tmp_path: Path) -> None:
    def blocks(good: int) -> Iterator[np.ndarray]:
        yield from [noise(1, 10)] * good
        raise InputError("no more")

    path = tmp_path / "folder/a.wav"
    with pytest.raises(InputError, match=r"^no more$"):
        write_blocks(path, blocks(0), RATE_HZ)
    assert not path.parent.exists()
    write_audio(path, noise(20), RATE_HZ)
    with pytest.raises(InputError, match=r"^no more$"):
        write_blocks(path, blocks(3), RATE_HZ)
    assert list(path.parent.iterdir()) == [path]
    assert read_info(path).samples == 20


def test_stereo_and_other_rates_are_refused_where_mono_is_expected(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(2, 500), RATE_HZ)
    with pytest.raises(InputError, match=r"a\.wav: has 2 channels where one is expected"):
        read_mono(tmp_path / "a.wav", RATE_HZ)
    write_audio(tmp_path / "b.wav", noise(500), 48_000)
    with pytest.raises(InputError, match=r"b\.wav: is at 48000 Hz where 16000 Hz is expected"):
        read_mono(tmp_path / "b.wav", RATE_HZ)


@pytest.mark.parametrize("target", ["/proc/a.wav", "/proc/rwsa/a.wav"])
def test_a_read_only_folder_is_reported(target: str) -> None:
    with pytest.raises(InputError, match=rf"^{target}: cannot be written \("):
        write_audio(Path(target), noise(500), RATE_HZ)


def test_an_unwritable_format_leaves_no_file(tmp_path: Path) -> None:
    for name, subtype in (("a.xyz", None), ("a.flac", "FLOAT")):
        with pytest.raises(InputError, match=rf"{name}: cannot be written"):
            write_audio(tmp_path / name, noise(500), RATE_HZ, subtype=subtype)
    assert list(tmp_path.iterdir()) == []


@given(
    samples=st.integers(1, 5000),
    from_hz=st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000]),
    to_hz=st.sampled_from([8000, 16_000, 48_000]),
    channels=st.integers(1, 2),
)
def test_resampling_preserves_duration_and_channels(
    samples: int, from_hz: int, to_hz: int, channels: int
) -> None:
    out = resample(np.zeros((channels, samples), np.float32), from_hz, to_hz)
    assert out.shape[0] == channels
    assert out.dtype == np.float32
    assert abs(out.shape[1] - samples * to_hz / from_hz) <= 1


def test_resampling_preserves_a_tone_and_removes_aliases() -> None:
    seconds = np.arange(48_000) / 48_000
    kept, lost = (np.sin(2 * np.pi * hz * seconds).astype(np.float32) for hz in (1000, 12_000))
    down = resample(np.stack([kept, lost]), 48_000, 16_000)[:, 2000:-2000]
    np.testing.assert_allclose(down[0], kept[::3][2000:-2000], atol=1e-4)
    assert np.abs(down[1]).max() < 1e-4


@given(
    samples=st.integers(1, 20_000),
    step=st.integers(1, 9000),
    from_hz=st.sampled_from([8000, 16_000, 44_100, 48_000]),
    to_hz=st.sampled_from([8000, 16_000, 44_100]),
)
def test_resampling_in_blocks_is_bit_identical(samples: int, step: int, from_hz: int, to_hz: int) -> None:
    wav, resampler = noise(2, samples), Resampler(from_hz, to_hz, 2)
    step = max(step, samples // 50)
    parts = [resampler(wav[:, at : at + step], last=at + step >= samples) for at in range(0, samples, step)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), resample(wav, from_hz, to_hz))


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    wav = noise(2, 100)
    np.testing.assert_array_equal(resample(wav, 16_000, 16_000), wav)


def test_level_and_rounding() -> None:
    assert rms(np.array([3.0, -4.0, 0.0, 0.0], np.float32)) == pytest.approx(2.5)
    grid = round_to_int16(np.array([-2.0, -1.0, 0.3 / 32768, 0.7 / 32768, 2.0], np.float32))
    np.testing.assert_array_equal(grid * 32768, [-32768, -32768, 0, 1, 32767])
