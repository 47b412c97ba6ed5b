"""Rendering: SNR by each measure, peaks, rooms and targets, generated noise, and metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from rwsa.audio import rms
from rwsa.corpora.manifest import Clip, Manifest
from rwsa.errors import InputError
from rwsa.mixing import MixPlan, load_sources, plan_split, read_recipe, render_example, render_mix
from rwsa.mixing.codecs import CODECS
from rwsa.mixing.levels import level_db
from rwsa.mixing.plans import from_row, to_row
from rwsa.mixing.reverberation import reverberate
from rwsa.mixing.transforms import Transform
from tests.clips import RATE_HZ, every_choice, noise, recipe, wave, written

RECIPES = Path(__file__).parents[3] / "datasets" / "recipes"
QUIET = {"min_snr_db": 0.0, "max_snr_db": 20.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three speakers with two clips each, three noises and a room."""
    folder = tmp_path_factory.mktemp("corpus")
    voice = butter(2, [200, 2000], "bandpass", fs=RATE_HZ, output="sos")
    clips = []
    for number in range(6):
        seconds = 1.2 + 0.5 * number
        syllables = (np.arange(round(seconds * RATE_HZ)) / RATE_HZ) % 0.5 < 0.3
        wav = (3 * sosfilt(voice, wave(seconds, number)) * syllables).astype(np.float32)
        one = written(folder, f"speech{number}", wav, speaker=f"s{number // 2}")
        clips.append(dataclasses.replace(one, clip_id=f"toy/speech{number}"))
    for number in range(3):
        one = written(folder, f"noise{number}", wave(1.0 + number, 20 + number, 0.03 * 3**number))
        clips.append(dataclasses.replace(one, clip_id=f"toy/noise{number}", recording=f"r{number}"))
    decay = np.exp(-np.arange(4000) / 800) * np.random.default_rng(9).normal(size=4000) * 0.1
    decay[40] = 1.5
    room = written(folder, "room", decay.astype(np.float32), licence="Apache-2.0")
    clips.append(dataclasses.replace(room, kind="room", clip_id="toy/room"))
    return Manifest(card="toy", clips=tuple(clips))


def plans(corpus: Manifest, count: int = 6, **values: Any) -> list[MixPlan]:
    wanted = recipe(**{"seconds": 2.0, "examples": {"train": count}, **QUIET, **values})
    return list(plan_split(corpus, wanted, "train"))


EVERYTHING: dict[str, Any] = {
    **every_choice(min_talkers=1, max_talkers=2),
    "mixture_transforms": (Transform(name="Codec", p=0.5, parameters={"codecs": list(CODECS)}),),
}


def digest(plan: MixPlan) -> str:
    example = render_example(plan)
    meta = json.dumps(example.meta, sort_keys=True).encode()
    return hashlib.sha256(example.noisy.tobytes() + example.clean.tobytes() + meta).hexdigest()


def digests(rows: list[dict]) -> list[str]:
    return [digest(from_row(row)) for row in rows]


def test_rendering_is_a_pure_function_of_the_row(corpus: Manifest) -> None:
    rows = [json.loads(json.dumps(to_row(plan))) for plan in plans(corpus, 8, **EVERYTHING)]
    here = digests(rows)
    random.seed(1)
    np.random.seed(1)
    assert digests(rows[::-1])[::-1] == here
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digests, (rows,)) == here


def test_recipes_of_an_earlier_version_give_the_same_samples(tmp_path: Path) -> None:
    clips = []
    for number in range(8):
        rng = np.random.default_rng(number)
        samples = int(rng.integers(8000, 80000))
        kind = "speech" if number < 4 else "noise"
        path = tmp_path / f"{kind}{number}.wav"
        wav = rng.integers(-9000, 9000, samples, dtype=np.int16)
        soundfile.write(path, wav, RATE_HZ, subtype="PCM_16")
        clips.append(
            Clip(
                clip_id=f"toy/{kind}{number}",
                kind="speech" if number < 4 else "noise",
                path=str(path),
                samples=samples,
                sample_rate_hz=RATE_HZ,
                split="train",
                speaker=str(number),
                recording=str(number),
                environment=None,
                licence="CC0",
            )
        )
    for name, expected in (
        ("demo", "a0dcdb693f4dd02d4585cf5f"),
        ("demandex_style", "d67e6f7c687cd53519fe3e82"),
    ):
        found = hashlib.sha256()
        one = read_recipe(RECIPES / f"{name}.yaml", ["examples.train=6"])
        for plan in plan_split(Manifest(card="toy", clips=tuple(clips)), one, "train"):
            example = render_example(plan)
            for wav in (example.noisy, example.clean):
                found.update((wav * 32768).astype("<i2").tobytes())
        assert found.hexdigest()[:24] == expected, name


