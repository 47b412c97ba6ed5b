"""Figures of a sweep, as SVG: in domain against out of domain, score by size and value, validation curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import heading
from pipelines.media.colours import GREY, VERMILION
from pipelines.media.figures import series_style, themed_svg
from tune.axis_tables import OverSeeds
from tune.search_space import point_label
from tune.sweep_config import SweepConfig
from tune.sweep_report import Configuration, SweepReport
from tune.trial_results import TrialResult

_MAX_NUMBERED = 12  # more numbers would overlap
_MARGINS: dict[str, Any] = {"left": 0.06, "right": 0.99, "bottom": 0.15, "top": 0.9, "wspace": 0.24}


def overview(sweep: SweepConfig, found: SweepReport) -> bytes:
    """Out-of-domain against in-domain score, if there are several corpora; deciding score by parameters."""
    scored = [one for one in found.configurations if one.deciding is not None]

    def draw(figure: Figure) -> None:
        out_of_domain = all(one.out_of_domain is not None for one in scored)
        grid = figure.subplots(1, 2 if out_of_domain else 1, squeeze=False)[0]
        figure.subplots_adjust(**_MARGINS)
        if out_of_domain:
            _in_domain_against_out_of_domain(grid[0], sweep, found, scored)
        _size_against_score(grid[-1], sweep, scored)

    return themed_svg(draw, height_inches=4.4)


def _bars(one: OverSeeds | None) -> float:
    """Half the length of an error bar: the standard deviation over seeds."""
    return 0.0 if one is None or one.std is None else one.std


def _in_domain_against_out_of_domain(
    axes: Axes, sweep: SweepConfig, found: SweepReport, scored: Sequence[Configuration]
) -> None:
    for number, one in enumerate(scored):
        assert one.in_domain is not None
        assert one.out_of_domain is not None
        axes.errorbar(
            [one.in_domain.mean],
            [one.out_of_domain.mean],
            xerr=[_bars(one.in_domain)],
            yerr=[_bars(one.out_of_domain)],
            linestyle="none",
            markersize=7,
            **series_style(number),
        )
        _name(axes, number, len(scored), (one.in_domain.mean, one.out_of_domain.mean))
    noisy = [found.noisy[corpus][sweep.metric] for corpus in found.corpora]
    if None not in noisy:
        values = [value for value in noisy if value is not None]
        position = (values[0], sum(values[1:]) / len(values[1:]))
        axes.scatter([position[0]], [position[1]], color=GREY, marker="x", s=45)
        axes.annotate("noisy", position, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"in domain ({found.corpora[0]})", fontsize=9)
    axes.set_ylabel("out of domain (mean of the other corpora)", fontsize=9)
    _titled(axes, f"{heading(sweep.metric)}, in domain and out of domain")


def _size_against_score(axes: Axes, sweep: SweepConfig, scored: Sequence[Configuration]) -> None:
    for number, one in enumerate(scored):
        assert one.deciding is not None
        axes.errorbar(
            [one.parameters or 0],
            [one.deciding.mean],
            yerr=[_bars(one.deciding)],
            linestyle="none",
            markersize=7,
            **series_style(number),
        )
        _name(axes, number, len(scored), (float(one.parameters or 0), one.deciding.mean))
    front = sorted(
        (one.parameters, one.deciding.mean)
        for one in scored
        if one.on_pareto_front and one.deciding is not None and one.parameters is not None
    )
    axes.step(*zip(*front, strict=True), where="post", color=VERMILION, linewidth=1, alpha=0.6)
    axes.set_xlabel("parameters", fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    _titled(axes, f"{heading(sweep.metric)} by size; line: Pareto front")


def _name(axes: Axes, number: int, count: int, position: tuple[float, float]) -> None:
    if count <= _MAX_NUMBERED:
        axes.annotate(str(number + 1), position, xytext=(6, 4), textcoords="offset points", fontsize=8)


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.margins(0.15)
    axes.grid(alpha=0.25)


def by_value(sweep: SweepConfig, rows: Sequence[TrialResult]) -> bytes:
    """For each axis that is a distribution, the score of every finished trial by its value."""
    drawn = [name for name, axis in sweep.axes.items() if axis.range is not None]
    scored = [
        (row, score)
        for row in rows
        if row.status == "finished" and (score := row.deciding_score(sweep.metric)) is not None
    ]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(drawn), squeeze=False)[0]
        # The last tick label of a logarithmic axis is centred on its right edge.
        figure.subplots_adjust(**{**_MARGINS, "right": 0.97})
        for axes, name in zip(grid, drawn, strict=True):
            axes.scatter(
                [row.point[name] for row, _ in scored], [score for _, score in scored], **series_style(0)
            )
            if sweep.axes[name].log_uniform is not None:
                axes.set_xscale("log")
                # Matplotlib writes powers as formulas, which figures here do not parse.
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_minor_formatter("")
            axes.set_xlabel(name, fontsize=9)
            _titled(axes, heading(sweep.metric))
            axes.set_xlim(sweep.axes[name].range)

    return themed_svg(draw, height_inches=3.6)


def curves(sweep: SweepConfig, rows: Sequence[TrialResult], configurations: Sequence[str]) -> bytes:
    """The validation score of every trial at each checkpoint, one colour per configuration."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(**_MARGINS)
        for row in rows:
            if not row.reports:
                continue
            number = (
                configurations.index(label) if (label := point_label(row.point)) in configurations else None
            )
            style = {"color": GREY, "marker": "x"} if number is None else series_style(number)
            style["linestyle"] = "-" if row.status == "finished" else ":"
            axes.plot(*zip(*row.reports, strict=True), markersize=4, linewidth=1, **style)
        axes.set_xlabel("step", fontsize=9)
        _titled(axes, f"validation {heading(sweep.metric)}; dotted: unfinished")

    return themed_svg(draw, height_inches=3.4)
