"""Figures of a complete evaluation, as SVG: in-domain against out-of-domain, scores by SNR, distributions.

The figure of a single corpus is in `evaluation_gain_figure`, spectrograms are in `evaluation_spectrograms`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.corpus_statistics import BAND_DB, CorpusStatistics, clip_values, mean
from pipelines.evaluation.metric_labels import column_groups, heading
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.media.colours import COLOURS, GREY
from pipelines.media.figures import MARKERS, series_style, themed_svg
from pipelines.reports.metric_correlation_figure import correlation_figure
from pipelines.reports.page import ReportFigure
from pipelines.reports.score_table import StatisticsByCorpus
from rwsa.statistics import Interval

_MARGINS: dict[str, Any] = {"left": 0.06, "right": 0.99}
# Heights in a grid of panels: a panel, its title, its axis labels, and axis labels and legend at the bottom.
_PANEL_INCHES, _TITLE_INCHES, _LABELS_INCHES, _BOTTOM_INCHES = 2.7, 0.32, 0.55, 0.98
_MAX_TICKS = 4
_MOST_VECTOR_POINTS = 3000  # of a box plot; a bitmap of more outliers is smaller than their list
_MAX_NAME_CHARACTERS = 9
_MAX_LEGEND_COLUMNS = 7


def evaluation_figures(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> dict[str, ReportFigure]:
    """Name -> figure, those that these corpora and systems allow."""
    names = ", ".join([NOISY, *summary.configurations])
    figures = {
        "by-snr": ReportFigure(
            title="Scores by input SNR",
            alt=f"PESQ and SI-SDR of {names} by input SNR on each corpus",
            caption=f"Means over the clips of each {BAND_DB:g} dB band.",
            svg=_by_snr(summary, statistics),
        ),
        "distributions": ReportFigure(
            title="Distributions over clips",
            alt=f"box plots of all metrics of {names} on each corpus",
            caption="Boxes span the middle half of the clips, with a line at the median; whiskers reach the"
            " furthest clip within 1.5 box heights, and points are clips beyond.",
            svg=_distributions(summary),
        ),
    }
    if (correlations := correlation_figure(summary)) is not None:
        figures["metric-correlations"] = correlations
    if len(summary.corpora) < 2:
        return figures
    own = summary.one_domain or "the corpus it was trained on"
    domains = ReportFigure(
        title="In-domain against out-of-domain",
        alt=f"mean scores of {names} in-domain against each other corpus",
        caption=f"Horizontal: mean score in-domain, on {own}. Vertical: mean score"
        " out-of-domain, on each other corpus. Error bars are 95% intervals.",
        svg=_domains(summary, statistics),
    )
    return {"in-domain-against-out-of-domain": domains, **figures}


def _signals(summary: EvaluationSummary) -> dict[str, Sequence[str]]:
    """Name of each row of the score table -> its systems; the noisy input first."""
    return {NOISY: [NOISY], **summary.configurations}


def _colour(number: int) -> str:
    """Colour of a signal, of which the first is the noisy input."""
    return GREY if number == 0 else COLOURS[(number - 1) % len(COLOURS)]


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    columns = max(1, min(len(labels), _MAX_LEGEND_COLUMNS))
    figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=9)


def _grid_inches(metrics: Sequence[str]) -> float:
    rows = len(column_groups(metrics))
    return rows * (_PANEL_INCHES + _TITLE_INCHES) + (rows - 1) * _LABELS_INCHES + _BOTTOM_INCHES


def _grid(figure: Figure, metrics: Sequence[str], *, wspace: float) -> list[Axes]:
    """One panel per metric, four per row, above the legend."""
    grid = figure.subplots(len(column_groups(metrics)), len(column_groups(metrics)[0]), squeeze=False)
    figure.subplots_adjust(
        **_MARGINS,
        bottom=_BOTTOM_INCHES / _grid_inches(metrics),
        top=1 - _TITLE_INCHES / _grid_inches(metrics),
        wspace=wspace,
        hspace=(_TITLE_INCHES + _LABELS_INCHES) / _PANEL_INCHES,
    )
    for axes in grid.flat[len(metrics) :]:
        axes.remove()
    return list(grid.flat[: len(metrics)])


def _domains(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> bytes:
    # The noisy input has no corpus of its own if the systems have several.
    signals = _signals(summary) if summary.one_domain else dict[str, Sequence[str]](summary.configurations)
    first = 0 if summary.one_domain else 1
    corpora = {corpus.name: corpus for corpus in summary.corpora}
    others = [corpus for corpus in summary.corpora if corpus.name != summary.one_domain]

    def draw(figure: Figure) -> None:
        grid = _grid(figure, summary.metrics, wspace=0.26)
        for axes, metric in zip(grid, summary.metrics, strict=True):
            for number, (name, systems) in enumerate(signals.items(), first):
                in_domain = corpora[summary.one_domain or summary.in_domain(name)]
                for corpus, marker in zip(others, MARKERS * len(others), strict=False):
                    if corpus is not in_domain:
                        pair = (in_domain, corpus)
                        _draw_domain_point(axes, pair, statistics, systems, metric, _colour(number), marker)
            axes.set_xlabel("in-domain", fontsize=9)
            axes.locator_params(axis="x", nbins=_MAX_TICKS)
            axes.set_title(heading(metric), fontsize=9, loc="left")
            axes.grid(alpha=0.25)
        for axes in grid[:: len(column_groups(summary.metrics)[0])]:
            axes.set_ylabel("out-of-domain", fontsize=9)
        handles = [
            *(_legend_handle(grid[0], _colour(first + at), "o") for at in range(len(signals))),
            *(
                _legend_handle(grid[0], GREY, marker, filled=False)
                for _, marker in zip(others, MARKERS, strict=False)
            ),
        ]
        _legend(figure, handles, [*signals, *(corpus.name for corpus in others)])

    return themed_svg(draw, height_inches=_grid_inches(summary.metrics))


def _draw_domain_point(
    axes: Axes,
    corpora: tuple[CorpusScores, CorpusScores],
    statistics: StatisticsByCorpus,
    systems: Sequence[str],
    metric: str,
    colour: str,
    marker: str,
) -> None:
    means = [mean(clip_values(corpus, systems, metric)) for corpus in corpora]
    point = [value for value in means if value is not None]
    if len(point) < len(means):
        return
    bars = [
        _error_bar(value, statistics[one.name], systems, metric)
        for value, one in zip(point, corpora, strict=True)
    ]
    axes.errorbar(
        [point[0]], [point[1]], xerr=bars[0], yerr=bars[1],
        color=colour, marker=marker, markersize=7, elinewidth=1, linestyle="",
    )  # fmt: skip


def _error_bar(
    centre: float, statistics: CorpusStatistics, systems: Sequence[str], metric: str
) -> np.ndarray | None:
    """A single system's interval as lengths below and above the mean, `[2, 1]`; None for several seeds."""
    interval: Interval | None = statistics.intervals[systems[0]][metric] if len(systems) == 1 else None
    if interval is None:
        return None
    # A mean may lie outside of its bootstrap interval by rounding error.
    return np.maximum(np.array([[centre - interval.low], [interval.high - centre]]), 0.0)


