"""Scores kept by content: read back as they were, safe against damage, apart for all that matters."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.evaluation import score_keys as keys
from pipelines.evaluation.clip_scores import NOISY_PHASE, SignalScores
from pipelines.evaluation.clips import EvaluationClip
from pipelines.evaluation.fingerprint import code_version, modules_reached
from pipelines.evaluation.score_cache import ScoreCache
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import location
from rwsa.metrics import Failure
from rwsa.mixing import plan_split, read_recipe
from tests.toy_corpus import write_corpus

SCORES = SignalScores(
    values={"pesq": 1.1234567890123456, "estoi": Failure("too short")},
    snr_db=None,
    clipped_share=0.25,
)


def test_what_is_kept_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    assert cache.get("ab12") is None
    cache.put("ab12", SCORES)
    assert ScoreCache(tmp_path).get("ab12") == SCORES
    wav = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert cache.get_audio("ab12") is None
    cache.put_audio("ab12", wav)
    np.testing.assert_array_equal(cache.get_audio("ab12"), wav)


def test_a_store_keeps_them_too() -> None:
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


def test_metrics_are_added_to_those_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("ab12", SCORES)
    cache.put("ab12", dataclasses.replace(SCORES, values={"csig": 2.0}, floored=True))
    kept = cache.get("ab12")
    assert kept == dataclasses.replace(SCORES, values={**SCORES.values, "csig": 2.0}, floored=True)
    # A new version of PESQ's package makes only what rests on PESQ anew.
    monkeypatch.setattr(
        "pipelines.evaluation.score_cache.metric_packages",
        lambda name: "another" if name in ("pesq", "csig") else keys.metric_packages(name),
    )
    kept = cache.get("ab12")
    assert kept is not None
    assert set(kept.values) == {"estoi"}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"values": 3}', '{"values": {"pesq": 2.5}}'])
def test_damage_counts_as_missing_and_is_mended(tmp_path: Path, text: str) -> None:
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


def test_a_folder_that_cannot_be_is_one_error(tmp_path: Path) -> None:
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


def test_a_pair_is_the_bytes_of_its_files(tmp_path: Path) -> None:
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
    # The same folder, changed since; then gone.
    changed = clip(tmp_path / "a", noisy=b"changed")
    assert keys.clip_keys([changed], cache) != [first]
    (tmp_path / "a/noisy.wav").unlink()
    assert keys.clip_keys([changed], cache) == [None]


def test_a_mixture_is_its_plan_and_the_bytes_of_its_sources(tmp_path: Path) -> None:
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


def test_scores_of_other_weights_devices_clips_or_code_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(keys, "_scoring_code", lambda: "another")
    assert not set(four()) & set(before)


def test_a_metric_rests_on_its_own_packages_alone() -> None:
    def packages(name: str) -> set[str]:
        return {one.rpartition("-")[0] for one in keys.metric_packages(name).split()}

    assert packages("pesq") == packages("covl") == {"numpy", "pesq"}
    assert packages("stoi") == packages("estoi") == {"numpy", "pystoi", "scipy"}
    assert packages("si_sdr") == packages(NOISY_PHASE) == {"numpy"}


def test_code_is_known_by_what_it_imports() -> None:
    scoring = modules_reached(("rwsa.metrics",))
    assert {"rwsa.metrics", "rwsa.metrics.ratios", "rwsa.metrics.composite"} <= scoring
    assert "rwsa.models.unet" not in scoring
    enhancing = modules_reached(("rwsa.enhancement.arrays",))
    assert {
        "rwsa.models.unet",
        "rwsa.kernels.scan_cpu_loops",
        "rwsa.enhancement.segments",
        "rwsa.stft",
    } <= enhancing
    assert not {"rwsa.metrics", "rwsa.enhancement.files"} & enhancing
    assert "rwsa.mixing.reverberation" in modules_reached(("rwsa.mixing",))


def test_code_version_sees_code_and_packages_but_no_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.evaluation import fingerprint as module

    def version(text: str, packages: tuple[str, ...] = ()) -> str:
        (tmp_path / "ratios.py").write_text(text)
        module.code_version.cache_clear()
        return code_version(("rwsa.metrics.ratios",), packages)

    monkeypatch.setattr(
        module, "_path", lambda name: tmp_path / "ratios.py" if name.endswith("ratios") else None
    )
    first = version("x = 1  # one\n")
    assert version("# two\nx = (1)\n") == first
    assert version("x = 2\n") != first
    assert version("x = 1\n", ("numpy",)) != first
    assert version("x = 1\n", ("no-such-package",)) != version("x = 1\n", ("numpy",))
    module.code_version.cache_clear()
