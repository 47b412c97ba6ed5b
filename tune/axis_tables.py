"""Tables over seeds: scores of each value of an axis, and their difference from the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.evaluation.systems import ENHANCED
from rwsa.statistics import (
    Comparison,
    Interval,
    PairedDifference,
    compare_scores,
    holm,
    mean_interval,
    paired_difference,
)
from tune.search_space import point_label
from tune.sweep_config import SweepConfig
from tune.trial_results import TrialResult, mean_if_complete


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """A score over the seeds of a configuration; with one seed, standard deviation and interval are None."""

    runs: int
    mean: float
    std: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class ValueRow:
    """One value of an axis, over the settings of the other axes that all values share.

    Attributes:
        value: the value, as text.
        in_domain, out_of_domain: the sweep's metric, over seeds.
        against: the deciding score minus the baseline's, paired by seed; None for the baseline.
        clips: corpus → comparison with the baseline clip by clip, scores averaged over the seeds of both.
        means: corpus → metric → score over seeds.
        seconds: of training, mean over trials.
        parameters, multiply_accumulates: of the network; None if they differ between trials.
        shares: the encoder's share at each level of blended attention, mean over trials.
    """

    value: str
    in_domain: OverSeeds | None
    out_of_domain: OverSeeds | None
    against: PairedDifference | None
    clips: Mapping[str, Comparison]
    means: Mapping[str, Mapping[str, OverSeeds]]
    seconds: float | None
    parameters: int | None
    multiply_accumulates: int | None
    shares: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class AxisTable:
    """One row per value of an axis, compared with the baseline; `over` describes the other axes' settings."""

    axis: str
    baseline: str
    rows: tuple[ValueRow, ...]
    over: str


def over_seeds(values: Iterable[float | None]) -> OverSeeds | None:
    """Summarise one score per run; None if a run has no score or there are no runs."""
    values = list(values)
    scores = [value for value in values if value is not None]
    if not scores or len(scores) < len(values):
        return None
    return OverSeeds(
        runs=len(scores),
        mean=float(np.mean(scores)),
        std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        interval=mean_interval(scores),
    )


def paired_by_seed(
    first: Mapping[int, float | None], second: Mapping[int, float | None]
) -> PairedDifference | None:
    """Paired difference over the seeds that have a score on both sides; None without such seeds."""
    pairs = [
        (a, b)
        for seed in first
        if seed in second and (a := first[seed]) is not None and (b := second[seed]) is not None
    ]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


def axis_table(sweep: SweepConfig, axis: str, finished: Sequence[TrialResult]) -> AxisTable:
    """Table of an axis with values, from finished trials."""
    baseline = str(sweep.axes[axis].baseline_value)
    values = [
        value for value in sweep.axes[axis].choices if any(row.point[axis] == value for row in finished)
    ]
    comparable = _comparable(axis, values, finished)
    by_value = {str(value): [row for row in comparable if row.point[axis] == value] for value in values}
    rows = [
        _value_row(sweep, value, by_value[value], None if value == baseline else by_value.get(baseline, []))
        for value in by_value
    ]
    return AxisTable(axis=axis, baseline=baseline, rows=_corrected(rows), over=_over(axis, comparable))


def _other_axes(row: TrialResult, axis: str) -> str:
    return point_label({name: value for name, value in row.point.items() if name != axis})


