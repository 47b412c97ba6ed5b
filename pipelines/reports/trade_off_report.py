"""The trade-off report: systems by their mean scores in-domain and out-of-domain, as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.core.storage import StorageConfig
from pipelines.evaluation.metric_labels import heading, label
from pipelines.media.colours import BLUE, GREY, VERMILION
from pipelines.media.figures import themed_svg
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.reports.score_table import format_score
from pipelines.studies.trade_off_scores import TradeOffPanel, TradeOffPoint
from rwsa.statistics import MIN_RANKED

# Of more systems only those on the Pareto front are numbered.
_MOST_NUMBERED = 40


def trade_off_html(panels: Sequence[TradeOffPanel], storage: StorageConfig) -> str:
    """The report as HTML, with one section per pair of corpora."""
    pairs: dict[str, list[TradeOffPanel]] = {}
    for panel in panels:
        pairs.setdefault(panel.key, []).append(panel)
    return fill_template(
        "trade_off_report.html",
        title="In-domain against out-of-domain",
        about={"MLflow": storage.tracking_uri, "experiment": storage.experiment},
        min_ranked=MIN_RANKED,
        pairs=[_pair(panels) for panels in pairs.values()],
    )


def _pair(panels: Sequence[TradeOffPanel]) -> dict[str, Any]:
    in_domain, out_of_domain = panels[0].in_domain, panels[0].out_of_domain
    rows = [["noisy", *_cells([panel.noisy for panel in panels], panels)]]
    for at, point in enumerate(panels[0].points):
        rows.append([f"{at + 1} {point.name}", *_cells([panel.points[at] for panel in panels], panels)])
    return {
        "title": f"{in_domain} against {out_of_domain}",
        "figure": ReportFigure(
            svg=_figure(panels),
            alt=f"mean scores of systems on {in_domain} against {out_of_domain}; see the table below",
        ),
        "heads": [f"{label(panel.metric)} {domain}" for panel in panels for domain in ("in", "out")],
        "rows": rows,
    }


def _cells(points: Sequence[TradeOffPoint], panels: Sequence[TradeOffPanel]) -> list[str]:
    return [
        format_score(panel.metric, value)
        for point, panel in zip(points, panels, strict=True)
        for value in (point.in_domain, point.out_of_domain)
    ]


def _figure(panels: Sequence[TradeOffPanel]) -> bytes:
    """One panel per metric."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        figure.subplots_adjust(left=0.06, right=0.99, bottom=0.16, top=0.9, wspace=0.3)
        for axes, panel in zip(grid[0], panels, strict=True):
            _draw_panel(axes, panel)
        grid[0, 0].set_ylabel(f"out-of-domain: {panels[0].out_of_domain}", fontsize=9)

    return themed_svg(draw, height_inches=3.6)


def _draw_panel(axes: Axes, panel: TradeOffPanel) -> None:
    axes.scatter([panel.noisy.in_domain], [panel.noisy.out_of_domain], marker="x", color=GREY, s=45)
    for best, colour in ((False, BLUE), (True, VERMILION)):
        of_kind = [point for point in panel.points if point.best == best]
        axes.scatter(
            [point.in_domain for point in of_kind],
            [point.out_of_domain for point in of_kind],
            s=40,
            facecolors=colour if best else "none",
            edgecolors=colour,
        )
    for at, point in enumerate(panel.points, 1):
        if point.best or len(panel.points) <= _MOST_NUMBERED:
            position = (point.in_domain, point.out_of_domain)
            axes.annotate(str(at), position, xytext=(5, 4), textcoords="offset points", fontsize=8)
    front = sorted((point.in_domain, point.out_of_domain) for point in panel.points if point.best)
    axes.plot(*zip(*front, strict=True), color=VERMILION, linewidth=1, alpha=0.6)
    correlation = "" if panel.correlation is None else f" · ρ {panel.correlation:+.2f}"
    axes.set_title(f"{heading(panel.metric)}{correlation}", fontsize=9, loc="left")
    axes.set_xlabel(f"in-domain: {panel.in_domain}", fontsize=9)
    axes.margins(0.18)
    axes.grid(alpha=0.25)
