"""Plans: one complete, serialisable row per example, drawn without reading audio.

A plan is a pure function of (manifest, recipe, split). Rendering a row needs only the row and the files that
it names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import numpy as np

from rwsa.corpora.cards import SPLITS, Split
from rwsa.corpora.manifest import Clip, Manifest
from rwsa.errors import InputError
from rwsa.mixing.draws import Pool, check_pool, draw_noises, draw_room, fill, source_range
from rwsa.mixing.plan_rows import Layer, MixPlan, Noise, SourceRange, from_row, plan_hash, to_row
from rwsa.mixing.recipes import Recipe, check_recipe

__all__ = [
    "Layer",
    "MixPlan",
    "Noise",
    "SourceRange",
    "SplitPlan",
    "draw_mix",
    "from_row",
    "plan_hash",
    "plan_split",
    "to_row",
    "usable_speech",
]

_SPEECH_KEY, _NOISE_KEY = 1, 2


class SplitPlan(Sequence[MixPlan]):
    """The plan of a split; rows are drawn on access, so a million rows need almost no memory."""

    def __init__(self, recipe: Recipe, split: Split, pool: Pool) -> None:
        self.recipe, self.split, self.pool = recipe, split, pool
        self._number, count = SPLITS.index(split), recipe.examples.get(split, 0)
        key = [recipe.seed, self._number, 0]
        self._speech_order = _passes(count, len(pool.speech), [*key, _SPEECH_KEY])
        uses_noise = recipe.noise.uses("recording")
        self._noise_order = _passes(count, len(pool.noise), [*key, _NOISE_KEY]) if uses_noise else None

    def __len__(self) -> int:
        return len(self._speech_order)

    @overload
    def __getitem__(self, row: int) -> MixPlan: ...
    @overload
    def __getitem__(self, row: slice) -> list[MixPlan]: ...
    def __getitem__(self, row: int | slice) -> MixPlan | list[MixPlan]:
        rows = range(len(self))[row]
        return self._draw(rows) if isinstance(rows, int) else [self._draw(one) for one in rows]

    def _draw(self, row: int) -> MixPlan:
        return draw_mix(
            np.random.default_rng(np.random.SeedSequence([self.recipe.seed, self._number, row])),
            self.recipe,
            self.pool.speech[self._speech_order[row]],
            None if self._noise_order is None else self.pool.noise[self._noise_order[row]],
            self.pool,
            split=self.split,
            plan_row=row,
        )


def plan_split(manifest: Manifest, recipe: Recipe, split: Split) -> Sequence[MixPlan]:
    """Plan all examples of a split without reading audio.

    Speech and noise clips are each used in shuffled passes: every clip is used once before any is used
    again, and each pass has a new order. Increasing `examples` keeps the first rows.

    Raises:
        InputError: the split lacks what the recipe needs (noise, speech that is long enough, rooms,
            speakers for babble), or the recipe contradicts itself.
    """
    check_recipe(recipe, where=f"recipe {recipe.name}")
    if recipe.examples.get(split, 0) == 0:
        return []
    speech, noise = usable_speech(manifest, recipe, split), manifest.noise(split)
    for kind, clips in (("speech", manifest.speech(split)), ("noise", noise)):
        if not clips and (kind == "speech" or recipe.noise.uses("recording")):
            raise InputError(
                f"corpus {manifest.card}: has no {kind} in split '{split}'; add some to its card,"
                " or leave the split out"
            )
    if not speech:
        raise InputError(
            f"corpus {manifest.card}: all speech in split '{split}' is shorter than"
            f" min_speech_seconds ({recipe.min_speech_seconds}); lower it"
        )
    pool = Pool(speech=speech, noise=noise, rooms=manifest.rooms(split))
    check_pool(pool, recipe, where=f"corpus {manifest.card}: split '{split}'")
    return SplitPlan(recipe, split, pool)


def usable_speech(manifest: Manifest, recipe: Recipe, split: str) -> list[Clip]:
    """The speech clips of a split that are not too short for the recipe."""
    return [clip for clip in manifest.speech(split) if clip.seconds >= recipe.min_speech_seconds]


def _passes(count: int, clips: int, key: list[int]) -> np.ndarray:
    """`count` clip numbers from successive permutations of all clips."""
    rng = np.random.default_rng(np.random.SeedSequence(key))
    return np.concatenate([rng.permutation(clips) for _ in range(math.ceil(count / clips))])[:count]


def draw_mix(
    rng: np.random.Generator,
    recipe: Recipe,
    speech: Clip,
    noise: Clip | None,
    pool: Pool | None = None,
    *,
    split: str,
    plan_row: int,
) -> MixPlan:
    """Draw one example of `speech` in `noise` (None if the recipe uses no noise recordings).

    Every number is drawn whether the recipe uses it or not, so that changing one value of a recipe leaves
    all other draws unchanged; parts that draw many numbers have their own seeds. `pool` holds the other
    clips that may be drawn; default: only these two.
    """
    pool = pool or Pool(speech=[speech], noise=[noise] if noise else [])
    snr, level, speech_at, noise_at = rng.random(4)
    transform_seed = int(rng.integers(2**32))
    room_draws = rng.random(2)
    more_seed, noise_seed = rng.integers(2**63, size=2).tolist()
    rate = recipe.sample_rate_hz
    samples = round((recipe.seconds if recipe.seconds is not None else speech.seconds) * rate)
    first = source_range(speech, samples, rate, speech_at, loop=False)
    first_noise = None if noise is None else (noise, noise_at)
    noises = draw_noises(noise_seed, recipe, pool, first_noise, speech, samples)
    return MixPlan(
        plan_row=plan_row,
        example_id=f"{recipe.name}-{split}-{plan_row:07d}",
        recipe=recipe.name,
        split=split,
        sample_rate_hz=rate,
        mix_rate_hz=recipe.mix_rate_hz or rate,
        samples=samples,
        speech=first,
        more_speech=_more_speech(more_seed, recipe, pool, speech, first, samples),
        noises=noises,
        speaker=speech.speaker,
        environment=noises[0].environment,
        room=draw_room(room_draws, pool.rooms, recipe.room_share),
        target=recipe.target,
        early_ms=recipe.early_ms,
        snr_db=_snr(recipe, snr),
        snr_measure=recipe.snr_measure,
        level_dbfs=_level(recipe, level),
        peak=recipe.peak,
        max_peak=recipe.max_peak,
        speech_transforms=recipe.speech_transforms,
        noise_transforms=recipe.noise_transforms,
        mixture_transforms=recipe.mixture_transforms,
        transform_seed=transform_seed,
    )


def _more_speech(
    seed: int, recipe: Recipe, pool: Pool, speech: Clip, first: SourceRange, samples: int
) -> tuple[SourceRange, ...]:
    if recipe.speech_fill == "pad" or speech.speaker is None:
        return ()
    clips = pool.by_speaker[speech.speaker]
    return fill(np.random.default_rng(seed), first, clips, samples, recipe.sample_rate_hz)[1:]


def _snr(recipe: Recipe, share: float) -> float:
    if recipe.snr_grid_db is not None:
        snr_db = recipe.snr_grid_db[int(share * len(recipe.snr_grid_db))]
    elif recipe.min_snr_db is not None and recipe.max_snr_db is not None:
        snr_db = _between(recipe.min_snr_db, recipe.max_snr_db, share)
    else:
        raise ValueError("the recipe has no SNR; check_recipe refuses it")
    if recipe.snr_step_db is None:
        return snr_db
    # The second rounding turns 33 × 0.1 into 3.3.
    return round(round(snr_db / recipe.snr_step_db) * recipe.snr_step_db, 9)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _level(recipe: Recipe, share: float) -> float | None:
    if recipe.min_level_dbfs is None or recipe.max_level_dbfs is None:
        return None
    return _between(recipe.min_level_dbfs, recipe.max_level_dbfs, share)
