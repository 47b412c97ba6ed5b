"""The page that answers a sweep's question: one HTML file with verdict, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipelines.core.progress import duration
from pipelines.evaluation.metric_labels import label
from pipelines.reports.page import details, page, picture, table
from pipelines.reports.score_table import MISSING, number, signed
from rwsa.statistics import Comparison, Interval, PairedDifference
from tune.axis_tables import AxisTable, OverSeeds, ValueRow
from tune.report_figures import by_value, curves, overview
from tune.search_space import point_label
from tune.sweep_config import SweepConfig
from tune.sweep_report import Configuration, SweepReport
from tune.trial_results import TrialResult

_STYLE = """
.verdict { font-size: 18px; border-left: 4px solid #0072B2; padding: 4px 14px; margin: 16px 0; }
td, th { font-size: 13px; }
"""
_OVER_SEEDS = (
    "Mean ± standard deviation over seeds, [95% interval of the mean, by Student]; the difference from the"
    " baseline is paired by seed, p is that of a paired t-test, after Holm's correction over the axis."
)
_OVER_CLIPS = (
    "The same networks clip by clip, scores averaged over seeds: mean difference from the baseline, clips"
    " won/tied/lost, p of Wilcoxon's signed-rank test after Holm's correction. This tells these trained"
    " networks apart on these clips; whether the configurations differ, the table above says."
)


def render_report(
    sweep: SweepConfig, rows: Sequence[TrialResult], found: SweepReport, about: Mapping[str, str]
) -> str:
    """The whole page; `about` is small print."""
    body = [
        f"<p>{escape(sweep.question)}</p>",
        f'<p class="verdict">{escape(found.verdict)}</p>',
        _rule(found),
        details({"trials": _counts(found), **about}),
    ]
    if any(one.deciding is not None for one in found.configurations):
        body.append(_overview(sweep, found))
    body += [_axis(sweep, one, found) for one in found.tables]
    if any(axis.range is not None for axis in sweep.axes.values()):
        body.append("<h2>By value</h2>\n")
        body.append(picture(by_value(sweep, rows), "score of each finished trial by its value"))
    body.append(_trials(sweep, rows, found))
    return page(sweep.name, "\n".join(body), style=_STYLE)


def _rule(found: SweepReport) -> str:
    if found.rule == found.preregistered_rule:
        return f'<p class="quiet">Fixed before the first trial: {escape(found.rule)}</p>'
    return (
        f"<p><strong>The rule was changed after trials had begun.</strong> Now: {escape(found.rule)}</p>"
        f'<p class="quiet">Before the first trial it was: {escape(found.preregistered_rule)}</p>'
    )


def _front(one: Configuration) -> str:
    if not one.on_pareto_front or one.deciding is None:
        return ""
    return "Pareto front" if one.deciding.runs > 1 else "Pareto front, or chance"


def _counts(found: SweepReport) -> str:
    return ", ".join(f"{count} {status}" for status, count in found.counts.items()) or "none"


def _overview(sweep: SweepConfig, found: SweepReport) -> str:
    heads = ["configuration", "seeds", "parameters", "10⁹ MACs", "in domain", "out of domain", ""]
    cells = [
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
    alt = (
        f"{label(sweep.metric)} in domain against out of domain, and against size; the table has the figures"
    )
    caption = (
        "Numbers are those of the table; bars are one standard deviation over seeds, where there are several."
    )
    return (
        f"<h2>Configurations by {escape(label(sweep.metric))}</h2>\n"
        f"{picture(overview(sweep, found), alt, caption=caption)}{table(heads, cells)}"
    )


def _axis(sweep: SweepConfig, one: AxisTable, found: SweepReport) -> str:
    over = f" ({one.over})" if one.over else ""
    parts = [f"<h2>{escape(one.axis)}{escape(over)}</h2>\n", _seeds_table(sweep, one)]
    if any(row.clips for row in one.rows):
        parts.append(_clips_table(sweep, one))
    parts.append(_all_metrics(one, found.noisy))
    if any(row.shares for row in one.rows):
        parts.append(_shares(one))
    return "".join(parts)


def _seeds_table(sweep: SweepConfig, one: AxisTable) -> str:
    metric = sweep.metric
    heads = [
        "value",
        "parameters",
        "10⁹ MACs",
        "training",
        f"{label(metric)} in domain",
        "out of domain",
        f"minus {one.baseline}",
        "p",
    ]
    cells = [
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
    ]
    return f'{table(heads, cells)}<p class="quiet">{escape(_OVER_SEEDS)}</p>\n'


def _clips_table(sweep: SweepConfig, one: AxisTable) -> str:
    corpora = list(dict.fromkeys(corpus for row in one.rows for corpus in row.clips))
    cells = [
        [row.value, *(_comparison(sweep.metric, row.clips[corpus]) for corpus in corpora)]
        for row in one.rows
        if row.clips
    ]
    heads = [f"minus {one.baseline}", *corpora]
    return f'<h3>Clip by clip</h3>\n{table(heads, cells)}<p class="quiet">{escape(_OVER_CLIPS)}</p>\n'


def _all_metrics(one: AxisTable, noisy: Mapping[str, Mapping[str, float | None]]) -> str:
    """Each corpus and metric, mean over seeds, below those of the noisy input."""
    tables = []
    for corpus, values in noisy.items():
        metrics = list(values)
        cells = [["noisy", *(number(metric, value) for metric, value in values.items())]]
        cells += [[row.value, *(_plain(row, corpus, metric) for metric in metrics)] for row in one.rows]
        tables.append(f"<h3>{escape(corpus)}</h3>\n{table(['', *(label(name) for name in metrics)], cells)}")
    return "".join(tables)


def _plain(row: ValueRow, corpus: str, metric: str) -> str:
    one = row.means.get(corpus, {}).get(metric)
    if one is None:
        return MISSING
    return number(metric, one.mean) if one.std is None else _with_deviation(metric, one)


def _shares(one: AxisTable) -> str:
    levels = list(dict.fromkeys(level for row in one.rows for level in row.shares))
    cells = [
        [row.value, *(f"{row.shares[level]:.3f}" if level in row.shares else MISSING for level in levels)]
        for row in one.rows
        if row.shares
    ]
    told = (
        "How much of the encoder's attention the decoder takes at each level; 0.5 at the start of training."
    )
    return f'<h3>Blended attention</h3>\n{table(["", *levels], cells)}<p class="quiet">{escape(told)}</p>\n'


def _trials(sweep: SweepConfig, rows: Sequence[TrialResult], found: SweepReport) -> str:
    heads = ["trial", "seed", "status", "step", "best validation", "training", "evaluation", "why"]
    cells = [
        [
            point_label(row.point),
            str(row.seed),
            row.status,
            str(row.step),
            number(sweep.metric, row.score),
            duration(row.seconds),
            duration(row.evaluation_seconds),
            row.reason or "",
        ]
        for row in rows
    ]
    labels = [one.label for one in found.configurations]
    drawn = ""
    if any(row.reports for row in rows):
        drawn = picture(curves(sweep, rows, labels), "validation score of every trial by step")
    return f"<h2>Trials</h2>\n{drawn}{table(heads, cells)}"


def _count(parameters: int | None) -> str:
    return MISSING if parameters is None else f"{parameters:,}"


def _macs(multiply_accumulates: int | None) -> str:
    return MISSING if multiply_accumulates is None else f"{multiply_accumulates / 1e9:.2f}"


def _with_deviation(metric: str, one: OverSeeds) -> str:
    return f"{number(metric, one.mean)} ± {number(metric, one.std)}"


def _over_seeds(metric: str, one: OverSeeds | None) -> str:
    if one is None:
        return MISSING
    if one.std is None:
        return f"{number(metric, one.mean)} (1 seed)"
    return f"{_with_deviation(metric, one)} {_interval(metric, one.interval)}".rstrip()


def _interval(metric: str, interval: Interval | None) -> str:
    return "" if interval is None else f"[{number(metric, interval.low)}, {number(metric, interval.high)}]"


def _against(metric: str, one: PairedDifference | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    difference = f"{signed(metric, one.difference)} {_interval(metric, one.interval)}".rstrip()
    return difference, "1 seed" if one.pairs < 2 else _p(one.p_holm)


def _comparison(metric: str, one: Comparison) -> str:
    return f"{signed(metric, one.difference)} · {one.wins}/{one.ties}/{one.losses} · p {_p(one.p_holm)}"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
