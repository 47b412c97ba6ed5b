"""From a sweep's axes to its trials: which points there are, and what each trains."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray.tune

from pipelines.core.storage import StorageConfig
from pipelines.train import absolute, config_paths
from pipelines.training.config import TrainRunConfig
from rwsa.config import as_mapping, build, config, config_hash, merge, nested, read_overlays, with_settings
from rwsa.errors import InputError
from tune.matching import Match, count_parameters, matched
from tune.sweep_config import Axis, SweepConfig

Point = dict[str, Any]
# Before a space is taken to have no more points.
_DRAWS_A_TRIAL = 50
_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")


@config
class Trial:
    """One point of a sweep with one seed: its name, and all that it trains."""

    name: str
    point: Point
    seed: int
    train: TrainRunConfig


def point_label(point: Point) -> str:
    """A point in words."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in point.items())


def base_values(sweep: SweepConfig, settings: Sequence[str] = ()) -> dict[str, Any]:
    """What all trials have in common: the sweep's configurations, then `set`, then `a.b=v` settings.

    Raises:
        InputError: a configuration is missing or a setting is malformed.
    """
    values = merge(read_overlays(config_paths(sweep.base)), sweep.set)
    return merge(with_settings(values, settings), {"best_metric": sweep.metric})


def trials(sweep: SweepConfig, values: dict[str, Any]) -> list[Trial]:
    """All trials that can be known beforehand: of `optuna`, none.

    Args:
        sweep: the sweep.
        values: from `base_values`.

    Raises:
        InputError: an axis names an unknown key, a combination makes no valid model, or two points are one.
    """
    found = [trial_at(sweep, values, point, seed) for point in points(sweep) for seed in sweep.seeds]
    names = [trial.name for trial in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{sweep.name}: two points are the same trial, {twice[0]}; drop one")
    return found


def points(sweep: SweepConfig) -> Iterator[Point]:
    """The points of the axes, in the order in which these are written; of `optuna`, none."""
    axes = sweep.axes
    if sweep.search.kind == "grid":
        for combination in itertools.product(*(axis.choices for axis in axes.values())):
            yield dict(zip(axes, combination, strict=True))
    elif sweep.search.kind == "star":
        centre = {name: axis.compared_with for name, axis in axes.items()}
        yield centre
        for name, axis in axes.items():
            yield from (centre | {name: value} for value in axis.choices if value != centre[name])
    elif sweep.search.kind == "random":
        yield from _drawn(sweep)


def _drawn(sweep: SweepConfig) -> Iterator[Point]:
    """So many different points at random; fewer where there are no more."""
    rng, wanted, seen = np.random.default_rng(sweep.search.seed), sweep.search.trials or 0, set[str]()
    for _ in range(wanted * _DRAWS_A_TRIAL):
        point = {name: _plain(domain(axis).sample(random_state=rng)) for name, axis in sweep.axes.items()}
        if len(seen) < wanted and point_label(point) not in seen:
            seen.add(point_label(point))
            yield point


def domain(axis: Axis) -> Any:
    """An axis as Ray Tune draws from it."""
    if axis.log_uniform is not None:
        return ray.tune.loguniform(*axis.log_uniform)
    if axis.uniform is not None:
        return ray.tune.uniform(*axis.uniform)
    return ray.tune.choice(list(axis.choices))


def _plain(value: Any) -> Any:
    """Drawn numbers as Python's own, in six digits: enough for all, and fit for a name."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def trial_at(sweep: SweepConfig, values: dict[str, Any], point: Point, seed: int) -> Trial:
    """The trial of a point and a seed.

    Its name ends in a hash of all that it trains: so it is found again, and no other is taken for it.

    Raises:
        InputError: see `trials`.
    """
    point = {
        name: _plain(value) if sweep.axes[name].range is not None else value for name, value in point.items()
    }
    label = "-".join(f"{name.rpartition('.')[2]}_{value}" for name, value in point.items())
    where = f"{sweep.name}, {label}"
    train = build(TrainRunConfig, _laid_over(sweep, values, point, seed, where), where=where)
    # Where results go makes no other trial.
    elsewhere = dataclasses.replace(train, storage=StorageConfig())
    name = f"{sweep.name}-{label}-seed_{seed}-{config_hash(elsewhere)[:6]}"
    train = dataclasses.replace(train, name=_NOT_IN_NAMES.sub("_", name))
    return Trial(name=train.name, point=point, seed=seed, train=absolute(train))


def _laid_over(
    sweep: SweepConfig, values: dict[str, Any], point: Point, seed: int, where: str
) -> dict[str, Any]:
    base = merge(values, {"seed": seed, "name": sweep.name})
    laid = _with_point(sweep, base, point)
    for name, value in point.items():
        named = sweep.axes[name].named
        if named is not None and "match" in named[value]:
            match = build(Match, named[value]["match"], where=f"{where}: match")
            if match.parameters_of not in named:
                raise InputError(
                    f"{where}: match.parameters_of names '{match.parameters_of}'; choose of"
                    f" {', '.join(named)}"
                )
            other = _with_point(sweep, base, point | {name: match.parameters_of})
            laid = merge(laid, {"model": _matched(laid, other, match.within, where)})
    return laid


def _with_point(sweep: SweepConfig, values: dict[str, Any], point: Point) -> dict[str, Any]:
    for name, value in point.items():
        values = merge(values, _keys(sweep.axes[name], name, value))
    return values


def _keys(axis: Axis, name: str, value: Any) -> dict[str, Any]:
    """The configuration keys of one value of an axis, nested."""
    if axis.named is not None:
        return {key: one for key, one in axis.named[value].items() if key != "match"}
    return nested(name.split("."), value)


def _matched(values: dict[str, Any], other: dict[str, Any], within: float, where: str) -> dict[str, Any]:
    """The model of `values` with its widths searched, to be of the size of `other`'s."""
    model, target = (build(TrainRunConfig, each, where=where).model for each in (values, other))
    return as_mapping(matched(model, count_parameters(target), within=within))
