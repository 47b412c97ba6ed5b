"""`check` on corpora and shards with known errors: findings, printed report, exit status."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipelines.check import main
from pipelines.inspection.recording_facts import _CHUNK_FILES, read_recording_facts, recordings_of
from rwsa.audio import round_to_int16
from rwsa.audio_facts import audio_facts
from rwsa.corpora import read_card, scan
from rwsa.file_cache import CACHE_NAME, FileCache
from rwsa.files import read_json
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index

RATE_HZ = 16_000
CHECKOUT = Path(__file__).parents[3]


def wav(seed: int, samples: int = 8000) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE_HZ)
    return path


def write_card(root: Path, name: str = "toy", **keys: Any) -> Path:
    """A corpus of speech and noise in `root/speech` and `root/noise`, unless `keys` say otherwise."""
    plain: dict[str, Any] = {"name": name, "description": "d", "sample_rate_hz": RATE_HZ, "licence": "CC0"}
    if not keys.keys() & {"speech", "noise", "pairs"}:
        pattern = r"(?P<split>\w+)/(?P<UNIT>\w+)/\w+\.\w+"
        plain["speech"] = [{"root": str(root / "speech"), "pattern": pattern.replace("UNIT", "speaker")}]
        plain["noise"] = [{"root": str(root / "noise"), "pattern": pattern.replace("UNIT", "recording")}]
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain | keys))
    return path


def write_corpus(root: Path, name: str = "toy", *, seed: int = 0) -> Path:
    for number, (kind, split) in enumerate((k, s) for k in ("speech", "noise") for s in ("train", "test")):
        for file in range(2):
            write(root / kind / split / f"{split}_{kind[0]}{file}/a.flac", wav(seed + 10 * number + file))
    return write_card(root, name)


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the check in this process; returns the exit status, and the report or the error."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([*map(str, arguments), "--cache", str(tmp_path / "cache"), "--workers", "0"])
        shown = capsys.readouterr()
        errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
        return status, shown.out + "\n".join(errors)

    return run


class TestCleanCorpus:
    def test_has_no_errors(self, tmp_path: Path, check: Any) -> None:
        status, shown = check("--card", write_corpus(tmp_path), "--json", tmp_path / "found.json")
        assert status == 0
        assert shown.splitlines()[-1] == "no errors"
        assert "speakers          2 train + 2 test: none in two splits" in shown
        assert "noise recordings  2 train + 2 test: none in two splits" in shown
        found = read_json(tmp_path / "found.json")
        assert (found["errors"], found["warnings"]) == (0, 0)
        assert [(one["split"], one["kind"], one["files"]) for one in found["sections"][0]["counts"]] == [
            ("train", "speech", 2),
            ("train", "noise", 2),
            ("test", "speech", 2),
            ("test", "noise", 2),
        ]

    def test_a_second_check_decodes_nothing(
        self, tmp_path: Path, check: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = write_corpus(tmp_path)
        first = check("--card", card)

        def refuse(path: Path, **_: object) -> None:
            raise AssertionError(f"{path} was decoded")

        monkeypatch.setattr("pipelines.inspection.recording_facts.audio_facts", refuse)
        assert check("--card", card) == first

    def test_headers_only_reports_skipped_checks(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        write(tmp_path / "speech/test/test_s0/b.flac", wav(0))
        status, shown = check("--card", card, "--headers-only")
        assert status == 0
        assert shown.splitlines()[-1] == "no errors, 1 check skipped"


class TestLeaks:
    def test_train_speech_that_is_test_speech_elsewhere_in_another_container(
        self, tmp_path: Path, check: Any
    ) -> None:
        one, two = write_corpus(tmp_path / "1", "one"), write_corpus(tmp_path / "2", "two", seed=1000)
        source = tmp_path / "1/speech/train/train_s0/a.flac"
        copy = tmp_path / "2/speech/test/test_s1/copy.wav"
        write(copy, soundfile.read(source, dtype="int16")[0])
        assert source.read_bytes() != copy.read_bytes()
        status, shown = check("--card", one, two)
        assert status == 1
        assert f"one train speech {source} = two test speech {copy}" in shown
        assert "error    duplicates  1 recording in two splits or roles in two corpora" in shown

    def test_within_a_corpus_across_splits_and_as_speech_and_noise(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        across = write(tmp_path / "speech/test/test_s1/b.wav", wav(0))
        as_noise = write(tmp_path / "noise/train/train_n0/b.wav", wav(1))
        status, shown = check("--card", card)
        assert status == 1
        assert f"{across} = toy train speech {tmp_path}/speech/train/train_s0/a.flac" in shown
        assert f"{tmp_path}/speech/train/train_s1/a.flac = toy train noise {as_noise}" in shown

    def test_within_the_second_card_though_the_first_has_it_too(self, tmp_path: Path, check: Any) -> None:
        one, two = write_corpus(tmp_path / "1", "one"), write_corpus(tmp_path / "2", "two", seed=1000)
        for folder in ("1/speech/train/train_s0", "2/speech/train/train_s0", "2/speech/test/test_s0"):
            write(tmp_path / folder / "copy.wav", wav(5000))
        assert check("--card", one, two, "--json", tmp_path / "found.json")[0] == 1
        by_section = [
            next(finding for finding in section["findings"] if finding["check"] == "duplicates")
            for section in read_json(tmp_path / "found.json")["sections"]
        ]
        assert [finding["severity"] for finding in by_section] == ["ok", "error", "error"]
        assert [len(finding["details"]) for finding in by_section] == [0, 1, 2]
        assert by_section[1]["details"][0].startswith("two test speech ")
        assert by_section[2]["summary"].startswith("1 recording in two splits")

    def test_a_file_that_two_cards_share_is_no_duplicate_unless_it_leaks(
        self, tmp_path: Path, check: Any
    ) -> None:
        one, two = write_corpus(tmp_path, "one"), write_card(tmp_path, "two")
        status, shown = check("--card", one, two)
        assert (status, shown.splitlines()[-1]) == (0, "no errors")
        source = {"root": str(tmp_path / "speech/train"), "pattern": "(?P<speaker>.+)/.+", "split": "test"}
        status, shown = check("--card", one, write_card(tmp_path, "three", speech=[source]))
        assert status == 1
        assert "2 recordings in two splits or roles in two corpora" in shown

    def test_twice_in_one_split_is_a_warning(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        write(tmp_path / "speech/train/train_s1/b.wav", wav(0))
        status, shown = check("--card", card)
        assert (status, shown.splitlines()[-1]) == (0, "no errors, 1 warning")
        assert check("--card", card, "--strict")[0] == 1

    def test_every_speaker_and_recording_in_two_splits_is_listed(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        write(tmp_path / "speech/test/train_s0/b.wav", wav(500))
        write(tmp_path / "noise/test/train_n1/b.wav", wav(501))
        status, shown = check("--card", card)
        assert status == 1
        assert "speaker 'train_s0' is in test" in shown
        assert "noise recording 'train_n1' is in test" in shown

    def test_files_without_a_speaker_are_a_warning(self, tmp_path: Path, check: Any) -> None:
        write_corpus(tmp_path)
        source = {"root": str(tmp_path / "speech"), "pattern": r"(?P<split>\w+)/.+", "published_split": True}
        status, shown = check("--card", write_card(tmp_path, speech=[source]))
        assert status == 0
        assert "warning  speakers" in shown
        assert "4 of 4 files have no speaker label, so the published split is unchecked" in shown


class TestBadAudio:
    def test_each_kind_is_counted_and_named(self, tmp_path: Path, check: Any) -> None:
        card, folder = write_corpus(tmp_path), tmp_path / "speech/train/train_s0"
        intact = write(folder / "damaged.flac", wav(600, 40_000)).read_bytes()
        (folder / "damaged.flac").write_bytes(intact[:-10])  # in its last frame; more is seen in the header
        write(folder / "silent.wav", np.zeros(8000, np.int16))
        write(folder / "quiet.wav", wav(601) // 100)
        write(
            folder / "clipped.wav",
            np.clip(wav(602).astype(int).repeat(4) * 100, -32768, 32767).astype(np.int16),
        )
        write(folder / "offset.wav", wav(603) + np.int16(3000))
        status, shown = check("--card", card, "--json", tmp_path / "found.json")
        assert status == 1
        findings = {
            one["check"]: one for one in read_json(tmp_path / "found.json")["sections"][0]["findings"]
        }
        for check_name, severity, summary in (
            ("audio", "error", "13 files decoded completely, 1 damaged"),
            ("silent", "error", "1 file below -70 dBFS"),
            ("quiet", "warning", "1 file below -50 dBFS"),
            ("clipped", "warning", "1 file with more than 0.1% of samples clipped"),
            ("offset", "warning", "1 file with a DC offset beyond ±0.02"),
        ):
            assert findings[check_name]["severity"] == severity
            assert findings[check_name]["summary"].startswith(summary)
            file = "damaged.flac" if check_name == "audio" else f"{check_name}.wav"
            assert len(findings[check_name]["details"]) == 1
            assert str(folder / file) in findings[check_name]["details"][0]
            assert str(folder / file) in shown

    def test_the_ten_worst_are_printed(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        for number in range(12):
            write(tmp_path / f"noise/train/train_n0/f{number:02}.wav", wav(700 + number) // (60 + number))
        shown = check("--card", card)[1].splitlines()
        first = next(number for number, line in enumerate(shown) if "quiet" in line) + 1
        assert [line.rpartition("/")[2].partition(":")[0] for line in shown[first : first + 10]] == [
            f"f{number:02}.wav" for number in range(11, 1, -1)
        ]
        assert "and 2 more" in shown[first + 10]

    def test_an_unreadable_header_is_an_error(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        (tmp_path / "noise/train/train_n0/bad.wav").write_bytes(b"RIFF")
        status, shown = check("--card", card)
        assert status == 1
        assert "error    files             8 usable, 1 problem," in shown

    def test_half_a_file_is_an_error_without_decoding(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        for name in ("half.wav", "half.flac"):
            intact = write(tmp_path / "noise/train/train_n0" / name, wav(600, 40_000)).read_bytes()
            (tmp_path / "noise/train/train_n0" / name).write_bytes(intact[: len(intact) // 2])
        status, shown = check("--card", card, "--headers-only")
        assert status == 1
        assert "error    files             8 usable, 2 problems," in shown
        assert "half.wav: is cut off" in shown


class TestPublishedRow:
    """The three published DNS 2020 pairs, whose scores an independent implementation gives."""

    @pytest.fixture
    def card(self, recordings: Path, tmp_path: Path) -> Any:
        golden = read_json(recordings / "pairs/golden_metrics.json")
        rows = [row for clip, row in golden.items() if clip.startswith("dns2020/")]
        means = {
            name: float(np.mean([row[name] for row in rows])) for name in ("pesq", "ssnr", "estoi", "si_sdr")
        }

        def write(expected: int = 3, **changed: float) -> Path:
            source = {
                "root": str(recordings / "pairs/dns2020"),
                "clean": r"clean/(?P<pair>fileid_\d+)\.flac",
                "noisy": r"noisy/(?P<pair>fileid_\d+)\.flac",
                "split": "test",
            }
            row = {name: mean + changed.get(name, 0) for name, mean in means.items()}
            return write_card(tmp_path, pairs=[source], noisy_row=row, clips_expected={"test": expected})

        return write

    def test_the_corpus_itself_is_verified(self, card: Any, check: Any) -> None:
        status, shown = check("--card", card())
        assert status == 0
        assert "ok       published   verified: noisy row PESQ" in shown
        assert "(within PESQ ±0.005, SSNR ±0.01, SI-SDR ±0.01)" in shown

    def test_other_scores_are_an_error(self, card: Any, check: Any) -> None:
        status, shown = check("--card", card(pesq=0.4))
        assert status == 1
        assert "error    published   not the published corpus: PESQ " in shown
        assert "is published (-0.400) (tolerances PESQ ±0.005" in shown

    def test_a_partial_corpus_is_not_compared(self, card: Any, check: Any) -> None:
        status, shown = check("--card", card(expected=150, pesq=0.4))
        assert status == 1
        assert "test has 3 usable clips, clips_expected is 150" in shown
        assert "warning  published   partial, not compared with the published row: 3 of 150 clips" in shown

    def test_headers_only_scores_nothing(self, card: Any, check: Any) -> None:
        assert "skipped  published  not scored" in check("--card", card(), "--headers-only")[1]


def example(name: str, speaker: str | None, **meta: Any) -> Example:
    clean = round_to_int16(np.random.default_rng(len(name)).normal(scale=0.1, size=800))
    known = {"speech": f"toy/{name}-speech", "noise": f"toy/{name}-noise", "speaker": speaker} | meta
    return Example(example_id=name, noisy=clean, clean=clean, sample_rate_hz=RATE_HZ, meta=known)


def write_shards(folder: Path, train: Example, test: Example) -> Path:
    for split, one in (("train", train), ("test", test)):
        write_shard(folder, split, 0, [one], sample_rate_hz=RATE_HZ, corpus="toy")
    merge_index(folder)
    return folder


class TestShards:
    def test_intact_and_separate(self, tmp_path: Path, check: Any) -> None:
        status, shown = check("--shards", write_shards(tmp_path / "s", example("a", "x"), example("b", "y")))
        assert status == 0
        assert "ok       splits     no example, speaker or clip in two splits" in shown
        status, shown = check("--card", write_corpus(tmp_path), "--shards", tmp_path / "s")
        assert status == 0
        assert "ok       splits     no example, speaker, clip or recording in two splits" in shown

    @pytest.mark.parametrize(
        ("test", "message"),
        [
            (example("a", "y", speech="toy/p", noise="toy/q"), "example a is in test (a) and in train (a)"),
            (example("b", "x"), "speaker toy/x is in"),
            (example("b", "y", noise="toy/a-noise"), "clip toy/a-noise is in"),
            (
                example("b", "y", noises=[{"layers": [{"parts": [{"clip": "toy/a-speech"}]}]}]),
                "clip toy/a-speech",
            ),
        ],
    )
    def test_sources_in_two_splits_are_named(
        self, tmp_path: Path, check: Any, test: Example, message: str
    ) -> None:
        status, shown = check("--shards", write_shards(tmp_path / "s", example("a", "x"), test))
        assert status == 1
        assert "error    splits     1 example, speaker or clip in two splits" in shown
        assert message in shown

    def test_two_clips_of_one_recording_are_found_with_the_card(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        write(tmp_path / "noise/train/train_n0/b.wav", wav(900))
        noises = [{"noise": f"toy/train/train_n0/{name}"} for name in "ab"]
        folder = write_shards(tmp_path / "s", example("a", "x", **noises[0]), example("b", "y", **noises[1]))
        assert check("--shards", folder)[0] == 0
        status, shown = check("--card", card, "--shards", folder)
        assert status == 1
        assert "noise recording toy/train_n0 is in test (b) and in train (a)" in shown

    def test_speech_and_noise_recordings_may_have_one_name(self, tmp_path: Path, check: Any) -> None:
        for number, folder in enumerate(("speech/train/x", "speech/test/y", "noise/train/r", "noise/test/q")):
            write(tmp_path / folder / ("two.wav" if folder == "noise/train/r" else "one.wav"), wav(number))
        speech, noise = (
            [{"root": str(tmp_path / kind), "pattern": rf"(?P<split>\w+)/{unit}/(?P<recording>\w+)\.wav"}]
            for kind, unit in (("speech", r"(?P<speaker>\w+)"), ("noise", r"\w+"))
        )
        card = write_card(tmp_path, speech=speech, noise=noise)
        clips = (
            {"speech": "toy/train/x/one", "noise": "toy/train/r/two"},
            {"speech": "toy/test/y/one", "noise": "toy/test/q/one"},
        )
        folder = write_shards(tmp_path / "s", example("a", "x", **clips[0]), example("b", "y", **clips[1]))
        status, shown = check("--card", card, "--shards", folder)
        assert status == 0, shown
        assert "ok       splits     no example" in shown

    def test_damage_is_named(self, tmp_path: Path, check: Any) -> None:
        folder = write_shards(tmp_path / "s", example("a", "x"), example("b", "y"))
        data = bytearray((folder / "test-000000.tar").read_bytes())
        data[700] ^= 1
        (folder / "test-000000.tar").write_bytes(data)
        (folder / "train-000001.tar").write_bytes(b"left behind")
        status, shown = check("--shards", folder)
        assert status == 1
        assert "error    checksums  2 damaged" in shown
        assert "test-000000.tar: its bytes do not match the index" in shown
        assert "train-000001.tar: is not in the index" in shown

    def test_examples_without_a_speaker_are_a_warning(self, tmp_path: Path, check: Any) -> None:
        folder = write_shards(tmp_path / "s", example("a", None), example("b", "y"))
        line = "warning  splits     no example, speaker or clip in two splits; 1 example without a speaker"
        assert f"{line}, compared by clips only" in check("--shards", folder)[1]
        assert check("--shards", folder, "--strict")[0] == 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "nothing to check"),
            (["--card", "no.yaml"], "no.yaml"),
            (["--shards", "."], "holds no shards"),
        ],
    )
    def test_is_reported_in_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Any, arguments: list[str], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, shown = check(*arguments)
        assert status == 2
        assert shown.startswith("error: ")
        assert message in shown

    def test_a_report_that_cannot_be_saved_is_printed(self, tmp_path: Path, check: Any) -> None:
        (tmp_path / "file").write_text("")
        status, shown = check("--card", write_corpus(tmp_path), "--json", tmp_path / "file" / "found.json")
        assert status == 2
        assert "no errors" in shown
        assert "error: " in shown

    def test_a_card_twice(self, tmp_path: Path, check: Any) -> None:
        card = write_corpus(tmp_path)
        status, shown = check("--card", card, card)
        assert (status, "two cards are named 'toy'" in shown) == (2, True)


def test_facts_of_finished_files_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = 12 * _CHUNK_FILES
    one = write(tmp_path / "speech/train/a/0.wav", wav(0, 16_000)).read_bytes()
    for number in range(1, files):
        (tmp_path / f"speech/train/a/{number}.wav").write_bytes(one)
    source = {"root": str(tmp_path / "speech"), "pattern": r"(?P<split>\w+)/(?P<speaker>\w+)/.+"}
    card = write_card(tmp_path, speech=[source])
    command = [
        "-m",
        "pipelines.check",
        "--card",
        str(card),
        "--cache",
        str(tmp_path / "c"),
        "--workers",
        "0",
    ]
    child = subprocess.Popen([sys.executable, *command], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    recordings = recordings_of(scan(read_card(card)))
    assert len(recordings) == files
    while child.poll() is None and not _known(tmp_path / "c"):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = _known(tmp_path / "c")
    assert 0 < before < files
    decoded = []

    def count(path: Path, **keys: Any) -> Any:
        decoded.append(path)
        return audio_facts(path, **keys)

    monkeypatch.setattr("pipelines.inspection.recording_facts.audio_facts", count)
    facts = read_recording_facts(recordings, FileCache(tmp_path / "c"), workers=0)
    assert len(facts) == files
    assert len(decoded) == files - before


def _known(folder: Path) -> int:
    """How many files' facts are in a cache that another process writes to."""
    if not (folder / CACHE_NAME).is_file():
        return 0
    database = sqlite3.connect(folder / CACHE_NAME, timeout=60)
    try:
        return int(database.execute("SELECT count(*) FROM facts WHERE kind LIKE 'audio%'").fetchone()[0])
    except sqlite3.OperationalError:  # no table yet
        return 0
    finally:
        database.close()
