"""Scanning cards of small corpora: rows, splits, pairs, problems, the header cache and leaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rwsa.audio import read_audio
from rwsa.config import build
from rwsa.corpora import Clip, CorpusCard, Manifest, check_disjoint, read_card, scan
from rwsa.corpora.manifest import leaks
from rwsa.errors import InputError
from rwsa.file_cache import FileCache

RATE_HZ = 16_000

DNS = {"clean": r"clean/clean_fileid_(?P<pair>\d+)\.wav", "noisy": r"noisy/.*_fileid_(?P<pair>\d+)\.wav"}
DNS_NAMES = ("clean/clean_fileid_7.wav", "noisy/clnsp1_train_1_snr3_tl-21_fileid_7.wav")


def write_wavs(root: Path, names: Iterable[str], *, rate_hz: int = RATE_HZ, channels: int = 1) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        wav = rng.uniform(-0.1, 0.1, (800, channels))
        soundfile.write(root / name, wav, rate_hz)


def card_of(**keys: Any) -> CorpusCard:
    plain = {"name": "toy", "description": "d", "sample_rate_hz": RATE_HZ, "licence": "CC0"}
    return build(CorpusCard, plain | keys, where="toy.yaml")


def speech(root: Path, pattern: str = r"(?P<split>\w+)/(?P<speaker>\w+)/.+", **keys: Any) -> CorpusCard:
    return card_of(speech=[{"root": str(root), "pattern": pattern} | keys])


def splits_of(manifest: Manifest) -> dict[str, str]:
    return {clip.clip_id.removeprefix("toy/"): clip.split for clip in manifest.clips}


class TestClips:
    def test_labels_and_header_become_a_row(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/anna/b.wav"], rate_hz=48_000)
        assert scan(speech(tmp_path)).clips == (
            Clip(
                clip_id="toy/train/anna/b",
                kind="speech",
                path=str(tmp_path / "train/anna/b.wav"),
                samples=800,
                sample_rate_hz=48_000,
                split="train",
                speaker="anna",
                recording=None,
                environment=None,
                channel=None,
                licence="CC0",
            ),
        )

    def test_order_depends_only_on_the_paths(self, tmp_path: Path) -> None:
        names = ["train/b/2.wav", "train/a/9.wav", "train/a-x/1.wav", "train/a/10.wav"]
        write_wavs(tmp_path / "one", names)
        write_wavs(tmp_path / "two", reversed(names))
        one, two = (scan(speech(tmp_path / which, r"(?P<split>train)/.+")) for which in ("one", "two"))
        assert [clip.clip_id for clip in one.clips] == [clip.clip_id for clip in two.clips]
        assert [clip.clip_id for clip in one.clips] == sorted(f"toy/{name[:-4]}" for name in names)

    def test_kinds_and_splits_are_separated(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["s/train/a/1.wav", "s/test/b/1.wav", "n/train/r/1.wav", "n/test/q/1.wav"])
        place = {"pattern": r"(?P<split>\w+)/(?P<recording>\w+)/.+", "root": str(tmp_path / "n")}
        voices = {"pattern": r"(?P<split>\w+)/(?P<speaker>\w+)/.+", "root": str(tmp_path / "s")}
        manifest = scan(card_of(speech=[voices], noise=[place | {"licence": "CC BY"}]))
        assert [clip.speaker for clip in manifest.speech("test")] == ["b"]
        assert [(clip.recording, clip.licence) for clip in manifest.noise("train")] == [("r", "CC BY")]

    def test_rooms_are_sources_and_stay_in_one_split(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["voice.wav", "train/a/1.wav", "train/a/2.wav", "test/b/1.wav"])
        place = {"pattern": r"(?P<split>\w+)/(?P<recording>\w+)/.+", "root": str(tmp_path)}
        voices = {"pattern": "voice.wav", "root": str(tmp_path), "split": "train"}
        card = card_of(rooms=[place], speech=[voices])
        manifest = scan(card)
        assert [room.recording for room in manifest.rooms("train")] == ["a", "a"]
        assert [room.kind for room in manifest.rooms("test")] == ["room"]
        assert not manifest.noise("train")
        write_wavs(tmp_path, ["test/a/3.wav"])
        with pytest.raises(InputError, match=r"room 'a' is in test .* and in train"):
            scan(card)

    def test_hidden_files_are_skipped_and_linked_folders_followed_once(self, tmp_path: Path) -> None:
        write_wavs(tmp_path / "real", ["a/1.wav", "a/.half.wav", ".trash/2.wav"])
        (tmp_path / "root").mkdir()
        (tmp_path / "root/linked").symlink_to(tmp_path / "real")
        (tmp_path / "real/a/loop").symlink_to(tmp_path / "real")
        found = scan(speech(tmp_path / "root", r".+", split="test"))
        assert [clip.clip_id for clip in found.clips] == ["toy/linked/a/1"]

    def test_a_repeated_id_is_a_problem(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/a/1.wav", "train/a/1.flac"])
        manifest = scan(speech(tmp_path))
        assert len(manifest.clips) == 1
        assert "clip id toy/train/a/1" in manifest.problems[0].reason


class TestSplits:
    NAMES = ("p1/a.wav", "p2/a.wav", "p3/a.wav", "p3/b.wav")

    def test_the_first_matching_rule_applies_and_the_empty_one_to_the_rest(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, self.NAMES)
        rules = {"valid": {"speaker": ["p1"]}, "test": {"speaker": ["p2"]}, "train": {}}
        manifest = scan(speech(tmp_path, r"(?P<speaker>\w+)/.+", splits=rules))
        assert splits_of(manifest) == {"p1/a": "valid", "p2/a": "test", "p3/a": "train", "p3/b": "train"}

    def test_files_without_a_matching_rule_are_counted(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, (*self.NAMES, "notes/x.wav"))
        card = speech(tmp_path, r"(?P<speaker>p\d)/.+", splits={"test": {"speaker": ["p1"]}}, exclude=["^p2"])
        manifest = scan(card)
        assert splits_of(manifest) == {"p1/a": "test"}
        assert manifest.left_out == 4

    def test_a_rule_needs_all_its_groups(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, self.NAMES)
        rules = {"test": {"speaker": ["p3"], "clip": ["b"]}}
        manifest = scan(speech(tmp_path, r"(?P<speaker>\w+)/(?P<clip>\w+)\.wav", splits=rules))
        assert splits_of(manifest) == {"p3/b": "test"}

    def test_a_rule_without_files_is_an_error(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, self.NAMES)
        rules = {"valid": {"speaker": ["p9"]}, "train": {}}
        with pytest.raises(InputError, match=r"toy: speech\[0\]\.splits\.valid matches no usable file"):
            scan(speech(tmp_path, r"(?P<speaker>\w+)/.+", splits=rules))

    def test_a_folder_that_is_no_split_is_an_error(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["dev-clean/a/1.wav"])
        with pytest.raises(InputError, match="split 'dev-clean'; map it under splits"):
            scan(speech(tmp_path, r"(?P<split>[\w-]+)/(?P<speaker>\w+)/.+"))


class TestPublicLayouts:
    """Folders as LibriSpeech, ESC-50, DEMAND and WHAM! are published; the cards' own patterns."""

    @pytest.mark.parametrize(
        ("card", "roots", "expected"),
        [
            (
                "librispeech_esc50",
                {
                    "LIBRISPEECH_ROOT": {
                        "train-clean-100/19/198/19-198-0000.flac": "train",
                        "dev-clean/84/121123/84-121123-0001.flac": "valid",
                        "test-clean/61/70968/61-70968-0000.flac": "test",
                    },
                    "ESC50_ROOT": {
                        "audio/3-110536-A-5.wav": "train",
                        "audio/4-110537-B-5.wav": "valid",
                        "audio/5-110538-A-7.wav": "test",
                        "audio/5-110539-A-24.wav": None,
                    },
                },
                {"speaker": {"19", "84", "61"}, "recording": {"110536", "110537", "110538"}},
            ),
            (
                "librispeech_wham",
                {
                    "LIBRISPEECH_ROOT": {
                        "train-clean-360/19/198/19-198-0000.flac": "train",
                        "dev-clean/84/121123/84-121123-0001.flac": "valid",
                        "test-clean/61/70968/61-70968-0000.flac": "test",
                    },
                    "WHAM_ROOT": {"tr/a_1.2_b_-1.2.wav": "train", "cv/c.wav": "valid", "tt/d.wav": "test"},
                },
                {"speaker": {"19", "84", "61"}, "recording": {None}},
            ),
            (
                "vctk_demand",
                {
                    "VCTK_ROOT": {
                        "wav48_silence_trimmed/p225/p225_001_mic1.flac": "train",
                        "wav48_silence_trimmed/s5/s5_001_mic1.flac": "train",
                        "wav48_silence_trimmed/p225/p225_001_mic2.flac": None,
                        "wav48_silence_trimmed/p226/p226_001_mic1.flac": "valid",
                        "wav48_silence_trimmed/p232/p232_001_mic1.flac": "test",
                    },
                    "DEMAND_ROOT": {
                        "DKITCHEN/ch01.wav": "train",
                        "DKITCHEN/ch02.wav": None,
                        "TMETRO/ch01.wav": "valid",
                        "TBUS/ch01.wav": "test",
                    },
                },
                {"speaker": {"p225", "s5", "p226", "p232"}, "recording": {"DKITCHEN", "TMETRO", "TBUS"}},
            ),
        ],
    )
    def test_cards_read_the_published_layout(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        card: str,
        roots: dict[str, dict[str, str | None]],
        expected: dict[str, set[str | None]],
    ) -> None:
        for variable, files in roots.items():
            write_wavs(tmp_path / variable, files, rate_hz=48_000, channels=2 if "WHAM" in variable else 1)
            monkeypatch.setenv(variable, str(tmp_path / variable))
        manifest = scan(read_card(Path(__file__).parents[3] / "datasets" / f"{card}.yaml"), strict=True)
        wanted = {name: split for files in roots.values() for name, split in files.items() if split}
        assert {
            name: clip.split for clip in manifest.clips for name in wanted if clip.path.endswith(name)
        } == wanted
        assert len(manifest.clips) == len(wanted)
        assert {clip.speaker for clip in manifest.clips if clip.kind == "speech"} == expected["speaker"]
        assert {clip.recording for clip in manifest.clips if clip.kind == "noise"} == expected["recording"]
        if card == "librispeech_wham":
            assert {clip.channel for clip in manifest.clips if clip.kind == "noise"} == {0}


