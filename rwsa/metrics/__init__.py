"""Metrics of speech enhancement: a value or a typed failure, never a sentinel.

    >>> scores = score(clean, enhanced, ("pesq", "si_sdr"))
    {'pesq': 2.81, 'si_sdr': 6.73}

Everything is at 16 kHz and agrees with CMGAN's compute_metrics, `pesq` and `pystoi` on published pairs
(tests/golden/test_golden_metrics.py), and with `speechmos`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rwsa.metrics.composite import floored_by_silence
from rwsa.metrics.reference import Reference, score
from rwsa.metrics.registry import METRICS, TABLE1_METRICS, Table1Metric, check, package_versions, version
from rwsa.metrics.values import Failure, Metric, Summary

__all__ = [
    "METRICS",
    "TABLE1_METRICS",
    "Failure",
    "Metric",
    "Reference",
    "Summary",
    "Table1Metric",
    "check",
    "floored_by_silence",
    "package_versions",
    "score",
    "summarise",
    "version",
]


def summarise(rows: Iterable[Mapping[str, float | Failure]]) -> dict[str, Summary]:
    """Means over values alone, with how many there are and how many failed.

    Args:
        rows: one mapping a clip, as `score` gives them; a metric that a row lacks is not counted there.
    """
    columns: dict[str, list[float | Failure]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: _summary(column) for name, column in columns.items()}


def _summary(column: list[float | Failure]) -> Summary:
    values = [value for value in column if not isinstance(value, Failure)]
    mean = math.fsum(values) / len(values) if values else None
    return Summary(mean=mean, count=len(values), failures=len(column) - len(values))
