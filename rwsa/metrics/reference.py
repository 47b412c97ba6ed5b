"""Scoring estimates of one clean clip; what rests on the clean clip alone is computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwsa.errors import InputError
from rwsa.metrics.registry import METRICS, STEPS, TABLE1_METRICS, check, roots
from rwsa.metrics.values import Failure, Metric, Part, UndefinedError


def score(
    clean: np.ndarray | None, enhanced: np.ndarray, metrics: Sequence[str] = TABLE1_METRICS
) -> dict[str, float | Failure]:
    """Score one clip. What several metrics share (PESQ, LLR, WSS, SSNR) is computed once.

    Args:
        clean: float `[samples]` at 16 kHz, full scale ±1; None where all metrics go without (DNSMOS).
        enhanced: the same, sample-aligned and of one length.
        metrics: names from `METRICS`.

    Returns:
        For every name a finite float, or a `Failure` that says why there is none: the clip is too short,
        `clean` is silent, samples are NaN (a diverged model), a package refused.

    Raises:
        InputError: the arrays differ in length, are not `[samples]` or hold integers; a metric is
            unknown, or needs the clean clip that is not given; a package is missing.
    """
    return Reference(clean).score(enhanced, metrics)


class Reference:
    """A clean clip, with what metrics compute of it alone, kept from one estimate to the next.

    Scores are those of `score`, bit for bit. Kept are the spectra of WSS and LLR and the clean side of
    ESTOI: about 60 kB a second of audio each. PESQ's package and pystoi's STOI take both clips at once.
    """

    def __init__(self, clean: np.ndarray | None) -> None:
        """Take the clip; nothing is computed yet.

        Raises:
            InputError: it is not `[samples]` or holds integers.
        """
        self._clean = None if clean is None else _samples("clean", clean)
        self._kept: dict[str, Any] = {} if self._clean is None else {"clean": _usable("clean", self._clean)}
        if self._clean is not None and isinstance(self._kept["clean"], np.ndarray) and not self._clean.any():
            self._kept["clean"] = Failure("clean is silent")

    def score(
        self,
        enhanced: np.ndarray,
        metrics: Sequence[str] = TABLE1_METRICS,
        *,
        known: Mapping[str, float | Failure] | None = None,
    ) -> dict[str, float | Failure]:
        """Score an estimate of the clip; arguments, result and errors are those of `rwsa.metrics.score`.

        Args:
            enhanced, metrics: see there.
            known: scores of this very pair from before, by metric, which are not computed again: neither
                for themselves nor for what rests on them, as CSIG does on PESQ.
        """
        check(metrics)
        samples = _samples("enhanced", enhanced)
        self._check_pair(samples, metrics)
        values: dict[str, Any] = {**(known or {}), "enhanced": _usable("enhanced", samples)}
        return {name: self._score(name, values) for name in metrics}

    def _check_pair(self, enhanced: np.ndarray, metrics: Sequence[str]) -> None:
        if self._clean is None:
            if lacking := [name for name in metrics if "clean" in roots(name)]:
                raise InputError(f"{', '.join(lacking)}: a clean clip is needed; only DNSMOS goes without")
        elif len(self._clean) != len(enhanced):
            raise InputError(
                f"clean has {len(self._clean)} samples and enhanced {len(enhanced)};"
                " align and cut them to one length"
            )

    def _score(self, name: str, values: dict[str, Any]) -> float | Failure:
        for root in roots(name):
            # Said once, and not as what some step in between needs.
            if isinstance(unusable := self._resolve(root, values), Failure):
                return unusable
        scored: float | Failure = self._resolve(name, values)
        return scored

    def _resolve(self, name: str, values: dict[str, Any]) -> Any:
        """The value or failure of `name`, known or computed into what is kept or into `values`."""
        kept = self._kept if name == "clean" or roots(name) == ("clean",) else values
        if name not in kept:
            step = STEPS[name]
            kept[name] = _compute(step, [self._resolve(need, values) for need in step.needs])
        return kept[name]


def _samples(name: str, wav: np.ndarray) -> np.ndarray:
    samples = np.asarray(wav)
    if samples.ndim != 1:
        raise InputError(f"{name} has shape {samples.shape}; one channel, [samples], is expected")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"{name} holds {samples.dtype}; floats with full scale ±1 are expected")
    # float64 throughout: PESQ and SSNR round differently on float32.
    return samples.astype(np.float64)


def _usable(name: str, wav: np.ndarray) -> np.ndarray | Failure:
    lacking = len(wav) - int(np.isfinite(wav).sum())
    return Failure(f"{name} holds {lacking} NaN or infinite samples") if lacking else wav


def _compute(step: Part, inputs: Sequence[Any]) -> Any:
    for need, value in zip(step.needs, inputs, strict=True):
        if isinstance(value, Failure):
            # A metric's failure is named as such; that of a step in between says all in itself.
            return Failure(f"needs {need}: {value.reason}") if need in METRICS else value
    try:
        value = step.measure(*inputs)
    except UndefinedError as undefined:
        return Failure(str(undefined))
    if not isinstance(step, Metric):
        return value
    # LLR may be infinite: the rating built on it is clipped. NaN may not: max(1, nan) would be 1.
    acceptable = math.isfinite(value) or (step.name not in METRICS and not math.isnan(value))
    return value if acceptable else Failure(f"{step.name} is {value}")
