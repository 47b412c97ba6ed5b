"""Do the metrics agree? Rank correlations between their gains, over all clips and systems."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import label
from pipelines.evaluation.results import EvaluationSummary
from pipelines.media.figures import WIDTH_INCHES, themed_svg
from pipelines.reports.page import ReportFigure
from rwsa.statistics import rank_correlation

Correlations = list[list[float | None]]

_CELL_INCHES, _LABEL_INCHES = 0.6, 1.0


def correlation_figure(summary: EvaluationSummary) -> ReportFigure | None:
    """The matrix as a picture; None where there are too few clips for any correlation."""
    values = metric_correlations(summary)
    metrics = summary.metrics
    if not any(one is not None for row, of in enumerate(values) for one in of[:row]):
        return None
    lowest, pair = min(
        (one, f"{label(metrics[row])} and {label(metrics[column])}")
        for row, of in enumerate(values)
        for column, one in enumerate(of[:row])
        if one is not None
    )
    return ReportFigure(
        title="Agreement of the metrics",
        alt=f"rank correlations between the gains in {', '.join(map(label, metrics))}",
        caption="Spearman's rank correlation between gains over the noisy input, over all clips and systems;"
        f" distances and errors count as gains where they fall. The least is {lowest:+.2f}, of {pair}.",
        svg=_drawn(values, metrics),
    )


def metric_correlations(summary: EvaluationSummary) -> Correlations:
    """Metric × metric; None where there are too few clips, or a gain is the same for all."""
    systems = [system.name for system in summary.systems]
    gains = {
        metric: [
            clip.gain(metric, system)
            for corpus in summary.corpora
            for clip in corpus.clips
            for system in systems
        ]
        for metric in summary.metrics
    }
    return [[_correlation(gains[one], gains[other]) for other in summary.metrics] for one in summary.metrics]


def _correlation(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    pairs = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if one is not None and other is not None
    ]
    return rank_correlation(*zip(*pairs, strict=True)) if pairs else None


def _drawn(values: Correlations, metrics: Sequence[str]) -> bytes:
    names, side = [label(metric) for metric in metrics], len(metrics) * _CELL_INCHES
    height = side + _LABEL_INCHES

    def draw(figure: Figure) -> None:
        left = (WIDTH_INCHES - side) / 2
        axes = figure.add_axes((left / WIDTH_INCHES, 0, side / WIDTH_INCHES, side / height))
        shown = [[float("nan") if one is None else one for one in row] for row in values]
        axes.imshow(shown, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(names)), names, rotation=50, ha="left", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, of in enumerate(values):
            for column, one in enumerate(of):
                text = "–" if one is None else f"{one:+.2f}"
                # On the map's own colours, whatever the theme of the page.
                ink = "white" if one is not None and abs(one) > 0.6 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)

    return themed_svg(draw, height_inches=height)
