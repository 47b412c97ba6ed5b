"""What a metric is, and what it gives: a value, or a typed failure, and their summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class UndefinedError(Exception):
    """Raised by a metric's function where the metric has no value; `score` turns it into a `Failure`."""


@dataclass(frozen=True)
class Failure:
    """A metric that could not be computed, and why. Never averaged: see `summarise`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A step of some metrics, computed once for all that need it.

    Attributes:
        name: what others call it in their `needs`.
        measure: from the values of `needs`, in order; raises `UndefinedError` where there is none.
        needs: "clean" and "enhanced" (float64 `[samples]`), or other steps by name. What rests on "clean"
            alone is computed once a clean clip, whatever number of estimates is scored against it.
    """

    name: str
    measure: Callable[..., Any]
    needs: tuple[str, ...] = ("clean", "enhanced")


@dataclass(frozen=True, kw_only=True)
class Metric(Part):
    """One metric: a step that gives a float. Of those in `METRICS`, higher is better.

    Attributes:
        unit: what a value counts.
        lowest, highest: the bounds that its definition sets, infinite where it sets none.
    """

    unit: str
    lowest: float
    highest: float


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
