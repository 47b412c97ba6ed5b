"""The cards of published pairs, on folders with the published names: pairing, splits, counts, noisy rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, Scores, read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError

CARDS = Path(__file__).parents[3] / "datasets"
ROOTS = {"vb_demandex": "VB_DEMANDEX_ROOT", "dns2020": "DNS2020_ROOT", "ears_wham_v2": "EARS_WHAM_V2_ROOT"}
RATE_HZ = 16_000


def write(root: Path, names: Iterable[str], *, rate_hz: int = RATE_HZ) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, rng.uniform(-0.1, 0.1, 160), rate_hz, subtype="FLOAT")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ROOTS.values():
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


def card(name: str) -> CorpusCard:
    return read_card(CARDS / f"{name}.yaml")


def below(manifest: Manifest, root: Path) -> dict[str, tuple[str, str]]:
    """Noisy file to clean file and split."""
    return {
        str(Path(pair.noisy).relative_to(root)): (str(Path(pair.clean).relative_to(root)), pair.split)
        for pair in manifest.pairs
    }


class TestDns2020:
    NOISY = (
        "noisy/clnsp80_kitchen_48263_3_snr12_tl-27_fileid_44.wav",
        "noisy/clnsp14_door_131213_0_snr0_tl-19_fileid_4.wav",
        "noisy/clnsp3_train_110601_0_snr19_tl-30_fileid_144.wav",
    )

    def test_pairs_are_matched_by_fileid_only(self, root: Path) -> None:
        write(root, [*self.NOISY, *(f"clean/clean_fileid_{number}.wav" for number in (4, 44, 144))])
        found = scan(card("dns2020"))
        assert below(found, root) == {
            name: (f"clean/clean_fileid_{name.rpartition('_')[2]}", "test") for name in self.NOISY
        }

    def test_an_incomplete_test_set_is_reported(self, root: Path) -> None:
        write(root, [self.NOISY[0], "clean/clean_fileid_44.wav"])
        (problem,) = scan(card("dns2020")).problems
        assert problem.reason == "test has 1 usable clips, clips_expected is 150; complete it"

    def test_all_150_are_complete(self, root: Path) -> None:
        names = [f"clean/clean_fileid_{number}.wav" for number in range(150)]
        names += [f"noisy/clnsp{number}_x_snr3_tl-21_fileid_{number}.wav" for number in range(150)]
        write(root, names)
        assert len(scan(card("dns2020"), strict=True).pairs_of("test")) == 150


class TestVbDemandEx:
    def test_six_folders_make_three_splits(self, root: Path) -> None:
        names = {"train": "p226_001.wav", "valid": "p287_002.wav", "test": "p232_003.wav"}
        write(
            root, [f"{side}_{split}/{name}" for side in ("clean", "noisy") for split, name in names.items()]
        )
        assert below(scan(card("vb_demandex"), strict=True), root) == {
            f"noisy_{split}/{name}": (f"clean_{split}/{name}", split) for split, name in names.items()
        }

    def test_nested_folders_are_allowed(self, root: Path) -> None:
        write(root, ["clean_test/clean_test/p232_003.wav", "noisy_test/p232_003.wav"])
        assert len(scan(card("vb_demandex"), strict=True).pairs_of("test")) == 1

    def test_the_same_name_in_two_splits_is_not_mixed(self, root: Path) -> None:
        write(
            root, [f"{side}_{split}/p1_1.wav" for side in ("clean", "noisy") for split in ("train", "test")]
        )
        pairs = scan(card("vb_demandex")).pairs
        assert all(Path(pair.clean).parent.name == f"clean_{pair.split}" for pair in pairs)
        assert len(pairs) == 2

    def test_the_error_for_a_missing_archive_names_its_source(self, root: Path) -> None:
        write(root, ["clean_test/p232_003.wav"])
        with pytest.raises(InputError, match=r"pairs\[0\]\.noisy .* matches none of the 1 audio files"):
            scan(card("vb_demandex"))


class TestEarsWhamV2:
    NAMES = (
        "train/clean/p001/00000.wav",
        "train/noisy/p001/00000_-2.5dB.wav",
        "valid/clean/p100/00000.wav",
        "valid/noisy/p100/00000_17.5dB.wav",
        "test/clean/p102/00007.wav",
        "test/noisy/p102/00007_3.4dB.wav",
        "test/clean/p107/00008.wav",
        "test/noisy/p107/00008_18.1dB.wav",
    )

    def test_pairs_are_matched_within_a_split_and_have_speakers(self, root: Path) -> None:
        write(root, self.NAMES)
        found = scan(card("ears_wham_v2"))
        assert below(found, root) == {
            noisy: (clean, clean.partition("/")[0])
            for clean, noisy in zip(self.NAMES[::2], self.NAMES[1::2], strict=True)
        }
        assert [pair.speaker for pair in found.pairs_of("test")] == ["p102", "p107"]

    def test_886_test_clips_are_expected(self, root: Path) -> None:
        write(root, self.NAMES)
        (problem,) = scan(card("ears_wham_v2")).problems
        assert problem.reason == "test has 2 usable clips, clips_expected is 886; complete it"

    def test_the_published_speakers_in_another_split_are_a_leak(self, root: Path) -> None:
        write(root, [*self.NAMES, "train/clean/p107/00009.wav", "train/noisy/p107/00009_1.0dB.wav"])
        with pytest.raises(InputError, match=r"speaker 'p107' is in test .* and in train"):
            scan(card("ears_wham_v2"))

    def test_48_khz_as_generated_must_be_resampled_first(self, root: Path) -> None:
        write(root, self.NAMES, rate_hz=48_000)
        with pytest.raises(InputError, match=r"8 have problems.*is at 48000 Hz .* resample"):
            scan(card("ears_wham_v2"))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("vb_demandex", Scores(pesq=1.625, ssnr=-1.068, estoi=0.630, si_sdr=4.976)),
        ("dns2020", Scores(pesq=1.582, ssnr=6.218, estoi=0.810, si_sdr=9.071)),
        ("ears_wham_v2", Scores(pesq=1.235, ssnr=-0.803, estoi=0.640, si_sdr=5.359)),
    ],
)
def test_noisy_rows_are_those_of_table_1(root: Path, name: str, row: Scores) -> None:
    assert card(name).noisy_row == row
