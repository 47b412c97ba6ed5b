"""The cost page follows from its measurements and assumptions, and depends on each of them."""

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


def test_the_page_in_git_is_up_to_date() -> None:
    made = costs.page(read_model())
    assert costs.PAGE.read_text() == made, "run: python -m tests.benchmarks.costs"


def test_every_measurement_names_its_command() -> None:
    for name, each in MEASURED.items():
        assert each.keys() == {"value", "of", "by"}, name
        python, dash, module, *_ = shlex.split(each["by"])
        assert (python, dash) == ("python", "-m")
        assert (CHECKOUT / Path(*module.split("."))).with_suffix(".py").is_file(), name


def computed(measured: dict[str, float], assumed: dict[str, Any]) -> str:
    """The page without its lists of inputs."""
    return costs.page(Model(measured, assumed)).partition("## What was measured")[0]


def numbers(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Key paths of all numbers."""
    if isinstance(part, (int, float)):
        yield path
    elif isinstance(part, (dict, list)):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from numbers(value, (*path, key))


def scaled(part: Any, path: tuple[Any, ...], factor: float) -> Any:
    changed = copy.deepcopy(part)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] *= factor
    return changed


VALUES = {name: each["value"] for name, each in MEASURED.items()}


@pytest.mark.parametrize("name", VALUES)
def test_the_page_depends_on_every_measurement(name: str) -> None:
    assert computed(scaled(VALUES, (name,), 2), ASSUMED) != computed(VALUES, ASSUMED)


@pytest.mark.parametrize("path", list(numbers(ASSUMED)), ids=lambda path: ".".join(map(str, path)))
def test_the_page_depends_on_every_assumption(path: tuple[Any, ...]) -> None:
    # The fastest network changes the result only when it is much slower.
    factor = 0.01 if path[-1] == "gigabits_per_second" else 2
    assert computed(VALUES, scaled(ASSUMED, path, factor)) != computed(VALUES, ASSUMED)


def test_the_model_agrees_with_a_calculation_by_hand() -> None:
    values = {
        "mixing_hours_per_core_minute": 4.59,
        "planning_seconds_per_example": 124e-6,
        "scanning_seconds_per_file": 271e-6,
        "step_seconds_per_segment": 4.1,
        "forward_seconds_per_segment": 1.38,
    }
    assert values.keys() <= VALUES.keys()
    model = Model({**VALUES, **values}, ASSUMED)
    alone, shared = model.mixing_seconds(2)
    assert shared == pytest.approx(1000 / 4.59 / 8 * 60)
    assert alone == pytest.approx(900_000 * 124e-6 + 100_000 * 271e-6)
    card = ASSUMED["gpu_nodes"][0]
    # 21.15 G multiply-adds, twice, 4.1 / 1.38 times, at a tenth of 30.3 T operations a second.
    assert model.segment_seconds_on("xs", card, "middle") == pytest.approx(
        21.15 * 2 * 4.1 / 1.38 / 3030, rel=1e-3
    )
