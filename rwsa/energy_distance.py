"""The energy distance between two sets of feature vectors, with a bootstrap interval.

It is zero only for equal distributions of any shape. Unlike a Fréchet distance it needs no covariance matrix,
which is biased at a few dozen clips, and unlike a kernel distance no bandwidth.

Source: Székely and Rizzo, Energy statistics, J. Statist. Plann. Inference 143 (2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwsa.errors import InputError
from rwsa.statistics import percentile_interval, resampled_counts


@dataclass(frozen=True, kw_only=True)
class DistanceEstimate:
    """A distance and its 95% interval; NaN without resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class FeatureSample:
    """Feature vectors of one corpus.

    Attributes:
        vectors: float64 `[clips, features]`.
        units: `[clips]`, from `rwsa.statistics.resampling_units`; clips of one unit (a speaker, a noise
            recording) are not independent.
    """

    vectors: np.ndarray
    units: np.ndarray

    def take(self, clips: np.ndarray) -> FeatureSample:
        """The sample of the clips with these indices."""
        return FeatureSample(vectors=self.vectors[clips], units=self.units[clips])


def energy_distance(
    one: FeatureSample,
    other: FeatureSample,
    *,
    resamples: int,
    rng: np.random.Generator,
    smoothing: float = 0.0,
) -> DistanceEstimate:
    """Normalized energy distance of two independent samples.

    H = (2E|X−Y| − E|X−X′| − E|Y−Y′|) / 2E|X−Y|: 0 for equal distributions, 1 where each is a point (Székely
    and Rizzo's coefficient of inhomogeneity). Distances within a unit are left out, so the estimate is
    unbiased up to the ratio if units are independent: equal distributions give values around zero, some
    negative. If clips of different units have something in common, the estimate is too high.

    The interval is the percentile bootstrap over units. Copies of one unit are not compared with each other,
    since their distance of zero would bias every resample upwards.

    H is scale-free: two point masses are at distance 1 however close they are. With `smoothing` c, |x−y| is
    replaced by √(|x−y|² + c²), so that differences well below c count little. This is a Bernstein function of
    the squared distance and hence negative definite, like |x−y| (Schoenberg), so H is still zero only for
    equal distributions.

    Args:
        one, other: at least two units each.
        resamples: of the bootstrap.
        rng: draws the resamples.
        smoothing: distance below which vectors count as nearly equal.

    Raises:
        InputError: a sample has fewer than two units.
    """
    for sample in (one, other):
        if len(np.unique(sample.units)) < 2:
            raise InputError("a distance needs clips of at least two speakers (or two clips) per corpus")
    between = pairwise_distances(one.vectors, other.vectors, smoothing)
    withins = [pairwise_distances(sample.vectors, sample.vectors, smoothing) for sample in (one, other)]
    weights = [
        np.vstack([np.ones(len(s.units)), _clip_weights(s.units, resamples, rng)]) for s in (one, other)
    ]
    mean_between = _mean_between(between, *weights)
    means_within = [
        _mean_within(within, weight, sample.units)
        for within, weight, sample in zip(withins, weights, (one, other), strict=True)
    ]
    # Where all clips are equal, the distance is zero.
    avoid_zero = np.where(mean_between > 0, 0.0, 1.0)
    ratio = (means_within[0] + means_within[1]) / (2 * mean_between + avoid_zero)
    values = np.where(mean_between > 0, 1 - ratio, 0.0)
    return _estimate(float(values[0]), values[1:])


def halves_distance(
    sample: FeatureSample, *, splits: int, rng: np.random.Generator, smoothing: float = 0.0
) -> DistanceEstimate:
    """The distance between random halves of a sample, split by unit: an estimate of the null distribution.

    Returns:
        The mean and the central 95% range of the splits, for half as many clips as in the sample.

    Raises:
        InputError: fewer than four units.
    """
    units = np.unique(sample.units)
    if len(units) < 4:
        raise InputError(f"has {len(units)} clips or speakers; halves of a corpus need at least four")
    values = []
    for _ in range(splits):
        half = np.isin(sample.units, rng.permutation(units)[: len(units) // 2])
        one, other = sample.take(np.flatnonzero(half)), sample.take(np.flatnonzero(~half))
        values.append(energy_distance(one, other, resamples=0, rng=rng, smoothing=smoothing).value)
    return _estimate(float(np.mean(values)), np.array(values))


def pairwise_distances(one: np.ndarray, other: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """√(|x−y|² + smoothing²) of each pair, `[clips of one, clips of the other]`."""
    # Not by inner products, which lose small distances to rounding; one feature at a time to save memory.
    squares = np.full((len(one), len(other)), smoothing**2)
    for column, other_column in zip(one.T, other.T, strict=True):
        squares += (column[:, None] - other_column[None, :]) ** 2
    return np.sqrt(squares)


def _estimate(value: float, values: np.ndarray) -> DistanceEstimate:
    interval = percentile_interval(values)
    return DistanceEstimate(value=value, low=interval.low, high=interval.high)


def _clip_weights(units: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each clip is drawn with its unit, float64 `[resamples, clips]`."""
    names, members = np.unique(units, return_inverse=True)
    return resampled_counts(len(names), resamples, rng)[:, members].astype(np.float64)


def _mean_between(distances: np.ndarray, weights: np.ndarray, other_weights: np.ndarray) -> np.ndarray:
    sums = ((weights @ distances) * other_weights).sum(axis=1)
    return sums / (weights.sum(axis=1) * other_weights.sum(axis=1))


def _mean_within(distances: np.ndarray, weights: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Mean distance between clips of different units; NaN where a resample drew a single unit."""
    allowed = (units[:, None] != units[None, :]).astype(np.float64)
    pairs = ((weights @ allowed) * weights).sum(axis=1)
    sums = ((weights @ (distances * allowed)) * weights).sum(axis=1)
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
