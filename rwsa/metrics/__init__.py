"""Metrics of speech enhancement: a value or a typed failure, never a sentinel.

    >>> scores = score(clean, enhanced, ("pesq", "si_sdr"))
    {'pesq': 2.81, 'si_sdr': 6.73}

Everything is at 16 kHz and agrees with CMGAN's compute_metrics, `pesq` and `pystoi` on published pairs
(tests/golden/test_golden_metrics.py).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rwsa.errors import InputError
from rwsa.metrics.composite import cbak, covl, csig, floored_by_silence, llr, wss
from rwsa.metrics.packages import estoi, load, pesq, stoi
from rwsa.metrics.ratios import si_sdr, ssnr
from rwsa.metrics.values import SAMPLE_RATE_HZ, Failure, Metric, Summary, UndefinedError

__all__ = [
    "METRICS",
    "SAMPLE_RATE_HZ",
    "Failure",
    "Metric",
    "Summary",
    "check",
    "floored_by_silence",
    "score",
    "summarise",
]

_LISTED = (
    Metric(name="pesq", unit="MOS-LQO", lowest=0.999, highest=4.644, measure=pesq),
    Metric(name="ssnr", unit="dB", lowest=-10, highest=35, measure=ssnr),
    Metric(name="estoi", unit="1", lowest=-1, highest=1, measure=estoi),
    Metric(name="si_sdr", unit="dB", lowest=-math.inf, highest=math.inf, measure=si_sdr),
    Metric(name="csig", unit="MOS", lowest=1, highest=5, measure=csig, needs=("pesq", "llr", "wss")),
    Metric(name="cbak", unit="MOS", lowest=1, highest=5, measure=cbak, needs=("pesq", "wss", "ssnr")),
    Metric(name="covl", unit="MOS", lowest=1, highest=5, measure=covl, needs=("pesq", "llr", "wss")),
    Metric(name="stoi", unit="1", lowest=-1, highest=1, measure=stoi),
)
# Distances (lower is better) that only the composites use.
_PARTS = (
    Metric(name="llr", unit="1", lowest=0, highest=math.inf, measure=llr),
    Metric(name="wss", unit="dB²", lowest=0, highest=math.inf, measure=wss),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _LISTED})
_MEASURES = {metric.name: metric for metric in (*_LISTED, *_PARTS)}
_PACKAGES = {"pesq": "pesq", "stoi": "pystoi", "estoi": "pystoi"}


def check(metrics: Sequence[str]) -> None:
    """Make sure that these metrics exist and that their packages are installed.

    Raises:
        InputError: naming the unknown metric and the nearest valid one, or the missing package.
    """
    for name in metrics:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(METRICS)}"
            raise InputError(f"unknown metric '{name}'; {hint}")
        for need in (name, *METRICS[name].needs):
            if need in _PACKAGES:
                load(_PACKAGES[need])


def score(
    clean: np.ndarray, enhanced: np.ndarray, metrics: Sequence[str] = ("pesq", "ssnr", "estoi", "si_sdr")
) -> dict[str, float | Failure]:
    """Score one clip. What several metrics share (PESQ, LLR, WSS, SSNR) is computed once.

    Args:
        clean, enhanced: float `[samples]` at 16 kHz, full scale ±1, sample-aligned, of one length.
        metrics: names from `METRICS`.

    Returns:
        For every name a finite float, or a `Failure` that says why there is none: the clip is too short,
        `clean` is silent, samples are NaN (a diverged model), a package refused.

    Raises:
        InputError: the arrays differ in length, are not `[samples]` or hold integers; a metric is
            unknown; a package is missing.
    """
    check(metrics)
    values: dict[str, Any] = {"clean": _samples("clean", clean), "enhanced": _samples("enhanced", enhanced)}
    if len(values["clean"]) != len(values["enhanced"]):
        raise InputError(
            f"clean has {len(clean)} samples and enhanced {len(enhanced)}; align and cut them to one length"
        )
    reason = _unusable(values["clean"], values["enhanced"])
    if reason is not None:
        return {name: Failure(reason) for name in metrics}
    return {name: _resolve(name, values) for name in metrics}


def _samples(name: str, wav: np.ndarray) -> np.ndarray:
    samples = np.asarray(wav)
    if samples.ndim != 1:
        raise InputError(f"{name} has shape {samples.shape}; one channel, [samples], is expected")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"{name} holds {samples.dtype}; floats with full scale ±1 are expected")
    # float64 throughout: PESQ and SSNR round differently on float32.
    return samples.astype(np.float64)


def _unusable(clean: np.ndarray, enhanced: np.ndarray) -> str | None:
    for name, wav in (("clean", clean), ("enhanced", enhanced)):
        lacking = len(wav) - int(np.isfinite(wav).sum())
        if lacking:
            return f"{name} holds {lacking} NaN or infinite samples"
    return None if clean.any() else "clean is silent"


def _resolve(name: str, values: dict[str, Any]) -> Any:
    """The value or failure of `name`, from `values` or computed into it."""
    if name not in values:
        metric = _MEASURES[name]
        inputs = tuple(_resolve(need, values) for need in metric.needs)
        values[name] = _compute(metric, inputs)
    return values[name]


def _compute(metric: Metric, inputs: tuple[Any, ...]) -> float | Failure:
    for need, value in zip(metric.needs, inputs, strict=True):
        if isinstance(value, Failure):
            return Failure(f"needs {need}: {value.reason}")
    try:
        value = metric.of(inputs)
    except UndefinedError as undefined:
        return Failure(str(undefined))
    # A part may be infinite: the rating built on it is clipped. NaN may not: max(1, nan) would be 1.
    acceptable = math.isfinite(value) or (metric.name not in METRICS and not math.isnan(value))
    return value if acceptable else Failure(f"{metric.name} is {value}")


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
