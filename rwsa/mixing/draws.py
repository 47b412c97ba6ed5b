"""Drawing the contents of an example: stretches of recordings, babble, rooms. No audio is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rwsa.corpora.manifest import Clip
from rwsa.errors import InputError
from rwsa.mixing.noises import BABBLE_SPREAD_DB
from rwsa.mixing.plan_rows import Layer, Noise, SourceRange
from rwsa.mixing.recipes import NoiseChoice, NoiseKind, Recipe

_KINDS: tuple[NoiseKind, ...] = ("recording", "babble", "speech_shaped")
# Attempts to draw a noise recording that the example does not contain yet.
_UNUSED_TRIES = 16


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The clips of one split, from which examples are drawn."""

    speech: Sequence[Clip]
    noise: Sequence[Clip] = ()
    rooms: Sequence[Clip] = ()

    @cached_property
    def by_speaker(self) -> dict[str, list[Clip]]:
        """The speech clips of each labelled speaker, sorted by speaker."""
        spoken: dict[str, list[Clip]] = {}
        for clip in self.speech:
            if clip.speaker is not None:
                spoken.setdefault(clip.speaker, []).append(clip)
        return dict(sorted(spoken.items()))

    @cached_property
    def speakers(self) -> list[str]:
        return list(self.by_speaker)


def check_pool(pool: Pool, recipe: Recipe, *, where: str) -> None:
    """Check that the split has the clips that the recipe draws.

    Raises:
        InputError: beginning with `where`, naming the key of the recipe and the remedy.
    """
    if (recipe.room_share > 0 or recipe.noise.room_share > 0) and not pool.rooms:
        raise InputError(f"{where} has no rooms; add `rooms` to its card, or set room_share: 0")
    babble = recipe.noise.uses("babble")
    if not (babble or recipe.speech_fill == "concatenate"):
        return
    what = "babble" if babble else "speech_fill concatenate"
    nameless = next((clip for clip in pool.speech if clip.speaker is None), None)
    if nameless is not None:
        raise InputError(
            f"{where} has speech without a speaker label ({nameless.path}), which {what} needs; "
            "add a group (?P<speaker>…) to its card"
        )
    others = len(pool.speakers) - 1
    if babble and others < recipe.noise.max_talkers:
        raise InputError(
            f"{where} has {others} speakers besides the target's, too few for babble of "
            f"{recipe.noise.max_talkers}; lower noise.max_talkers, or leave babble out of noise.kinds"
        )


def source_range(clip: Clip, samples: int, sample_rate_hz: int, share: float, *, loop: bool) -> SourceRange:
    """A random stretch of `clip`, `samples` long at `sample_rate_hz`.

    If the clip is too short, the stretch starts anywhere in it and loops, or, without `loop`, is the complete
    clip. `share` in [0, 1) chooses among the possible starts.
    """
    needed = math.ceil(samples * clip.sample_rate_hz / sample_rate_hz)
    if needed <= clip.samples:
        starts, taken = clip.samples - needed + 1, needed
    else:
        starts, taken = (clip.samples, needed) if loop else (1, clip.samples)
    return SourceRange(
        clip_id=clip.clip_id,
        path=clip.path,
        channel=clip.channel,
        sample_rate_hz=clip.sample_rate_hz,
        clip_samples=clip.samples,
        offset=int(share * starts),
        samples=taken,
        licence=clip.licence,
    )


def fill(
    rng: np.random.Generator, first: SourceRange, clips: Sequence[Clip], samples: int, sample_rate_hz: int
) -> tuple[SourceRange, ...]:
    """`first`, then random clips until `samples` are filled; of the last a random stretch."""
    parts = [first]
    while (left := samples - sum(_length(part, sample_rate_hz) for part in parts)) > 0:
        clip = clips[int(rng.integers(len(clips)))]
        parts.append(source_range(clip, left, sample_rate_hz, rng.random(), loop=False))
    return tuple(parts)


