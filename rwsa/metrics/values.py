"""Types of metrics and their results: metric, step, typed failure, summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class UndefinedError(Exception):
    """Raised where a metric has no value; `score` returns it as a `Failure`."""


@dataclass(frozen=True)
class Failure:
    """The reason why a metric could not be computed; excluded from means."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class MetricStep:
    """A step of the computation of metrics, computed once for all metrics that need it.

    Attributes:
        name: the name that other steps refer to in `needs`.
        measure: function of the values of `needs`, in order; raises `UndefinedError` where undefined.
        needs: "clean" and "enhanced" (float64 `[samples]`), or names of other steps. A step that depends on
            "clean" alone is computed once per clean clip, for all estimates scored against it.
    """

    name: str
    measure: Callable[..., Any]
    needs: tuple[str, ...] = ("clean", "enhanced")


@dataclass(frozen=True, kw_only=True)
class Metric(MetricStep):
    """A metric: a step whose value is a float.

    Attributes:
        unit: of the value.
        lowest, highest: bounds of the definition, infinite if unbounded.
        lower_is_better: of distances and errors.
    """

    unit: str
    lowest: float
    highest: float
    lower_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of a metric over clips.

    Attributes:
        mean: over the values; None without values.
        count: number of values.
        failures: number of clips with a `Failure`.
    """

    mean: float | None
    count: int
    failures: int
