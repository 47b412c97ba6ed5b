"""Scores of estimates of one clean clip; values that depend on the clean clip alone are computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwsa.errors import InputError
from rwsa.metrics.registry import METRICS, STEPS, TABLE1_METRICS, check_metrics, roots
from rwsa.metrics.values import Failure, Metric, MetricStep, UndefinedError


def score(
    clean: np.ndarray | None, enhanced: np.ndarray, metrics: Sequence[str] = TABLE1_METRICS
) -> dict[str, float | Failure]:
    """Score one clip; values that several metrics share (PESQ, LLR, WSS, SSNR) are computed once.

    Args:
        clean: float `[samples]` at 16 kHz, full scale ±1; None if no metric needs it (DNSMOS).
        enhanced: the same, sample-aligned and of equal length.
        metrics: names from `METRICS`.

    Returns:
        For every name a finite float, or a `Failure` with the reason: the clip is too short,
        `clean` is silent, samples are NaN (a diverged model), a package refused.

    Raises:
        InputError: the arrays differ in length, are not `[samples]` or are integers; a metric is unknown or
            needs a clean clip that is None; a package is missing.
    """
    return Reference(clean).score(enhanced, metrics)


class Reference:
    """A clean clip with cached intermediate values, for scoring several estimates of it.

    Scores equal those of `score`, bit for bit. Cached are the clean spectra of WSS and LLR and the clean
    side of ESTOI, about 60 kB per second of audio each. PESQ and STOI need both clips at once.
    """

    def __init__(self, clean: np.ndarray | None) -> None:
        """Check the clip; nothing is computed yet.

        Raises:
            InputError: it is not `[samples]` or is of integers.
        """
        self._clean = None if clean is None else _samples("clean", clean)
        self._cached: dict[str, Any] = {} if self._clean is None else {"clean": _usable("clean", self._clean)}
        if (
            self._clean is not None
            and isinstance(self._cached["clean"], np.ndarray)
            and not self._clean.any()
        ):
            self._cached["clean"] = Failure("clean is silent")

    def score(
        self,
        enhanced: np.ndarray,
        metrics: Sequence[str] = TABLE1_METRICS,
        *,
        known: Mapping[str, float | Failure] | None = None,
    ) -> dict[str, float | Failure]:
        """Score an estimate of the clip; arguments, result and errors as in `rwsa.metrics.score`.

        Args:
            enhanced, metrics: see `rwsa.metrics.score`.
            known: earlier scores of the same pair by metric, which are reused: for themselves and for metrics
                that depend on them, as CSIG does on PESQ.
        """
        check_metrics(metrics)
        samples = _samples("enhanced", enhanced)
        self._check_pair(samples, metrics)
        values: dict[str, Any] = {**(known or {}), "enhanced": _usable("enhanced", samples)}
        return {name: self._score(name, values) for name in metrics}

    def _check_pair(self, enhanced: np.ndarray, metrics: Sequence[str]) -> None:
        if self._clean is None:
            if needing := [name for name in metrics if "clean" in roots(name)]:
                raise InputError(
                    f"{', '.join(needing)}: a clean clip is needed; only DNSMOS is without reference"
                )
        elif len(self._clean) != len(enhanced):
            raise InputError(
                f"clean has {len(self._clean)} samples and enhanced {len(enhanced)};"
                " align and cut them to one length"
            )

    def _score(self, name: str, values: dict[str, Any]) -> float | Failure:
        for root in roots(name):
            # Report the unusable clip itself rather than a step in between.
            if isinstance(unusable := self._resolve(root, values), Failure):
                return unusable
        scored: float | Failure = self._resolve(name, values)
        return scored

    def _resolve(self, name: str, values: dict[str, Any]) -> Any:
        """The value or failure of `name`, computed into the cache or `values` if not known."""
        cached = self._cached if name == "clean" or roots(name) == ("clean",) else values
        if name not in cached:
            step = STEPS[name]
            cached[name] = _compute(step, [self._resolve(need, values) for need in step.needs])
        return cached[name]


def _samples(name: str, wav: np.ndarray) -> np.ndarray:
    samples = np.asarray(wav)
    if samples.ndim != 1:
        raise InputError(f"{name} has shape {samples.shape}; one channel, [samples], is expected")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"{name} holds {samples.dtype}; floats with full scale ±1 are expected")
    # float64 throughout: PESQ and SSNR round differently on float32.
    return samples.astype(np.float64)


def _usable(name: str, wav: np.ndarray) -> np.ndarray | Failure:
    nonfinite = len(wav) - int(np.isfinite(wav).sum())
    return Failure(f"{name} holds {nonfinite} NaN or infinite samples") if nonfinite else wav


def _compute(step: MetricStep, inputs: Sequence[Any]) -> Any:
    for need, value in zip(step.needs, inputs, strict=True):
        if isinstance(value, Failure):
            # Name a failed metric; the reason of an intermediate step is complete in itself.
            return Failure(f"needs {need}: {value.reason}") if need in METRICS else value
    try:
        value = step.measure(*inputs)
    except UndefinedError as undefined:
        return Failure(str(undefined))
    if not isinstance(step, Metric):
        return value
    # LLR may be infinite, as ratings based on it are clipped, but not NaN, as max(1, nan) would be 1.
    acceptable = math.isfinite(value) or (step.name not in METRICS and not math.isnan(value))
    return value if acceptable else Failure(f"{step.name} is {value}")