def _length(part: SourceRange, sample_rate_hz: int) -> int:
    return max(1, part.samples * sample_rate_hz // part.sample_rate_hz)


def draw_room(draws: np.ndarray, rooms: Sequence[Clip], share: float) -> SourceRange | None:
    """With probability `share` one of the impulse responses; `draws` are two uniform numbers in [0, 1)."""
    chance, which = draws
    if chance >= share:
        return None
    clip = rooms[int(which * len(rooms))]
    return source_range(clip, clip.samples, clip.sample_rate_hz, 0.0, loop=False)


def draw_noises(
    seed: int, recipe: Recipe, pool: Pool, first: tuple[Clip, float] | None, speech: Clip, samples: int
) -> tuple[Noise, ...]:
    """Draw the noises of an example, each with its own generator.

    Args:
        seed: seed of all draws here.
        recipe: the recipe.
        pool: the split's clips.
        first: the recording for the first noise, if that is a recording, and its start as a share (see
            `source_range`).
        speech: the clip of the target.
        samples: length of the example at the recipe's rate.
    """
    choice = recipe.noise
    if first and _is_one_looped_recording(choice):
        # The same result as below without making generators, which would take most of the time.
        part = source_range(first[0], samples, recipe.sample_rate_hz, first[1], loop=True)
        return (_noise("recording", first[0].environment, (Layer(gain_db=0.0, parts=(part,)),)),)
    count = int(np.random.default_rng(seed).integers(choice.min_count, choice.max_count, endpoint=True))
    noises: list[Noise] = []
    for number in range(count):
        rng = np.random.default_rng([seed, number + 1])  # [seed, 0] equals [seed], the count's
        kind = _draw_kind(rng, choice)
        gain_db, noise_seed = rng.uniform(choice.min_gain_db, choice.max_gain_db), int(rng.integers(2**32))
        room = draw_room(rng.random(2), pool.rooms, choice.room_share)
        environment: str | None = kind
        layers: tuple[Layer, ...] = ()
        if kind == "recording":
            if first and number == 0:
                clip, share = first
            else:
                clip, share = _unused_recording(rng, pool.noise, noises), rng.random()
            environment = clip.environment
            layers = (_recording_layer(rng, recipe, pool, clip, share, samples),)
        elif kind == "babble":
            layers = _babble_layers(rng, recipe, pool, speech, samples)
        one = _noise(kind, environment, layers, gain_db if count > 1 else 0.0)
        generated = kind == "speech_shaped"
        noises.append(
            dataclasses.replace(one, seed=noise_seed) if generated else dataclasses.replace(one, room=room)
        )
    return tuple(noises)


def _is_one_looped_recording(choice: NoiseChoice) -> bool:
    single = choice.max_count == 1 and not (choice.uses("babble") or choice.uses("speech_shaped"))
    return single and choice.fill == "loop" and choice.room_share == 0


def _noise(
    kind: NoiseKind, environment: str | None, layers: tuple[Layer, ...], gain_db: float = 0.0
) -> Noise:
    return Noise(kind=kind, environment=environment, gain_db=gain_db, seed=0, layers=layers, room=None)


def _draw_kind(rng: np.random.Generator, choice: NoiseChoice) -> NoiseKind:
    weights = np.array([choice.kinds.get(kind, 0.0) for kind in _KINDS])
    return _KINDS[int(rng.choice(len(_KINDS), p=weights / weights.sum()))]


def _unused_recording(rng: np.random.Generator, clips: Sequence[Clip], noises: Sequence[Noise]) -> Clip:
    """A random recording; up to `_UNUSED_TRIES` draws avoid those in `noises`."""
    used = {part.clip_id for noise in noises for layer in noise.layers for part in layer.parts}
    clip = clips[int(rng.integers(len(clips)))]
    for _ in range(_UNUSED_TRIES):
        if clip.clip_id not in used:
            break
        clip = clips[int(rng.integers(len(clips)))]
    return clip


def _recording_layer(
    rng: np.random.Generator, recipe: Recipe, pool: Pool, clip: Clip, share: float, samples: int
) -> Layer:
    rate, loop = recipe.sample_rate_hz, recipe.noise.fill == "loop"
    first = source_range(clip, samples, rate, share, loop=loop)
    return Layer(gain_db=0.0, parts=(first,) if loop else fill(rng, first, pool.noise, samples, rate))


def _babble_layers(
    rng: np.random.Generator, recipe: Recipe, pool: Pool, speech: Clip, samples: int
) -> tuple[Layer, ...]:
    """One layer per talker: concatenated clips of one speaker that start within the first clip."""
    choice, rate = recipe.noise, recipe.sample_rate_hz
    others = [speaker for speaker in pool.speakers if speaker != speech.speaker]
    count = int(rng.integers(choice.min_talkers, choice.max_talkers, endpoint=True))
    layers = []
    for speaker in rng.choice(len(others), size=count, replace=False).tolist():
        clips = pool.by_speaker[others[speaker]]
        clip = clips[int(rng.integers(len(clips)))]
        first = source_range(clip, samples, rate, rng.random(), loop=False)
        if first.samples == clip.samples:
            # It would be audible if all talkers began a clip at the same time.
            start = int(rng.random() * clip.samples)
            first = dataclasses.replace(first, offset=start, samples=clip.samples - start)
        gain_db = rng.uniform(-BABBLE_SPREAD_DB, BABBLE_SPREAD_DB)
        layers.append(Layer(gain_db=gain_db, parts=fill(rng, first, clips, samples, rate)))
    return tuple(layers)
