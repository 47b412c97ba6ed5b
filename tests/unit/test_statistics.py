"""Intervals that cover as often as they say, tests and corrections by known values, honesty at small n."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rwsa.errors import InputError
from rwsa.statistics import (
    LEAST_PAIRS,
    LEAST_UNITS,
    bootstrap_means,
    compare,
    holm,
    mean_interval,
    paired_difference,
    rank_correlation,
    resampling_units,
    spread,
)


def coverage(speakers: int, clips_each: int, *, by_speaker: bool) -> float:
    """How often the interval holds the true mean, 0, where half of the variance is the speaker's."""
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(speakers), clips_each)
    units = names if by_speaker else np.arange(len(names))
    hits, trials = 0, 300
    for _ in range(trials):
        values = rng.normal(size=speakers)[names] + rng.normal(size=len(names))
        (interval,) = bootstrap_means(values[:, None], units, rng, resamples=1000)
        assert interval is not None
        hits += interval.low <= 0 <= interval.high
    return hits / trials


@pytest.mark.parametrize("speakers", [6, 10, 30])
def test_an_interval_by_speaker_covers_as_often_as_it_says(speakers: int) -> None:
    # Three standard errors of a share of 95% in 300 trials are 3.8%.
    assert coverage(speakers, 5, by_speaker=True) == pytest.approx(0.95, abs=0.038)


def test_an_interval_by_clip_would_cover_too_seldom_where_speakers_differ() -> None:
    assert coverage(10, 20, by_speaker=False) < 0.75


def test_an_interval_of_many_clips_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(0).normal(loc=3.0, scale=2.0, size=400)
    (interval,) = bootstrap_means(values[:, None], np.arange(400), np.random.default_rng(1))
    assert interval is not None
    half = 1.96 * values.std(ddof=1) / 20
    assert (interval.low, interval.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )


def test_columns_share_resamples_and_missing_values_count_for_nothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 1)).repeat(3, axis=1)
    values[:, 1] += 1.0
    values[::2, 2] = np.nan
    first, second, half = bootstrap_means(values, np.arange(40), np.random.default_rng(1))
    assert first is not None
    assert second is not None
    assert half is not None
    assert (second.low - first.low, second.high - first.high) == pytest.approx((1.0, 1.0))
    (alone,) = bootstrap_means(values[1::2, :1], np.arange(20), np.random.default_rng(1))
    assert alone is not None
    assert half.high - half.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_the_same_generator_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2))
    one, other = (bootstrap_means(values, np.arange(20), np.random.default_rng(5)) for _ in range(2))
    assert one == other


def test_too_few_units_allow_no_interval() -> None:
    values = np.ones((40, 2))
    values[:36, 1] = np.nan
    speakers = np.arange(40) % LEAST_UNITS
    assert bootstrap_means(values, speakers % (LEAST_UNITS - 1), np.random.default_rng(0)) == [None, None]
    first, second = bootstrap_means(values, speakers, np.random.default_rng(0))
    assert first is not None
    assert (first.low, first.high) == (1.0, 1.0)
    # Its four values come from four of the five.
    assert second is None
    assert bootstrap_means(np.ones((0, 2)), np.arange(0), np.random.default_rng(0)) == [None, None]


def test_shapes_and_levels_that_cannot_be_are_errors() -> None:
    with pytest.raises(InputError, match=r"values are \[3\]"):
        bootstrap_means(np.ones(3), np.arange(3), np.random.default_rng(0))
    with pytest.raises(InputError, match="level 1"):
        bootstrap_means(np.ones((3, 1)), np.arange(3), np.random.default_rng(0), level=1)


def test_clips_of_nobody_known_are_units_of_their_own() -> None:
    assert resampling_units(["a", None, "b", "a", None]).tolist() == [0, 1, 2, 0, 3]
    assert resampling_units([]).tolist() == []


def test_signed_rank_test_by_the_tables() -> None:
    # Differences 1 … 8 but the smallest negative: W = 1, of which 2 · 2 of 2⁸ sign patterns are as extreme.
    result = compare([0, 2, 3, 4, 5, 6, 7, 8], [1, 0, 0, 0, 0, 0, 0, 0])
    assert result.p == pytest.approx(2 * 2 / 2**8)
    assert (result.pairs, result.wins, result.ties, result.losses) == (8, 7, 0, 1)
    assert result.difference == pytest.approx(34 / 8)


def test_a_test_of_equal_systems_finds_something_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = sum((compare(*rng.normal(size=(2, 30)).tolist()).p or 1) < 0.05 for _ in range(400))
    assert found / 400 == pytest.approx(0.05, abs=0.033)


def test_ties_and_failures_are_counted() -> None:
    result = compare([1.0, 1.004, None, 2.0], [1.0, 1.0, 5.0, 1.0], tie=0.005)
    assert (result.pairs, result.wins, result.ties, result.losses) == (3, 1, 2, 0)
    assert result.p is None


def test_too_few_clips_that_differ_allow_no_test() -> None:
    few = [float(n) for n in range(1, LEAST_PAIRS)]
    assert compare(few, [0.0] * len(few)).p is None
    assert compare([*few, 7.0], [0.0] * LEAST_PAIRS).p == pytest.approx(2 / 2**LEAST_PAIRS)
    assert compare([1.0] * 20, [1.0] * 20).p is None
    nothing = compare([None], [1.0])
    assert (nothing.pairs, nothing.difference, nothing.p) == (0, None, None)


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "none": None})
    assert list(corrected) == ["a", "b", "c", "d", "none"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(dict(enumerate(p_values)))
    values = [corrected[number] for number in range(len(p_values))]
    assert all(p <= (after or 0.0) <= 1 for p, after in zip(p_values, values, strict=True))
    ranked = [values[number] for number in np.argsort(p_values, kind="stable")]
    assert ranked == sorted(ranked, key=lambda value: value or 0.0)


def test_spread_over_seeds() -> None:
    found = spread([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.std, found.runs) == (2.0, 1.0, 3)
    assert spread([1.0]) is None


def test_an_interval_over_seeds_by_hand() -> None:
    # t of 2 degrees of freedom is 4.3027, of 1 it is 12.7062.
    three, two = mean_interval([1.0, 2.0, 3.0]), mean_interval([1.0, 3.0])
    assert three is not None
    assert (three.low, three.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert two is not None
    assert (two.low, two.high) == pytest.approx((2 - 12.706205, 2 + 12.706205))
    assert mean_interval([1.0]) is None


def test_paired_runs_against_scipy_and_where_nothing_can_be_said() -> None:
    first, second = [5.1, 5.4, 5.2, 5.9], [5.0, 5.1, 5.2, 5.3]
    found = paired_difference(first, second)
    assert found is not None
    assert (found.pairs, found.difference) == (4, pytest.approx(0.25))
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert found.interval is not None
    assert (found.interval.low < 0) == (found.p > 0.05)
    alone = paired_difference([2.0], [1.0])
    assert alone is not None
    assert (alone.difference, alone.interval, alone.p) == (1.0, None, None)
    alike = paired_difference([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])
    assert alike is not None
    assert alike.p is None
    assert paired_difference([], []) is None
    with pytest.raises(InputError, match="2 and 1 runs do not pair"):
        paired_difference([1.0, 2.0], [1.0])


def test_rank_correlation_by_hand_and_where_there_is_none() -> None:
    assert rank_correlation([1, 2, 3, 4, 50], [1, 2, 3, 4, 5]) == pytest.approx(1.0)
    # 1 − 6 · (1 + 1) / (5 · 24): two neighbours changed places.
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 3, 4, 5]) == pytest.approx(1 - 12 / 120)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) is None
