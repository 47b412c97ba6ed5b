"""Pictures of a whole evaluation: in-domain against out-of-domain, scores by SNR, distributions; as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.corpus_statistics import BAND_DB, CorpusStatistics, clip_values, mean
from pipelines.evaluation.metric_labels import abreast, heading
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.media.figures import COLOURS, GREY, themed_svg
from pipelines.reports.corpus_figure import MARKS, style
from pipelines.reports.score_table import Statistics
from rwsa.statistics import Interval

_MARGINS: dict[str, Any] = {"left": 0.06, "right": 0.99}
# Of panels in rows, what stands above each, what below each but the last, and below that with the legend.
_PANEL_INCHES, _TITLE_INCHES, _LABELS_INCHES, _BELOW_INCHES = 2.7, 0.32, 0.55, 0.98
_MOST_TICKS = 4
_NOISY_STYLE: dict[str, Any] = {"color": GREY, "marker": "x"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, the words in its place, and what a reader must know; `name` is its file's."""

    name: str
    title: str
    alt: str
    caption: str
    svg: bytes


def evaluation_pictures(summary: EvaluationSummary, statistics: Statistics) -> list[Picture]:
    """The pictures that these corpora and systems allow."""
    names = ", ".join([NOISY, *summary.configurations])
    pictures = [
        Picture(
            name="by-snr",
            title="Scores by input SNR",
            alt=f"PESQ and SI-SDR of {names} by input SNR on each corpus",
            caption=f"Means over the clips of a band of {BAND_DB:g} dB.",
            svg=_by_snr(summary, statistics),
        ),
        Picture(
            name="distributions",
            title="Distributions over clips",
            alt=f"box plots of all metrics of {names} on each corpus",
            caption="Boxes hold the middle half of the clips, the line in them is the median; whiskers reach"
            " the last clip within 1.5 box heights, and dots are clips beyond.",
            svg=_distributions(summary),
        ),
    ]
    if len(summary.corpora) < 2:
        return pictures
    domains = Picture(
        name="in-domain-against-out-of-domain",
        title="In-domain against out-of-domain",
        alt=f"mean scores of {names} in-domain against each other corpus",
        caption=f"Across: {summary.corpora[0].name}. Up: each other corpus. Bars are 95% intervals. What lies"
        " to the right is better in-domain, what lies higher is better out of it.",
        svg=_domains(summary, statistics),
    )
    return [domains, *pictures]


def _grid_inches(metrics: Sequence[str]) -> float:
    rows = len(abreast(metrics))
    return rows * (_PANEL_INCHES + _TITLE_INCHES) + (rows - 1) * _LABELS_INCHES + _BELOW_INCHES


def _grid(figure: Figure, metrics: Sequence[str], *, wspace: float) -> list[Axes]:
    """Axes for each metric, four abreast, with room at the bottom for the legend."""
    grid = figure.subplots(len(abreast(metrics)), len(abreast(metrics)[0]), squeeze=False)
    figure.subplots_adjust(
        **_MARGINS,
        bottom=_BELOW_INCHES / _grid_inches(metrics),
        top=1 - _TITLE_INCHES / _grid_inches(metrics),
        wspace=wspace,
        hspace=(_TITLE_INCHES + _LABELS_INCHES) / _PANEL_INCHES,
    )
    for axes in grid.flat[len(metrics) :]:
        axes.remove()
    return list(grid.flat[: len(metrics)])


def _domains(summary: EvaluationSummary, statistics: Statistics) -> bytes:
    rows: Mapping[str, Sequence[str]] = {NOISY: [NOISY], **summary.configurations}
    in_domain, *others = summary.corpora

    def draw(figure: Figure) -> None:
        grid = _grid(figure, summary.metrics, wspace=0.26)
        for axes, metric in zip(grid, summary.metrics, strict=True):
            for number, (name, systems) in enumerate(rows.items()):
                for corpus, mark in zip(others, MARKS * len(others), strict=False):
                    colour = GREY if name == NOISY else COLOURS[(number - 1) % len(COLOURS)]
                    _draw_domain_mark(axes, [in_domain, corpus], statistics, systems, metric, colour, mark)
            axes.set(xlabel=f"{heading(metric)}, {in_domain.name}")
            axes.locator_params(axis="x", nbins=_MOST_TICKS)
            axes.set_title(f"{heading(metric)}, other corpora", fontsize=9, loc="left")
            axes.grid(alpha=0.25)
        handles = [
            *(
                _key(grid[0], GREY if n == 0 else COLOURS[(n - 1) % len(COLOURS)], "o")
                for n in range(len(rows))
            ),
            *(_key(grid[0], GREY, mark, hollow=True) for _, mark in zip(others, MARKS, strict=False)),
        ]
        labels = [*rows, *(corpus.name for corpus in others)]
        figure.legend(
            handles, labels, loc="lower center", ncols=min(len(labels), 7), frameon=False, fontsize=9
        )

    return themed_svg(draw, height_inches=_grid_inches(summary.metrics))


