"""The domain gap report: energy distances between corpora as a page with figures, and as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pipelines.media.colours import COLOURS
from pipelines.media.figures import COLOUR_MAP, themed_svg
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.studies.gap_results import NAMES, OVERALL, GapResults, units_for
from rwsa.acoustics import GROUPS, MODULATION_HZ, SPECTRUM_HZ
from rwsa.statistics import MIN_UNITS, count_units

_READING = (
    "Energy distance in %: 0 where the clips of two corpora have the same distribution, 100 where each corpus"
    " is a single point. Brackets: 95% bootstrap interval. On the diagonal, in italics: the distance between"
    " random halves of one corpus, the value expected for equal distributions with half as many clips."
    " A star marks a distance that is above zero and above the halves of both corpora. Resampling and halves"
    " are by speaker for speech, by noise recording for noise, and by whichever are fewer for the rest;"
    f" where these are fewer than {MIN_UNITS} or unknown, there is no verdict and no star."
)
_LINESTYLES = ("-", "--", ":", "-.")
_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
_PER_CENT = 100.0


def domain_gap_html(results: GapResults, about: Mapping[str, str]) -> str:
    """The report as HTML; `about` are further properties, label to text."""
    reference, names = results.settings.reference, ", ".join(results.names)
    return fill_template(
        "domain_gap_report.html",
        title=f"Domain gap: {names}",
        about={
            "features in units of their standard deviation in": reference,
            "seed": str(results.settings.seed),
            **about,
        },
        reading=_READING,
        matrix=ReportFigure(
            svg=_overall_matrix(results),
            alt=f"matrix of the distances of {names}; see the table below",
        ),
        names=results.names,
        distances=list(matrix_rows(results)),
        remarks=remarks(results),
        group_matrices=ReportFigure(
            svg=_group_matrices(results),
            alt=f"matrices of the distances in {len(GROUPS)} groups of features",
            caption="Columns are in the order of the rows; one colour scale for all.",
        ),
        reference=reference,
        group_heads=group_heads(results),
        group_distances=list(group_rows(results)),
        groups=[[group.name, group.about] for group in GROUPS],
        feature_figures=_feature_figures(results, names),
    )


def markdown(results: GapResults) -> str:
    """Both tables, and how to read them."""
    return "\n".join(
        [
            _READING,
            "",
            *_markdown_table(["", *results.names], matrix_rows(results)),
            "",
            _markdown_text(f"Distance from {results.settings.reference} by group of features:"),
            "",
            *_markdown_table(group_heads(results), group_rows(results)),
            "",
            *(f"- {_markdown_text(line)}" for line in remarks(results)),
            "",
        ]
    )


def matrix_rows(results: GapResults, group: str = OVERALL) -> Iterator[list[str]]:
    """Name of a corpus, and its distance from each corpus, as text."""
    numbers = range(len(results.names))
    for row in numbers:
        yield [results.names[row], *(_distance(results, group, row, column) for column in numbers)]


def group_rows(results: GapResults) -> Iterator[list[str]]:
    """Name of a group of features, and in it the distance of each corpus from the reference, as text."""
    reference = results.reference
    others = [column for column in range(len(results.names)) if column != reference]
    for group in NAMES:
        yield [
            _group_name(group),
            *(_distance(results, group, reference, column) for column in (reference, *others)),
        ]


def group_heads(results: GapResults) -> list[str]:
    """The heads of `group_rows`."""
    reference = results.settings.reference
    return ["features", f"halves of {reference}", *(name for name in results.names if name != reference)]


def remarks(results: GapResults) -> list[str]:
    """Size, units of resampling and failures of each corpus."""
    lines = []
    for corpus in results.corpora:
        line = f"{corpus.name}: {len(corpus.speakers)} of {corpus.of_clips} clips ({corpus.about})"
        line += f"; {_count(corpus.speakers, 'speakers')}, {_count(corpus.noises, 'noise recordings')}"
        undecided = [_group_name(group) for group in NAMES if not units_for(group, corpus).allow_verdict]
        if undecided:
            line += f", which allow no verdict on {', '.join(undecided)}"
        if corpus.failures:
            clip, reason = corpus.failures[0]
            line += f"; {len(corpus.failures)} clips failed, the first is {clip}: {reason}"
        lines.append(line)
    return lines


def _count(names: Sequence[str | None], what: str) -> str:
    """`4 speakers (too few)` or `speakers unknown`."""
    count = count_units(names)
    if count is None:
        return f"{what} unknown"
    return f"{count} {what}{' (too few)' if count < MIN_UNITS else ''}"


def _group_name(group: str) -> str:
    return "all features" if group == OVERALL else group


def _distance(results: GapResults, group: str, row: int, column: int) -> str:
    """`12.3 [10.1, 14.5] *`."""
    one = results.of(group, row, column)
    star = " *" if results.differs(group, row, column) else ""
    return f"{_per_cent(one.value)} [{_per_cent(one.low)}, {_per_cent(one.high)}]{star}"


def _per_cent(value: float) -> str:
    """`12.3`; never `-0.0`."""
    return f"{round(value * _PER_CENT, 1) + 0.0:.1f}"


def _markdown_table(heads: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(_markdown_text(head) for head in heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for row in rows:
        yield f"| {' | '.join(_markdown_text(text) for text in row)} |"


def _markdown_text(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _overall_matrix(results: GapResults) -> bytes:
    """The overall distance of every pair with its interval; on the diagonal, that of halves."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.17, 0.03, 0.62, 0.82))
        _draw_matrix(axes, results, OVERALL, _maximum(results, [OVERALL]), intervals=True)
        axes.xaxis.tick_top()
        bar = figure.add_axes((0.82, 0.03, 0.015, 0.82))
        figure.colorbar(axes.images[0], cax=bar).set_label("energy distance (%)")

    return themed_svg(draw, height_inches=1.0 + 0.62 * len(results.names))


