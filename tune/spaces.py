"""A sweep as configuration: a small YAML that expands to trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from rwsa.config import build, config, config_hash, merge, read_yaml, setting
from rwsa.errors import InputError
from rwsa.training.config import TrainConfig


@config
class SweepConfig:
    """What to vary, over what, and where to look.

    Attributes:
        name: of the sweep and of its parent run.
        base: training configurations laid over each other (names from pipelines/configs, or paths).
        set: keys over those, as nested mappings.
        axes: configuration key (`model.sharing`) to the values it takes; every combination is a trial.
        seeds: each combination once a seed.
        corpora: cards to evaluate the trials on, in-domain first.
        examples: clips per corpus; each card's own number by default.
        workers: Ray Train workers a trial.
        concurrent_trials: at the most so many at once.
    """

    name: str
    base: tuple[str, ...]
    set: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]]
    seeds: tuple[int, ...] = (0,)
    corpora: tuple[str, ...]
    examples: int | None = None
    workers: int = 1
    concurrent_trials: int = 1


@config
class Trial:
    """One point of a sweep: its short name, the axes' values, and the whole training configuration."""

    name: str
    point: dict[str, Any]
    seed: int
    train: TrainConfig


def read_sweep(path: Path) -> SweepConfig:
    """Read a sweep.

    Raises:
        InputError: it cannot be read, or a key is unknown, missing or ill-typed.
    """
    return build(SweepConfig, read_yaml(path), where=str(path))


def trials(sweep: SweepConfig, base_paths: list[Path], settings: list[str]) -> Iterator[Trial]:
    """Expand a sweep, in the order in which its axes and seeds are written.

    Args:
        sweep: the sweep.
        base_paths: where the configurations of `sweep.base` are.
        settings: `a.b=v`, over everything but the axes.

    Raises:
        InputError: an axis is empty or names an unknown key, or a combination makes no valid model.
    """
    values: dict[str, Any] = {}
    for path in base_paths:
        values = merge(values, read_yaml(path))
    values = merge(values, sweep.set)
    for text in settings:
        values = merge(values, setting(text))
    for axis, choices in sweep.axes.items():
        if not choices:
            raise InputError(f"{sweep.name}: axis '{axis}' has no values")
    for point in itertools.product(*sweep.axes.values()):
        for seed in sweep.seeds:
            yield _trial(sweep, values, dict(zip(sweep.axes, point, strict=True)), seed)


def _trial(sweep: SweepConfig, values: dict[str, Any], point: dict[str, Any], seed: int) -> Trial:
    for axis, choice in point.items():
        nested: Any = choice
        for part in reversed(axis.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    label = "-".join(f"{axis.rpartition('.')[2]}_{choice}" for axis, choice in point.items())
    values = merge(values, {"seed": seed, "name": f"{sweep.name}-{label}-seed_{seed}"})
    train = build(TrainConfig, values, where=f"{sweep.name} {label}")
    # The hash keeps two versions of a sweep apart: a finished trial is reused only if nothing changed.
    named = merge(values, {"name": f"{train.name}-{config_hash(train)[:6]}"})
    return Trial(
        name=named["name"], point=point, seed=seed, train=build(TrainConfig, named, where=sweep.name)
    )
