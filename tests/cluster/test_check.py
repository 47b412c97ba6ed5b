"""`check` on a real Ray: facts about audio and scores of published pairs equal those of one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.evaluation import published_row
from pipelines.evaluation.published_row import score_noisy
from pipelines.inspection.recording_facts import CorpusRecording, read_recording_facts
from rwsa.audio_facts import AudioFacts
from rwsa.corpora import scan
from rwsa.corpora.cards import Scores, read_card
from rwsa.file_cache import FileCache

pytestmark = pytest.mark.usefixtures("ray_address")
RATE_HZ = 16_000


def write_recordings(root: Path, count: int) -> list[CorpusRecording]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        path = root / f"{number}.flac"
        soundfile.write(path, rng.integers(-3000, 3000, 1600).astype(np.int16), RATE_HZ)
        found.append(
            CorpusRecording(
                card="toy", kind="speech", split="train", path=str(path), channel=None, seconds=0.1
            )
        )
    return found


def quiet(_: str) -> None:
    pass


def test_facts_equal_those_of_one_process(tmp_path: Path) -> None:
    recordings = write_recordings(tmp_path, 150)
    Path(recordings[7].path).write_bytes(b"nothing")
    alone = read_recording_facts(recordings, FileCache(tmp_path / "alone"), workers=0, report=quiet)
    on_ray = read_recording_facts(recordings, FileCache(tmp_path / "ray"), workers=2, report=quiet)
    assert on_ray == alone
    assert sum(isinstance(fact, AudioFacts) for fact in on_ray.values()) == 149


def test_published_pairs_have_the_same_scores_and_are_scored_once(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWSA_DATA", str(recordings))
    card = read_card(Path(__file__).parents[2] / "datasets/pairs_dns2020.yaml")
    card = dataclasses.replace(card, noisy_row=Scores(pesq=1.0, ssnr=1.0, estoi=1.0, si_sdr=1.0))
    manifest = scan(card)
    alone, on_ray = (
        score_noisy(card, manifest, files=FileCache(tmp_path / name), workers=workers, report=quiet)
        for name, workers in (("alone", 0), ("ray", 2))
    )
    assert on_ray == alone
    assert alone.scored == 3
    monkeypatch.setattr(published_row, "_score", None)
    again = score_noisy(card, manifest, files=FileCache(tmp_path / "ray"), workers=0, report=quiet)
    assert again == alone
    assert alone.verdict.startswith("not the published corpus: PESQ ")