def _group_matrices(results: GapResults) -> bytes:
    """One small matrix per group of features."""
    maximum = _maximum(results, [group.name for group in GROUPS])

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(
            2, 4, left=0.11, right=0.99, bottom=0.02, top=0.93, hspace=0.25, wspace=0.08
        )
        for number, group in enumerate(GROUPS):
            axes = figure.add_subplot(grid[divmod(number, 4)])
            _draw_matrix(axes, results, group.name, maximum, intervals=False)
            axes.set_title(group.name, fontsize=10, loc="left")
            axes.xaxis.set_major_locator(NullLocator())
            if number % 4:
                axes.yaxis.set_major_locator(NullLocator())
        bar = figure.add_axes((0.80, 0.22, 0.18, 0.03))
        figure.colorbar(axes.images[0], cax=bar, orientation="horizontal").set_label("energy distance (%)")

    return themed_svg(draw, height_inches=max(4.6, 1.6 + 0.75 * len(results.names)))


def _maximum(results: GapResults, groups: Sequence[str]) -> float:
    """The largest distance, in %."""
    values = [estimate.value for group in groups for estimate in results.distances[group].values()]
    return max(*values, 0.01) * _PER_CENT


def _draw_matrix(axes: Axes, results: GapResults, group: str, maximum: float, *, intervals: bool) -> None:
    numbers = range(len(results.names))
    values = np.array([[results.of(group, row, column).value for column in numbers] for row in numbers])
    axes.imshow(values * _PER_CENT, cmap=COLOUR_MAP, vmin=0, vmax=maximum, aspect="auto")
    for row in numbers:
        for column in numbers:
            one = results.of(group, row, column)
            text = _per_cent(one.value)
            if intervals:
                text += f"\n{_per_cent(one.low)} to {_per_cent(one.high)}"
            style = "italic" if row == column else "normal"
            colour = "black" if one.value * _PER_CENT > 0.6 * maximum else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, style=style, color=colour)
    axes.set_xticks(numbers, results.names)
    axes.set_yticks(numbers, results.names)
    axes.tick_params(length=0)


