"""What each value of an axis does: scores over seeds, and its difference from the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.evaluation.systems import ENHANCED
from rwsa.statistics import Comparison, PairedDifference, compare, holm
from tune.results import TrialResult
from tune.scores import OverSeeds, abroad_of, deciding_of, home_of, mean_of_all, over_seeds, paired_by_seed
from tune.spaces import point_label
from tune.sweep_config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class ValueRow:
    """One value of an axis.

    Attributes:
        home, abroad: as of a configuration; over the settings of the other axes that all values have.
        against: the deciding metric minus that of the axis's baseline, paired by seed; None for the baseline.
        clips: corpus to the comparison with the baseline clip by clip, of means over the seeds of both.
        means: corpus to metric to its figure.
        seconds: of training, mean over runs.
        shares: of blended attention, means over runs.
    """

    value: str
    home: OverSeeds | None
    abroad: OverSeeds | None
    against: PairedDifference | None
    clips: Mapping[str, Comparison]
    means: Mapping[str, Mapping[str, OverSeeds]]
    seconds: float | None
    parameters: int | None
    multiply_accumulates: int | None
    shares: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class AxisTable:
    """One axis: a row a value, all compared with the baseline; `over` says at what settings of the others."""

    axis: str
    baseline: str
    rows: tuple[ValueRow, ...]
    over: str


def axis_table(sweep: SweepConfig, axis: str, finished: Sequence[TrialResult]) -> AxisTable:
    """The table of an axis that has values; of finished trials."""
    baseline = sweep.axes[axis].compared_with
    values = [
        value for value in sweep.axes[axis].choices if any(row.point[axis] == value for row in finished)
    ]
    comparable = _comparable(axis, values, finished)
    of = {str(value): [row for row in comparable if row.point[axis] == value] for value in values}
    rows = [
        _value_row(sweep, value, of[value], of.get(str(baseline), []), value == str(baseline)) for value in of
    ]
    return AxisTable(
        axis=axis, baseline=str(baseline), rows=_corrected(rows), over=_over(sweep, axis, comparable)
    )


def _comparable(axis: str, values: Sequence[Any], finished: Sequence[TrialResult]) -> list[TrialResult]:
    """Rows at those settings of the other axes that every value has."""

    def rest(row: TrialResult) -> tuple[str, int]:
        return point_label({name: value for name, value in row.point.items() if name != axis}), row.seed

    sets = [{rest(row) for row in finished if row.point[axis] == value} for value in values]
    settings = set.intersection(*({setting for setting, _ in one} for one in sets)) if sets else set()
    return [row for row in finished if rest(row)[0] in settings]


def _over(sweep: SweepConfig, axis: str, comparable: Sequence[TrialResult]) -> str:
    others = [{name: value for name, value in row.point.items() if name != axis} for row in comparable]
    labels = list(dict.fromkeys(point_label(point) for point in others))
    if labels in ([], [""]):
        return ""
    return f"at {labels[0]}" if len(labels) == 1 else f"means over {len(labels)} settings of the other axes"


def _by_seed(
    rows: Sequence[TrialResult], value: Callable[[TrialResult], float | None]
) -> dict[int, float | None]:
    """The mean over the settings of the other axes, for each seed that has them all."""
    settings = {point_label(row.point) for row in rows}
    seeds: dict[int, list[float | None]] = {}
    for row in rows:
        seeds.setdefault(row.seed, []).append(value(row))
    return {seed: mean_of_all(values) for seed, values in seeds.items() if len(values) == len(settings)}


def _value_row(
    sweep: SweepConfig, value: str, rows: Sequence[TrialResult], base: Sequence[TrialResult], is_base: bool
) -> ValueRow:
    metric = sweep.metric

    def of_value(of: Callable[[TrialResult], float | None]) -> OverSeeds | None:
        return over_seeds(_by_seed(rows, of).values())

    corpora = list(rows[0].means) if rows else []
    against = (
        None
        if is_base
        else paired_by_seed(
            _by_seed(rows, lambda row: deciding_of(row, metric)),
            _by_seed(base, lambda row: deciding_of(row, metric)),
        )
    )
    shares = [row.shared_shares for row in rows if row.shared_shares]
    return ValueRow(
        value=value,
        home=of_value(lambda row: home_of(row, metric)),
        abroad=of_value(lambda row: abroad_of(row, metric)),
        against=against,
        clips={} if is_base else {corpus: _by_clip(rows, base, corpus, metric) for corpus in corpora if base},
        means={
            corpus: {
                name: found
                for name in rows[0].means[corpus][ENHANCED]
                if (found := of_value(_mean_of(corpus, name))) is not None
            }
            for corpus in corpora
        },
        seconds=float(np.mean([row.seconds for row in rows])) if rows else None,
        parameters=_same([row.parameters for row in rows]),
        multiply_accumulates=_same([row.multiply_accumulates for row in rows]),
        shares={
            level: float(np.mean([one[level] for one in shares])) for level in (shares[0] if shares else {})
        },
    )


def _mean_of(corpus: str, metric: str) -> Callable[[TrialResult], float | None]:
    return lambda row: row.means[corpus][ENHANCED][metric]


def _by_clip(
    first: Sequence[TrialResult], second: Sequence[TrialResult], corpus: str, metric: str
) -> Comparison:
    """Clip by clip, each side's scores averaged over its runs of the seeds that both sides have."""
    seeds = {row.seed for row in first} & {row.seed for row in second}
    sides = [
        _clip_means([row for row in rows if row.seed in seeds], corpus, metric) for rows in (first, second)
    ]
    clips = [clip for clip in sides[0] if clip in sides[1]]
    return compare(*([side[clip] for clip in clips] for side in sides))


def _clip_means(rows: Sequence[TrialResult], corpus: str, metric: str) -> dict[str, float | None]:
    scores: dict[str, list[float | None]] = {}
    for row in rows:
        of = row.clips[corpus]
        for clip, score in zip(of["clip"], of[metric], strict=True):
            scores.setdefault(clip, []).append(score)
    return {clip: mean_of_all(values) for clip, values in scores.items() if len(values) == len(rows)}


def _same(values: Sequence[int | None]) -> int | None:
    """What all have, None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _corrected(rows: Sequence[ValueRow]) -> tuple[ValueRow, ...]:
    """With Holm's correction: over the values of the axis, and over their clips' tests."""
    seeds = holm({row.value: row.against.p for row in rows if row.against is not None})
    clips = holm({(row.value, name): one.p for row in rows for name, one in row.clips.items()})
    return tuple(
        replace(
            row,
            against=None if row.against is None else replace(row.against, p_holm=seeds[row.value]),
            clips={name: replace(one, p_holm=clips[row.value, name]) for name, one in row.clips.items()},
        )
        for row in rows
    )