class TestPairs:
    def dns(self, root: Path, **keys: Any) -> CorpusCard:
        return card_of(pairs=[{"root": str(root), "split": "test"} | DNS], **keys)

    def test_joined_by_a_number_in_the_name(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, DNS_NAMES)
        (pair,) = scan(self.dns(tmp_path), strict=True).pairs_of("test")
        assert pair.clip_id == "toy/noisy/clnsp1_train_1_snr3_tl-21_fileid_7"
        assert (pair.clean, pair.noisy) == tuple(str(tmp_path / name) for name in DNS_NAMES)
        assert (pair.samples, pair.sample_rate_hz, pair.licence) == (800, RATE_HZ, "CC0")

    def test_same_names_in_two_splits_do_not_mix(self, tmp_path: Path) -> None:
        names = [f"{side}_{split}/p232_001.wav" for side in ("clean", "noisy") for split in ("train", "test")]
        write_wavs(tmp_path, names)
        source = {
            "root": str(tmp_path),
            "clean": r"clean_(?P<split>\w+)/(?P<pair>\w+)\.wav",
            "noisy": r"noisy_(?P<split>\w+)/(?P<pair>\w+)\.wav",
        }
        with pytest.raises(InputError, match="have no speaker label"):
            scan(card_of(pairs=[source]))
        manifest = scan(card_of(pairs=[source | {"published_split": True}]))
        for split in ("train", "test"):
            (pair,) = manifest.pairs_of(split)
            assert f"clean_{split}" in pair.clean
            assert f"noisy_{split}" in pair.noisy

    def test_a_missing_partner_is_reported_for_clean_and_noisy(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, (*DNS_NAMES, "clean/clean_fileid_8.wav", "noisy/x_fileid_9.wav"))
        manifest = scan(self.dns(tmp_path))
        assert len(manifest.pairs) == 1
        assert {Path(p.path).name: p.reason for p in manifest.problems} == {
            "x_fileid_9.wav": "has no clean partner (pairs[0].clean)",
            "clean_fileid_8.wav": "has no noisy partner (pairs[0].noisy)",
        }

    def test_unequal_lengths_and_rates_are_reported(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, DNS_NAMES)
        write_wavs(tmp_path, [f"{side}_fileid_8.wav" for side in ("clean/clean", "noisy/x")], rate_hz=48_000)
        write_wavs(tmp_path, ["clean/clean_fileid_9.wav"])
        soundfile.write(tmp_path / "noisy/x_fileid_9.wav", np.zeros(799), RATE_HZ)
        reasons = " ".join(problem.reason for problem in scan(self.dns(tmp_path)).problems)
        assert "is at 48000 Hz but card toy requires 16000 Hz" in reasons
        assert "has 799 samples and its clean partner 800" in reasons

    def test_an_incomplete_copy_is_reported(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, DNS_NAMES)
        card = self.dns(tmp_path, clips_expected={"test": 150})
        assert "test has 1 usable clips, clips_expected is 150" in scan(card).problems[0].reason
        with pytest.raises(InputError, match="150"):
            scan(card, strict=True)


