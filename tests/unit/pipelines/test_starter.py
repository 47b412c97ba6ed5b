"""The starter corpus: noises and layout offline, and a real download where apt reaches a mirror."""

from __future__ import annotations

import hashlib
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from pipelines import starter
from rwsa.audio import read_mono, rms
from rwsa.corpora import read_card, scan
from rwsa.errors import InputError
from rwsa.mixing import noises

CHECKOUT = Path(__file__).parents[3]
RATE_HZ = starter.SAMPLE_RATE_HZ
VOICES = ("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU")
# Any bytes are G.722: 8000 of them are a second.
PROMPTS = {"menu": 3.0, "digits/7": 0.5, "empty": 0.0, "beep": 3.0, "silence/5": 5.0, "tt-monkeys": 4.0}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for voice in VOICES:
        for name, seconds in PROMPTS.items():
            path = tmp_path / "sounds" / voice / f"{name}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.bytes(int(8000 * seconds)))
    return tmp_path / "sounds"


@pytest.fixture
def one_second_noises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "_NOISE_SECONDS", 1)


def words(rng: np.random.Generator) -> list[np.ndarray]:
    """Half-second stand-ins for speech whose power is all below 2 kHz."""
    low = noises.coloured(rng, 5 * RATE_HZ, RATE_HZ, "brown")
    return list(low.reshape(10, -1))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def power_db(wav: np.ndarray, low_hz: float, high_hz: float) -> float:
    hz = np.fft.rfftfreq(len(wav), 1 / RATE_HZ)
    power = np.square(np.abs(np.fft.rfft(wav)))
    return float(10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].mean()))


class TestNoises:
    @pytest.mark.parametrize("colour", sorted(noises.COLOURS))
    def test_colours_have_their_slope(self, colour: str) -> None:
        wav = noises.coloured(np.random.default_rng(1), 10 * RATE_HZ, RATE_HZ, colour)
        octave_db = (power_db(wav, 3200, 6400) - power_db(wav, 200, 400)) / 4
        assert octave_db == pytest.approx(-10 * np.log10(2) * noises.COLOURS[colour], abs=0.3)

    def test_speech_shaped_noise_has_the_spectrum_of_the_speech(self) -> None:
        rng = np.random.default_rng(2)
        speech = words(rng)
        wav = noises.speech_shaped(rng, 10 * RATE_HZ, RATE_HZ, noises.long_term_power(speech))
        joined = np.concatenate(speech)
        for low_hz, high_hz in ((250, 500), (1000, 2000), (4000, 7000)):
            ratio_db = power_db(wav, low_hz, high_hz) - power_db(wav, 500, 1000)
            assert ratio_db == pytest.approx(
                power_db(joined, low_hz, high_hz) - power_db(joined, 500, 1000), abs=1.5
            )

    def test_hum_has_its_power_at_harmonics_of_the_mains(self) -> None:
        wav = noises.mains_hum(np.random.default_rng(3), 10 * RATE_HZ, RATE_HZ)
        hz = np.fft.rfftfreq(len(wav), 1 / RATE_HZ)
        power = np.square(np.abs(np.fft.rfft(wav)))
        peak_hz = hz[power[hz < 65].argmax()]
        assert min(abs(peak_hz - 50), abs(peak_hz - 60)) < 0.3
        near = np.abs(hz / peak_hz - np.rint(hz / peak_hz)) < 0.1
        assert power[near].sum() > 0.99 * power.sum()

    def test_all_noises_are_normalised_finite_and_reproducible(self) -> None:
        clips = words(np.random.default_rng(4))
        for kind in ("babble", "speech_shaped", "hum", *noises.COLOURS):
            one, two, other = (starter._noise(np.random.default_rng(seed), kind, clips) for seed in (5, 5, 6))
            assert one.shape == (starter._NOISE_SECONDS * RATE_HZ,)
            assert one.dtype == np.float32
            assert rms(one) == pytest.approx(noises.RMS, rel=0.01)
            assert np.abs(one).max() < 1
            np.testing.assert_array_equal(one, two)
            assert not np.array_equal(one, other)

    def test_an_unknown_kind_is_a_bug(self) -> None:
        with pytest.raises(ValueError, match="mauve"):
            starter._noise(np.random.default_rng(0), "mauve", [])


