"""Signal statistics of files with known contents, and a hash independent of the container."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from rwsa.audio_facts import AudioFacts, _Clipping, _Digest, _Silence, audio_facts
from rwsa.errors import InputError

RATE_HZ = 16_000
LOW, HIGH = -32768, 32767


def facts_of(path: Path, wav: np.ndarray, **keys: object) -> AudioFacts:
    soundfile.write(path, wav, RATE_HZ, **keys)
    return audio_facts(path)


def noise(samples: int = 40_000) -> np.ndarray:
    return np.random.default_rng(0).integers(-8000, 8000, samples).astype(np.int16)


class TestNumbers:
    def test_a_sine_with_an_offset(self, tmp_path: Path) -> None:
        wav = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ * 3) / RATE_HZ) + 0.1
        facts = facts_of(tmp_path / "a.wav", wav, subtype="FLOAT")
        assert (facts.samples, facts.sample_rate_hz, facts.channels, facts.seconds) == (48_000, RATE_HZ, 1, 3)
        assert facts.rms_dbfs == pytest.approx(10 * math.log10(0.125 + 0.01), abs=1e-4)
        assert facts.peak == pytest.approx(0.6, abs=1e-6)
        assert facts.dc_offset == pytest.approx(0.1, abs=1e-6)
        assert (facts.clipped_share, facts.silent_share) == (0, 0)

    def test_runs_at_full_scale_count_as_clipped_and_single_peaks_do_not(self, tmp_path: Path) -> None:
        wav = np.zeros(1000, np.int16)
        wav[100:105] = HIGH
        wav[200:202] = HIGH
        wav[300:303] = [LOW, -HIGH, LOW]
        wav[400:402], wav[402:404] = HIGH, LOW
        assert facts_of(tmp_path / "a.wav", wav).clipped_share == 8 / 1000

    def test_silent_frames(self, tmp_path: Path) -> None:
        wav = np.full(RATE_HZ, 0.1)
        wav[: RATE_HZ // 4] = 0.0005
        assert facts_of(tmp_path / "a.wav", wav, subtype="FLOAT").silent_share == pytest.approx(
            0.25, abs=0.02
        )

    def test_digital_silence_has_no_level_and_no_hash(self, tmp_path: Path) -> None:
        facts = facts_of(tmp_path / "a.wav", np.zeros(800, np.int16))
        assert (facts.rms_dbfs, facts.sha256, facts.silent_share) == (None, None, 1)

    @settings(deadline=None, max_examples=60)
    @given(
        samples=st.lists(st.sampled_from([0, 1, HIGH, LOW]), min_size=1, max_size=60), cut=st.integers(0, 60)
    )
    def test_results_do_not_depend_on_blocks(self, samples: list[int], cut: int) -> None:
        whole = np.array(samples, "<i2")
        parts = [part for part in (whole[:cut], whole[cut:]) if len(part)]
        for make, read in (
            (_Clipping, _Clipping.clipped),
            (_Digest, _Digest.hexdigest),
            (lambda: _Silence(7), _Silence.share),
        ):
            one, two = make(), make()
            one.add(whole)
            for part in parts:
                two.add(part)
            assert read(one) == read(two)


class TestHash:
    @pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
    def test_is_the_same_in_another_container(self, tmp_path: Path, suffix: str) -> None:
        first = facts_of(tmp_path / "a.flac", noise())
        assert facts_of(tmp_path / f"b.{suffix}", noise()).sha256 == first.sha256
        deeper = facts_of(tmp_path / "c.wav", noise() / 32768, subtype="PCM_24")
        assert deeper.sha256 == first.sha256

    def test_padding_does_not_change_it_but_a_pause_inside_does(self, tmp_path: Path) -> None:
        wav = noise()
        padded = np.concatenate([np.zeros(20_000, np.int16), wav, np.zeros(7, np.int16)])
        paused = np.insert(wav, 100, 0)
        hashes = [facts_of(tmp_path / f"{n}.wav", w).sha256 for n, w in enumerate((wav, padded, paused))]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_one_step_of_one_sample_changes_it(self, tmp_path: Path) -> None:
        wav = noise()
        other = wav.copy()
        other[39_000] += 1
        assert facts_of(tmp_path / "a.wav", wav).sha256 != facts_of(tmp_path / "b.wav", other).sha256

    def test_is_of_the_channel_that_is_used(self, tmp_path: Path) -> None:
        wav = noise()
        soundfile.write(tmp_path / "two.wav", np.stack([wav[::-1], wav], axis=1), RATE_HZ)
        assert audio_facts(tmp_path / "two.wav", channel=1).sha256 == facts_of(tmp_path / "a.wav", wav).sha256
        assert audio_facts(tmp_path / "two.wav", channel=1).channels == 2


class TestBadFiles:
    def test_a_truncated_file_is_reported(self, tmp_path: Path) -> None:
        path = tmp_path / "a.flac"
        soundfile.write(path, noise(), RATE_HZ)
        path.write_bytes(path.read_bytes()[:30_000])
        with pytest.raises(InputError, match=r"a\.flac"):
            audio_facts(path)

    def test_nan_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="NaN"):
            facts_of(tmp_path / "a.wav", np.full(800, np.nan, np.float32), subtype="FLOAT")

    def test_the_channel_of_a_multichannel_file_is_required(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "two.wav", np.zeros((800, 2)), RATE_HZ)
        with pytest.raises(InputError, match="has 2 channels"):
            audio_facts(tmp_path / "two.wav")
        with pytest.raises(InputError, match="no number 2"):
            audio_facts(tmp_path / "two.wav", channel=2)


MEMORY = """
import resource, sys
from pathlib import Path
from rwsa.audio_facts import audio_facts
audio_facts(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
audio_facts(Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, seconds in (("short.wav", 4), ("long.wav", 600)):
        soundfile.write(tmp_path / name, rng.integers(-99, 99, seconds * RATE_HZ).astype(np.int16), RATE_HZ)
    paths = [str(tmp_path / name) for name in ("short.wav", "long.wav")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    # As float32 the long one is 38 MB.
    assert int(done.stdout) < 5_000, "kB"