class TestBadFiles:
    def test_one_corrupt_file_among_good_ones_is_counted_and_named(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, [f"train/a/{n}.wav" for n in range(50)])
        (tmp_path / "train/a/bad.wav").write_bytes(b"RIFF and nothing else")
        manifest = scan(speech(tmp_path))
        assert len(manifest.clips) == 50
        (problem,) = manifest.problems
        assert problem.path.endswith("train/a/bad.wav")
        assert problem.reason.startswith("not readable as audio")

    def test_strict_raises_on_it(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/a/1.wav"])
        (tmp_path / "train/a/bad.flac").write_bytes(b"nothing")
        with pytest.raises(InputError, match=r"bad\.flac: not readable as audio"):
            scan(speech(tmp_path), strict=True)

    @pytest.mark.parametrize("content", ["no bytes", "no samples"])
    def test_an_empty_file_is_a_problem(self, tmp_path: Path, content: str) -> None:
        write_wavs(tmp_path, ["train/a/1.wav"])
        empty = tmp_path / "train/a/empty.wav"
        empty.touch() if content == "no bytes" else soundfile.write(empty, np.zeros(0), RATE_HZ)
        manifest = scan(speech(tmp_path))
        assert [problem.path for problem in manifest.problems] == [str(empty)]

    def test_nan_is_found_when_the_audio_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "train/a/nan.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.full(800, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
        (clip,) = scan(speech(tmp_path)).clips
        with pytest.raises(InputError, match="NaN"):
            read_audio(Path(clip.path))

    def test_stereo_needs_a_channel(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/a/1.wav"])
        write_wavs(tmp_path, ["train/a/2.wav"], channels=2)
        assert "has 2 channels" in scan(speech(tmp_path)).problems[0].reason
        stereo = scan(speech(tmp_path, r"(?P<split>train)/(?P<speaker>a)/2\.wav", channel=1), strict=True)
        assert [clip.channel for clip in stereo.clips] == [1]
        mono = scan(speech(tmp_path, r"(?P<split>train)/(?P<speaker>a)/1\.wav", channel=0), strict=True)
        assert [clip.channel for clip in mono.clips] == [None]

    def test_a_source_entirely_below_the_cards_rate_is_an_error(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/a/1.wav", "train/a/2.wav"], rate_hz=8_000)
        with pytest.raises(InputError, match=r"none of its files can be used \(2 have problems.*8000 Hz"):
            scan(speech(tmp_path))


class TestCache:
    def test_a_second_scan_opens_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_wavs(tmp_path / "c", [f"train/a/{n}.wav" for n in range(5)])
        write_wavs(tmp_path / "c", ["train/b/two.wav"], channels=2)
        card, cache = speech(tmp_path / "c"), FileCache(tmp_path / "cache")
        first = scan(card, cache=cache)
        assert first == scan(card)

        def refuse(path: Path) -> None:
            raise AssertionError(f"{path} was opened")

        monkeypatch.setattr("rwsa.corpora.audio_files.read_info", refuse)
        assert scan(card, cache=cache) == first

    def test_changed_files_are_read_again_and_faults_are_not_cached(self, tmp_path: Path) -> None:
        names = ["train/a/1.wav", "train/a/2.wav"]
        write_wavs(tmp_path / "c", names)
        whole = (tmp_path / "c" / names[0]).read_bytes()
        card, cache = speech(tmp_path / "c"), FileCache(tmp_path / "cache")
        (tmp_path / "c" / names[0]).write_bytes(b"RIFF and nothing else")
        assert [problem.path for problem in scan(card, cache=cache).problems] == [
            str(tmp_path / "c" / names[0])
        ]
        (tmp_path / "c" / names[0]).write_bytes(whole)
        soundfile.write(tmp_path / "c" / names[1], np.zeros(900), RATE_HZ)
        assert [clip.samples for clip in scan(card, cache=cache).clips] == [800, 900]


class TestMissing:
    def test_the_error_for_a_missing_root_explains_how_to_get_the_corpus(self, tmp_path: Path) -> None:
        place = {"root": str(tmp_path / "gone"), "pattern": ".+", "split": "test"}
        with pytest.raises(InputError, match=r"card toy: speech\[0\]\.root .*gone.*\. Download it\."):
            scan(card_of(speech=[place], get="Download it."))

    def test_a_folder_without_audio(self, tmp_path: Path) -> None:
        (tmp_path / "readme.txt").write_text("nothing here")
        with pytest.raises(InputError, match="holds no audio"):
            scan(speech(tmp_path))

    def test_a_pattern_that_matches_nothing_shows_a_path(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["Train/a/1.wav"])
        with pytest.raises(InputError, match=r"matches none of the 1 audio files.*Train/a/1\.wav"):
            scan(speech(tmp_path, r"(?P<split>train)/.+"))


class TestLeaks:
    def test_a_speaker_in_two_splits(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/anna/1.wav", "test/anna/2.wav", "test/bert/1.wav"])
        with pytest.raises(InputError, match=r"speaker 'anna' is in test .* and in train"):
            scan(speech(tmp_path))

    def test_a_noise_recording_in_two_splits(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["1-77-A.wav", "5-77-B.wav"])
        rules = {"train": {"split": ["1"]}, "test": {"split": ["5"]}}
        place = {
            "root": str(tmp_path),
            "pattern": r"(?P<split>\d)-(?P<recording>\d+)-\w\.wav",
            "splits": rules,
        }
        with pytest.raises(InputError, match="noise recording '77' is in train"):
            scan(card_of(noise=[place]))

    def test_a_speaker_in_speech_and_in_pairs_of_another_split(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["s/p1.wav", "c/p1.wav", "n/p1.wav"])
        voices = {"root": str(tmp_path / "s"), "pattern": r"(?P<speaker>\w+)\.wav", "split": "train"}
        pairs = {
            "root": str(tmp_path),
            "clean": r"c/(?P<pair>\w+)\.wav",
            "noisy": r"n/(?P<pair>(?P<speaker>\w+))\.wav",
            "split": "test",
        }
        with pytest.raises(InputError, match="speaker 'p1' is in train"):
            scan(card_of(speech=[voices], pairs=[pairs]))

    def test_unnamed_speakers_may_not_be_divided(self, tmp_path: Path) -> None:
        write_wavs(tmp_path, ["train/1.wav", "test/2.wav"])
        with pytest.raises(InputError, match="test and train that have no speaker label"):
            scan(speech(tmp_path, r"(?P<split>\w+)/.+"))
        vouched = scan(speech(tmp_path, r"(?P<split>\w+)/.+", published_split=True))
        assert len(vouched.clips) == 2

    def test_all_leaks_can_be_listed_instead(self, tmp_path: Path) -> None:
        names = [
            "train/anna/1.wav",
            "train/anna/2.wav",
            "valid/anna/1.wav",
            "train/bert/1.wav",
            "test/bert/1.wav",
        ]
        write_wavs(tmp_path, names)
        found = leaks(scan(speech(tmp_path), leaks_raise=False))
        assert [(leak.name, leak.first_split, leak.split) for leak in found] == [
            ("bert", "test", "train"),
            ("anna", "train", "valid"),
        ]

    def test_an_empty_manifest_passes(self) -> None:
        check_disjoint(Manifest(card="toy"))
