"""The energy distance: known values, zero for equal distributions, coverage of its interval."""

from __future__ import annotations

import numpy as np
import pytest

from rwsa.energy_distance import (
    FeatureSample,
    energy_distance,
    halves_distance,
    pairwise_distances,
)
from rwsa.errors import InputError


def sample(vectors: np.ndarray, units: np.ndarray | None = None) -> FeatureSample:
    return FeatureSample(vectors=vectors, units=np.arange(len(vectors)) if units is None else units)


def normal(seed: int, clips: int, shift: float = 0.0, features: int = 6) -> FeatureSample:
    return sample(np.random.default_rng(seed).normal(shift, size=(clips, features)))


def voices(rng: np.random.Generator, speakers: int = 8, clips: int = 6) -> FeatureSample:
    """Speakers whose clips are similar."""
    middles = np.repeat(rng.normal(size=(speakers, 6)), clips, axis=0)
    return sample(middles + 0.3 * rng.normal(size=middles.shape), np.repeat(np.arange(speakers), clips))


def distance(
    one: FeatureSample, other: FeatureSample, *, smoothing: float = 0.0, seed: int = 0
) -> tuple[float, float, float]:
    found = energy_distance(one, other, resamples=200, rng=np.random.default_rng(seed), smoothing=smoothing)
    return found.value, found.low, found.high


def test_distinct_points_are_at_distance_one_and_equal_points_at_zero() -> None:
    zeros, ones = sample(np.zeros((5, 3))), sample(np.ones((5, 3)))
    assert distance(zeros, ones) == (1.0, 1.0, 1.0)
    assert distance(zeros, zeros) == (0.0, 0.0, 0.0)


def test_it_agrees_with_the_definition() -> None:
    one, other = normal(1, 7).vectors, normal(2, 9, 0.5).vectors
    across = np.mean([np.linalg.norm(x - y) for x in one for y in other])
    inside = [
        np.mean([np.linalg.norm(s[i] - s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])
        for s in (one, other)
    ]
    expected = (2 * across - sum(inside)) / (2 * across)
    assert distance(sample(one), sample(other))[0] == pytest.approx(expected)


def test_it_is_symmetric_and_grows_with_the_shift() -> None:
    one = normal(1, 40)
    values = [distance(one, normal(2, 40, shift))[0] for shift in (0.0, 0.5, 1.0, 3.0)]
    assert values == sorted(values)
    assert distance(normal(2, 40, 1.0), one)[0] == pytest.approx(values[2])


def test_equal_distributions_give_zero_on_average_and_in_the_interval() -> None:
    found = [distance(normal(2 * seed, 25), normal(2 * seed + 1, 25), seed=seed) for seed in range(60)]
    values = np.array([value for value, _, _ in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert sum(low <= 0 <= high for _, low, high in found) >= 0.92 * len(found)


def test_the_interval_holds_the_true_value() -> None:
    truth = distance(normal(1000, 1500), normal(1001, 1500, 0.6))[0]
    found = [distance(normal(2 * seed, 40), normal(2 * seed + 1, 40, 0.6), seed=seed) for seed in range(60)]
    assert sum(low <= truth <= high for _, low, high in found) >= 0.88 * len(found)


def test_clips_of_one_speaker_are_not_independent() -> None:
    """With clips as units, two draws from the same distribution of speakers would seem to differ."""
    rng = np.random.default_rng(3)
    pairs = [(voices(rng), voices(rng)) for _ in range(30)]
    by_speaker = [distance(*pair) for pair in pairs]
    by_clip = [distance(sample(one.vectors), sample(other.vectors)) for one, other in pairs]
    assert sum(low <= 0 <= high for _, low, high in by_speaker) >= 28
    assert sum(low <= 0 <= high for _, low, high in by_clip) < 15


def test_smoothing_reduces_small_differences() -> None:
    near, far = sample(np.full((5, 1), 0.01)), sample(np.full((5, 1), 100.0))
    zero = sample(np.zeros((5, 1)))
    assert distance(zero, near)[0] == 1.0
    assert distance(zero, near, smoothing=1.0)[0] < 1e-4
    assert distance(zero, far, smoothing=1.0)[0] == pytest.approx(0.99)


def test_the_distance_between_halves_is_about_zero() -> None:
    found = halves_distance(normal(1, 60), splits=50, rng=np.random.default_rng(0))
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.01


def test_the_interval_depends_on_the_seed_alone() -> None:
    pair = normal(1, 20), normal(2, 20, 0.3)
    assert distance(*pair, seed=5) == distance(*pair, seed=5)
    assert distance(*pair, seed=5)[1:] != distance(*pair, seed=6)[1:]


def test_distances_are_euclidean() -> None:
    found = pairwise_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1e-9]]))
    np.testing.assert_allclose(found, [[5.0, 1e-9]])


def test_too_few_units_are_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        distance(normal(1, 1), normal(2, 5))
    with pytest.raises(InputError, match="at least four"):
        halves_distance(normal(1, 3), splits=5, rng=np.random.default_rng(0))
