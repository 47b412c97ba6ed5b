"""The page of a sweep: its question, verdict and rule, then tables and figures of axes and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.progress import duration
from pipelines.evaluation.metric_labels import label
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.reports.score_table import MISSING, format_interval, format_score, signed_score
from rwsa.statistics import Comparison, PairedDifference
from tune.axis_tables import AxisTable, OverSeeds
from tune.search_space import point_label
from tune.sweep_config import SweepConfig
from tune.sweep_figures import by_value, curves, overview
from tune.sweep_report import Configuration, SweepReport
from tune.trial_results import TrialResult


def sweep_html(
    sweep: SweepConfig, rows: Sequence[TrialResult], found: SweepReport, about: Mapping[str, str]
) -> str:
    """The page as HTML; `about` are further properties, label to text."""
    overview_figure = value_figure = curve_figure = None
    if any(one.deciding is not None for one in found.configurations):
        overview_figure = ReportFigure(
            svg=overview(sweep, found),
            alt=f"{label(sweep.metric)} in domain against out of domain, and against size; see the table",
            caption="Numbered as in the table; error bars are one standard deviation over seeds.",
        )
    if any(axis.range is not None for axis in sweep.axes.values()):
        value_figure = ReportFigure(
            svg=by_value(sweep, rows), alt="score of each finished trial by its value"
        )
    if any(row.reports for row in rows):
        labels = [one.label for one in found.configurations]
        curve_figure = ReportFigure(
            svg=curves(sweep, rows, labels), alt="validation score of every trial by step"
        )
    return fill_template(
        "sweep.html",
        title=sweep.name,
        question=sweep.question,
        verdict=found.verdict,
        rule=found.rule,
        preregistered_rule=found.preregistered_rule,
        about={"trials": ", ".join(f"{n} {status}" for status, n in found.counts.items()) or "none", **about},
        metric=label(sweep.metric),
        overview=overview_figure,
        configurations=_configuration_rows(sweep, found),
        axes=[_axis(sweep, one, found) for one in found.tables],
        by_value=value_figure,
        curves=curve_figure,
        trials=[
            [
                point_label(row.point),
                str(row.seed),
                row.status,
                str(row.step),
                format_score(sweep.metric, row.score),
                duration(row.seconds),
                duration(row.evaluation_seconds),
                row.reason or "",
            ]
            for row in rows
        ],
    )


def _configuration_rows(sweep: SweepConfig, found: SweepReport) -> list[list[str]]:
    return [
        [
            f"{at} {one.label}",
            str(one.deciding.runs),
            _count(one.parameters),
            _macs(one.multiply_accumulates),
            _over_seeds(sweep.metric, one.in_domain),
            _over_seeds(sweep.metric, one.out_of_domain),
            _front(one),
        ]
        for at, one in enumerate((one for one in found.configurations if one.deciding is not None), 1)
        if one.deciding is not None
    ]


def _front(one: Configuration) -> str:
    if not one.on_pareto_front or one.deciding is None:
        return ""
    return "Pareto front" if one.deciding.runs > 1 else "Pareto front, or chance"


def _axis(sweep: SweepConfig, one: AxisTable, found: SweepReport) -> dict[str, Any]:
    metric = sweep.metric
    corpora = list(dict.fromkeys(corpus for row in one.rows for corpus in row.clips))
    levels = list(dict.fromkeys(level for row in one.rows for level in row.shares))
    return {
        "title": f"{one.axis} ({one.over})" if one.over else one.axis,
        "baseline": one.baseline,
        "seeds": [
            [
                row.value,
                _count(row.parameters),
                _macs(row.multiply_accumulates),
                MISSING if row.seconds is None else duration(row.seconds),
                _over_seeds(metric, row.in_domain),
                _over_seeds(metric, row.out_of_domain),
                *_against(metric, row.against),
            ]
            for row in one.rows
        ],
        "corpora": corpora,
        "clips": [
            [row.value, *(_comparison(metric, row.clips[corpus]) for corpus in corpora)]
            for row in one.rows
            if row.clips
        ],
        "means": {corpus: _mean_table(one, corpus, noisy) for corpus, noisy in found.noisy.items()},
        "levels": levels,
        "shares": [
            [row.value, *(f"{row.shares[level]:.3f}" if level in row.shares else MISSING for level in levels)]
            for row in one.rows
            if row.shares
        ],
    }


def _mean_table(one: AxisTable, corpus: str, noisy: Mapping[str, float | None]) -> dict[str, Any]:
    """Means over seeds of all metrics on a corpus, below the scores of the noisy input."""
    rows = [["noisy", *(format_score(metric, value) for metric, value in noisy.items())]]
    for row in one.rows:
        means = [(metric, row.means.get(corpus, {}).get(metric)) for metric in noisy]
        rows.append(
            [row.value, *(MISSING if mean is None else _mean(metric, mean) for metric, mean in means)]
        )
    return {"metrics": [label(metric) for metric in noisy], "rows": rows}


def _count(parameters: int | None) -> str:
    return MISSING if parameters is None else f"{parameters:,}"


def _macs(multiply_accumulates: int | None) -> str:
    return MISSING if multiply_accumulates is None else f"{multiply_accumulates / 1e9:.2f}"


def _mean(metric: str, one: OverSeeds) -> str:
    """`mean ± standard deviation`, or the score of the only seed."""
    mean = format_score(metric, one.mean)
    return mean if one.std is None else f"{mean} ± {format_score(metric, one.std)}"


def _over_seeds(metric: str, one: OverSeeds | None) -> str:
    if one is None:
        return MISSING
    if one.std is None:
        return f"{_mean(metric, one)} (1 seed)"
    return f"{_mean(metric, one)} {format_interval(metric, one.interval)}".rstrip()


def _against(metric: str, one: PairedDifference | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    difference = f"{signed_score(metric, one.difference)} {format_interval(metric, one.interval)}".rstrip()
    return difference, "1 seed" if one.pairs < 2 else _p(one.p_holm)


def _comparison(metric: str, one: Comparison) -> str:
    return f"{signed_score(metric, one.difference)} · {one.wins}/{one.ties}/{one.losses} · p {_p(one.p_holm)}"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
