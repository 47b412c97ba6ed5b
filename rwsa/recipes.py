"""Mixing recipes: every choice that turns clean speech and noise into pairs, as one configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rwsa.cards import Split
from rwsa.config import config, config_hash, read_config
from rwsa.errors import InputError
from rwsa.transforms import Transform, check_transform

_NAME = re.compile(r"[a-z0-9_-]{1,40}")


@config
class Recipe:
    """How speech and noise become pairs of noisy and clean.

    The target (`clean`) is the speech as recorded, dry, at the level that it has in the mixture.

    Attributes:
        name: lower case; the first part of every example's id.
        description: for people.
        sample_rate_hz: of the pairs; sources at other rates are resampled.
        seconds: length of an example: longer speech gives a random stretch, shorter speech is padded
            with zeros at its end. None takes each speech clip whole.
        min_speech_seconds: shorter speech clips are left out.
        min_snr_db, max_snr_db: the SNR is uniform between them, by RMS over the whole example,
            padding included, before `mixture_transforms`.
        min_level_dbfs, max_level_dbfs: the RMS level of the mixture is uniform between them, before
            `mixture_transforms`; both None leaves the speech at the level of its recording.
        max_peak: where noisy or clean would peak above it (1 is full scale), both are scaled down by
            the same gain.
        noise_transforms: applied to the noise before its level is set.
        mixture_transforms: applied to the mixture alone, so they are degradations to be undone.
        examples: how many per split; more keep the first ones.
        seed: of every draw.
    """

    name: str
    description: str = ""
    sample_rate_hz: Annotated[int, Field(gt=0)] = 16000
    seconds: Annotated[float, Field(gt=0)] | None
    min_speech_seconds: Annotated[float, Field(ge=0)] = 1.0
    min_snr_db: float
    max_snr_db: float
    min_level_dbfs: Annotated[float, Field(le=0)] | None = None
    max_level_dbfs: Annotated[float, Field(le=0)] | None = None
    max_peak: Annotated[float, Field(gt=0, lt=1)] = 0.99
    noise_transforms: tuple[Transform, ...] = ()
    mixture_transforms: tuple[Transform, ...] = ()
    examples: dict[Split, Annotated[int, Field(ge=0)]]
    seed: Annotated[int, Field(ge=0)] = 0


def read_recipe(path: Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe and lay `key=value` settings over it.

    Raises:
        InputError: see `rwsa.config.read_config` and `check_recipe`.
    """
    recipe = read_config(Recipe, [path], settings)
    check_recipe(recipe, where=path.name)
    return recipe


def check_recipe(recipe: Recipe, *, where: str) -> None:
    """Make sure that a recipe's values agree, and try its transforms.

    Raises:
        InputError: naming `where` and the key.
    """
    if not _NAME.fullmatch(recipe.name):
        raise InputError(f"{where}: name {recipe.name!r} must be up to 40 lower-case letters, digits, - or _")
    if recipe.max_snr_db < recipe.min_snr_db:
        raise InputError(f"{where}: max_snr_db {recipe.max_snr_db} is below min_snr_db {recipe.min_snr_db}")
    low, high = recipe.min_level_dbfs, recipe.max_level_dbfs
    if (low is None) != (high is None):
        raise InputError(f"{where}: give both min_level_dbfs and max_level_dbfs, or neither")
    if low is not None and high is not None and high < low:
        raise InputError(f"{where}: max_level_dbfs {high} is below min_level_dbfs {low}")
    try:
        for transform in recipe.noise_transforms:
            check_transform(transform, recipe.sample_rate_hz, aligned=False)
        for transform in recipe.mixture_transforms:
            check_transform(transform, recipe.sample_rate_hz, aligned=True)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def recipe_hash(recipe: Recipe) -> str:
    """Twelve digits that tell how examples are made, not how many: more examples keep it."""
    return config_hash(dataclasses.replace(recipe, examples={}))