def _feature_figures(results: GapResults, names: str) -> list[ReportFigure]:
    """Long-term spectra, modulation spectra, and distributions of SNR, level and decay."""
    lines = "Lines: medians over clips; shaded: the middle 80% of the clips."
    return [
        ReportFigure(
            svg=_band_figure(
                results,
                "spectrum",
                SPECTRUM_HZ,
                xlabel="frequency (Hz)",
                ylabel="third-octave power re total (dB)",
                ticks={hz: f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in _TICKS_HZ},
            ),
            alt=f"long-term spectra of speech and noise of {names}: dB by frequency",
            caption=f"{lines} Third-octave bands (IEC 61260-1), relative to the total power of the clip.",
        ),
        ReportFigure(
            svg=_band_figure(
                results,
                "modulation",
                MODULATION_HZ,
                xlabel="modulation frequency (Hz)",
                ylabel="envelope power re mean (dB)",
                ticks={hz: f"{hz:g}" for hz in MODULATION_HZ},
            ),
            alt=f"modulation spectra of speech and noise of {names}: dB by modulation frequency",
            caption=f"{lines} Power of the fluctuations of octave-band envelopes, by modulation frequency.",
        ),
        ReportFigure(
            svg=_cumulative_figure(results),
            alt=f"cumulative distributions of SNR, level and decay time over the clips of {names}",
            caption="Cumulative distributions over clips. The decay is comparable between corpora; it is no"
            " measurement of reverberation time.",
        ),
    ]


def _band_figure(
    results: GapResults, kind: str, hz: Sequence[float], *, xlabel: str, ylabel: str, ticks: dict[Any, str]
) -> bytes:
    """Median over clips by band, for speech and for noise, with the middle 80% of the clips."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.065, right=0.985, bottom=0.13, top=0.85, wspace=0.17)
        for axes, group in zip(panels, (f"speech {kind}", f"noise {kind}"), strict=True):
            for number, corpus in enumerate(results.corpora):
                low, median, high = np.percentile(corpus.features[group], [10, 50, 90], axis=0)
                line = _line_style(number)
                axes.fill_between(hz, low, high, color=line["color"], alpha=0.1, linewidth=0)
                axes.plot(hz, median, **line, label=corpus.name)
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.set(title=group, xlabel=xlabel, ylabel=ylabel)
            axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
            axes.set_xticks(list(ticks), list(ticks.values()))
        _legend(figure, panels[0])

    return themed_svg(draw, height_inches=4.2)


def _cumulative_figure(results: GapResults) -> bytes:
    labels = {
        "SNR": "SNR (dB)",
        "level": "noisy RMS level (dBFS)",
        "speech decay": "median decay of the speech (s for 60 dB)",
    }

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3, sharey=True)
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.14, top=0.83, wspace=0.08)
        for axes, (group, label) in zip(panels, labels.items(), strict=True):
            for number, corpus in enumerate(results.corpora):
                values = np.sort(corpus.features[group][:, 0])
                shares = np.arange(1, len(values) + 1) / len(values) * _PER_CENT
                axes.step(values, shares, where="post", **_line_style(number), label=corpus.name)
            axes.set(xlabel=label, ylim=(0, 100))
            axes.locator_params(axis="x", nbins=5)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("clips below (%)")
        _legend(figure, panels[0])

    return themed_svg(draw, height_inches=3.8)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=len(names), frameon=False, fontsize=9)


def _line_style(number: int) -> dict[str, Any]:
    """Colour and line style of a corpus, the same in all figures."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _LINESTYLES[number // len(COLOURS) % len(_LINESTYLES)],
    }
