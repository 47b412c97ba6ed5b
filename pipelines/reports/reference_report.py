"""The reference study report: scores of fixed estimates against degraded references, figure and tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import heading
from pipelines.media.colours import BLUE, COLOURS, VERMILION
from pipelines.media.figures import themed_svg
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.reports.score_table import format_score, signed_score
from pipelines.studies.reference_conditions import (
    CONDITION_AXES,
    CONDITIONS,
    ConditionAxis,
    ReferenceCondition,
)
from pipelines.studies.reference_results import CLEAN, ENHANCED, NOISY, STUDIED, ReferenceStudy

LABELS = {
    NOISY: "noisy",
    ENHANCED: "enhanced",
    CLEAN: "clean (perfect enhancement)",
}
_LINES: dict[str, dict[str, Any]] = {
    NOISY: {"color": VERMILION, "linestyle": "--", "marker": "s"},
    ENHANCED: {"color": BLUE, "linestyle": "-", "marker": "o"},
    CLEAN: {"color": COLOURS[2], "linestyle": ":", "marker": "D"},
}
_CAPTION = (
    "Means over clips; shaded: the middle 80% of the clips. A point is missing where no clip has a value:"
    " SI-SDR of the clean clip against itself is infinite. Every row has one vertical scale."
)
_FLOORED_CAPTION = " CSIG and COVL are lowered by digital silence, see below."


def reference_study_html(study: ReferenceStudy) -> str:
    """The report as HTML."""
    names = ", ".join(LABELS[estimate] for estimate in study.estimates)
    tables = {
        LABELS[estimate].capitalize(): list(score_rows(study, estimate)) for estimate in study.estimates
    }
    if ENHANCED in study.estimates:
        tables["Gain: enhanced minus noisy"] = list(gain_rows(study))
    floored = [
        [condition.name, *(str(study.floored(condition, estimate)) for estimate in study.estimates)]
        for condition in CONDITIONS
        if any(study.floored(condition, estimate) for estimate in study.estimates)
    ]
    return fill_template(
        "reference_report.html",
        title=f"Sensitivity to the reference: {study.corpus}",
        about=study.about,
        figure=ReportFigure(
            svg=_scores_svg(study),
            alt=f"{len(STUDIED)} metrics of {names} by degradation of the reference; see the tables below",
            caption=f"{_CAPTION}{_FLOORED_CAPTION if floored else ''}",
        ),
        heads=heads(),
        tables=tables,
        estimates=[LABELS[estimate] for estimate in study.estimates],
        scored=len(study.clips) - len(study.errors),
        floored=floored,
        failures=[
            [condition, LABELS[estimate], reason, str(count)]
            for condition, estimate, reason, count in study.failures()
        ],
        errors=study.errors,
    )


def heads() -> list[str]:
    """The heads of `score_rows` and `gain_rows`."""
    return ["reference", *(heading(metric) for metric in STUDIED)]


def score_rows(study: ReferenceStudy, estimate: str) -> Iterator[list[str]]:
    """A condition, and the mean of each metric with the number of failed clips."""
    for condition in CONDITIONS:
        yield [condition.name, *(_cell(study, condition, estimate, metric) for metric in STUDIED)]


def gain_rows(study: ReferenceStudy) -> Iterator[list[str]]:
    """A condition, and the gain in each metric."""
    for condition in CONDITIONS:
        gains = [signed_score(metric, study.gain(condition, metric)) for metric in STUDIED]
        yield [condition.name, *gains]


def _scores_svg(study: ReferenceStudy) -> bytes:
    """One row per metric, one column per varied quantity, one line per estimate."""
    rows, columns = len(STUDIED), len(CONDITION_AXES)
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
            for axes, axis in zip(row, CONDITION_AXES, strict=True):
                _draw_panel(axes, study, axis, metric)
        for axes, axis in zip(panels[-1], CONDITION_AXES, strict=True):
            axes.set_xlabel(axis.quantity)
        figure.align_ylabels(panels[:, 0])
        handles, names = panels[-1][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=len(names), frameon=False)

    return themed_svg(draw, height_inches=height_inches)


def _draw_panel(axes: Axes, study: ReferenceStudy, axis: ConditionAxis, metric: str) -> None:
    positions = np.arange(len(axis.conditions))
    for estimate in study.estimates:
        spreads = [study.over_clips(condition, estimate, metric) for condition in axis.conditions]
        means, lows, highs = (
            np.array([np.nan if value is None else value for value in values])
            for values in zip(*((one.mean, one.low, one.high) for one in spreads), strict=True)
        )
        line = _LINES[estimate]
        axes.fill_between(positions, lows, highs, color=line["color"], alpha=0.12, linewidth=0)
        axes.plot(positions, means, **line, markersize=4, label=LABELS[estimate])
    axes.set_xticks(positions, axis.ticks)
    axes.margins(x=0.05)
    axes.grid(alpha=0.3)


def _cell(study: ReferenceStudy, condition: ReferenceCondition, estimate: str, metric: str) -> str:
    spread = study.over_clips(condition, estimate, metric)
    mean = format_score(metric, spread.mean)
    return f"{mean} ({spread.failures} failed)" if spread.failures else mean
