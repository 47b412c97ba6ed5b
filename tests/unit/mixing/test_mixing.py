"""Plans, mixtures and their errors: pure, uniform use of clips, exact SNRs and levels."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwsa.audio import read_audio, rms, round_to_int16
from rwsa.corpora.manifest import Clip, Manifest
from rwsa.errors import InputError
from rwsa.mixing import MixPlan, load_sources, plan_split, read_recipe, render_example
from rwsa.mixing.plans import Layer, SourceRange, from_row, plan_hash, to_row
from rwsa.mixing.recipes import check_recipe, recipe_hash
from rwsa.mixing.transforms import Transform
from rwsa.shards import ShardReader, write_shard
from rwsa.shards.index import merge_index, read_index
from tests.clips import RATE_HZ, clip, manifest, planned, recipe, rendered, wave, written

RECIPES = Path(__file__).parents[3] / "datasets" / "recipes"
RECORDINGS = Path(os.environ.get("RWSA_DATA", Path(__file__).parents[3] / "../shared/data"))


def noise_range(plan: MixPlan) -> SourceRange:
    """The stretch of a plan that has one recording of noise."""
    ((part,),) = [layer.parts for noise in plan.noises for layer in noise.layers]
    return part


def noise_read(plan: MixPlan) -> np.ndarray:
    ((wav,),) = [noise.layers for noise in load_sources(plan).noises]
    return wav


def test_planning_is_a_pure_function() -> None:
    plans = plan_split(manifest(), recipe(), "train")
    assert list(plans) == list(plan_split(manifest(), recipe(), "train"))
    assert [plan.plan_row for plan in plans] == list(range(20))
    assert len({plan.example_id for plan in plans}) == 20


def test_more_examples_keep_the_first_ones() -> None:
    few = plan_split(manifest(), recipe(examples={"train": 7}), "train")
    many = plan_split(manifest(), recipe(examples={"train": 50}), "train")
    assert many[:7] == list(few)
    assert recipe_hash(recipe(examples={"train": 7})) == recipe_hash(recipe(examples={"train": 50}))
    assert recipe_hash(recipe()) != recipe_hash(recipe(seed=1))


def test_changing_one_choice_keeps_the_other_draws() -> None:
    before = plan_split(manifest(), recipe(), "train")
    after = plan_split(manifest(), recipe(min_level_dbfs=-30.0, max_level_dbfs=-20.0), "train")
    assert [(p.snr_db, p.speech, p.noises) for p in before] == [(p.snr_db, p.speech, p.noises) for p in after]
    assert all(-30 <= p.level_dbfs <= -20 for p in after if p.level_dbfs is not None)


def test_seeds_and_splits_differ() -> None:
    wanted = {"train": 9, "valid": 9}
    draws = {
        tuple(
            plan.snr_db
            for plan in plan_split(manifest(split=split), recipe(examples=wanted, seed=seed), split)
        )
        for split, seed in (("train", 0), ("valid", 0), ("train", 1))
    }
    assert len(draws) == 3


def test_all_clips_are_used_before_any_is_repeated() -> None:
    plans = plan_split(manifest(speech=7, noise=3), recipe(examples={"train": 21}), "train")
    assert set(Counter(plan.speech.clip_id for plan in plans).values()) == {3}
    assert set(Counter(noise_range(plan).clip_id for plan in plans).values()) == {7}
    first_turns = [[plan.speech.clip_id for plan in plans[at : at + 7]] for at in (0, 7, 14)]
    assert first_turns[0] != first_turns[1] != first_turns[2]


@given(
    seed=st.integers(0, 2**32),
    speech_samples=st.integers(100, 50000),
    noise_samples=st.integers(1, 50000),
    rate=st.sampled_from([8000, 16000, 44100, 48000]),
)
def test_ranges_are_inside_their_recordings(
    seed: int, speech_samples: int, noise_samples: int, rate: int
) -> None:
    plan = planned(
        clip(0, samples=speech_samples, sample_rate_hz=rate), clip(0, "noise", samples=noise_samples), seed
    )
    assert 0 <= plan.speech.offset <= plan.speech.offset + plan.speech.samples <= speech_samples
    noise = noise_range(plan)
    assert 0 <= noise.offset < noise_samples
    if noise_samples >= RATE_HZ:
        assert noise.offset + noise.samples <= noise_samples
    assert noise.samples == plan.samples == RATE_HZ
    assert -5 <= plan.snr_db <= 10


def test_offsets_are_random() -> None:
    plans = plan_split(manifest(), recipe(), "train")
    assert len({noise_range(plan).offset for plan in plans}) > 15
    assert len({plan.speech.offset for plan in plans}) > 15


def test_rows_survive_json() -> None:
    noisy = (Transform(name="Gain", p=0.5, parameters={"min_gain_db": -6.0}),)
    for plan in plan_split(manifest(), recipe(noise_transforms=noisy), "train"):
        assert from_row(json.loads(json.dumps(to_row(plan)))) == plan


def test_the_plan_hash_depends_on_content_and_not_on_paths() -> None:
    plans = plan_split(manifest(), recipe(), "train")
    moved = [
        dataclasses.replace(plan, speech=dataclasses.replace(plan.speech, path="/elsewhere"))
        for plan in plans
    ]
    assert plan_hash(moved) == plan_hash(plans)
    assert plan_hash(plans[:-1]) != plan_hash(plans)


def test_without_seconds_examples_are_as_long_as_their_clips() -> None:
    plan = planned(clip(0, samples=40001), clip(0, "noise"), seconds=None)
    assert (plan.samples, plan.speech.offset, plan.speech.samples) == (40001, 0, 40001)


def test_short_speech_is_left_out() -> None:
    clips = (clip(0, samples=RATE_HZ // 2), clip(1), clip(0, "noise"))
    plans = plan_split(Manifest(card="toy", clips=clips), recipe(), "train")
    assert {plan.speech.clip_id for plan in plans} == {"toy/speech-1"}


@pytest.mark.parametrize(
    ("found", "values", "message"),
    [
        (manifest(noise=0), {}, "corpus toy: has no noise in split 'train'"),
        (manifest(speech=0), {}, "corpus toy: has no speech in split 'train'"),
        (manifest(), {"min_speech_seconds": 9.0}, r"shorter than min_speech_seconds \(9\.0\)"),
    ],
)
def test_splits_that_cannot_be_mixed_are_named(found: Manifest, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_split(found, recipe(**values), "train")
    assert plan_split(found, recipe(**values), "test") == []


@pytest.mark.parametrize("seed", range(5))
def test_snr_level_and_length_are_as_planned(tmp_path: Path, seed: int) -> None:
    speech = written(tmp_path, "speech", wave(3, 1, 0.02))
    noise = written(tmp_path, "noise", wave(5, 2, 0.3))
    plan = planned(speech, noise, seed, min_level_dbfs=-30.0, max_level_dbfs=-20.0)
    mixture = rendered(plan)
    measured = 20 * np.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
    assert measured == pytest.approx(plan.snr_db, abs=0.01)
    assert 20 * np.log10(rms(mixture.noisy)) == pytest.approx(plan.level_dbfs, abs=0.01)
    for wav in (mixture.clean, mixture.noisy):
        assert wav.shape == (RATE_HZ,)
        assert wav.dtype == np.float32
        np.testing.assert_array_equal(wav, round_to_int16(wav))


def test_peaks_are_limited_and_the_stored_gains_rebuild_the_mixture(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(2, 1, 0.2)), written(tmp_path, "noise", wave(2, 2))
    plan = planned(speech, noise, min_level_dbfs=-3.0, max_level_dbfs=-3.0)
    mixture = rendered(plan)
    assert np.abs(mixture.noisy).max() == pytest.approx(0.99, abs=1e-4)
    assert mixture.peak_gain_db < -1
    measured = 20 * np.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
    assert measured == pytest.approx(plan.snr_db, abs=0.01)
    sources = load_sources(plan)
    gain = 10 ** ((mixture.level_gain_db + mixture.peak_gain_db) / 20)
    np.testing.assert_allclose(mixture.clean, gain * sources.speech, atol=2**-15)
    noise_part = gain * 10 ** (mixture.noise_gain_db / 20) * noise_read(plan)
    np.testing.assert_allclose(mixture.noisy, mixture.clean + noise_part, atol=2**-15)


def test_without_a_level_speech_keeps_its_recorded_level(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(1, 1, 0.05)), written(tmp_path, "noise", wave(2, 2))
    mixture = rendered(planned(speech, noise))
    assert (mixture.level_gain_db, mixture.peak_gain_db) == (0.0, 0.0)
    np.testing.assert_array_equal(mixture.clean, round_to_int16(wave(1, 1, 0.05)))


def test_short_speech_is_padded_at_its_end(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(0.5, 1)), written(tmp_path, "noise", wave(2, 2))
    plan = planned(speech, noise, seed=3)
    mixture = rendered(plan)
    assert np.all(mixture.clean[RATE_HZ // 2 :] == 0)
    np.testing.assert_array_equal(mixture.clean[: RATE_HZ // 2], round_to_int16(wave(0.5, 1)))
    measured = 20 * np.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
    assert measured == pytest.approx(plan.snr_db, abs=0.01)


def test_short_noise_is_looped_from_its_offset(tmp_path: Path) -> None:
    recorded = wave(0.3, 2)
    plan = planned(written(tmp_path, "speech", wave(2, 1)), written(tmp_path, "noise", recorded))
    offset = noise_range(plan).offset
    np.testing.assert_array_equal(noise_read(plan), np.tile(recorded, 6)[offset : offset + RATE_HZ])


def test_only_the_planned_stretch_is_read(tmp_path: Path) -> None:
    recorded = wave(4, 1)
    plan = planned(written(tmp_path, "speech", recorded), written(tmp_path, "noise", wave(4, 2)))
    taken = recorded[plan.speech.offset : plan.speech.offset + RATE_HZ]
    np.testing.assert_array_equal(load_sources(plan).speech, taken)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled_to_the_exact_length(tmp_path: Path, rate: int) -> None:
    time = np.arange(3 * rate) / rate
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    plan = planned(written(tmp_path, "speech", tone, rate), written(tmp_path, "noise", wave(2, 2)))
    speech = load_sources(plan).speech
    assert speech.shape == (RATE_HZ,)
    assert np.argmax(np.abs(np.fft.rfft(speech))) == 440


def test_the_channel_of_the_card_is_used(tmp_path: Path) -> None:
    both = np.stack([wave(1, 1), wave(1, 5)])
    noise = written(tmp_path, "noise", wave(2, 2))
    speech = written(tmp_path, "speech", both, channel=1)
    np.testing.assert_array_equal(load_sources(planned(speech, noise)).speech, both[1])
    for channel, message in ((None, "has 2 channels; set 'channel'"), (2, "channel is 2")):
        with pytest.raises(InputError, match=message):
            load_sources(planned(dataclasses.replace(speech, channel=channel), noise))


def test_a_silent_stretch_is_replaced_by_the_first_audible_one(tmp_path: Path) -> None:
    recorded = np.concatenate(
        [np.zeros(2 * RATE_HZ, np.float32), wave(1.5, 2), np.zeros(9 * RATE_HZ, np.float32)]
    )
    plan = planned(written(tmp_path, "speech", wave(1, 1)), written(tmp_path, "noise", recorded))
    layer = Layer(gain_db=0.0, parts=(dataclasses.replace(noise_range(plan), offset=5 * RATE_HZ),))
    plan = dataclasses.replace(plan, noises=(dataclasses.replace(plan.noises[0], layers=(layer,)),))
    assert load_sources(plan).offsets[1] == 2 * RATE_HZ
    np.testing.assert_array_equal(noise_read(plan), recorded[2 * RATE_HZ : 3 * RATE_HZ])
    assert render_example(plan).meta["noise_offset"] == 2 * RATE_HZ


@pytest.mark.parametrize("silent", ["speech", "noise"])
@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.7])
def test_a_silent_file_is_named(tmp_path: Path, silent: str, seconds: float) -> None:
    clips = {name: written(tmp_path, name, wave(2, 1)) for name in ("speech", "noise")}
    clips[silent] = written(tmp_path, silent, np.full(round(seconds * RATE_HZ), 1e-5, np.float32))
    with pytest.raises(InputError, match=rf"{silent}\.wav: silent throughout \(below -70 dBFS\)"):
        load_sources(planned(clips["speech"], clips["noise"]))


def test_damaged_and_changed_files_are_named(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(2, 1)), written(tmp_path, "noise", wave(2, 2))
    longer = dataclasses.replace(speech, samples=9 * RATE_HZ)
    with pytest.raises(InputError, match=r"speech\.wav: "):
        load_sources(planned(longer, noise, seed=1))
    with pytest.raises(InputError, match=r"is at 16000 Hz, but was at 8000 Hz when planned"):
        load_sources(planned(dataclasses.replace(speech, sample_rate_hz=8000), noise))
    Path(noise.path).unlink()
    with pytest.raises(InputError, match=r"noise\.wav: no such file"):
        load_sources(planned(speech, noise))


def test_online_and_offline_give_the_same_samples(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(3, 1)), written(tmp_path, "noise", wave(3, 2))
    online = [render_example(planned(speech, noise, seed)) for seed in range(1)]
    write_shard(tmp_path / "shards", "train", 0, online, sample_rate_hz=RATE_HZ)
    merge_index(tmp_path / "shards")
    with ShardReader(read_index(tmp_path / "shards", "train")) as reader:
        offline = reader.read(0, 0)
    np.testing.assert_array_equal(offline.noisy, online[0].noisy)
    np.testing.assert_array_equal(offline.clean, online[0].clean)
    assert str(tmp_path) not in json.dumps(offline.meta)


CLIPPING = Transform(name="ClippingDistortion", parameters={"min_percentile_threshold": 20})
STRETCH = Transform(name="TimeStretch", p=0.9)
COLOUR = Transform(name="SevenBandParametricEQ")


def test_transforms_are_reproducible_and_keep_the_global_random_state(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(2, 1)), written(tmp_path, "noise", wave(2, 2))
    plan = planned(speech, noise, noise_transforms=(STRETCH, COLOUR), mixture_transforms=(CLIPPING,))
    states = random.getstate(), np.random.get_state()[1].tolist()
    first = rendered(plan)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    random.seed(99)
    np.random.seed(99)
    second = rendered(plan)
    np.testing.assert_array_equal(first.noisy, second.noisy)
    assert first.degradations == second.degradations
    assert [one["name"] for one in first.degradations] == [t.name for t in (STRETCH, COLOUR, CLIPPING)]
    json.dumps(first.degradations)


def test_mixture_transforms_do_not_change_the_target(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(2, 1)), written(tmp_path, "noise", wave(2, 2))
    plain = rendered(planned(speech, noise))
    clipped = rendered(planned(speech, noise, mixture_transforms=(CLIPPING,)))
    np.testing.assert_array_equal(plain.clean, clipped.clean)
    assert np.abs(clipped.noisy).max() < np.abs(plain.noisy).max()


def test_noise_transforms_keep_the_snr(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(2, 1)), written(tmp_path, "noise", wave(2, 2))
    plan = planned(speech, noise, noise_transforms=(COLOUR, Transform(name="Reverse")))
    mixture = rendered(plan)
    measured = 20 * np.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
    assert measured == pytest.approx(plan.snr_db, abs=0.01)


def test_transforms_apply_with_their_probability(tmp_path: Path) -> None:
    speech, noise = written(tmp_path, "speech", wave(1, 1)), written(tmp_path, "noise", wave(1, 2))
    flips = (Transform(name="PolarityInversion", p=0.3),)
    applied = [
        len(rendered(planned(speech, noise, seed, noise_transforms=flips)).degradations) for seed in range(60)
    ]
    assert 8 <= sum(applied) <= 28


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixture_transforms": (Transform(name="Shift"),)}, "Shift: delays the mixture by"),
        ({"mixture_transforms": (Transform(name="Reverse"),)}, "Reverse: delays the mixture by"),
        ({"mixture_transforms": (STRETCH,)}, "TimeStretch: delays the mixture by"),
        ({"noise_transforms": (Transform(name="Resample"),)}, "Resample: turns 16000 samples into"),
        (
            {"noise_transforms": (Transform(name="Reverb"),)},
            "'Reverb' is not in audiomentations; did you mean",
        ),
        ({"noise_transforms": (Transform(name="Gain", parameters={"db": 1}),)}, "Gain.*unexpected keyword"),
        ({"max_snr_db": -9.0}, "max_snr_db -9.0 is below min_snr_db -5.0"),
        ({"min_level_dbfs": -9.0}, "give both min_level_dbfs and max_level_dbfs"),
        ({"min_level_dbfs": -9.0, "max_level_dbfs": -12.0}, "max_level_dbfs -12.0 is below"),
        ({"name": "a.b"}, "name 'a.b' must be"),
    ],
)
def test_contradictory_recipes_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"toy.yaml: .*{message}"):
        check_recipe(recipe(**values), where="toy.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("min_snr=3", "unknown key 'min_snr'; did you mean 'min_snr_db'"),
        ("seconds=-1", "seconds"),
        ("examples.trian=3", "trian"),
        ("seed=-1", "seed"),
        ("max_peak=1.5", "max_peak"),
    ],
)
def test_wrong_keys_in_recipes_are_named(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"demo\.yaml: .*{message}"):
        read_recipe(RECIPES / "demo.yaml", [setting])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_recipes_can_be_read(path: Path) -> None:
    assert read_recipe(path).name.replace("-", "_") == path.stem


def test_real_recordings_mix_to_the_planned_snr() -> None:
    speech = sorted((RECORDINGS / "libri" / "valid").rglob("*.flac"))
    noise = sorted((RECORDINGS / "esc50" / "valid").rglob("*.ogg"))
    if not speech or not noise:
        pytest.skip(f"needs recordings in {RECORDINGS} (RWSA_DATA)")

    def found(number: int, kind: str, path: Path) -> Clip:
        wav, rate = read_audio(path)
        return clip(number, kind, path=str(path), samples=wav.shape[1], sample_rate_hz=rate)

    clips = [found(n, "speech", path) for n, path in enumerate(speech[:8])]
    clips += [found(n, "noise", path) for n, path in enumerate(noise[:: max(1, len(noise) // 8)])]
    demo = read_recipe(RECIPES / "demo.yaml", ["examples.train=16"])
    for plan in plan_split(Manifest(card="real", clips=tuple(clips)), demo, "train"):
        mixture = rendered(plan)
        measured = 20 * np.log10(rms(mixture.clean) / rms(mixture.noisy - mixture.clean))
        assert measured == pytest.approx(plan.snr_db, abs=0.01), plan