def _comparable(axis: str, values: Sequence[Any], finished: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials at the settings of the other axes that every value has."""
    settings = [{_other_axes(row, axis) for row in finished if row.point[axis] == value} for value in values]
    shared = set.intersection(*settings) if settings else set()
    return [row for row in finished if _other_axes(row, axis) in shared]


def _over(axis: str, comparable: Sequence[TrialResult]) -> str:
    labels = list(dict.fromkeys(_other_axes(row, axis) for row in comparable))
    if labels in ([], [""]):
        return ""
    return f"at {labels[0]}" if len(labels) == 1 else f"means over {len(labels)} settings of the other axes"


def _by_seed(
    rows: Sequence[TrialResult], score: Callable[[TrialResult], float | None]
) -> dict[int, float | None]:
    """Mean score over the settings of the other axes, for each seed that has all of them."""
    settings = {point_label(row.point) for row in rows}
    seeds: dict[int, list[float | None]] = {}
    for row in rows:
        seeds.setdefault(row.seed, []).append(score(row))
    return {seed: mean_if_complete(scores) for seed, scores in seeds.items() if len(scores) == len(settings)}


def _value_row(
    sweep: SweepConfig, value: str, rows: Sequence[TrialResult], baseline: Sequence[TrialResult] | None
) -> ValueRow:
    """`baseline` holds the baseline's trials; None if this is the baseline's row."""
    metric = sweep.metric

    def summary(score: Callable[[TrialResult], float | None]) -> OverSeeds | None:
        return over_seeds(_by_seed(rows, score).values())

    def deciding(row: TrialResult) -> float | None:
        return row.deciding_score(metric)

    corpora = list(rows[0].means) if rows else []
    shares = [row.shared_shares for row in rows if row.shared_shares]
    return ValueRow(
        value=value,
        in_domain=summary(lambda row: row.in_domain(metric)),
        out_of_domain=summary(lambda row: row.out_of_domain(metric)),
        against=None
        if baseline is None
        else paired_by_seed(_by_seed(rows, deciding), _by_seed(baseline, deciding)),
        clips={corpus: _by_clip(rows, baseline, corpus, metric) for corpus in corpora} if baseline else {},
        means={
            corpus: {
                name: over
                for name in rows[0].means[corpus][ENHANCED]
                if (over := summary(_mean_of(corpus, name))) is not None
            }
            for corpus in corpora
        },
        seconds=float(np.mean([row.seconds for row in rows])) if rows else None,
        parameters=_if_equal([row.parameters for row in rows]),
        multiply_accumulates=_if_equal([row.multiply_accumulates for row in rows]),
        shares={
            level: float(np.mean([share[level] for share in shares]))
            for level in (shares[0] if shares else {})
        },
    )


def _mean_of(corpus: str, metric: str) -> Callable[[TrialResult], float | None]:
    return lambda row: row.means[corpus][ENHANCED][metric]


def _by_clip(
    first: Sequence[TrialResult], second: Sequence[TrialResult], corpus: str, metric: str
) -> Comparison:
    """Compare clip by clip; each side's scores are averaged over the seeds that both sides have."""
    seeds = {row.seed for row in first} & {row.seed for row in second}
    sides = [
        _clip_means([row for row in rows if row.seed in seeds], corpus, metric) for rows in (first, second)
    ]
    clips = [clip for clip in sides[0] if clip in sides[1]]
    return compare_scores(*([side[clip] for clip in clips] for side in sides))


def _clip_means(rows: Sequence[TrialResult], corpus: str, metric: str) -> dict[str, float | None]:
    by_clip: dict[str, list[float | None]] = {}
    for row in rows:
        scores = row.clips[corpus]
        for clip, score in zip(scores["clip"], scores[metric], strict=True):
            by_clip.setdefault(clip, []).append(score)
    return {clip: mean_if_complete(scores) for clip, scores in by_clip.items() if len(scores) == len(rows)}


def _if_equal(values: Sequence[int | None]) -> int | None:
    """The common value; None if values differ."""
    return values[0] if len(set(values)) == 1 else None


def _corrected(rows: Sequence[ValueRow]) -> tuple[ValueRow, ...]:
    """Rows with Holm's correction over the axis: of the tests over seeds, and of those over clips."""
    seeds = holm({row.value: row.against.p for row in rows if row.against is not None})
    clips = holm({(row.value, name): test.p for row in rows for name, test in row.clips.items()})
    return tuple(
        replace(
            row,
            against=None if row.against is None else replace(row.against, p_holm=seeds[row.value]),
            clips={name: replace(test, p_holm=clips[row.value, name]) for name, test in row.clips.items()},
        )
        for row in rows
    )
