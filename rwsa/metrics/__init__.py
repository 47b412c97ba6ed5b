"""Speech enhancement metrics; a metric that cannot be computed is a typed failure with a reason.

    >>> scores = score(clean, enhanced, ("pesq", "si_sdr"))
    {'pesq': 2.81, 'si_sdr': 6.73}

All metrics are at 16 kHz and agree with CMGAN's compute_metrics, `pesq`, `pystoi` and `speechmos` on
published pairs (tests/golden/test_golden_metrics.py). A module per measure: `pesq`, `snr` (SSNR, SI-SDR),
`stoi` (STOI, ESTOI), `composite` (CSIG, CBAK, COVL), `dnsmos`, `lsd`, `phones`; `registry` lists them,
`reference` scores with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rwsa.metrics.composite import floored_by_silence
from rwsa.metrics.reference import Reference, score
from rwsa.metrics.registry import (
    METRICS,
    TABLE1_METRICS,
    Table1Metric,
    check_metrics,
    metrics_version,
    package_versions,
)
from rwsa.metrics.values import Failure, Metric, Summary

__all__ = [
    "METRICS",
    "TABLE1_METRICS",
    "Failure",
    "Metric",
    "Reference",
    "Summary",
    "Table1Metric",
    "check_metrics",
    "floored_by_silence",
    "metrics_version",
    "package_versions",
    "score",
    "summarise",
]


def summarise(rows: Iterable[Mapping[str, float | Failure]]) -> dict[str, Summary]:
    """The mean of each metric over the clips that have a value, with counts of values and failures.

    Args:
        rows: one mapping per clip, as `score` returns; a metric that is absent from a row is not counted.
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