@pytest.mark.parametrize("measure", ["active", "loudness"])
def test_the_snr_is_reached_by_each_measure(corpus: Manifest, measure: str) -> None:
    of_noise = "rms" if measure == "active" else measure
    by_rms = []
    for plan in plans(corpus, snr_measure=measure):
        mixture = render_mix(plan, load_sources(plan))
        speech_db = level_db(mixture.clean, RATE_HZ, measure)
        noise_db = level_db(mixture.noisy - mixture.clean, RATE_HZ, of_noise)
        assert speech_db - noise_db == pytest.approx(plan.snr_db, abs=0.05)
        by_rms.append(20 * math.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean)) - plan.snr_db)
    assert max(map(abs, by_rms)) > 1


def test_the_peak_rule_raises_the_snr_by_whole_decibels(corpus: Manifest) -> None:
    raised = 0
    louder = {"min_snr_db": -15.0, "max_snr_db": 0.0, "max_peak": 0.9}
    for plan in plans(corpus, 12, peak="raise_snr", **louder):
        mixture = render_mix(plan, load_sources(plan))
        steps = mixture.snr_db - plan.snr_db
        assert steps == round(steps) >= 0
        assert np.abs(mixture.noisy).max() < 0.9
        measured = 20 * math.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
        assert measured == pytest.approx(mixture.snr_db, abs=0.01)
        assert mixture.peak_gain_db == 0
        example = render_example(plan)
        assert (example.meta["snr_db"], example.meta["planned_snr_db"]) == (mixture.snr_db, plan.snr_db)
        if steps > 0:
            raised += 1
            less = dataclasses.replace(plan, snr_db=mixture.snr_db - 1, peak="scale", max_peak=0.99)
            wav = render_mix(less, load_sources(less)).noisy
            assert np.abs(wav).max() >= 0.9 - 1e-4
    assert raised > 3


def test_speech_above_the_peak_limit_is_scaled_by_either_rule(corpus: Manifest) -> None:
    (plan,) = plans(corpus, 1, peak="raise_snr", max_peak=0.05)
    mixture = render_mix(plan, load_sources(plan))
    assert mixture.snr_db == plan.snr_db
    assert max(np.abs(mixture.noisy).max(), np.abs(mixture.clean).max()) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("target", ["dry", "early", "reverberant"])
def test_the_target_has_the_chosen_reverberation(corpus: Manifest, target: str) -> None:
    for plan in plans(corpus, room_share=1.0, target=target, min_snr_db=60.0, max_snr_db=60.0):
        sources = load_sources(plan)
        mixture = render_mix(plan, sources)
        assert sources.room is not None
        gain = 10 ** (mixture.peak_gain_db / 20)
        reverberant = reverberate(sources.speech, sources.room, RATE_HZ)
        early = reverberate(sources.speech, sources.room, RATE_HZ, early_ms=50)
        expected = {"dry": sources.speech, "early": early, "reverberant": reverberant}[target]
        np.testing.assert_allclose(mixture.clean, gain * expected, atol=2**-15)
        np.testing.assert_allclose(mixture.noisy, gain * reverberant, atol=0.01)
        assert rms(reverberant - sources.speech) > 0.1 * rms(sources.speech)
        meta = render_example(plan).meta
        assert (meta["target"], meta["room"]["clip"]) == (target, "toy/room")
        assert "Apache-2.0" in meta["licences"]


def test_speech_transforms_are_in_the_target_too(corpus: Manifest) -> None:
    lift = Transform(
        name="HighPassFilter",
        parameters={"min_cutoff_freq": 900, "max_cutoff_freq": 900, "min_rolloff": 24, "max_rolloff": 24},
    )
    for plan in plans(corpus, speech_transforms=(lift,), min_snr_db=60.0, max_snr_db=60.0):
        mixture = render_mix(plan, load_sources(plan))
        power_F = np.square(np.abs(np.fft.rfft(mixture.clean)))
        plain = render_mix(dataclasses.replace(plan, speech_transforms=()), load_sources(plan))
        plain_F = np.square(np.abs(np.fft.rfft(plain.clean)))
        assert power_F[:800].sum() < 0.1 * plain_F[:800].sum()
        np.testing.assert_allclose(mixture.noisy, mixture.clean, atol=0.01)
        assert [drawn["of"] for drawn in mixture.degradations] == ["speech"]


def test_several_noises_are_added_with_their_gains(corpus: Manifest) -> None:
    for plan in plans(corpus, **noise(min_count=2, max_count=3, min_gain_db=-10, max_gain_db=0)):
        sources = load_sources(plan)
        mixture = render_mix(plan, sources)
        each = [
            10 ** (gain / 20) * one.layers[0]
            for gain, one in zip(mixture.noise_gains_db, sources.noises, strict=True)
        ]
        for planned, wav in zip(plan.noises, each, strict=True):
            assert 20 * math.log10(rms(wav)) == pytest.approx(planned.gain_db, abs=1e-3)
        gain = 10 ** ((mixture.noise_gain_db + mixture.peak_gain_db) / 20)
        np.testing.assert_allclose(mixture.noisy - mixture.clean, gain * sum(each), atol=2**-14)
        measured = 20 * math.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
        assert measured == pytest.approx(plan.snr_db, abs=0.02)