def _legend_handle(axes: Axes, colour: str, marker: str, *, filled: bool = True) -> Any:
    face = colour if filled else "none"
    (handle,) = axes.plot([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face)
    return handle


def _by_snr(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> bytes:
    metrics = ("pesq", "si_sdr")
    corpora = summary.corpora

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(metrics), len(corpora), squeeze=False, sharey="row")
        figure.subplots_adjust(**_MARGINS, bottom=0.16, top=0.95, wspace=0.06, hspace=0.14)
        for column, corpus in enumerate(corpora):
            for row, metric in enumerate(metrics):
                _draw_bands(grid[row, column], corpus, summary, statistics[corpus.name], metric)
                if column == 0:
                    grid[row, column].set_ylabel(heading(metric))
            grid[0, column].set_title(corpus.name, fontsize=10, loc="left")
            grid[0, column].tick_params(labelbottom=False)
        figure.text(0.525, 0.07, "input SNR (dB), below it the number of clips", ha="center", fontsize=9)
        _legend(figure, *grid[0, 0].get_legend_handles_labels())

    return themed_svg(draw, height_inches=5.4)


def _draw_bands(
    axes: Axes, corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics, metric: str
) -> None:
    bands = statistics.groups.get("input SNR", ())
    positions = np.arange(len(bands))
    for number, (name, systems) in enumerate(_signals(summary).items()):
        values = clip_values(corpus, systems, metric)
        means = [mean([values[index] for index in band.clips]) for band in bands]
        style = {"marker": "x", "linestyle": "--"} if number == 0 else series_style(number - 1)
        style["color"] = _colour(number)
        axes.plot(positions, [np.nan if one is None else one for one in means], label=name, **style)
    labels = [f"{band.label.removesuffix(' dB')}\n{len(band.clips)}" for band in bands]
    axes.set_xticks(positions, labels, fontsize=8)
    axes.set_xlim(-0.5, max(len(bands), 1) - 0.5)
    axes.grid(alpha=0.25)
    if not bands:
        axes.text(0.5, 0.5, "input SNR unknown or in one band", ha="center", transform=axes.transAxes)


def _distributions(summary: EvaluationSummary) -> bytes:
    signals = _signals(summary)
    corpora = summary.corpora
    # Boxes of one corpus stand together, then one position is left empty.
    group = len(signals) + 1

    def draw(figure: Figure) -> None:
        grid = _grid(figure, summary.metrics, wspace=0.2)
        for axes, metric in zip(grid, summary.metrics, strict=True):
            for number, systems in enumerate(signals.values()):
                positions = [at * group + number for at in range(len(corpora))]
                values = [clip_values(corpus, systems, metric) for corpus in corpora]
                _draw_boxes(axes, values, positions, _colour(number))
            centres = [at * group + (len(signals) - 1) / 2 for at in range(len(corpora))]
            axes.set_xticks(centres, [_wrapped(corpus.name) for corpus in corpora], fontsize=7)
            axes.set_title(heading(metric), fontsize=9, loc="left")
            axes.grid(axis="y", alpha=0.25)
        handles = [_legend_handle(grid[0], _colour(number), "s") for number in range(len(signals))]
        _legend(figure, handles, list(signals))

    return themed_svg(draw, height_inches=_grid_inches(summary.metrics))


def _wrapped(name: str) -> str:
    """A name broken into short lines, which do not run into the names beside it."""
    breakable = re.sub(r"([-_])", r"\1 ", name)
    return "\n".join(textwrap.wrap(breakable, _MAX_NAME_CHARACTERS)).replace("- ", "-").replace("_ ", "_")


def _draw_boxes(
    axes: Axes, columns: Sequence[Sequence[float | None]], positions: Sequence[int], colour: str
) -> None:
    values = [[value for value in column if value is not None] for column in columns]
    boxes = axes.boxplot(
        values, positions=positions, widths=0.75, manage_ticks=False, patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
        medianprops={"color": colour, "linewidth": 2},
        whiskerprops={"color": colour}, capprops={"color": colour},
        flierprops={"marker": ".", "markersize": 4, "markerfacecolor": colour, "markeredgecolor": colour},
    )  # fmt: skip
    for outliers in boxes["fliers"]:
        outliers.set_rasterized(sum(map(len, values)) > _MOST_VECTOR_POINTS)
