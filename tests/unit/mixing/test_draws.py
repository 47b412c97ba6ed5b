"""Draws of an example: SNRs, noises, babble, rooms, and the clips that a split needs for them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwsa.corpora.manifest import Clip, Manifest
from rwsa.errors import InputError
from rwsa.mixing import MixPlan, plan_split
from rwsa.mixing.plans import SourceRange, from_row, plan_hash, to_row
from rwsa.mixing.recipes import check_recipe
from tests.clips import RATE_HZ, clip, every_choice, noise, recipe

SPEAKERS, CLIPS_EACH, NOISES, ROOMS = 6, 3, 8, 4


def corpus(**speech: Any) -> Manifest:
    """Six speakers with three clips each, eight noises, four rooms; all are 0.7 to 3 s long."""
    clips = [
        clip(10 * s + n, speaker=f"s{s}", samples=11200 + 7777 * n, **speech)
        for s in range(SPEAKERS)
        for n in range(CLIPS_EACH)
    ]
    clips += [clip(n, "noise", samples=20000 + 3000 * n) for n in range(NOISES)]
    clips += [clip(n, "room", samples=8000, recording=f"room{n}", licence="Apache-2.0") for n in range(ROOMS)]
    return Manifest(card="toy", clips=tuple(clips))


def plans(count: int = 60, **values: Any) -> list[MixPlan]:
    wanted = recipe(**{"seconds": 2.0, "min_speech_seconds": 0.5, "examples": {"train": count}, **values})
    return list(plan_split(corpus(), wanted, "train"))


def seconds(parts: tuple[SourceRange, ...]) -> float:
    return sum(part.samples / part.sample_rate_hz for part in parts)


GRID: dict[str, Any] = {"min_snr_db": None, "max_snr_db": None, "snr_grid_db": (0.0, 5.0, 15.0)}
EVERYTHING = every_choice(min_talkers=2, max_talkers=5)


def test_snrs_come_from_the_grid() -> None:
    counts = Counter(plan.snr_db for plan in plans(300, **GRID))
    assert sorted(counts) == [0.0, 5.0, 15.0]
    assert min(counts.values()) > 70


def test_snrs_are_rounded_to_the_step() -> None:
    for plan in plans(snr_step_db=0.1):
        assert f"{plan.snr_db:.1f}" == str(plan.snr_db)


def test_other_choices_keep_the_clip_order_and_first_draws() -> None:
    for before, after in zip(plans(), plans(**EVERYTHING), strict=True):
        assert (after.speech, after.snr_db, after.transform_seed) == (
            before.speech,
            before.snr_db,
            before.transform_seed,
        )
    more = noise(min_count=3, max_count=3)
    for before, after in zip(plans(), plans(**more), strict=True):
        assert after.noises[0].layers == before.noises[0].layers


def test_the_shortcut_for_one_looped_recording_draws_the_same() -> None:
    assert plans(**noise(room_share=1e-12)) == plans()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_rows_are_pure_and_survive_json(seed: int) -> None:
    drawn = plans(4, **EVERYTHING, seed=seed)
    assert drawn == plans(4, **EVERYTHING, seed=seed)
    assert [from_row(json.loads(json.dumps(to_row(plan)))) for plan in drawn] == drawn


def test_plan_hash_ignores_every_path() -> None:
    moved = [dataclasses.replace(one, path=f"/elsewhere/{one.clip_id}") for one in corpus().clips]
    wanted = recipe(seconds=2.0, **EVERYTHING)
    here, there = (
        plan_split(Manifest(card="toy", clips=tuple(clips)), wanted, "train")
        for clips in (corpus().clips, moved)
    )
    assert plan_hash(here) == plan_hash(there)
    assert "/elsewhere" in json.dumps(to_row(there[0]))


def test_several_noises_are_different_recordings() -> None:
    drawn = plans(**noise(min_count=2, max_count=4, min_gain_db=-9, max_gain_db=0))
    assert {len(plan.noises) for plan in drawn} == {2, 3, 4}
    for plan in drawn:
        ids = [one.layers[0].parts[0].clip_id for one in plan.noises]
        assert len(set(ids)) == len(ids)
        assert all(-9 <= one.gain_db <= 0 for one in plan.noises)
    assert {one.gain_db for plan in plans() for one in plan.noises} == {0.0}


def test_kinds_are_drawn_by_weight() -> None:
    drawn = plans(300, **noise(kinds={"babble": 3, "speech_shaped": 1}, max_talkers=5))
    counts = Counter(plan.noises[0].kind for plan in drawn)
    assert sorted(counts) == ["babble", "speech_shaped"]
    assert 190 < counts["babble"] < 260
    assert {plan.environment for plan in drawn} == {"babble", "speech_shaped"}


def test_noise_recordings_are_needed_only_if_used() -> None:
    clips = tuple(one for one in corpus().clips if one.kind == "speech")
    wanted = recipe(**noise(kinds={"babble": 1}, max_talkers=5))
    assert len(plan_split(Manifest(card="toy", clips=clips), wanted, "train")) == 20
    with pytest.raises(InputError, match="has no noise in split 'train'"):
        plan_split(Manifest(card="toy", clips=clips), recipe(), "train")


def test_babble_has_different_speakers_and_never_the_target() -> None:
    speakers = {one.clip_id: one.speaker for one in corpus().clips}
    sizes = set()
    for plan in plans(**noise(kinds={"babble": 1}, min_talkers=2, max_talkers=5)):
        (babble,) = plan.noises
        talkers = [{speakers[part.clip_id] for part in layer.parts} for layer in babble.layers]
        assert all(len(talker) == 1 for talker in talkers)
        named = set.union(*talkers)
        assert len(named) == len(talkers)
        assert plan.speaker not in named
        assert all(seconds(layer.parts) >= 1.999 for layer in babble.layers)
        sizes.add(len(talkers))
    assert sizes == {2, 3, 4, 5}


def test_short_noise_is_looped_or_concatenated() -> None:
    for fill in ("loop", "concatenate"):
        for plan in plans(**noise(fill=fill)):
            parts = plan.noises[0].layers[0].parts
            assert seconds(parts) >= 2.0
            if fill == "loop":
                assert len(parts) == 1
            else:
                assert all(0 <= p.offset <= p.offset + p.samples <= p.clip_samples for p in parts)
                assert parts[0].samples in (parts[0].clip_samples, 2 * RATE_HZ)


def test_short_speech_is_concatenated_with_the_same_speaker() -> None:
    speakers = {one.clip_id: one.speaker for one in corpus().clips}
    drawn = plans(speech_fill="concatenate")
    assert any(plan.more_speech for plan in drawn)
    for plan in drawn:
        assert {speakers[part.clip_id] for part in plan.more_speech} <= {plan.speaker}
        assert seconds((plan.speech, *plan.more_speech)) >= 2.0
    assert not any(plan.more_speech for plan in plans())


def test_rooms_are_drawn_with_their_probability_and_complete() -> None:
    drawn = plans(300, room_share=0.3, target="early")
    rooms = [plan.room for plan in drawn if plan.room is not None]
    assert 60 < len(rooms) < 120
    assert {room.clip_id for room in rooms} == {f"toy/room-{n}" for n in range(ROOMS)}
    assert {(room.offset, room.samples) for room in rooms} == {(0, 8000)}
    assert not any(noise.room for plan in drawn for noise in plan.noises)
    with_rooms = plans(300, **noise(room_share=0.3))
    assert 60 < sum(plan.noises[0].room is not None for plan in with_rooms) < 120


def test_sources_lists_every_recording() -> None:
    for plan in plans(**EVERYTHING):
        paths = [source.path for source in plan.sources()]
        assert json.dumps(to_row(plan)).count('"path"') == len(paths)


def without(kind: str) -> Manifest:
    return Manifest(card="toy", clips=tuple(one for one in corpus().clips if one.kind != kind))


NAMELESS: list[Clip] = [dataclasses.replace(one, speaker=None) for one in corpus().clips]


@pytest.mark.parametrize(
    ("found", "values", "message"),
    [
        (without("room"), {"room_share": 0.1}, "has no rooms; add `rooms` to its card"),
        (without("room"), noise(room_share=0.1), "has no rooms"),
        (corpus(), noise(kinds={"babble": 1}, max_talkers=6), "has 5 speakers besides the target's"),
        (
            Manifest(card="toy", clips=tuple(NAMELESS)),
            noise(kinds={"babble": 1}),
            r"speech without a speaker label \(/nowhere/speech-",
        ),
        (
            Manifest(card="toy", clips=tuple(NAMELESS)),
            {"speech_fill": "concatenate"},
            "which speech_fill concatenate needs",
        ),
    ],
)
def test_what_a_split_lacks_is_named(found: Manifest, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"corpus toy: split 'train' .*{message}"):
        plan_split(found, recipe(**values), "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"snr_grid_db": (0.0,)}, "snr_grid_db and min_snr_db/max_snr_db contradict"),
        ({**GRID, "snr_grid_db": ()}, "snr_grid_db is empty"),
        ({"min_snr_db": None}, "has no SNR; set min_snr_db and max_snr_db"),
        ({"target": "early"}, "target early has no effect without a room"),
        (
            {"peak": "raise_snr", "min_level_dbfs": -30.0, "max_level_dbfs": -20.0},
            "raise_snr keeps the level of the speech",
        ),
        ({"seconds": None, "speech_fill": "concatenate"}, "concatenate needs seconds"),
        (noise(min_count=2, max_count=1), r"noise\.max_count 1 is below min_count 2"),
        (noise(min_talkers=9), r"noise\.max_talkers 8 is below"),
        (noise(kinds={"recording": 0}), r"noise\.kinds has no weight above 0"),
    ],
)
def test_choices_that_contradict_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"toy.yaml: .*{message}"):
        check_recipe(recipe(**values), where="toy.yaml")
