"""The score cache: exact round trips, damaged files, and keys that change with content and code."""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.evaluation import score_cache as keys
from pipelines.evaluation.clip_scores import NOISY_PHASE, ClipScorer, SignalScores
from pipelines.evaluation.clips import EvaluationClip, load_clip, read_sets
from pipelines.evaluation.score_cache import ScoreCache
from pipelines.evaluation.set_scorer import SetScorer
from pipelines.evaluation.systems import read_systems
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import location
from rwsa.fingerprint import installed_version
from rwsa.metrics import Failure
from rwsa.mixing import plan_split, read_recipe
from tests.toy_corpus import write_corpus

BEFORE = Path(__file__).parents[2] / "fixtures/before/score_cache"
SCORES = SignalScores(
    values={"pesq": 1.1234567890123456, "estoi": Failure("too short")},
    snr_db=None,
    clipped_share=0.25,
)


def test_scores_and_audio_are_read_back_exactly(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    assert cache.get("ab12") is None
    cache.put("ab12", SCORES)
    assert ScoreCache(tmp_path).get("ab12") == SCORES
    wav = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert cache.get_audio("ab12") is None
    cache.put_audio("ab12", wav)
    np.testing.assert_array_equal(cache.get_audio("ab12"), wav)


def test_a_store_holds_a_cache() -> None:
    root = location(f"memory://{uuid.uuid4().hex}/scores")
    cache = ScoreCache(root)
    assert cache.get("ab12") is None
    cache.put("ab12", SCORES)
    cache.put_audio("cd34", np.ones(10))
    for one in (cache, ScoreCache(root)):
        assert one.get("ab12") == SCORES
        assert one.get("cd34") is None
        np.testing.assert_array_equal(one.get_audio("cd34"), np.ones(10))
    (root / "ab" / "ab12.json").write_text("{")
    assert ScoreCache(root).get("ab12") is None


def test_metrics_are_added_to_cached_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("ab12", SCORES)
    cache.put("ab12", dataclasses.replace(SCORES, values={"csig": 2.0}, floored=True))
    cached = cache.get("ab12")
    assert cached == dataclasses.replace(SCORES, values={**SCORES.values, "csig": 2.0}, floored=True)
    # A new version of the package pesq invalidates only the metrics that use it.
    packages = keys.metric_packages
    monkeypatch.setattr(
        keys, "metric_packages", lambda name: "another" if name in ("pesq", "csig") else packages(name)
    )
    cached = cache.get("ab12")
    assert cached is not None
    assert set(cached.values) == {"estoi"}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"values": 3}', '{"values": {"pesq": 2.5}}'])
def test_a_damaged_file_counts_as_missing_and_is_replaced(tmp_path: Path, text: str) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("ab12", SCORES)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(text)
    assert cache.get("ab12") is None
    cache.put("ab12", SCORES)
    assert cache.get("ab12") == SCORES
    cache.put_audio("ab12", np.ones(10))
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-8])
    assert cache.get_audio("ab12") is None


def test_an_unusable_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be read .*set storage.root to another"):
        ScoreCache(tmp_path / "file").put("ab12", SCORES)


def clip(folder: Path, noisy: bytes = b"noisy", clean: bytes = b"clean") -> EvaluationClip:
    folder.mkdir(exist_ok=True)
    for name, content in (("noisy", noisy), ("clean", clean)):
        (folder / f"{name}.wav").write_bytes(content)
    pair = ClipPair(
        clip_id="toy/noisy",
        clean=str(folder / "clean.wav"),
        noisy=str(folder / "noisy.wav"),
        split="test",
        samples=1,
        sample_rate_hz=16000,
        speaker=None,
        licence="CC0",
    )
    return EvaluationClip(
        corpus="toy", clip_id="toy/noisy", seconds=1.0, speaker=None, environment=None, source=pair
    )