def _draw_domain_mark(
    axes: Axes,
    corpora: Sequence[CorpusScores],
    statistics: Statistics,
    systems: Sequence[str],
    metric: str,
    colour: str,
    mark: str,
) -> None:
    means = [mean(clip_values(corpus, systems, metric)) for corpus in corpora]
    there = [value for value in means if value is not None]
    if len(there) < len(means):
        return
    bars = [
        _bar(value, statistics[one.name], systems, metric) for value, one in zip(there, corpora, strict=True)
    ]
    axes.errorbar(
        [there[0]], [there[1]], xerr=bars[0], yerr=bars[1],
        color=colour, marker=mark, markersize=7, elinewidth=1, linestyle="",
    )  # fmt: skip


def _bar(
    middle: float, statistics: CorpusStatistics, systems: Sequence[str], metric: str
) -> np.ndarray | None:
    """An interval as matplotlib wants it, `[2, 1]`; several seeds have none."""
    interval: Interval | None = statistics.intervals[systems[0]][metric] if len(systems) == 1 else None
    if interval is None:
        return None
    # A mean may lie outside of its bootstrap interval by a rounding error alone.
    return np.maximum(np.array([[middle - interval.low], [interval.high - middle]]), 0.0)


def _key(axes: Axes, colour: str, mark: str, *, hollow: bool = False) -> Any:
    (handle,) = axes.plot(
        [], [], linestyle="", marker=mark, color=colour, markerfacecolor="none" if hollow else colour
    )
    return handle


def _by_snr(summary: EvaluationSummary, statistics: Statistics) -> bytes:
    shown = ("pesq", "si_sdr")
    corpora = summary.corpora

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(shown), len(corpora), squeeze=False, sharey="row")
        figure.subplots_adjust(**_MARGINS, bottom=0.16, top=0.95, wspace=0.06, hspace=0.14)
        for column, corpus in enumerate(corpora):
            for row, metric in enumerate(shown):
                _draw_bands(grid[row, column], corpus, summary, statistics[corpus.name], metric)
                if column == 0:
                    grid[row, column].set_ylabel(heading(metric))
            grid[0, column].set_title(corpus.name, fontsize=10, loc="left")
            grid[0, column].tick_params(labelbottom=False)
        figure.text(0.525, 0.07, "input SNR (dB), below it the number of clips", ha="center", fontsize=9)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower center", ncols=max(1, min(len(labels), 7)), frameon=False, fontsize=9
        )

    return themed_svg(draw, height_inches=5.4)


def _draw_bands(
    axes: Axes, corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics, metric: str
) -> None:
    bands = statistics.groups.get("input SNR", ())
    places = np.arange(len(bands))
    for number, (name, systems) in enumerate([(NOISY, [NOISY]), *summary.configurations.items()]):
        values = clip_values(corpus, systems, metric)
        means = [mean([values[index] for index in band.clips]) for band in bands]
        line = {**_NOISY_STYLE, "linestyle": "--"} if number == 0 else style(number - 1)
        axes.plot(places, [np.nan if one is None else one for one in means], label=name, **line)
    labels = [f"{band.label.removesuffix(' dB')}\n{len(band.clips)}" for band in bands]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_xlim(-0.5, max(len(bands), 1) - 0.5)
    axes.grid(alpha=0.25)
    if not bands:
        axes.text(0.5, 0.5, "one band of SNR, or none known", ha="center", transform=axes.transAxes)


def _distributions(summary: EvaluationSummary) -> bytes:
    rows: list[tuple[str, Sequence[str]]] = [(NOISY, [NOISY]), *summary.configurations.items()]
    corpora = summary.corpora

    def draw(figure: Figure) -> None:
        grid = _grid(figure, summary.metrics, wspace=0.2)
        for axes, metric in zip(grid, summary.metrics, strict=True):
            for number, (_, systems) in enumerate(rows):
                colour = GREY if number == 0 else COLOURS[(number - 1) % len(COLOURS)]
                places = [at * (len(rows) + 1) + number for at in range(len(corpora))]
                _draw_boxes(
                    axes, [clip_values(corpus, systems, metric) for corpus in corpora], places, colour
                )
            middles = [at * (len(rows) + 1) + (len(rows) - 1) / 2 for at in range(len(corpora))]
            axes.set_xticks(middles, [_broken(corpus.name) for corpus in corpora], fontsize=8)
            axes.set_title(heading(metric), fontsize=9, loc="left")
            axes.grid(axis="y", alpha=0.25)
        handles = [
            _key(grid[0], GREY if n == 0 else COLOURS[(n - 1) % len(COLOURS)], "s") for n in range(len(rows))
        ]
        figure.legend(
            handles,
            [name for name, _ in rows],
            loc="lower center",
            ncols=min(len(rows), 7),
            frameon=False,
            fontsize=9,
        )

    return themed_svg(draw, height_inches=_grid_inches(summary.metrics))


def _broken(name: str) -> str:
    """A name in lines, so that it does not run into the next."""
    return name.replace("-", "-\n")


def _draw_boxes(
    axes: Axes, columns: Sequence[Sequence[float | None]], places: Sequence[int], colour: str
) -> None:
    there = [[value for value in column if value is not None] for column in columns]
    axes.boxplot(
        there, positions=places, widths=0.75, manage_ticks=False, patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
        medianprops={"color": colour, "linewidth": 2},
        whiskerprops={"color": colour}, capprops={"color": colour},
        flierprops={"marker": ".", "markersize": 4, "markerfacecolor": colour, "markeredgecolor": colour},
    )  # fmt: skip
