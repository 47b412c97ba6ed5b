"""How far two sets of feature vectors lie apart: the energy distance, with a bootstrap interval.

Why this one: it is zero only where the two distributions are equal, whatever their shape; it needs no
covariance matrix, so a few dozen clips do, where a Fréchet distance of as many dimensions is biased;
and it has no bandwidth to choose, as a kernel distance has.
Source: Székely and Rizzo, Energy statistics, J. Statist. Plann. Inference 143 (2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwsa.errors import InputError

# Resamples of fewer units are so few and so alike that their range says little of other draws.
LEAST_UNITS = 5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the 95% interval that resampling gives it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Feature vectors of one corpus.

    Attributes:
        vectors: float64 `[clips, features]`.
        units: a number for each clip; clips of one unit (a speaker, a noise recording) are not
            independent.
    """

    vectors: np.ndarray
    units: np.ndarray

    def take(self, clips: np.ndarray) -> Sample:
        return Sample(vectors=self.vectors[clips], units=self.units[clips])


def count_units(names: Sequence[str | None]) -> int | None:
    """How many different names (of speakers) the clips have; None where one is not known."""
    return None if None in names else len(set(names))


def units_of(names: Sequence[str | None]) -> np.ndarray:
    """A unit for each clip: its name where all are known and there are two, else each clip its own.

    Clips that share a speaker are no independent units: an interval over them is too narrow.
    """
    if (count_units(names) or 0) < 2:
        return np.arange(len(names))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def energy_distance(
    one: Sample, other: Sample, *, resamples: int, rng: np.random.Generator, grain: float = 0.0
) -> Estimate:
    """Normalised energy distance of two independent samples.

    H = (2E|X−Y| − E|X−X′| − E|Y−Y′|) / 2E|X−Y|: 0 where the distributions are equal, 1 where each is
    a point (Székely and Rizzo's coefficient of inhomogeneity). Where units are independent of each
    other the estimate is unbiased up to the ratio: a clip is never compared with itself nor with one
    of its own unit, so equal distributions give values around zero, some below. Where clips share
    what is not their unit, they are nearer to each other than to the other corpus, and it is too high.

    The interval is the percentile bootstrap over units. Copies of a unit are not compared with each
    other either, without which every resample would be too far from the other.

    As it stands H knows no scale: two points a hair apart are as different as can be. With a `grain`
    c, √(|x−y|² + c²) takes the place of |x−y|, so that differences well below c count for little. It
    is a Bernstein function of the squared distance, hence negative definite as |x−y| is (Schoenberg),
    and H is still zero only for equal distributions.

    Args:
        one, other: at least two units each.
        grain: difference between vectors below which they are as good as alike.
        resamples: of the bootstrap.
        rng: draws them.

    Raises:
        InputError: a sample has fewer than two units.
    """
    for sample in (one, other):
        if len(np.unique(sample.units)) < 2:
            raise InputError("a distance needs clips of at least two speakers (or two clips) a corpus")
    between = distances(one.vectors, other.vectors, grain)
    withins = [distances(sample.vectors, sample.vectors, grain) for sample in (one, other)]
    weights = [np.vstack([np.ones(len(s.units)), _resampled(s.units, resamples, rng)]) for s in (one, other)]
    across = _mean_between(between, *weights)
    inside = [
        _mean_within(within, weight, sample.units)
        for within, weight, sample in zip(withins, weights, (one, other), strict=True)
    ]
    # Where all clips are alike there is nothing between the corpora either.
    same = np.where(across > 0, 0.0, 1.0)
    values = np.where(across > 0, 1 - (inside[0] + inside[1]) / (2 * across + same), 0.0)
    return interval(float(values[0]), values[1:])


def halves_distance(sample: Sample, *, splits: int, rng: np.random.Generator, grain: float = 0.0) -> Estimate:
    """The distance of a sample from itself: of its random halves, drawn by unit.

    Returns:
        The mean, and the range that holds 95% of the splits: what a distance of zero looks like with
        half as many clips.

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
        values.append(energy_distance(one, other, resamples=0, rng=rng, grain=grain).value)
    return interval(float(np.mean(values)), np.array(values))


def interval(value: float, values: np.ndarray) -> Estimate:
    """`value` with the range that holds the middle 95% of `values`; NaN where there are none."""
    low, high = np.nanpercentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return Estimate(value=value, low=float(low), high=float(high))


def distances(one: np.ndarray, other: np.ndarray, grain: float = 0.0) -> np.ndarray:
    """√(|x−y|² + grain²) of each pair, `[clips of one, clips of the other]`."""
    # Not through the inner products, which lose the distance of near ones; a feature at a time for memory.
    squares = np.full((len(one), len(other)), grain**2)
    for mine, theirs in zip(one.T, other.T, strict=True):
        squares += (mine[:, None] - theirs[None, :]) ** 2
    return np.sqrt(squares)


def _resampled(units: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each clip is taken, `[resamples, clips]`, when units are drawn with replacement."""
    names, members = np.unique(units, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return counts[:, members].astype(np.float64)


def _mean_between(apart: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return ((mine @ apart) * theirs).sum(axis=1) / (mine.sum(axis=1) * theirs.sum(axis=1))


def _mean_within(apart: np.ndarray, weights: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Mean distance of pairs from different units; NaN where a resample drew one unit alone."""
    allowed = (units[:, None] != units[None, :]).astype(np.float64)
    pairs = ((weights @ allowed) * weights).sum(axis=1)
    sums = ((weights @ (apart * allowed)) * weights).sum(axis=1)
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
