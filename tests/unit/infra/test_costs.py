"""The cost page is what its figures make, and every figure matters."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.benchmarks import costs
from tests.benchmarks.cost_model import FOLDER, Model, read_model

CHECKOUT = Path(__file__).parents[3]
MEASURED = yaml.safe_load((FOLDER / "measured.yaml").read_text())
ASSUMED = yaml.safe_load((FOLDER / "assumed.yaml").read_text())


def test_the_page_in_git_is_what_the_figures_make() -> None:
    made = costs.page(read_model())
    assert costs.PAGE.read_text() == made, "run: python -m tests.benchmarks.costs"


def test_every_figure_says_how_to_measure_it_again() -> None:
    for name, figure in MEASURED.items():
        assert figure.keys() == {"value", "of", "by"}, name
        python, dash, module, *_ = shlex.split(figure["by"])
        assert (python, dash) == ("python", "-m")
        assert (CHECKOUT / Path(*module.split("."))).with_suffix(".py").is_file(), name


def computed(measured: dict[str, float], assumed: dict[str, Any]) -> str:
    """The page down to where it only repeats its figures."""
    return costs.page(Model(measured, assumed)).partition("## What was measured")[0]


def numbers(part: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all numbers."""
    if isinstance(part, (int, float)):
        yield way
    elif isinstance(part, (dict, list)):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from numbers(value, (*way, key))


def scaled(part: Any, way: tuple[Any, ...], factor: float) -> Any:
    changed = copy.deepcopy(part)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] *= factor
    return changed


VALUES = {name: figure["value"] for name, figure in MEASURED.items()}


@pytest.mark.parametrize("name", VALUES)
def test_no_measured_figure_is_idle(name: str) -> None:
    assert computed(scaled(VALUES, (name,), 2), ASSUMED) != computed(VALUES, ASSUMED)


@pytest.mark.parametrize("way", list(numbers(ASSUMED)), ids=lambda way: ".".join(map(str, way)))
def test_no_assumption_is_idle(way: tuple[Any, ...]) -> None:
    # The fastest network hardly matters until it is slow.
    factor = 0.01 if way[-1] == "gigabits_per_second" else 2
    assert computed(VALUES, scaled(ASSUMED, way, factor)) != computed(VALUES, ASSUMED)


def test_it_agrees_with_a_calculation_by_hand() -> None:
    figures = {
        "mixing_hours_per_core_minute": 4.59,
        "planning_seconds_per_example": 124e-6,
        "scanning_seconds_per_file": 271e-6,
        "step_seconds_per_segment": 4.1,
        "forward_seconds_per_segment": 1.38,
    }
    assert figures.keys() <= VALUES.keys()
    model = Model({**VALUES, **figures}, ASSUMED)
    alone, shared = model.mixing_seconds(2)
    assert shared == pytest.approx(1000 / 4.59 / 8 * 60)
    assert alone == pytest.approx(900_000 * 124e-6 + 100_000 * 271e-6)
    card = ASSUMED["gpu_nodes"][0]
    # 21.15 G multiply-adds, twice, 4.1 / 1.38 times, at a tenth of 30.3 T operations a second.
    assert model.segment_seconds_on("xs", card, "middle") == pytest.approx(
        21.15 * 2 * 4.1 / 1.38 / 3030, rel=1e-3
    )
