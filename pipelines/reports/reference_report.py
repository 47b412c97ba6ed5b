"""A study of references, for people: one picture, tables, and what was held and what varied."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import heading
from pipelines.media.figures import BLUE, COLOURS, VERMILION, themed_svg
from pipelines.reports.page import details, page, picture, table
from pipelines.reports.score_table import number, signed
from pipelines.studies.reference_conditions import AXES, CONDITIONS, Axis, Condition
from pipelines.studies.reference_results import CLEAN, ENHANCED, NOISY, STUDIED, ReferenceStudy

LABELS = {
    NOISY: "noisy",
    ENHANCED: "enhanced",
    CLEAN: "clean, as a perfect enhancer would give it",
}
_LINES: dict[str, dict[str, Any]] = {
    NOISY: {"color": VERMILION, "linestyle": "--", "marker": "s"},
    ENHANCED: {"color": BLUE, "linestyle": "-", "marker": "o"},
    CLEAN: {"color": COLOURS[2], "linestyle": ":", "marker": "D"},
}
_HELD = (
    "Held: the estimates. Each is made once a clip, from the clean clip as the corpus has it: the noisy"
    " mixture, the clean clip itself, which no enhancer can better, and, where weights were given, the"
    " enhanced mixture."
)
_VARIED = (
    "Varied: the reference alone. Before scoring it gets a noise floor of its own (pink, by RMS over the"
    " whole clip), or it is put into a synthetic room: the direct sound, in time and level as it was, and"
    " a tail of exponentially decaying noise. A clip has one noise and one room; only their level and"
    " length change. So whatever moves here is no property of an enhancer: it is what recordings that are"
    " called clean cost."
)
_READING = (
    "Where the line of the clean clip falls, a perfect enhancer loses points for leaving out what the"
    " reference should not have had. Where it falls below another line, the metric prefers that one to"
    " the truth. As it is means as the corpus has it, which has its own floor and room already."
)
_CAPTION = (
    "Means over clips; shaded, the middle 80% of them. A point is missing where no clip has a value: SI-SDR"
    " of the clean clip against itself is infinite. Every row has one vertical scale."
)
_FLOORED_CAPTION = " CSIG and COVL are lowered by digital silence, as told below."


def render_page(study: ReferenceStudy) -> str:
    """The whole page."""
    listed = "".join(f"<p>{escape(text)}</p>\n" for text in (_HELD, _VARIED, _READING))
    tables = "".join(
        f"<h3>{escape(LABELS[estimate].capitalize())}</h3>\n{table(heads(), score_rows(study, estimate))}"
        for estimate in study.estimates
    )
    if ENHANCED in study.estimates:
        tables += f"<h3>Gain: enhanced minus noisy</h3>\n{table(heads(), gain_rows(study))}"
    silence = _floored(study)
    caption = f"{_CAPTION}{_FLOORED_CAPTION if silence else ''}"
    body = (
        f"{details(study.about)}{listed}"
        f"{picture(scores_picture(study), _alternative(study), caption=caption)}"
        f"<h2>In figures</h2>\n<p>Means over clips.</p>\n{tables}{silence}{_failures(study)}"
    )
    return page(f"What the reference of {study.corpus} is worth", body)


def heads() -> list[str]:
    """The heads of `score_rows` and `gain_rows`."""
    return ["reference", *(heading(metric) for metric in STUDIED)]


def score_rows(study: ReferenceStudy, estimate: str) -> Iterator[list[str]]:
    """A condition, and the mean of each metric, with the number of clips that failed where any did."""
    for condition in CONDITIONS:
        yield [condition.name, *(_cell(study, condition, estimate, metric) for metric in STUDIED)]


def gain_rows(study: ReferenceStudy) -> Iterator[list[str]]:
    """A condition, and the gain in each metric."""
    for condition in CONDITIONS:
        gains = [signed(metric, study.gain(condition, metric)) for metric in STUDIED]
        yield [condition.name, *gains]


def scores_picture(study: ReferenceStudy) -> bytes:
    """A row a metric, a column a quantity that varies, a line an estimate; SVG."""
    rows, columns = len(STUDIED), len(AXES)
    height_inches = 1.1 + 1.55 * rows

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, sharey="row", sharex="col", squeeze=False)
        figure.subplots_adjust(
            left=0.075,
            right=0.985,
            bottom=0.6 / height_inches,
            top=1 - 0.45 / height_inches,
            wspace=0.09,
            hspace=0.12,
        )
        for row, metric in zip(panels, STUDIED, strict=True):
            row[0].set_ylabel(heading(metric).replace(" (", "\n("))
            for axes, axis in zip(row, AXES, strict=True):
                _draw_panel(axes, study, axis, metric)
        for axes, axis in zip(panels[-1], AXES, strict=True):
            axes.set_xlabel(axis.quantity)
        figure.align_ylabels(panels[:, 0])
        handles, names = panels[-1][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=len(names), frameon=False)

    return themed_svg(draw, height_inches=height_inches)


def _draw_panel(axes: Axes, study: ReferenceStudy, axis: Axis, metric: str) -> None:
    places = np.arange(len(axis.conditions))
    for estimate in study.estimates:
        spreads = [study.spread(condition, estimate, metric) for condition in axis.conditions]
        means, lows, highs = (
            np.array([np.nan if value is None else value for value in values])
            for values in zip(*((one.mean, one.low, one.high) for one in spreads), strict=True)
        )
        line = _LINES[estimate]
        axes.fill_between(places, lows, highs, color=line["color"], alpha=0.12, linewidth=0)
        axes.plot(places, means, **line, markersize=4, label=LABELS[estimate])
    axes.set_xticks(places, axis.ticks)
    axes.margins(x=0.05)
    axes.grid(alpha=0.3)


def _alternative(study: ReferenceStudy) -> str:
    names = ", ".join(LABELS[estimate] for estimate in study.estimates)
    return f"{len(STUDIED)} metrics of {names} by what was done to the reference; the tables have the figures"


def _cell(study: ReferenceStudy, condition: Condition, estimate: str, metric: str) -> str:
    spread = study.spread(condition, estimate, metric)
    mean = number(metric, spread.mean)
    return f"{mean} ({spread.failures} failed)" if spread.failures else mean


def _floored(study: ReferenceStudy) -> str:
    """Which of the figures above digital silence has made, and not quality."""
    rows = [
        [condition.name, *(str(study.floored(condition, estimate)) for estimate in study.estimates)]
        for condition in CONDITIONS
        if any(study.floored(condition, estimate) for estimate in study.estimates)
    ]
    if not rows:
        return ""
    heads = ["reference", *(LABELS[estimate] for estimate in study.estimates)]
    return (
        "<h2>Digital silence</h2>\n<p>CSIG and COVL are 1, as CMGAN has it, where over 5% of the frames of"
        f" either clip are zeros; clips of which this is so, of {len(study.clips) - len(study.errors)}:</p>\n"
        f"{table(heads, rows)}"
    )


def _failures(study: ReferenceStudy) -> str:
    rows = [
        [condition, LABELS[estimate], reason, str(count)]
        for condition, estimate, reason, count in study.failures()
    ]
    parts = ""
    if rows:
        parts += "<h2>What has no value</h2>\n"
        parts += table(["reference", "estimate", "why", "clips"], rows, words=True)
    if study.errors:
        lines = "".join(f"<li>{escape(error)}</li>" for error in study.errors)
        parts += f'<h3>Clips left out</h3>\n<ul class="quiet">{lines}</ul>\n'
    return parts
