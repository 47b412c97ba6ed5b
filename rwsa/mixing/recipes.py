"""Mixing recipes: the configuration of how speech and noise become pairs of noisy and clean speech."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rwsa.config import config, config_hash, read_config
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.corpora.cards import MAX_EXAMPLES, MAX_RATE_HZ, Seed, Split
from rwsa.errors import InputError
from rwsa.mixing.transforms import Transform, check_transform

SnrMeasure = Literal["rms", "active", "loudness"]
NoiseKind = Literal["recording", "babble", "speech_shaped"]
Target = Literal["dry", "early", "reverberant"]
PeakRule = Literal["scale", "raise_snr"]
Share = Annotated[float, Field(ge=0, le=1)]
# The limits are far above any need; beyond them numbers overflow, or memory or time runs out.
Count = Annotated[int, Field(ge=1, le=1000)]
Decibels = Annotated[float, Field(ge=-200, le=200)]
Level = Annotated[float, Field(ge=-200, le=0)]
Rate = Annotated[int, Field(gt=0, le=MAX_RATE_HZ)]
MAX_SECONDS = 86_400

_NAME = re.compile(r"[a-z0-9_-]{1,40}")


@config
class NoiseChoice:
    """The noises of an example.

    Attributes:
        min_count, max_count: number of simultaneous noises.
        min_gain_db, max_gain_db: the level of each of several noises is uniform between them; only the
            differences matter, since the SNR sets the level of the sum.
        kinds: kind -> weight. `recording` is a noise recording of the split; `babble` is several talkers
            from the split's speech without the target's speaker; `speech_shaped` is steady Gaussian noise
            with the long-term spectrum of the target's speech.
        min_talkers, max_talkers: number of talkers in babble.
        fill: recordings shorter than the example are `loop`ed, or `concatenate`d with others.
        room_share: probability that a recording or babble is reverberated, in its own room.
    """

    min_count: Count = 1
    max_count: Count = 1
    min_gain_db: Decibels = -6.0
    max_gain_db: Decibels = 6.0
    kinds: dict[NoiseKind, Annotated[float, Field(ge=0)]] = dataclasses.field(
        default_factory=lambda: {"recording": 1.0}
    )
    min_talkers: Count = 3
    max_talkers: Count = 8
    fill: Literal["loop", "concatenate"] = "loop"
    room_share: Share = 0.0

    def uses(self, kind: NoiseKind) -> bool:
        return self.kinds.get(kind, 0.0) > 0


@config
class Recipe:
    """How speech and noise are mixed.

    Attributes:
        name: lower case; the first part of every example's id.
        description: free text.
        sample_rate_hz: sample rate of the pairs; sources at other rates are resampled.
        mix_rate_hz: sample rate of all steps up to the peak rule; None: `sample_rate_hz`.
        seconds: length of an example: a random stretch of longer speech; shorter speech is filled as
            `speech_fill` says. None: the length of each speech clip.
        speech_fill: `pad` with zeros at the end, or `concatenate` with other clips of the same speaker.
        min_speech_seconds: shorter speech clips are left out.
        speech_transforms: applied to the speech before all else; they change the target too.
        room_share: probability that the speech is reverberated (by one of the card's `rooms`).
        target: the clean signal of reverberated speech: the `dry` speech, the direct sound with the
            reflections up to `early_ms` after it (`early`), or all of it (`reverberant`).
        early_ms: see `target`.
        noise: the noises, see `NoiseChoice`.
        min_snr_db, max_snr_db: the SNR is uniform between them; it is measured over the example, before
            `mixture_transforms`, with the speech as in the mixture (reverberated).
        snr_grid_db: alternative to the two: a list of SNRs, each equally likely.
        snr_step_db: the drawn SNR is rounded to a multiple of it.
        snr_measure: the levels that define the SNR: `rms`, `active` (speech by ITU-T P.56, noise by RMS) or
            `loudness` (both by ITU-R BS.1770).
        min_level_dbfs, max_level_dbfs: the RMS level of the mixture is uniform between them, before
            `mixture_transforms`; both None leaves the speech at its recorded level.
        peak: the rule for mixtures that peak above `max_peak`. The last step, after `mixture_transforms`,
            always scales noisy and clean down by the same gain if either peaks above; `scale` does only
            this, `raise_snr` first raises the SNR by 1 dB at a time.
        max_peak: the peak limit; 1 is full scale.
        noise_transforms: applied to the sum of the noises before it is scaled to the SNR.
        mixture_transforms: applied only to the mixture, as degradations that the network should undo.
        examples: number per split; increasing it keeps the first ones.
        seed: seed of all draws.
    """

    name: str
    description: str = ""
    sample_rate_hz: Rate = SAMPLE_RATE_HZ
    mix_rate_hz: Rate | None = None
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None
    speech_fill: Literal["pad", "concatenate"] = "pad"
    min_speech_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 1.0
    speech_transforms: tuple[Transform, ...] = ()
    room_share: Share = 0.0
    target: Target = "dry"
    early_ms: Annotated[float, Field(ge=0, le=1000 * MAX_SECONDS)] = 50.0
    noise: NoiseChoice = dataclasses.field(default_factory=NoiseChoice)
    min_snr_db: Decibels | None = None
    max_snr_db: Decibels | None = None
    snr_grid_db: tuple[Decibels, ...] | None = None
    snr_step_db: Annotated[float, Field(gt=0, le=200)] | None = None
    snr_measure: SnrMeasure = "rms"
    min_level_dbfs: Level | None = None
    max_level_dbfs: Level | None = None
    peak: PeakRule = "scale"
    max_peak: Annotated[float, Field(gt=0, lt=1)] = 0.99
    noise_transforms: tuple[Transform, ...] = ()
    mixture_transforms: tuple[Transform, ...] = ()
    examples: dict[Split, Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]]
    seed: Seed = 0


def read_recipe(path: Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` settings.

    Raises:
        InputError: see `rwsa.config.read_config` and `check_recipe`.
    """
    recipe = read_config(Recipe, [path], settings)
    check_recipe(recipe, where=path.name)
    return recipe


def check_recipe(recipe: Recipe, *, where: str) -> None:
    """Check that the values of a recipe do not contradict each other, and try its transforms.

    Raises:
        InputError: naming `where` and the key.
    """
    try:
        _check_values(recipe)
        rate = recipe.mix_rate_hz or recipe.sample_rate_hz
        for transform in (*recipe.speech_transforms, *recipe.noise_transforms):
            check_transform(transform, rate, aligned=False)
        for transform in recipe.mixture_transforms:
            check_transform(transform, rate, aligned=True)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_values(recipe: Recipe) -> None:
    if not _NAME.fullmatch(recipe.name):
        raise InputError(f"name {recipe.name!r} must be up to 40 lower-case letters, digits, - or _")
    _check_snr(recipe)
    low, high = recipe.min_level_dbfs, recipe.max_level_dbfs
    if (low is None) != (high is None):
        raise InputError("give both min_level_dbfs and max_level_dbfs, or neither")
    _check_order("level_dbfs", low, high)
    if recipe.peak == "raise_snr" and low is not None:
        raise InputError(
            "peak raise_snr keeps the level of the speech; remove min_level_dbfs, or set peak: scale"
        )
    if recipe.speech_fill == "concatenate" and recipe.seconds is None:
        raise InputError("speech_fill concatenate needs seconds; set it, or speech_fill: pad")
    if recipe.target != "dry" and recipe.room_share == 0:
        raise InputError(
            f"target {recipe.target} has no effect without a room; set room_share, or target: dry"
        )
    noise = recipe.noise
    _check_order("count", noise.min_count, noise.max_count, prefix="noise.")
    _check_order("gain_db", noise.min_gain_db, noise.max_gain_db, prefix="noise.")
    _check_order("talkers", noise.min_talkers, noise.max_talkers, prefix="noise.")
    if not any(noise.kinds.values()):
        raise InputError("noise.kinds has no weight above 0; set recording: 1")


def _check_snr(recipe: Recipe) -> None:
    low, high, grid = recipe.min_snr_db, recipe.max_snr_db, recipe.snr_grid_db
    if grid is not None:
        if low is not None or high is not None:
            raise InputError("snr_grid_db and min_snr_db/max_snr_db contradict each other; keep one")
        if not grid:
            raise InputError("snr_grid_db is empty; list at least one SNR")
    elif low is None or high is None:
        raise InputError("has no SNR; set min_snr_db and max_snr_db, or snr_grid_db")
    _check_order("snr_db", low, high)


def _check_order(name: str, low: float | None, high: float | None, *, prefix: str = "") -> None:
    if low is not None and high is not None and high < low:
        raise InputError(f"{prefix}max_{name} {high} is below min_{name} {low}")


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits that identify a recipe, without its description and number of examples."""
    return config_hash(dataclasses.replace(recipe, examples={}, description=""))
