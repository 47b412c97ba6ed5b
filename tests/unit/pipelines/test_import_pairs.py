"""Importing published pairs: bit-identical samples, reuse of complete shards, counted failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipelines.import_pairs import ImportSummary, import_pairs, main
from rwsa.corpora.cards import read_card
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.shards import ShardReader, verify
from rwsa.shards.index import read_index

RATE_HZ = 16_000
CARDS = Path(__file__).parents[3] / "datasets"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VB-DemandEx's folders: five training pairs and two test pairs."""
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    for split, count in (("train", 5), ("test", 2)):
        for number in range(count):
            clean = rng.integers(-3000, 3000, 1600 + number).astype(np.int16)
            for side, wav in (("clean", clean), ("noisy", clean + rng.integers(-99, 99, len(clean)))):
                (root / f"{side}_{split}").mkdir(parents=True, exist_ok=True)
                path = root / f"{side}_{split}/p{number}_1.wav"
                soundfile.write(path, wav.astype(np.int16), RATE_HZ)
    monkeypatch.setenv("VB_DEMANDEX_ROOT", str(root))
    return root


def run(out: Path, **keys: Any) -> ImportSummary:
    card = read_card(CARDS / "vb_demandex.yaml")
    return import_pairs(card, out, shard_examples=2, workers=0, report=lambda _: None, **keys)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_the_samples_are_the_published_ones(corpus: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "s")
    assert (done.examples, done.shards, done.reused, done.failures) == (7, 4, 0, ())
    index = read_index(tmp_path / "s", "train")
    assert verify(index) == []
    with ShardReader(index) as reader:
        for number in range(5):
            example = reader.read(number // 2, number % 2)
            for side in ("clean", "noisy"):
                wav, _ = soundfile.read(corpus / f"{side}_train/p{number}_1.wav", dtype="float32")
                np.testing.assert_array_equal(getattr(example, side), wav)
            assert example.meta["pair"] == f"vb-demandex/noisy_train/p{number}_1"
            assert 25 < example.meta["snr_db"] < 35
            assert "VCTK (CC BY 4.0)" in example.meta["licences"][0]


def test_the_bytes_are_reproducible_and_complete_shards_reused(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two")
    first = checksums(tmp_path / "one")
    assert checksums(tmp_path / "two") == first
    (tmp_path / "two/train-000001.tar").write_bytes(b"cut short")
    (tmp_path / "two/test-000000.json").unlink()
    assert run(tmp_path / "two").reused == 2
    assert checksums(tmp_path / "two") == first


def test_a_changed_file_makes_its_shard_again(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "s")
    path = corpus / "noisy_train/p0_1.wav"
    wav, _ = soundfile.read(path, dtype="int16")
    soundfile.write(path, wav[::-1], RATE_HZ)
    assert run(tmp_path / "s").reused == 3
    with ShardReader(read_index(tmp_path / "s", "train")) as reader:
        np.testing.assert_array_equal(reader.read(0, 0).noisy * 32768, wav[::-1])


def test_a_folder_with_more_shards_than_planned_is_refused(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "s")
    with pytest.raises(InputError, match="or more in a shard, than before"):
        import_pairs(read_card(CARDS / "vb_demandex.yaml"), tmp_path / "s", shard_examples=5, workers=0)


def test_a_damaged_pair_is_counted_and_imported_once_repaired(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "noisy_train/p0_1.wav"
    soundfile.write(path, np.full(1600, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    done = run(tmp_path / "s")
    assert (done.examples, [one.example_id for one in done.failures]) == (6, ["vb-demandex-train-0000000"])
    assert "NaN" in done.failures[0].reason
    soundfile.write(path, np.ones(1600) * 0.1, RATE_HZ)
    done = run(tmp_path / "s")
    assert (done.examples, done.reused, done.failures) == (7, 3, ())


def test_samples_beyond_full_scale_are_failures(corpus: Path, tmp_path: Path) -> None:
    soundfile.write(corpus / "noisy_test/p0_1.wav", np.full(1600, 1.5), RATE_HZ, subtype="FLOAT")
    (failure,) = run(tmp_path / "s", splits=["test"]).failures
    assert "peaks above full scale" in failure.reason


def test_another_corpus_is_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "s")
    before = checksums(tmp_path / "s")
    for pair in corpus.glob("*_test/p1_1.wav"):
        pair.unlink()
    assert run(tmp_path / "s", splits=["train"]).reused == 3
    with pytest.raises(InputError, match="no pairs in split 'valid'"):
        run(tmp_path / "s", splits=["valid"])
    for number in range(1, 5):
        for pair in corpus.glob(f"*_train/p{number}_1.wav"):
            pair.unlink()
    with pytest.raises(InputError, match=r"train-000001\.json: exceeds the planned number of shards"):
        run(tmp_path / "s")
    assert before.items() >= checksums(tmp_path / "s").items()


def test_a_card_without_pairs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: toy\ndescription: d\nsample_rate_hz: 16000\nlicence: CC0\n"
        "speech: [{root: ., pattern: '.+', split: train}]\n"
    )
    assert main(["--card", str(card), "--out", str(tmp_path / "s"), "--workers", "0"]) == 2
    assert "has no pairs to import" in capsys.readouterr().err
