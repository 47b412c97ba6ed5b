"""Search space: the points that a sweep's axes span, and the training configuration of each trial."""

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
from rwsa.config import as_mapping, build, config, merge, nested, read_overlays, with_settings
from rwsa.errors import InputError
from rwsa.training.config import training_hash
from rwsa.variables import path_fields, replace_variables
from tune.capacity_matching import CapacityMatch, count_parameters, match_capacity
from tune.core_budget import with_core_budget
from tune.sweep_config import SweepAxis, SweepConfig

# Axis name → value.
SearchPoint = dict[str, Any]
# Random draws per wanted point, after which a space counts as exhausted.
_DRAWS_PER_POINT = 50
_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")


@config
class Trial:
    """A point of the search space with one seed.

    Attributes:
        name: ends in a hash of the training configuration.
        point: value of every axis.
        seed: of the training.
        train: the training configuration.
    """

    name: str
    point: SearchPoint
    seed: int
    train: TrainRunConfig


def point_label(point: SearchPoint) -> str:
    """A point as text: `sharing none, depth 3`."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in point.items())


def base_values(sweep: SweepConfig, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Configuration shared by all trials: the sweep's `base`, then its `set`, then `a.b=v` settings.

    Raises:
        InputError: a configuration is missing or a setting is malformed.
    """
    values = merge(read_overlays(config_paths(sweep.base)), sweep.set)
    values = replace_variables(
        with_settings(values, settings), path_fields(TrainRunConfig), where=f"the base of {sweep.name}"
    )
    return merge(values, {"best_metric": sweep.metric})


def plan_trials(sweep: SweepConfig, values: dict[str, Any]) -> list[Trial]:
    """All trials that are known in advance; none for `optuna`, which chooses points during the sweep.

    Args:
        sweep: the sweep.
        values: from `base_values`.

    Raises:
        InputError: an axis names an unknown key, a combination is not a valid configuration, or two points
            give the same trial.
    """
    trials = [
        make_trial(sweep, values, point, seed) for point in search_points(sweep) for seed in sweep.seeds
    ]
    names = [trial.name for trial in trials]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{sweep.name}: two points are the same trial, {duplicates[0]}; remove one")
    return trials


def search_points(sweep: SweepConfig) -> Iterator[SearchPoint]:
    """Points of a grid, star or random search, in the order of the sweep's YAML; none for `optuna`."""
    axes = sweep.axes
    if sweep.search.kind == "grid":
        for combination in itertools.product(*(axis.choices for axis in axes.values())):
            yield dict(zip(axes, combination, strict=True))
    elif sweep.search.kind == "star":
        centre = {name: axis.baseline_value for name, axis in axes.items()}
        yield centre
        for name, axis in axes.items():
            yield from (centre | {name: value} for value in axis.choices if value != centre[name])
    elif sweep.search.kind == "random":
        yield from _random_points(sweep)


def _random_points(sweep: SweepConfig) -> Iterator[SearchPoint]:
    """`search.trials` different random points, or fewer if the space has fewer."""
    rng, wanted, seen = np.random.default_rng(sweep.search.seed), sweep.search.trials or 0, set[str]()
    for _ in range(wanted * _DRAWS_PER_POINT):
        point = {
            name: _rounded(sampling_domain(axis).sample(random_state=rng))
            for name, axis in sweep.axes.items()
        }
        if len(seen) < wanted and point_label(point) not in seen:
            seen.add(point_label(point))
            yield point


def sampling_domain(axis: SweepAxis) -> Any:
    """An axis as a domain that Ray Tune samples from."""
    if axis.log_uniform is not None:
        return ray.tune.loguniform(*axis.log_uniform)
    if axis.uniform is not None:
        return ray.tune.uniform(*axis.uniform)
    return ray.tune.choice(list(axis.choices))


def _rounded(value: Any) -> Any:
    """A sampled float as a Python float of six significant digits, short enough for a name."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def make_trial(sweep: SweepConfig, values: dict[str, Any], point: SearchPoint, seed: int) -> Trial:
    """The trial of a point and a seed.

    Its name ends in a hash of its training configuration, so that a resumed sweep finds the trial and does
    not confuse it with one of another configuration.

    Raises:
        InputError: see `plan_trials`.
    """
    point = {
        name: _rounded(value) if sweep.axes[name].range is not None else value
        for name, value in point.items()
    }
    label = "-".join(f"{name.rpartition('.')[2]}_{value}" for name, value in point.items())
    where = f"{sweep.name}, {label}"
    train = build(TrainRunConfig, _trial_values(sweep, values, point, seed, where), where=where)
    if sweep.core_minutes is not None and sweep.core_seconds:
        train = with_core_budget(train, sweep.core_minutes, sweep.core_seconds)
    # The hash leaves out where results are stored, and what has no influence on them.
    hashed = training_hash(dataclasses.replace(train, storage=StorageConfig()))
    name = f"{sweep.name}-{label}-seed_{seed}-{hashed[:6]}"
    train = dataclasses.replace(train, name=_NOT_IN_NAMES.sub("_", name))
    return Trial(name=train.name, point=point, seed=seed, train=absolute(train))


def _trial_values(
    sweep: SweepConfig, values: dict[str, Any], point: SearchPoint, seed: int, where: str
) -> dict[str, Any]:
    """Shared values with a point's overrides and, if requested, a capacity-matched model."""
    base = merge(values, {"seed": seed, "name": sweep.name})
    merged = _with_point(sweep, base, point)
    for name, value in point.items():
        named = sweep.axes[name].named
        if named is not None and "match" in named[value]:
            match = build(CapacityMatch, named[value]["match"], where=f"{where}: match")
            if match.parameters_of not in named:
                raise InputError(
                    f"{where}: match.parameters_of names '{match.parameters_of}'; choose of"
                    f" {', '.join(named)}"
                )
            if unknown := sorted(match.at.keys() - point.keys() | {name} & match.at.keys()):
                raise InputError(f"{where}: match.at names '{unknown[0]}'; choose of the other axes")
            reference = _with_point(sweep, base, point | match.at | {name: match.parameters_of})
            model, target = (build(TrainRunConfig, each, where=where).model for each in (merged, reference))
            matched = match_capacity(model, count_parameters(target), within=match.within)
            merged = merge(merged, {"model": as_mapping(matched)})
    return merged


def _with_point(sweep: SweepConfig, values: dict[str, Any], point: SearchPoint) -> dict[str, Any]:
    for name, value in point.items():
        named = sweep.axes[name].named
        if named is None:
            overrides = nested(name.split("."), value)
        else:
            overrides = {key: override for key, override in named[value].items() if key != "match"}
        values = merge(values, overrides)
    return values
