"""Scores of a sweep's trials: at home, abroad, over seeds, paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.systems import ENHANCED
from rwsa.statistics import Interval, PairedDifference, mean_interval, paired_difference
from tune.results import TrialResult


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """A score of a configuration over its seeds; of one seed there is no deviation and no interval."""

    runs: int
    mean: float
    std: float | None
    interval: Interval | None


def home_of(row: TrialResult, metric: str) -> float | None:
    """The score on the in-domain corpus."""
    return next(iter(row.means.values()))[ENHANCED][metric]


def abroad_of(row: TrialResult, metric: str) -> float | None:
    """The mean score over the out-of-domain corpora; None where there are none, or one has no score."""
    values = [signals[ENHANCED][metric] for signals in list(row.means.values())[1:]]
    return mean_of_all(values)


def deciding_of(row: TrialResult, metric: str) -> float | None:
    """The score that decides."""
    return home_of(row, metric) if len(row.means) == 1 else abroad_of(row, metric)


def over_seeds(values: Iterable[float | None]) -> OverSeeds | None:
    """Over runs; None where one of them has no score, or there is none."""
    there = list(values)
    if not there or None in there:
        return None
    scores = [value for value in there if value is not None]
    return OverSeeds(
        runs=len(scores),
        mean=float(np.mean(scores)),
        std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        interval=mean_interval(scores),
    )


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is lacking, or there is none."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there and len(there) == len(values) else None


def paired_by_seed(
    first: Mapping[int, float | None], second: Mapping[int, float | None]
) -> PairedDifference | None:
    """Compare scores by the seeds that both sides have; None for none."""
    pairs = [
        (a, b)
        for seed in first
        if seed in second and (a := first[seed]) is not None and (b := second[seed]) is not None
    ]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])