def test_the_key_of_a_pair_is_the_bytes_of_its_files(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    first, moved, other, swapped = keys.clip_keys(
        [
            clip(tmp_path / "a"),
            clip(tmp_path / "b"),
            clip(tmp_path / "c", clean=b"another"),
            clip(tmp_path / "d", noisy=b"clean", clean=b"noisy"),
        ],
        cache,
    )
    assert first == moved
    assert len({first, other, swapped}) == 3
    # The same path with other content; then without a file.
    changed = clip(tmp_path / "a", noisy=b"changed")
    assert keys.clip_keys([changed], cache) != [first]
    (tmp_path / "a/noisy.wav").unlink()
    assert keys.clip_keys([changed], cache) == [None]


def test_the_key_of_a_mixture_is_its_plan_and_the_bytes_of_its_sources(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    card, recipe = read_card(tmp_path / "card.yaml"), read_recipe(tmp_path / "recipe.yaml")
    cache = FileCache(tmp_path / "cache")

    def of(seed: int) -> list[str | None]:
        plans = plan_split(scan(card), dataclasses.replace(recipe, seed=seed), "valid")
        clips = [
            EvaluationClip(
                corpus="toy", clip_id="toy/a", seconds=1.0, speaker=None, environment=None, source=plan
            )
            for plan in plans
        ]
        return keys.clip_keys(clips, cache)

    before = of(3)
    assert None not in before
    assert len(set(before)) == 5
    assert of(3) == before
    assert not set(of(4)) & set(before)
    for path in (tmp_path / "speech/valid").iterdir():
        wav, rate_hz = soundfile.read(path)
        soundfile.write(path, wav * 0.5, rate_hz)
    assert not set(of(3)) & set(before)


def test_other_weights_devices_clips_or_code_have_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def four() -> list[str]:
        systems = [
            keys.model_key("a", "cpu"),
            keys.model_key("b", "cpu"),
            keys.model_key("a", "cuda"),
            "noisy",
        ]
        return [keys.score_key(system, clip) for system in systems for clip in ("x", "y")]

    before = four()
    assert len(set(before)) == 8
    assert four() == before
    monkeypatch.setattr(keys, "code_fingerprint", lambda *covered: "another")
    assert not set(four()) & set(before)


def test_a_metric_depends_only_on_its_own_packages() -> None:
    def packages(name: str) -> set[str]:
        return {one.rpartition("-")[0] for one in keys.metric_packages(name).split()}

    assert packages("pesq") == packages("covl") == {"numpy", "pesq"}
    assert packages("stoi") == packages("estoi") == {"numpy", "pystoi", "scipy"}
    assert packages("si_sdr") == packages(NOISY_PHASE) == {"numpy"}


def test_scores_cached_by_an_earlier_commit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cb9c508 wrote the fixture: a pair and two mixtures, noisy and enhanced by tiny.safetensors on a CPU."""
    versions = [installed_version(package) for package in ("torch", "numpy", "numba", "pesq")]
    if [str(one).partition("+")[0] for one in versions] != ["2.13.0", "2.4.6", "0.68.1", "0.0.4"]:
        pytest.skip("the scores are by other versions of packages")
    monkeypatch.setenv("RWSA_SCORE_CACHE", str(BEFORE))
    shutil.copytree(BEFORE / "scores", tmp_path / "scores")
    files = FileCache(tmp_path / "cache")
    sets = read_sets([BEFORE / "pairs.yaml", BEFORE / "mixed.yaml"], cache=files)
    # Enhanced signals have changed with the STFT's first frame; the noisy ones have not.
    scorer = SetScorer(*read_systems([], ()), sets, cache=ScoreCache(tmp_path / "scores"), files=files)
    assert scorer.cached == (3, 3)
    found = {
        corpus.name: {
            "data_sha256": corpus.data_sha256,
            "clips": {clip.clip_id: dict(clip.signals["noisy"].values) for clip in corpus.clips},
        }
        for corpus in scorer.score()
    }
    stored = json.loads((BEFORE / "expected.json").read_text())
    for corpus in stored.values():
        corpus["clips"] = {clip_id: signals["noisy"] for clip_id, signals in corpus["clips"].items()}
    assert found == stored
    # Today's code computes the same numbers, so `rwsa.fingerprint.SAME_NUMBERS` is right.
    for one, corpus in zip(sets, scorer.score(), strict=True):
        for clip, scores in zip(one.clips, corpus.clips, strict=True):
            noisy, clean = load_clip(clip)
            again = ClipScorer(clean).score(noisy)
            assert again.values == pytest.approx(scores.signals["noisy"].values, rel=1e-4)
