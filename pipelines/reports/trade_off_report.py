"""The trade-off report: systems by their mean scores in-domain and out-of-domain, as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.core.storage import StorageConfig
from pipelines.evaluation.metric_labels import heading, label
from pipelines.media.figures import BLUE, GREY, VERMILION, themed_svg
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.reports.score_table import number
from pipelines.studies.trade_off_scores import Panel, Point
from rwsa.statistics import MIN_RANKED


def trade_off_html(panels: Sequence[Panel], storage: StorageConfig) -> str:
    """The report as HTML, with one section per pair of corpora."""
    pairs: dict[str, list[Panel]] = {}
    for panel in panels:
        pairs.setdefault(panel.key, []).append(panel)
    return fill_template(
        "trade_off.html",
        title="In-domain against out-of-domain",
        about={"MLflow": storage.tracking_uri, "experiment": storage.experiment},
        min_ranked=MIN_RANKED,
        pairs=[_pair(panels) for panels in pairs.values()],
    )


def _pair(panels: Sequence[Panel]) -> dict[str, Any]:
    home, abroad = panels[0].home, panels[0].abroad
    rows = [["noisy", *_cells([panel.noisy for panel in panels], panels)]]
    for at, point in enumerate(panels[0].points):
        rows.append([f"{at + 1} {point.name}", *_cells([panel.points[at] for panel in panels], panels)])
    return {
        "title": f"{home} against {abroad}",
        "figure": ReportFigure(
            svg=_figure(panels), alt=f"mean scores of systems on {home} against {abroad}; see the table below"
        ),
        "heads": [f"{label(panel.metric)} {domain}" for panel in panels for domain in ("in", "out")],
        "rows": rows,
    }


def _cells(points: Sequence[Point], panels: Sequence[Panel]) -> list[str]:
    return [
        number(panel.metric, value)
        for point, panel in zip(points, panels, strict=True)
        for value in (point.home, point.abroad)
    ]


def _figure(panels: Sequence[Panel]) -> bytes:
    """One panel per metric."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        figure.subplots_adjust(left=0.06, right=0.99, bottom=0.16, top=0.9, wspace=0.3)
        for axes, panel in zip(grid[0], panels, strict=True):
            _draw_panel(axes, panel)
        grid[0, 0].set_ylabel(f"out-of-domain: {panels[0].abroad}", fontsize=9)

    return themed_svg(draw, height_inches=3.6)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.scatter([panel.noisy.home], [panel.noisy.abroad], marker="x", color=GREY, s=45)
    for at, point in enumerate(panel.points, 1):
        colour = VERMILION if point.best else BLUE
        face = colour if point.best else "none"
        axes.scatter([point.home], [point.abroad], s=40, facecolors=face, edgecolors=colour)
        position = (point.home, point.abroad)
        axes.annotate(str(at), position, xytext=(5, 4), textcoords="offset points", fontsize=8)
    front = sorted((point.home, point.abroad) for point in panel.points if point.best)
    axes.plot(*zip(*front, strict=True), color=VERMILION, linewidth=1, alpha=0.6)
    correlation = "" if panel.correlation is None else f" · ρ {panel.correlation:+.2f}"
    axes.set_title(f"{heading(panel.metric)}{correlation}", fontsize=9, loc="left")
    axes.set_xlabel(f"in-domain: {panel.home}", fontsize=9)
    axes.margins(0.18)
    axes.grid(alpha=0.25)
