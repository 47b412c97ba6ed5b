"""Pictures of how corpora differ, as SVG bytes; each corpus has one colour and one line in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pipelines.media.figures import COLOUR_MAP, COLOURS, themed_svg
from pipelines.studies.gap_results import OVERALL, GapResults
from rwsa.acoustics import GROUPS, MODULATION_HZ, SPECTRUM_HZ

_LINES = ("-", "--", ":", "-.")
_SHOWN_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
_PER_CENT = 100.0


def matrix_picture(results: GapResults) -> bytes:
    """The overall distance of every pair, with its interval; on the diagonal, that of halves."""
    count = len(results.names)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.17, 0.03, 0.62, 0.82))
        _draw_matrix(axes, results, OVERALL, _most(results, [OVERALL]), intervals=True)
        axes.xaxis.tick_top()
        bar = figure.add_axes((0.82, 0.03, 0.015, 0.82))
        figure.colorbar(axes.images[0], cax=bar).set_label("energy distance (%)")

    return themed_svg(draw, height_inches=1.0 + 0.62 * count)


def groups_picture(results: GapResults) -> bytes:
    """A small matrix for each group of features: why corpora differ."""
    count = len(results.names)
    most = _most(results, [group.name for group in GROUPS])

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(
            2, 4, left=0.11, right=0.99, bottom=0.02, top=0.93, hspace=0.25, wspace=0.08
        )
        for number, group in enumerate(GROUPS):
            axes = figure.add_subplot(grid[divmod(number, 4)])
            _draw_matrix(axes, results, group.name, most, intervals=False)
            axes.set_title(group.name, fontsize=10, loc="left")
            axes.xaxis.set_major_locator(NullLocator())
            if number % 4:
                axes.yaxis.set_major_locator(NullLocator())
        bar = figure.add_axes((0.80, 0.22, 0.18, 0.03))
        figure.colorbar(axes.images[0], cax=bar, orientation="horizontal").set_label("energy distance (%)")

    return themed_svg(draw, height_inches=max(4.6, 1.6 + 0.75 * count))


def spectra_picture(results: GapResults) -> bytes:
    """Median long-term spectra of speech and noise, with the middle 80% of the clips."""

    def draw(figure: Figure) -> None:
        for axes, group in zip(_two(figure), ("speech spectrum", "noise spectrum"), strict=True):
            _draw_bands(axes, results, group, SPECTRUM_HZ)
            axes.set(title=group, xlabel="frequency (Hz)", ylabel="third-octave power re total (dB)")
            axes.xaxis.set_major_locator(FixedLocator(_SHOWN_HZ))
            axes.set_xticks(_SHOWN_HZ, [f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in _SHOWN_HZ])

    return themed_svg(draw, height_inches=4.2)


def modulation_picture(results: GapResults) -> bytes:
    """Median modulation spectra of speech and noise, with the middle 80% of the clips."""

    def draw(figure: Figure) -> None:
        for axes, group in zip(_two(figure), ("speech modulation", "noise modulation"), strict=True):
            _draw_bands(axes, results, group, MODULATION_HZ)
            axes.set(title=group, xlabel="modulation frequency (Hz)", ylabel="envelope power re mean (dB)")
            axes.set_xticks(MODULATION_HZ, [f"{hz:g}" for hz in MODULATION_HZ])

    return themed_svg(draw, height_inches=4.2)


def shares_picture(results: GapResults) -> bytes:
    """Distributions of SNR, level and decay: the share of clips below each value."""
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
                axes.step(values, shares, where="post", **_line(number), label=corpus.name)
            axes.set(xlabel=label, ylim=(0, 100))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("clips below (%)")
        _legend(figure, panels[0])

    return themed_svg(draw, height_inches=3.8)


def _most(results: GapResults, groups: Sequence[str]) -> float:
    values = [estimate.value for group in groups for estimate in results.distances[group].values()]
    return max(*values, 0.01) * _PER_CENT


def _draw_matrix(axes: Axes, results: GapResults, group: str, most: float, *, intervals: bool) -> None:
    numbers = range(len(results.names))
    values = np.array([[results.of(group, row, column).value for column in numbers] for row in numbers])
    axes.imshow(values * _PER_CENT, cmap=COLOUR_MAP, vmin=0, vmax=most, aspect="auto")
    for row in numbers:
        for column in numbers:
            one = results.of(group, row, column)
            text = f"{one.value * _PER_CENT:.1f}"
            if intervals:
                text += f"\n{one.low * _PER_CENT:.1f} to {one.high * _PER_CENT:.1f}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=9,
                style="italic" if row == column else "normal",
                color="black" if one.value * _PER_CENT > 0.6 * most else "white",
            )
    axes.set_xticks(numbers, results.names)
    axes.set_yticks(numbers, results.names)
    axes.tick_params(length=0)


def _two(figure: Figure) -> Sequence[Axes]:
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.13, top=0.85, wspace=0.14)
    return list(panels)


def _draw_bands(axes: Axes, results: GapResults, group: str, hz: Sequence[float]) -> None:
    for number, corpus in enumerate(results.corpora):
        low, middle, high = np.percentile(corpus.features[group], [10, 50, 90], axis=0)
        axes.fill_between(hz, low, high, color=_line(number)["color"], alpha=0.1, linewidth=0)
        axes.plot(hz, middle, **_line(number), label=corpus.name)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if group.startswith("speech"):
        figure = axes.get_figure(root=True)
        assert figure is not None
        _legend(figure, axes)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=len(names), frameon=False, fontsize=9)


def _line(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _LINES[number // len(COLOURS) % len(_LINES)],
    }
