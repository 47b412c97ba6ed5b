"""How far means can be trusted, and whether two systems differ: intervals, paired tests, counts of wins.

Clips of one speaker are not independent, so speakers are resampled, with all their clips, where they are
known. Where there are too few to say anything, nothing is said: the answer is None, and never an interval
that is too narrow.

Legend: K columns (metrics, systems), R resamples, U units.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rwsa.errors import InputError
from rwsa.metrics.packages import load

# Fewer units, and a resample is a draw of so few and so alike that its range says little of other draws.
LEAST_UNITS = 5
# With fewer pairs no outcome of a signed-rank test has p < 0.05 (five: 2 · 2⁻⁵ = 0.0625).
LEAST_PAIRS = 6
# Of four, even a perfect order comes about by chance once in 24.
LEAST_RANKED = 5
RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 1000
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a mean would lie, over other speakers (or clips) like these, in `level` of the cases."""

    low: float
    high: float


def resampling_units(names: Sequence[str | None]) -> np.ndarray:
    """A number for each clip: that of its speaker, or its own where no name is given; int `[clips]`."""
    numbers: dict[object, int] = {}
    keys: list[object] = [("clip", at) if name is None else name for at, name in enumerate(names)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def bootstrap_means(
    values: np.ndarray,
    units: np.ndarray,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> list[Interval | None]:
    """Bootstrap intervals of the mean of each column, resampled by unit.

    All columns share their resamples. The percentiles are widened for small numbers of units, so that
    the interval of ten speakers covers as often as it says, as Student's does; without, it would in
    nine cases of ten where it says nineteen of twenty.

    Args:
        values: float `[clips, K]`, NaN where there is none.
        units: `[clips]`, from `resampling_units`.
        rng: draws the resamples.

    Returns:
        For each column an interval, or None where its values come from fewer than `LEAST_UNITS` units.

    Raises:
        InputError: shapes that do not belong together, or a level outside (0, 1).

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
    there = np.isfinite(values)
    count = int(units.max()) + 1
    sums_UK, counts_UK = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums_UK, units, np.where(there, values, 0.0))
    np.add.at(counts_UK, units, there)
    means_RK = _resampled_means(sums_UK, counts_UK, rng, resamples)
    return [
        _interval(means_RK[:, column], int((counts_UK[:, column] > 0).sum()), level)
        for column in range(values.shape[1])
    ]


def _resampled_means(
    sums_UK: np.ndarray, counts_UK: np.ndarray, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """`[R, K]`; NaN where a resample has no value in a column."""
    units = len(sums_UK)
    parts = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        drawn = min(_RESAMPLES_AT_ONCE, resamples - start)
        times_RU = rng.multinomial(units, np.full(units, 1 / units), size=drawn).astype(np.float64)
        counts_RK = times_RU @ counts_UK
        with np.errstate(invalid="ignore"):
            parts.append(np.where(counts_RK > 0, times_RU @ sums_UK, np.nan) / counts_RK)
    return np.concatenate(parts)


def _interval(means_R: np.ndarray, units: int, level: float) -> Interval | None:
    if units < LEAST_UNITS:
        return None
    tail = _expanded_tail(units, level)
    low, high = np.nanquantile(means_R, (tail, 1 - tail))
    return Interval(low=float(low), high=float(high))


def _expanded_tail(units: int, level: float) -> float:
    """The share below the interval, as Student's t has it in place of the normal's, and n − 1 for n."""
    special = load("scipy.special")
    student = float(special.stdtrit(units - 1, (1 + level) / 2))
    return float(special.ndtr(-student * np.sqrt(units / (units - 1))))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over runs of one configuration that differ by seed; the standard deviation is the sample's (n − 1)."""

    mean: float
    std: float
    runs: int


def spread(means: Sequence[float]) -> Spread | None:
    """Mean and standard deviation over runs; None for fewer than two."""
    if len(means) < 2:
        return None
    return Spread(mean=float(np.mean(means)), std=float(np.std(means, ddof=1)), runs=len(means))


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Student's interval of the mean over independent runs, such as seeds; None for fewer than two.

    Of two runs it is wide (12.7 standard errors), as it must be: they hardly tell how runs differ.

    Source: Student, The Probable Error of a Mean, Biometrika 6(1), 1908.
    """
    runs = len(values)
    if runs < 2:
        return None
    error = float(np.std(values, ddof=1)) / np.sqrt(runs)
    half = float(load("scipy.special").stdtrit(runs - 1, (1 + level) / 2)) * error
    centre = float(np.mean(values))
    return Interval(low=centre - half, high=centre + half)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Runs of two configurations, paired by what else they have in common (the seed).

    Attributes:
        pairs: how many.
        difference: mean of the first minus the second.
        interval: of it, by Student; None for fewer than two pairs.
        p: of the two-sided paired t-test; None for fewer than two pairs, and where all differ alike.
        p_holm: the same, corrected for all the comparisons that `holm` was given together.
    """

    pairs: int
    difference: float
    interval: Interval | None
    p: float | None
    p_holm: float | None = None


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference | None:
    """Compare runs pair by pair; None where there is no pair.

    Raises:
        InputError: they are not of one length.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} runs do not pair")
    if not first:
        return None
    differences = np.subtract(first, second)
    deviation = float(np.std(differences, ddof=1)) if len(first) > 1 else 0.0
    p: float | None = None
    # What rounding leaves of no deviation at all would give any p one likes.
    if deviation > 1e-12 * max(map(abs, (*first, *second))):
        t = float(np.mean(differences)) / (deviation / np.sqrt(len(first)))
        p = float(2 * load("scipy.special").stdtr(len(first) - 1, -abs(t)))
    return PairedDifference(
        pairs=len(first),
        difference=float(np.mean(differences)),
        interval=mean_interval(differences.tolist()),
        p=p,
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same clips.

    Attributes:
        pairs: clips that both have a score on.
        wins, ties, losses: of the first system; a tie is a difference within the tolerance.
        difference: mean of the first minus the second; None for no pair.
        p: of the two-sided Wilcoxon signed-rank test; None where there are fewer than `LEAST_PAIRS`
            clips that differ at all, with which no test could find anything.
        p_holm: the same, corrected for all the comparisons that `holm` was given together.
    """

    pairs: int
    wins: int
    ties: int
    losses: int
    difference: float | None
    p: float | None
    p_holm: float | None = None


def compare(first: Sequence[float | None], second: Sequence[float | None], *, tie: float = 0.0) -> Comparison:
    """Compare two systems' scores clip by clip; clips that lack either are left out.

    Args:
        first, second: a score a clip, None where it failed.
        tie: the difference up to which a clip counts as a tie; the test uses all differences as they are.

    Source: Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1(6), 1945; differences
    of zero are left out of the ranks, as there.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    differences = np.array([a - b for a, b in pairs])
    wins, losses = int((differences > tie).sum()), int((differences < -tie).sum())
    return Comparison(
        pairs=len(pairs),
        wins=wins,
        ties=len(pairs) - wins - losses,
        losses=losses,
        difference=float(differences.mean()) if len(pairs) else None,
        p=_signed_rank(differences[differences != 0]),
    )


def _signed_rank(differences: np.ndarray) -> float | None:
    if len(differences) < LEAST_PAIRS:
        return None
    return float(load("scipy.stats").wilcoxon(differences).pvalue)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Correct p-values of one family of tests, so that any false finding in it stays as rare as one test's.

    Tests without a p-value keep none, and do not count.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6(2), 1979.
    """
    known = sorted(((p, name) for name, p in p_values.items() if p is not None), key=lambda pair: pair[0])
    corrected: dict[Key, float | None] = dict.fromkeys(p_values)
    least = 0.0
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[name] = least
    return corrected


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation of ranks, −1 to 1; None for fewer than `LEAST_RANKED` or where one is constant.

    Source: Spearman, The Proof and Measurement of Association between Two Things, American Journal of
    Psychology 15(1), 1904.
    """
    if len(first) < LEAST_RANKED or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(load("scipy.stats").spearmanr(first, second).statistic)
