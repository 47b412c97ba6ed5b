"""The small pictures of the results page: configurations of a sweep, and weights beside public enhancers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import heading, label
from pipelines.media.colours import BLUE, GREY, VERMILION
from pipelines.media.figures import themed_svg
from tune.axis_tables import OverSeeds
from tune.sweep_config import SweepConfig
from tune.sweep_report import SweepReport

_WIDTH_INCHES, _HEIGHT_INCHES = 5.0, 3.0
_LONGEST_NAME = 28
Point = tuple[float, float]


def configurations(sweep: SweepConfig, found: SweepReport) -> bytes:
    """One line per configuration: its score in domain (hollow) and out of domain (filled), with intervals."""
    scored = [one for one in found.configurations if one.deciding is not None]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.36, right=0.97, bottom=0.17, top=0.97)
        for height, one in enumerate(reversed(scored)):
            colour = VERMILION if one.label == found.winner else BLUE
            _point(axes, one.in_domain, height + 0.1, colour, filled=False)
            _point(axes, one.out_of_domain, height - 0.1, colour, filled=True)
        names = [one.label.rpartition("=")[2][:_LONGEST_NAME] for one in reversed(scored)]
        axes.set_yticks(range(len(scored)), names, fontsize=8)
        axes.set_xlabel(heading(sweep.metric), fontsize=9)
        axes.grid(axis="x", alpha=0.25)
        axes.margins(y=0.1)

    return themed_svg(draw, height_inches=_HEIGHT_INCHES, width_inches=_WIDTH_INCHES)


def _point(axes: Axes, one: OverSeeds | None, height: float, colour: str, *, filled: bool) -> None:
    if one is None:
        return
    if one.interval is not None:
        axes.plot([one.interval.low, one.interval.high], [height, height], color=colour, linewidth=1)
    face = colour if filled else "none"
    axes.scatter([one.mean], [height], s=36, facecolors=face, edgecolors=colour, zorder=3)


def beside_peers(
    noisy: Point,
    ours: Mapping[str, Point],
    theirs: Mapping[str, Point],
    *,
    names: Sequence[str],
    metric: str,
) -> bytes:
    """Scores on two corpora: horizontal the first, vertical the second; ours filled, the cross is noisy."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.12, right=0.97, bottom=0.17, top=0.97)
        axes.scatter(*noisy, marker="x", color=GREY, s=45)
        axes.annotate("noisy", noisy, (4, -8), textcoords="offset points", fontsize=7)
        for points, colour, filled in ((theirs, BLUE, False), (ours, VERMILION, True)):
            for name, at in points.items():
                axes.scatter(*at, s=36, facecolors=colour if filled else "none", edgecolors=colour)
                axes.annotate(
                    name[:_LONGEST_NAME], at, (4, 2), textcoords="offset points", fontsize=7 if filled else 5
                )
        axes.set_xlabel(f"{label(metric)} on {names[0]}", fontsize=9)
        axes.set_ylabel(f"{label(metric)} on {names[1]}", fontsize=9)
        axes.grid(alpha=0.25)
        axes.margins(0.12)

    return themed_svg(draw, height_inches=_HEIGHT_INCHES, width_inches=_WIDTH_INCHES)