def test_babble_is_the_sum_of_its_talkers(corpus: Manifest) -> None:
    for plan in plans(corpus, **noise(kinds={"babble": 1}, min_talkers=2, max_talkers=2)):
        sources = load_sources(plan)
        mixture = render_mix(plan, sources)
        talkers = zip(sources.noises[0].layers, plan.noises[0].layers, strict=True)
        total = sum(wav / rms(wav) * 10 ** (layer.gain_db / 20) for wav, layer in talkers)
        added = mixture.noisy - mixture.clean
        assert np.corrcoef(added, total)[0, 1] > 0.999
        meta = render_example(plan).meta
        assert (meta["environment"], len(meta["noises"][0]["layers"])) == ("babble", 2)


def test_speech_shaped_noise_has_the_spectrum_of_the_speech(corpus: Manifest) -> None:
    for plan in plans(corpus, **noise(kinds={"speech_shaped": 1})):
        mixture = render_mix(plan, load_sources(plan))
        bands = [
            [
                np.square(np.abs(np.fft.rfft(wav)))[low:high].mean()
                for low, high in ((400, 4000), (8000, 15000))
            ]
            for wav in (mixture.clean, mixture.noisy - mixture.clean)
        ]
        slopes = [10 * math.log10(high / low) for low, high in bands]
        assert slopes[1] == pytest.approx(slopes[0], abs=3)
        assert abs(np.corrcoef(mixture.clean, mixture.noisy - mixture.clean)[0, 1]) < 0.1
        meta = render_example(plan).meta
        assert (meta["noise"], meta["environment"]) == (None, "speech_shaped")


def test_some_concatenated_recordings_may_be_silent(tmp_path: Path, corpus: Manifest) -> None:
    silent = written(tmp_path, "noise-silent", np.zeros(RATE_HZ // 2, np.float32), recording="silent")
    speech = tuple(one for one in corpus.clips if one.kind == "speech")
    loud = next(one for one in corpus.clips if one.kind == "noise")
    for noises, works in (((loud, silent), True), ((silent,), False)):
        found = Manifest(card="toy", clips=(*speech, *noises))
        (plan,) = plans(found, 1, seed=4, **noise(fill="concatenate"))
        names = [Path(part.path).stem for part in plan.noises[0].layers[0].parts]
        assert "noise-silent" in names
        if works:
            assert rms(render_example(plan).noisy) > 0
        else:
            with pytest.raises(InputError, match=r"noise-silent\.wav: silent .* as are the next 3 parts"):
                render_example(plan)


def test_noise_is_reverberated(corpus: Manifest) -> None:
    (plan,) = plans(corpus, 1, **noise(room_share=1.0))
    sources = load_sources(plan)
    room = sources.noises[0].room
    assert room is not None
    rendered = render_mix(plan, sources)
    wet = reverberate(sources.noises[0].layers[0], room, RATE_HZ)
    assert np.corrcoef(rendered.noisy - rendered.clean, wet)[0, 1] > 0.999


def test_mixing_at_a_higher_rate_keeps_length_and_snr(corpus: Manifest) -> None:
    for plan in plans(corpus, seconds=None, mix_rate_hz=48000, max_peak=0.98):
        mixture = render_mix(plan, load_sources(plan))
        assert mixture.noisy.shape == mixture.clean.shape == (plan.samples,)
        measured = 20 * math.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
        assert measured == pytest.approx(plan.snr_db, abs=0.1)


def test_the_metadata_names_every_source(corpus: Manifest) -> None:
    for plan in plans(corpus, 10, **EVERYTHING):
        text = json.dumps(render_example(plan).meta)
        for source in plan.sources():
            assert json.dumps(source.clip_id) in text
            assert json.dumps(source.licence) in text
            assert source.path not in text


def test_a_silent_impulse_response_is_named(tmp_path: Path, corpus: Manifest) -> None:
    silent = written(tmp_path, "silent-room", np.zeros(100, np.float32))
    clips = tuple(one for one in corpus.clips if one.kind != "room")
    silent = dataclasses.replace(silent, kind="room")
    (plan,) = plans(Manifest(card="toy", clips=(*clips, silent)), 1, room_share=1.0)
    with pytest.raises(InputError, match=r"silent-room\.wav: the impulse response is silent"):
        render_example(plan)


@pytest.mark.parametrize("name", ["dns2020_style", "ears_wham_v2", "robust"])
def test_published_recipes_render(corpus: Manifest, name: str) -> None:
    changed = ["examples.train=4", "min_speech_seconds=0.5", "seed=3"]
    changed += ["noise.min_talkers=1", "noise.max_talkers=2"] if name == "robust" else []
    one = read_recipe(RECIPES / f"{name}.yaml", changed)
    for plan in plan_split(corpus, one, "train"):
        example = render_example(plan)
        assert example.noisy.shape == example.clean.shape == (plan.samples,)
        assert np.abs(example.noisy).max() <= one.max_peak + 2**-15
        assert example.meta["snr_db"] >= plan.snr_db
        if (
            one.min_level_dbfs is not None
            and one.max_level_dbfs is not None
            and not example.meta["degradations"]
        ):
            level = 20 * math.log10(rms(example.noisy)) - example.meta["peak_gain_db"]
            assert one.min_level_dbfs - 0.1 <= level <= one.max_level_dbfs + 0.1
