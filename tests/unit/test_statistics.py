"""Coverage of intervals, known values of tests and corrections, and no result for small samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rwsa.errors import InputError
from rwsa.statistics import (
    MIN_PAIRS,
    MIN_UNITS,
    bootstrap_means,
    compare_scores,
    count_units,
    holm,
    mean_interval,
    paired_difference,
    rank_correlation,
    resampling_units,
    seed_spread,
)


def coverage(speakers: int, clips_each: int, *, by_speaker: bool) -> float:
    """Share of intervals that contain the true mean, 0, where half of the variance is between speakers."""
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
def test_an_interval_by_speaker_has_its_nominal_coverage(speakers: int) -> None:
    # Three standard errors of a share of 95% in 300 trials are 3.8%.
    assert coverage(speakers, 5, by_speaker=True) == pytest.approx(0.95, abs=0.038)


def test_an_interval_by_clip_undercovers_where_speakers_differ() -> None:
    assert coverage(10, 20, by_speaker=False) < 0.75


def test_an_interval_of_many_clips_approaches_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(loc=3.0, scale=2.0, size=400)
    (interval,) = bootstrap_means(values[:, None], np.arange(400), np.random.default_rng(1))
    assert interval is not None
    half = 1.96 * values.std(ddof=1) / 20
    assert (interval.low, interval.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )


def test_columns_share_resamples_and_missing_values_are_ignored() -> None:
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


def test_too_few_units_give_no_interval() -> None:
    values = np.ones((40, 2))
    values[:36, 1] = np.nan
    speakers = np.arange(40) % MIN_UNITS
    assert bootstrap_means(values, speakers % (MIN_UNITS - 1), np.random.default_rng(0)) == [None, None]
    first, second = bootstrap_means(values, speakers, np.random.default_rng(0))
    assert first is not None
    assert (first.low, first.high) == (1.0, 1.0)
    # The second column has values of four units only.
    assert second is None
    assert bootstrap_means(np.ones((0, 2)), np.arange(0), np.random.default_rng(0)) == [None, None]


def test_invalid_shapes_and_levels_are_refused() -> None:
    with pytest.raises(InputError, match=r"values are \[3\]"):
        bootstrap_means(np.ones(3), np.arange(3), np.random.default_rng(0))
    with pytest.raises(InputError, match="level 1"):
        bootstrap_means(np.ones((3, 1)), np.arange(3), np.random.default_rng(0), level=1)


def test_clips_of_unknown_speakers_are_units_of_their_own() -> None:
    assert resampling_units(["a", None, "b", "a", None]).tolist() == [0, 1, 2, 0, 3]
    assert resampling_units([]).tolist() == []
    # The energy distance took every clip as a unit as soon as one speaker was unknown, as if the two clips of
    # "a" were independent; the interval was too narrow.
    assert resampling_units(["a", "a", None], at_least=2).tolist() == [0, 0, 1]


def test_clips_are_the_units_where_there_are_too_few_speakers() -> None:
    assert resampling_units(["a", "b"] * 3, at_least=2).tolist() == [0, 1] * 3
    assert resampling_units(["a"] * 4, at_least=2).tolist() == [0, 1, 2, 3]


def test_units_are_counted_only_where_all_are_known() -> None:
    assert count_units(["a", "b"] * 6) == 2
    assert count_units(["a", "b", None]) is None


def test_signed_rank_test_by_the_tables() -> None:
    # Differences 1 … 8 but the smallest negative: W = 1, of which 2 · 2 of 2⁸ sign patterns are as extreme.
    result = compare_scores([0, 2, 3, 4, 5, 6, 7, 8], [1, 0, 0, 0, 0, 0, 0, 0])
    assert result.p == pytest.approx(2 * 2 / 2**8)
    assert (result.pairs, result.wins, result.ties, result.losses) == (8, 7, 0, 1)
    assert result.difference == pytest.approx(34 / 8)


def test_the_signed_rank_test_has_its_nominal_error_rate() -> None:
    rng = np.random.default_rng(0)
    found = sum((compare_scores(*rng.normal(size=(2, 30)).tolist()).p or 1) < 0.05 for _ in range(400))
    assert found / 400 == pytest.approx(0.05, abs=0.033)


def test_ties_and_failures_are_counted() -> None:
    result = compare_scores([1.0, 1.004, None, 2.0], [1.0, 1.0, 5.0, 1.0], tie=0.005)
    assert (result.pairs, result.wins, result.ties, result.losses) == (3, 1, 2, 0)
    assert result.p is None


def test_too_few_differing_clips_give_no_test() -> None:
    few = [float(n) for n in range(1, MIN_PAIRS)]
    assert compare_scores(few, [0.0] * len(few)).p is None
    assert compare_scores([*few, 7.0], [0.0] * MIN_PAIRS).p == pytest.approx(2 / 2**MIN_PAIRS)
    assert compare_scores([1.0] * 20, [1.0] * 20).p is None
    nothing = compare_scores([None], [1.0])
    assert (nothing.pairs, nothing.difference, nothing.p) == (0, None, None)


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "none": None})
    assert list(corrected) == ["a", "b", "c", "d", "none"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_preserves_their_order(p_values: list[float]) -> None:
    corrected = holm(dict(enumerate(p_values)))
    values = [corrected[number] for number in range(len(p_values))]
    assert all(p <= (after or 0.0) <= 1 for p, after in zip(p_values, values, strict=True))
    ranked = [values[number] for number in np.argsort(p_values, kind="stable")]
    assert ranked == sorted(ranked, key=lambda value: value or 0.0)


def test_spread_over_seeds() -> None:
    found = seed_spread([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.std, found.runs) == (2.0, 1.0, 3)
    assert seed_spread([1.0]) is None


def test_an_interval_over_seeds_by_hand() -> None:
    # t of 2 degrees of freedom is 4.3027, of 1 it is 12.7062.
    three, two = mean_interval([1.0, 2.0, 3.0]), mean_interval([1.0, 3.0])
    assert three is not None
    assert (three.low, three.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert two is not None
    assert (two.low, two.high) == pytest.approx((2 - 12.706205, 2 + 12.706205))
    assert mean_interval([1.0]) is None


def test_paired_runs_against_scipy_and_too_few_of_them() -> None:
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


def test_rank_correlation_by_hand_and_where_undefined() -> None:
    assert rank_correlation([1, 2, 3, 4, 50], [1, 2, 3, 4, 5]) == pytest.approx(1.0)
    # 1 − 6 · (1 + 1) / (5 · 24): two neighbours swapped.
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 3, 4, 5]) == pytest.approx(1 - 12 / 120)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) is None
