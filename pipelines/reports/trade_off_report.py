"""The page of in-domain against out-of-domain: pictures of a pair of corpora, and the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.core.storage import StorageConfig
from pipelines.evaluation.metric_labels import heading, label
from pipelines.media.figures import BLUE, GREY, VERMILION, themed_svg
from pipelines.reports.page import details, page, picture, table
from pipelines.reports.score_table import number
from pipelines.studies.trade_off_scores import Panel, Point
from rwsa.statistics import MIN_RANKED

_READING = (
    "A mark is a system, numbered as in the table: across, its mean on the in-domain corpus (home); up, its"
    " mean on the other one (abroad); the cross is the noisy input. Filled: no other system is at least as"
    f" good on both. ρ is Spearman's rank correlation over systems, from {MIN_RANKED} on: near 1, what is"
    " better at home is better abroad too; near −1, one is paid for with the other. Only scores of the same"
    " clips by the same scoring code meet in a picture, and only where there are two systems."
)
_STYLE = "td, th { font-size: 14px; }"


def render_page(panels: Sequence[Panel], storage: StorageConfig) -> str:
    """The whole page; panels of one pair of corpora stand together."""
    pairs: dict[str, list[Panel]] = {}
    for panel in panels:
        pairs.setdefault(panel.key, []).append(panel)
    about = {"MLflow": storage.tracking_uri, "experiment": storage.experiment}
    sections = "".join(map(_section, pairs.values()))
    body = f'{details(about)}<p class="quiet">{escape(_READING)}</p>\n{sections}'
    return page("In-domain against out-of-domain", body, style=_STYLE)


def _section(panels: Sequence[Panel]) -> str:
    home, abroad = panels[0].home, panels[0].abroad
    places = ("home", "abroad")
    heads = ["system", *(f"{label(panel.metric)} {place}" for panel in panels for place in places)]
    rows = [["noisy", *_cells([panel.noisy for panel in panels], panels)]]
    for at, point in enumerate(panels[0].points):
        rows.append([f"{at + 1} {point.name}", *_cells([panel.points[at] for panel in panels], panels)])
    alt = f"mean scores of systems on {home} against {abroad}; the table below has them"
    return (
        f"<h2>{escape(home)} against {escape(abroad)}</h2>\n{picture(_picture(panels), alt)}"
        f"{table(heads, rows)}"
    )


def _cells(points: Sequence[Point], panels: Sequence[Panel]) -> list[str]:
    return [
        number(panel.metric, value)
        for point, panel in zip(points, panels, strict=True)
        for value in (point.home, point.abroad)
    ]


def _picture(panels: Sequence[Panel]) -> bytes:
    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        figure.subplots_adjust(left=0.06, right=0.99, bottom=0.16, top=0.9, wspace=0.3)
        for axes, panel in zip(grid[0], panels, strict=True):
            _draw(axes, panel)
        grid[0, 0].set_ylabel(panels[0].abroad, fontsize=9)

    return themed_svg(draw, height_inches=3.6)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.scatter([panel.noisy.home], [panel.noisy.abroad], marker="x", color=GREY, s=45)
    for at, point in enumerate(panel.points, 1):
        colour = VERMILION if point.best else BLUE
        face = colour if point.best else "none"
        axes.scatter([point.home], [point.abroad], s=40, facecolors=face, edgecolors=colour)
        place = (point.home, point.abroad)
        axes.annotate(str(at), place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    front = sorted((point.home, point.abroad) for point in panel.points if point.best)
    axes.plot(*zip(*front, strict=True), color=VERMILION, linewidth=1, alpha=0.6)
    told = "" if panel.correlation is None else f" · ρ {panel.correlation:+.2f}"
    axes.set_title(f"{heading(panel.metric)}{told}", fontsize=9, loc="left")
    axes.set_xlabel(panel.home, fontsize=9)
    axes.margins(0.18)
    axes.grid(alpha=0.25)
