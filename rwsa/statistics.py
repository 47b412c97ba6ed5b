"""Confidence intervals, paired tests and correlations of scores.

Clips of one speaker are not independent, so speakers are resampled with all their clips where they are known.
Where the sample is too small for a valid interval or test, the result is None.

Legend: K columns (metrics, systems), R resamples, U units (speakers, or clips of unknown speakers).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rwsa.errors import InputError
from rwsa.metrics.packages import import_package

# Resamples of fewer units are too few and too alike for their range to be a valid interval.
MIN_UNITS = 5
# With fewer pairs a signed-rank test cannot reach p < 0.05 (five: 2 · 2⁻⁵ = 0.0625).
MIN_PAIRS = 6
# Of four values, a perfect rank order occurs by chance once in 24.
MIN_RANKED = 5
RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 1000
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Bounds of a confidence interval."""

    low: float
    high: float


def resampling_units(names: Sequence[str | None], *, at_least: int = 1) -> np.ndarray:
    """The unit to resample each clip by: its speaker, or the clip itself if its speaker is unknown.

    Args:
        names: a speaker (or noise recording) per clip, None if unknown.
        at_least: with fewer units than this, each clip is a unit. Intervals are then too narrow where clips
            share a speaker.

    Returns:
        Unit numbers, int64 `[clips]`.
    """
    numbers: dict[object, int] = {}
    keys: list[object] = [("clip", at) if name is None else name for at, name in enumerate(names)]
    units = [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(units if len(numbers) >= at_least else range(len(names)), dtype=np.int64)


def count_units(names: Sequence[str | None]) -> int | None:
    """The number of distinct speakers (or noise recordings), None if any is unknown."""
    return None if None in names else len(set(names))


# scipy.stats.bootstrap resamples observations, not clusters of several columns with missing values (nor pairs
# of distances), so the clusters are drawn here, once for all that resamples by unit.
def resampled_counts(units: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `units` units is drawn with replacement, int `[R, U]`."""
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples)


def percentile_interval(values: np.ndarray, tail: float = 0.025) -> Interval:
    """The range of `values` without a share `tail` at either end, NaN left out."""
    low, high = np.nanquantile(values, (tail, 1 - tail)) if len(values) else (np.nan, np.nan)
    return Interval(low=float(low), high=float(high))


def bootstrap_means(
    values: np.ndarray,
    units: np.ndarray,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> list[Interval | None]:
    """Cluster bootstrap intervals of the mean of each column.

    All columns share their resamples. The percentiles are expanded for small numbers of units to the coverage
    of Student's interval; without this, a 95% interval of ten speakers covers the mean in about 90% of cases.

    Args:
        values: float `[clips, K]`, NaN where missing.
        units: `[clips]`, from `resampling_units`.
        rng: draws the resamples.
        level: coverage of the interval.
        resamples: number of resamples.

    Returns:
        An interval per column, or None where its values come from fewer than `MIN_UNITS` units.

    Raises:
        InputError: shapes do not match, or the level is outside (0, 1).

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997 (cluster resampling);
    Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015
    (expanded percentiles).
    """
    if values.ndim != 2 or units.shape != values.shape[:1]:
        raise InputError(
            f"values are {list(values.shape)} and units {list(units.shape)}; give [clips, K], [clips]"
        )
    if not 0 < level < 1:
        raise InputError(f"level {level}: must be between 0 and 1")
    if not len(values):
        return [None] * values.shape[1]
    present = np.isfinite(values)
    count = int(units.max()) + 1
    sums_UK, counts_UK = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums_UK, units, np.where(present, values, 0.0))
    np.add.at(counts_UK, units, present)
    means_RK = _resampled_means(sums_UK, counts_UK, rng, resamples)
    intervals: list[Interval | None] = []
    for column in range(values.shape[1]):
        used = int((counts_UK[:, column] > 0).sum())
        enough = used >= MIN_UNITS
        intervals.append(
            percentile_interval(means_RK[:, column], _expanded_tail(used, level)) if enough else None
        )
    return intervals


def _resampled_means(
    sums_UK: np.ndarray, counts_UK: np.ndarray, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """`[R, K]`; NaN where a resample has no value in a column."""
    parts = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):  # bounds the memory; the draws are the same
        drawn = min(_RESAMPLES_AT_ONCE, resamples - start)
        times_RU = resampled_counts(len(sums_UK), drawn, rng).astype(np.float64)
        counts_RK = times_RU @ counts_UK
        with np.errstate(invalid="ignore"):
            parts.append(np.where(counts_RK > 0, times_RU @ sums_UK, np.nan) / counts_RK)
    return np.concatenate(parts)


def _expanded_tail(units: int, level: float) -> float:
    """The tail share at which a normal interval is as wide as Student's t with n − 1 degrees of freedom."""
    stats = import_package("scipy.stats")
    student = float(stats.t.ppf((1 + level) / 2, units - 1))
    return float(stats.norm.cdf(-student * np.sqrt(units / (units - 1))))


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Mean and sample standard deviation (n − 1) over runs that differ by seed."""

    mean: float
    std: float
    runs: int


def seed_spread(means: Sequence[float]) -> SeedSpread | None:
    """Mean and standard deviation over runs; None for fewer than two."""
    if len(means) < 2:
        return None
    return SeedSpread(mean=float(np.mean(means)), std=float(np.std(means, ddof=1)), runs=len(means))


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Student's t interval of the mean over independent runs, such as seeds; None for fewer than two.

    Source: Student, The Probable Error of a Mean, Biometrika 6(1), 1908.
    """
    if len(values) < 2:
        return None
    stats = import_package("scipy.stats")
    # Not stats.t.interval, which is NaN where all runs are equal.
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return Interval(low=mean - half, high=mean + half)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The difference of two configurations over paired runs, usually of equal seeds.

    Attributes:
        pairs: number of pairs.
        difference: mean of the first minus the second.
        interval: its t interval; None for fewer than two pairs.
        p: of the two-sided paired t-test; None for fewer than two pairs, and where all differences are equal.
        p_holm: p corrected for all comparisons that `holm` was given together.
    """

    pairs: int
    difference: float
    interval: Interval | None
    p: float | None
    p_holm: float | None = None


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference | None:
    """Compare runs pair by pair; None without pairs.

    Raises:
        InputError: the two differ in length.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} runs do not pair")
    if not first:
        return None
    differences = np.subtract(first, second)
    deviation = float(np.std(differences, ddof=1)) if len(first) > 1 else 0.0
    # A deviation from rounding alone would give an arbitrary p.
    testable = deviation > 1e-12 * max(map(abs, (*first, *second)))
    return PairedDifference(
        pairs=len(first),
        difference=float(np.mean(differences)),
        interval=mean_interval(differences.tolist()),
        p=float(import_package("scipy.stats").ttest_rel(first, second).pvalue) if testable else None,
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same clips.

    Attributes:
        pairs: clips with a score of both systems.
        wins, ties, losses: of the first system; a tie is a difference within the tolerance.
        difference: mean of the first minus the second; None without pairs.
        p: of the two-sided Wilcoxon signed-rank test; None where fewer than `MIN_PAIRS` clips differ.
        p_holm: p corrected for all comparisons that `holm` was given together.
    """

    pairs: int
    wins: int
    ties: int
    losses: int
    difference: float | None
    p: float | None
    p_holm: float | None = None


def compare_scores(
    first: Sequence[float | None], second: Sequence[float | None], *, tie: float = 0.0
) -> Comparison:
    """Compare two systems' scores clip by clip, over the clips with a score of both.

    Args:
        first, second: a score per clip, None where it failed.
        tie: largest difference that counts as a tie; the test uses the exact differences.

    Source: Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1(6), 1945; zero
    differences are not ranked, as there.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    differences = np.array([a - b for a, b in pairs])
    wins, losses = int((differences > tie).sum()), int((differences < -tie).sum())
    nonzero = differences[differences != 0]
    return Comparison(
        pairs=len(pairs),
        wins=wins,
        ties=len(pairs) - wins - losses,
        losses=losses,
        difference=float(differences.mean()) if pairs else None,
        p=float(import_package("scipy.stats").wilcoxon(nonzero).pvalue)
        if len(nonzero) >= MIN_PAIRS
        else None,
    )


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Holm's correction of the p-values of one family of tests; tests without a p-value are not counted.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6(2), 1979.
    """
    ranked = sorted(((p, name) for name, p in p_values.items() if p is not None), key=lambda pair: pair[0])
    corrected: dict[Key, float | None] = dict.fromkeys(p_values)
    lower_bound = 0.0
    for rank, (p, name) in enumerate(ranked):
        lower_bound = max(lower_bound, min(1.0, p * (len(ranked) - rank)))
        corrected[name] = lower_bound
    return corrected


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, −1 to 1; None for fewer than `MIN_RANKED` values or a constant sequence.

    Source: Spearman, The Proof and Measurement of Association between Two Things, American Journal of
    Psychology 15(1), 1904.
    """
    if len(first) < MIN_RANKED or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(import_package("scipy.stats").spearmanr(first, second).statistic)