@pytest.mark.usefixtures("one_second_noises")
class TestBuild:
    def test_the_layout_matches_the_cards(
        self, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        starter.build_starter(sounds, tmp_path / "out")
        monkeypatch.setenv("RWSA_STARTER", str(tmp_path / "out"))
        counts = {}
        for name in ("starter", "starter_languages", "starter_noises"):
            manifest = scan(read_card(CHECKOUT / "datasets" / f"{name}.yaml"), strict=True)
            for split in ("train", "valid", "test"):
                counts[name, split] = len(manifest.speech(split)), len(manifest.noise(split))
        assert counts == {
            ("starter", "train"): (2, 48),
            ("starter", "valid"): (1, 12),
            ("starter", "test"): (1, 12),
            ("starter_languages", "train"): (0, 0),
            ("starter_languages", "valid"): (0, 0),
            ("starter_languages", "test"): (1, 12),
            ("starter_noises", "train"): (0, 0),
            ("starter_noises", "valid"): (0, 0),
            ("starter_noises", "test"): (1, 12),
        }

    def test_the_same_sounds_give_the_same_bytes(self, sounds: Path, tmp_path: Path) -> None:
        starter.build_starter(sounds, tmp_path / "one")
        starter.build_starter(sounds, tmp_path / "two")
        assert digest(tmp_path / "one") == digest(tmp_path / "two")

    def test_speech_is_stored_as_decoded_and_other_sounds_left_out(
        self, sounds: Path, tmp_path: Path
    ) -> None:
        starter.build_starter(sounds, tmp_path / "out")
        written = sorted(
            str(p.relative_to(tmp_path / "out/speech")) for p in (tmp_path / "out/speech").rglob("*.flac")
        )
        assert written == [f"{voice}/menu.flac" for voice in VOICES]
        wav = read_mono(tmp_path / "out/speech" / written[0], RATE_HZ)
        np.testing.assert_array_equal(wav * 32768, starter.decode_g722(sounds / VOICES[0] / "menu.g722"))
        assert len(wav) == 3 * RATE_HZ


class TestFetch:
    def fake_network(self, monkeypatch: pytest.MonkeyPatch, sounds: Path) -> list[int]:
        """Replace the network by `sounds`; returns a list that grows with every download."""
        downloads: list[int] = []

        def download(folder: Path) -> list[Path]:
            downloads.append(1)
            return [folder / f"{name}_1_all.deb" for name in starter.PACKAGES]

        def unpack(packages: list[Path], folder: Path) -> Path:
            for package in packages:
                doc = folder / "usr/share/doc" / package.name.partition("_")[0]
                doc.mkdir(parents=True)
                (doc / "copyright").write_text("CC BY-SA 3.0")
            return sounds

        monkeypatch.setattr(starter, "download_packages", download)
        monkeypatch.setattr(starter, "unpack_packages", unpack)
        monkeypatch.setattr(starter, "_NOISE_SECONDS", 1)
        return downloads

    def test_an_existing_corpus_is_not_downloaded_again(
        self, tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        downloads = self.fake_network(monkeypatch, sounds)
        out = tmp_path / "deep/starter"
        assert starter.fetch_starter(out) == out
        before = digest(out)
        assert starter.main(["--out", str(out)]) == 0
        assert len(downloads) == 1
        assert digest(out) == before
        assert len(list((out / "licences").iterdir())) == len(starter.PACKAGES)

    def test_an_interrupted_run_leaves_nothing(
        self, tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_network(monkeypatch, sounds)

        def interrupt(prompts: object, out: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(starter, "write_noises", interrupt)
        with pytest.raises(KeyboardInterrupt):
            starter.fetch_starter(tmp_path / "out/starter")
        assert list(tmp_path.rglob("out/*")) == []

    def test_another_folder_is_never_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="is not a starter corpus"):
            starter.fetch_starter(tmp_path)
        assert (tmp_path / "thesis.txt").is_file()

    def test_without_apt_the_error_gives_a_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert starter.main(["--out", str(tmp_path / "starter")]) == 2
        output = capsys.readouterr().err
        assert output.count("\n") == 1
        assert "apt-get" in output
        assert "set RWSA_DATA" in output
        assert list(tmp_path.iterdir()) == []

    def test_apt_errors_reach_the_message(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        for tool in ("apt-get", "dpkg-deb"):
            (tmp_path / "bin" / tool).write_text(
                "#!/bin/sh\necho 'E: no route to the mirror' >&2\nexit 100\n"
            )
            (tmp_path / "bin" / tool).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        with pytest.raises(InputError, match=r"en-g722: .*no route to the mirror.*RWSA_DATA"):
            starter.fetch_starter(tmp_path / "starter")
        assert not (tmp_path / "starter").exists()


@pytest.mark.full
def test_a_real_package_is_downloaded_and_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get here")
    try:
        socket.create_connection(("deb.debian.org", 80), timeout=5).close()
    except OSError as error:
        pytest.skip(f"no Debian mirror can be reached ({error})")
    monkeypatch.setattr(starter, "PACKAGES", starter.PACKAGES[:1])
    (package,) = starter.download_packages(tmp_path)
    sounds = starter.unpack_packages([package], tmp_path / "unpacked")
    assert [path.name for path in sounds.iterdir()] == [VOICES[0]]
    assert len(starter.decode_g722(sounds / VOICES[0] / "vm-intro.g722")) > 2 * RATE_HZ
