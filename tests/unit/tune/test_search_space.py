"""Sweeps expand to trials: every point of the search space with every seed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from rwsa.config import build
from rwsa.errors import InputError
from tune.capacity_matching import count_parameters
from tune.core_budget import work_key
from tune.search_space import Trial, base_values, make_trial, plan_trials, search_points
from tune.sweep_config import SweepConfig, read_sweep

ABLATIONS = sorted((Path(__file__).parents[3] / "tune" / "ablations").glob("*.yaml"))
SHARING = {"values": ["resolution", "off"]}
RATE = {"values": [1e-3, 1e-4]}
SETTINGS = ["data.shards=shards", "max_steps=7"]


def sweep_of(**changes: Any) -> SweepConfig:
    values = {
        "name": "test",
        "question": "Does it?",
        "base": ["base", "nano"],
        "axes": {"model.sharing": SHARING, "optimiser.learning_rate": RATE},
        "seeds": [0, 1],
        "corpora": ["card.yaml"],
        "metric": "si_sdr",
    }
    return build(SweepConfig, {**values, **changes}, where="test")


def expand(sweep: SweepConfig, settings: list[str] = SETTINGS) -> list[Trial]:
    return plan_trials(sweep, base_values(sweep, settings))


def test_a_grid_has_every_combination_with_every_seed() -> None:
    expanded = expand(sweep_of())
    found = {(t.train.model.sharing, t.train.optimiser.learning_rate, t.train.seed) for t in expanded}
    assert found == set(itertools.product(("resolution", "off"), (1e-3, 1e-4), (0, 1)))
    assert len(expanded) == len({trial.name for trial in expanded}) == 8
    assert {(trial.train.max_steps, trial.train.best_metric) for trial in expanded} == {(7, "si_sdr")}
    assert all(trial.train.name == trial.name for trial in expanded)


def test_a_star_changes_one_axis_at_a_time() -> None:
    axes = {"a": {"values": [1, 2, 3], "baseline": 2}, "b": {"values": ["x", "y"]}}
    assert list(search_points(sweep_of(axes=axes, search={"kind": "star"}))) == [
        {"a": 2, "b": "x"},
        {"a": 1, "b": "x"},
        {"a": 3, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_random_points_are_the_same_for_the_same_seed() -> None:
    axes = {"a": {"log_uniform": [1e-4, 1e-2]}, "b": {"uniform": [0, 1]}, "c": {"values": [1, 2]}}

    def drawn(seed: int) -> list[dict[str, Any]]:
        return list(search_points(sweep_of(axes=axes, search={"kind": "random", "trials": 40, "seed": seed})))

    found = drawn(0)
    assert found == drawn(0) != drawn(1)
    assert all(1e-4 <= point["a"] <= 1e-2 and 0 <= point["b"] <= 1 for point in found)
    assert {point["c"] for point in found} == {1, 2}
    # Log-uniform: about half of the forty are below the geometric middle.
    assert 10 < sum(point["a"] < 1e-3 for point in found) < 30


def test_a_named_value_sets_several_keys() -> None:
    named = {"small": {"model": {"channels": 8}}, "large": {"model": {"channels": 16, "blocks": 2}}}
    small, large = expand(sweep_of(axes={"size": {"named": named}}, seeds=[0]))
    assert (small.point, large.point) == ({"size": "small"}, {"size": "large"})
    assert (large.train.model.channels, large.train.model.blocks) == (16, 2)
    assert small.train.model.blocks == 1


def test_widths_are_searched_to_match_the_number_of_parameters() -> None:
    named = {"shared": {}, "own": {"model": {"sharing": "none"}, "match": {"parameters_of": "shared"}}}
    shared, own = expand(sweep_of(axes={"network": {"named": named}}, seeds=[0]))
    counts = [count_parameters(trial.train.model) for trial in (shared, own)]
    assert counts[0] != counts[1] == pytest.approx(counts[0], rel=0.01)
    assert own.train.model.sharing == "none"
    named["own"]["match"] = {"parameters_of": "other"}
    with pytest.raises(InputError, match=r"match\.parameters_of names 'other'; choose of shared, own"):
        expand(sweep_of(axes={"network": {"named": named}}))
    named["own"]["match"] = {"parameters_of": "shared", "within": 1e-9}
    with pytest.raises(InputError, match="no widths give 93,512 parameters"):
        expand(sweep_of(axes={"network": {"named": named}}))


def test_the_target_may_be_counted_at_another_value_of_another_axis() -> None:
    match = {"parameters_of": "mamba", "at": {"model.sharing": "resolution"}, "within": 0.1}
    named = {
        "mamba": {"match": match},
        "lstm": {"model": {"mixer": "lstm", "expand": 1, "d_state": 16}, "match": match},
    }
    axes: dict[str, Any] = {"mixer": {"named": named}, "model.sharing": {"values": ["resolution", "none"]}}
    counts = [count_parameters(trial.train.model) for trial in expand(sweep_of(axes=axes, seeds=[0]))]
    assert counts[0] == 93_512
    assert counts == pytest.approx([counts[0]] * 4, rel=0.1)
    match["at"] = {"model.share": "resolution"}
    with pytest.raises(InputError, match=r"match\.at names 'model\.share'; choose of the other axes"):
        expand(sweep_of(axes=axes))


@pytest.mark.parametrize(
    "name", ["capacity", *(pytest.param(one, marks=pytest.mark.full) for one in ("depth", "mixer"))]
)
def test_networks_that_are_matched_have_equally_many_parameters(name: str) -> None:
    path = next(path for path in ABLATIONS if path.stem == name)
    sweep = dataclasses.replace(read_sweep(path), seeds=(0,))
    counts = {tuple(trial.point.values()): count_parameters(trial.train.model) for trial in expand(sweep)}
    counts.pop(("own",), None)
    assert counts == pytest.approx(dict.fromkeys(counts, 1_024_360), rel=0.02)


def test_trials_of_equal_compute_differ_in_steps() -> None:
    sizes = {"small": {}, "large": {"model": {"blocks": 2}}}
    warm = {"warmup_steps": 10}
    sweep = sweep_of(axes={"size": {"named": sizes}}, seeds=[0], set={"optimiser": warm}, core_minutes=2)
    settings = ["data.shards=shards", "max_steps=100", "checkpoint_every_steps=20"]
    unmeasured = expand(sweep, settings)
    assert {trial.train.max_steps for trial in unmeasured} == {100}
    seconds = {work_key(trial.train): cost for trial, cost in zip(unmeasured, (0.6, 2.4), strict=True)}
    small, large = expand(dataclasses.replace(sweep, core_seconds=seconds), settings)
    found = [
        (one.train.max_steps, one.train.checkpoint_every_steps, one.train.optimiser.warmup_steps)
        for one in (small, large)
    ]
    assert found == [(200, 40, 20), (50, 10, 5)]
    with pytest.raises(InputError, match="known in advance"):
        sweep_of(core_minutes=2, search={"kind": "optuna", "trials": 2}, seeds=[0])


def test_the_name_changes_with_the_training_configuration_only() -> None:
    sweep = sweep_of(axes={"model.sharing": {"values": ["off"]}}, seeds=[0])
    (before,), (after,) = expand(sweep), expand(sweep, ["data.shards=shards", "max_steps=8"])
    assert before.name != after.name
    (elsewhere,) = expand(sweep, [*SETTINGS, "storage.root=elsewhere"])
    assert elsewhere.name == before.name
    odd = sweep_of(axes={"x": {"named": {"it's / odd": {"model": {"blocks": 2}}}}}, seeds=[0])
    assert set(expand(odd)[0].name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-"
    )


def test_make_trial_gives_the_planned_trial() -> None:
    sweep = sweep_of()
    planned = expand(sweep)[5]
    assert make_trial(sweep, base_values(sweep, SETTINGS), planned.point, planned.seed) == planned


def test_an_axis_over_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'sharing'"):
        expand(sweep_of(axes={"model.sharin": {"values": ["off"]}}))


def test_two_points_that_give_the_same_trial_are_refused() -> None:
    with pytest.raises(InputError, match="two points are the same trial"):
        expand(sweep_of(axes={"model.sharing": {"values": ["off", "off"]}}))


@pytest.mark.parametrize("smoke", [False, True], ids=["paper", "smoke"])
@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_expands(path: Path, smoke: bool) -> None:
    if smoke and path.stem == "demo":
        return
    sweep = read_sweep(path, smoke=smoke)
    settings = [] if smoke else SETTINGS
    expanded = expand(sweep, settings)
    assert len(expanded) == len(list(search_points(sweep))) * len(sweep.seeds)
    if smoke:
        assert {trial.train.max_steps for trial in expanded} == {12}
        assert len(expanded) <= 8
