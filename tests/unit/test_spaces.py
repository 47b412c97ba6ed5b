"""Sweeps expand to the trials that their axes and seeds say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.train import config_paths
from rwsa.errors import InputError
from tune.spaces import SweepConfig, read_sweep, trials

ABLATIONS = Path(__file__).parents[2] / "tune" / "ablations"


def _sweep(**changes: object) -> SweepConfig:
    values = {
        "name": "test",
        "base": ("base", "nano"),
        "axes": {"model.sharing": ["resolution", "off"], "optimiser.learning_rate": [1e-3, 1e-4]},
        "seeds": (0, 1),
        "corpora": ("card.yaml",),
    }
    return SweepConfig(**{**values, **changes})  # type: ignore[arg-type]


def _expand(sweep: SweepConfig) -> list:
    return list(trials(sweep, config_paths(sweep.base), ["data.shards=shards", "max_steps=7"]))


def test_every_combination_once_a_seed() -> None:
    expanded = _expand(_sweep())
    assert len(expanded) == len({trial.name for trial in expanded}) == 8
    points = {(t.train.model.sharing, t.train.optimiser.learning_rate, t.train.seed) for t in expanded}
    assert ("off", 1e-4, 1) in points
    assert len(points) == 8
    assert {trial.train.max_steps for trial in expanded} == {7}


def test_the_name_changes_with_the_configuration() -> None:
    sweep = _sweep(axes={"model.sharing": ["off"]}, seeds=(0,))
    (before,) = _expand(sweep)
    (after,) = trials(sweep, config_paths(sweep.base), ["data.shards=shards", "max_steps=8"])
    assert before.name != after.name


def test_an_axis_over_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'sharing'"):
        _expand(_sweep(axes={"model.sharin": ["off"]}))


def test_an_empty_axis_is_refused() -> None:
    with pytest.raises(InputError, match=r"axis 'model\.sharing' has no values"):
        _expand(_sweep(axes={"model.sharing": []}))


@pytest.mark.parametrize("path", sorted(ABLATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_ablation_expands(path: Path) -> None:
    assert _expand(read_sweep(path))
