"""A corpus's picture: what each system makes of every clip, by SI-SDR, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.corpus_statistics import BAND_DB, clip_values
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.media.figures import COLOURS, GREY, themed_svg

MARKS = ("o", "s", "^", "D", "v", "P")
_LEAST_CLIPS_IN_BIN = 3
_DOT: dict[str, Any] = {"s": 16, "alpha": 0.6, "linewidths": 0}


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """Axes shared by the pictures of several corpora, so that they compare at a glance: (low, high) in dB."""

    si_sdr_db: tuple[float, float]
    gain_db: tuple[float, float]
    input_snr_db: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """SI-SDR of one clip."""

    noisy_db: float
    enhanced_db: float
    input_snr_db: float | None

    @property
    def gain_db(self) -> float:
        return self.enhanced_db - self.noisy_db


def style(number: int) -> dict[str, Any]:
    """Colour and mark of a configuration, the same in all pictures."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}


def picture_limits(summary: EvaluationSummary) -> PictureLimits:
    """Limits that hold every clip of every corpus."""
    points = [
        point
        for corpus in summary.corpora
        for of_one in _points(corpus, summary.configurations).values()
        for point in of_one
    ]
    snrs_db = [point.input_snr_db for point in points if point.input_snr_db is not None]
    return PictureLimits(
        si_sdr_db=_around([value for point in points for value in (point.noisy_db, point.enhanced_db)]),
        gain_db=_around([0.0, *(point.gain_db for point in points)]),
        input_snr_db=_around(snrs_db),
    )


def gain_picture(corpus: CorpusScores, summary: EvaluationSummary, limits: PictureLimits) -> bytes:
    """SI-SDR of enhanced against noisy, and its gain by input SNR; a mark a clip."""
    points = _points(corpus, summary.configurations)

    def draw(figure: Figure) -> None:
        pairs, by_snr = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 2)})
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.14, top=0.91, wspace=0.15)
        _draw_pairs(pairs, points, limits)
        _draw_gains(by_snr, points, limits)

    return themed_svg(draw, height_inches=3.6)


def _points(corpus: CorpusScores, configurations: Mapping[str, Sequence[str]]) -> dict[str, list[_Point]]:
    noisy = corpus.values(NOISY, "si_sdr")
    return {
        name: [
            _Point(noisy_db=before, enhanced_db=after, input_snr_db=clip.input_snr_db)
            for clip, before, after in zip(
                corpus.clips, noisy, clip_values(corpus, systems, "si_sdr"), strict=True
            )
            if before is not None and after is not None
        ]
        for name, systems in configurations.items()
    }


def _draw_pairs(axes: Axes, points: Mapping[str, Sequence[_Point]], limits: PictureLimits) -> None:
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1)
    for number, of_one in enumerate(points.values()):
        axes.scatter([p.noisy_db for p in of_one], [p.enhanced_db for p in of_one], **_DOT, **style(number))
    axes.set(xlim=limits.si_sdr_db, ylim=limits.si_sdr_db)
    axes.set(xlabel="noisy SI-SDR (dB)", ylabel="enhanced SI-SDR (dB)")
    axes.set_title("a mark a clip; better above the line", fontsize=9, loc="left")


def _draw_gains(axes: Axes, points: Mapping[str, Sequence[_Point]], limits: PictureLimits) -> None:
    axes.axhline(0, color=GREY, linewidth=1)
    for number, (name, of_one) in enumerate(points.items()):
        known = [(p.input_snr_db, p.gain_db) for p in of_one if p.input_snr_db is not None]
        axes.scatter(
            [snr for snr, _ in known], [gain for _, gain in known], label=name, **_DOT, **style(number)
        )
        if medians := _medians(known):
            axes.plot(
                *zip(*medians, strict=True),
                linewidth=1.6,
                markersize=6,
                markeredgecolor="white",
                **style(number),
            )
    axes.set(xlim=limits.input_snr_db, ylim=limits.gain_db)
    axes.set(xlabel="input SNR (dB)", ylabel="SI-SDR gain (dB)")
    axes.set_title(
        f"gain by input SNR; lines: medians of {BAND_DB:g} dB bands of {_LEAST_CLIPS_IN_BIN} clips and more",
        fontsize=9,
        loc="left",
    )
    if points:
        axes.legend(fontsize=8, loc="best", frameon=False)


def _medians(known: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(middle, median gain) of each SNR band that holds enough clips."""
    bins: dict[int, list[float]] = {}
    for snr_db, gain_db in known:
        bins.setdefault(math.floor(snr_db / BAND_DB), []).append(gain_db)
    return [
        ((number + 0.5) * BAND_DB, float(np.median(gains)))
        for number, gains in sorted(bins.items())
        if len(gains) >= _LEAST_CLIPS_IN_BIN
    ]


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Limits a little outside the values."""
    if not values:
        return -1.0, 1.0
    margin = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin
