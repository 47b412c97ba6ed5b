"""What a metric is, and what it gives: a value, or a typed failure, and their summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAMPLE_RATE_HZ = 16_000
"""The one rate that every metric here is defined at."""


class UndefinedError(Exception):
    """Raised by a metric's function where the metric has no value; `score` turns it into a `Failure`."""


@dataclass(frozen=True)
class Failure:
    """A metric that could not be computed, and why. Never averaged: see `summarise`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; of those in `METRICS`, higher is better.

    Attributes:
        name: key in every table of results.
        unit: what a value counts.
        lowest, highest: the bounds that its definition sets, infinite where it sets none.
        measure: from the values of `needs`, in order, to a float; raises `UndefinedError`.
        needs: "clean" and "enhanced" (float64 `[samples]`), or other measures by name, so that what
            several metrics share is computed once.
    """

    name: str
    unit: str
    lowest: float
    highest: float
    measure: Callable[..., float]
    needs: tuple[str, ...] = ("clean", "enhanced")

    def of(self, inputs: tuple[Any, ...]) -> float:
        """The metric from the values of `needs`.

        Raises:
            UndefinedError: it has no value for these.
        """
        return float(self.measure(*inputs))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric over many clips.

    Attributes:
        mean: over the values alone; None where there is no value.
        count: how many values the mean rests on.
        failures: how many clips have a `Failure` instead.
    """

    mean: float | None
    count: int
    failures: int
