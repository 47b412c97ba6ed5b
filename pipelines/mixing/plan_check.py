"""Checks of a plan table's contents, which come from a folder or store that others may write to."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rwsa.mixing.plan_rows import MixPlan, SourceRange
from rwsa.mixing.recipes import NoiseKind, PeakRule, SnrMeasure, Target
from rwsa.names import local_path

_MAX_RATE_HZ = 1_000_000
# A day at 48 kHz; longer recordings are read in parts.
_MAX_SAMPLES = 2**32
# An example is rendered in memory.
_MAX_EXAMPLE_SECONDS = 3600
_MAX_SOURCES = 10_000
_MAX_DB = 1000.0
_CHOICES = {"target": Target, "snr_measure": SnrMeasure, "peak": PeakRule}
_OPTIONAL = ("speaker", "environment", "room", "level_dbfs", "channel")


def check_info(values: Mapping[str, Any], *, split: str) -> None:
    """Check the values of a `PlanInfo`.

    Raises:
        ValueError, KeyError, TypeError: what is wrong.
    """
    for name in ("corpus", "recipe_hash", "plan_hash"):
        _require(isinstance(values[name], str), name)
    _require(values["split"] == split, "split")
    _require(_is_integer(values["shard_examples"], 1, 10**6), "shard_examples")
    _require(_is_integer(values["rows"], 0, 10**11), "rows")
    _require(_is_number(values["seconds"], 0, 1e15), "seconds")
    _require(_is_integer(values["recipe"]["sample_rate_hz"], 1, _MAX_RATE_HZ), "sample_rate_hz")


def check_row(plan: MixPlan, number: int, *, split: str, recipe: Mapping[str, Any]) -> None:
    """Check row `number` of a table: identity, choices, ranges of all numbers.

    Raises:
        ValueError: what is wrong.
    """
    _require(
        plan.plan_row == number and plan.split == split and plan.recipe == recipe.get("name"), "plan_row"
    )
    _require(plan.example_id == f"{plan.recipe}-{split}-{number:07d}", "example_id")
    _require(os.sep not in plan.example_id and "\0" not in plan.example_id, "example_id")
    _require(_is_integer(plan.sample_rate_hz, 1, _MAX_RATE_HZ), "sample_rate_hz")
    _require(_is_integer(plan.mix_rate_hz, 1, _MAX_RATE_HZ), "mix_rate_hz")
    _require(_is_integer(plan.samples, 1, _MAX_EXAMPLE_SECONDS * plan.sample_rate_hz), "samples")
    _require(_is_integer(plan.transform_seed, 0, 2**63), "transform_seed")
    for name in ("snr_db", "early_ms", "max_peak"):
        _require(_is_number(getattr(plan, name), -(10**6), 10**6), name)
    _require(plan.level_dbfs is None or _is_number(plan.level_dbfs, -_MAX_DB, 0), "level_dbfs")
    for name, choices in _CHOICES.items():
        _require(getattr(plan, name) in get_args(choices), name)
    for noise in plan.noises:
        _require(noise.kind in get_args(NoiseKind) and _is_integer(noise.seed, 0, 2**63), "noises")
        _require(noise.kind == "speech_shaped" or all(layer.parts for layer in noise.layers), "noises")
        gains = [noise.gain_db, *(layer.gain_db for layer in noise.layers)]
        _require(all(_is_number(gain, -_MAX_DB, _MAX_DB) for gain in gains), "gain_db")
    for transform in (*plan.speech_transforms, *plan.noise_transforms, *plan.mixture_transforms):
        _require(isinstance(transform.name, str) and _is_number(transform.p, 0, 1), "transforms")
        _require(dataclasses.asdict(transform) in _transforms(recipe), "transforms")
    sources = list(plan.sources())
    _require(len(sources) <= _MAX_SOURCES, "noises")
    for source in sources:
        _check_source(source)


def check_paths(plans: Sequence[MixPlan], roots: Sequence[str]) -> None:
    """Check that all recordings are below the folders of the card.

    Raises:
        ValueError: one is not.
    """
    for stored in {source.path for plan in plans for source in plan.sources()}:
        path = str(local_path(stored))
        inside = os.path.normpath(path) == path and any(
            path.startswith(root.rstrip(os.sep) + os.sep) for root in roots
        )
        _require(inside, f"path {stored[:200]!r} outside the card's folders")


def _check_source(source: SourceRange) -> None:
    for name, value in vars(source).items():
        _require(value is not None or name in _OPTIONAL, name)
    path = str(local_path(source.path))
    _require(path.startswith(os.sep) and "\0" not in path, "path")
    _require(source.channel is None or _is_integer(source.channel, 0, 10**4), "channel")
    _require(_is_integer(source.sample_rate_hz, 1, _MAX_RATE_HZ), "sample_rate_hz")
    _require(_is_integer(source.clip_samples, 1, _MAX_SAMPLES), "clip_samples")
    _require(_is_integer(source.offset, 0, source.clip_samples - 1), "offset")
    longest = min(_MAX_SAMPLES, 2 * _MAX_EXAMPLE_SECONDS * source.sample_rate_hz)
    _require(_is_integer(source.samples, 1, longest), "samples")


def _transforms(recipe: Mapping[str, Any]) -> list[Any]:
    """The transforms of the recipe: a row may apply these and no others."""
    names = ("speech_transforms", "noise_transforms", "mixture_transforms")
    return [transform for name in names for transform in recipe.get(name, ())]


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"invalid {name}")
