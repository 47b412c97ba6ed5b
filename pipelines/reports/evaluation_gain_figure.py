"""The figure of one corpus on the evaluation report: SI-SDR and its gain, one point per clip, as SVG."""

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
from pipelines.media.colours import GREY
from pipelines.media.figures import series_style, themed_svg
from pipelines.reports.page import ReportFigure

_MIN_CLIPS_PER_BAND = 3
_MOST_VECTOR_POINTS = 3000
_POINT: dict[str, Any] = {"s": 16, "alpha": 0.6, "linewidths": 0}


@dataclass(frozen=True, kw_only=True)
class GainLimits:
    """Axis limits (low, high) in dB, shared by all corpora so that their figures are comparable."""

    si_sdr_db: tuple[float, float]
    gain_db: tuple[float, float]
    input_snr_db: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _ClipSiSdr:
    """SI-SDR of one clip before and after enhancement."""

    noisy_db: float
    enhanced_db: float
    input_snr_db: float | None

    @property
    def gain_db(self) -> float:
        return self.enhanced_db - self.noisy_db


def gain_limits(summary: EvaluationSummary) -> GainLimits:
    """Limits that contain every clip of every corpus."""
    clips = [
        clip
        for corpus in summary.corpora
        for clips in _clips(corpus, summary.configurations).values()
        for clip in clips
    ]
    snrs_db = [clip.input_snr_db for clip in clips if clip.input_snr_db is not None]
    return GainLimits(
        si_sdr_db=_with_margin([value for clip in clips for value in (clip.noisy_db, clip.enhanced_db)]),
        gain_db=_with_margin([0.0, *(clip.gain_db for clip in clips)]),
        input_snr_db=_with_margin(snrs_db),
    )


def gain_figure(corpus: CorpusScores, summary: EvaluationSummary, limits: GainLimits) -> ReportFigure:
    """Enhanced against noisy SI-SDR, and SI-SDR gain by input SNR; one point per clip."""
    clips = _clips(corpus, summary.configurations)

    def draw(figure: Figure) -> None:
        before_after, by_snr = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 2)})
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.14, top=0.91, wspace=0.15)
        _draw_before_after(before_after, clips, limits)
        _draw_gains(by_snr, clips, limits)

    return ReportFigure(
        svg=themed_svg(draw, height_inches=3.6),
        alt=f"SI-SDR of every clip of {corpus.name}: enhanced against noisy, and gain by input SNR",
    )


def _clips(corpus: CorpusScores, configurations: Mapping[str, Sequence[str]]) -> dict[str, list[_ClipSiSdr]]:
    noisy = corpus.values(NOISY, "si_sdr")
    return {
        name: [
            _ClipSiSdr(noisy_db=before, enhanced_db=after, input_snr_db=clip.input_snr_db)
            for clip, before, after in zip(
                corpus.clips, noisy, clip_values(corpus, systems, "si_sdr"), strict=True
            )
            if before is not None and after is not None
        ]
        for name, systems in configurations.items()
    }


def _draw_before_after(axes: Axes, clips: Mapping[str, Sequence[_ClipSiSdr]], limits: GainLimits) -> None:
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1)
    for number, of_one in enumerate(clips.values()):
        noisy_db, enhanced_db = [p.noisy_db for p in of_one], [p.enhanced_db for p in of_one]
        axes.scatter(noisy_db, enhanced_db, **_POINT, **series_style(number), rasterized=_many(clips))
    axes.set(xlim=limits.si_sdr_db, ylim=limits.si_sdr_db)
    axes.set(xlabel="noisy SI-SDR (dB)", ylabel="enhanced SI-SDR (dB)")
    axes.set_title("one point per clip; improved above the line", fontsize=9, loc="left")


def _draw_gains(axes: Axes, clips: Mapping[str, Sequence[_ClipSiSdr]], limits: GainLimits) -> None:
    axes.axhline(0, color=GREY, linewidth=1)
    for number, (name, of_one) in enumerate(clips.items()):
        gains = [(p.input_snr_db, p.gain_db) for p in of_one if p.input_snr_db is not None]
        style = series_style(number)
        axes.scatter(
            [snr for snr, _ in gains],
            [gain for _, gain in gains],
            label=name,
            rasterized=_many(clips),
            **_POINT,
            **style,
        )
        if medians := _band_medians(gains):
            axes.plot(
                *zip(*medians, strict=True), linewidth=1.6, markersize=6, markeredgecolor="white", **style
            )
    axes.set(xlim=limits.input_snr_db, ylim=limits.gain_db)
    axes.set(xlabel="input SNR (dB)", ylabel="SI-SDR gain (dB)")
    axes.set_title(
        f"gain by input SNR; lines: medians of {BAND_DB:g} dB bands with {_MIN_CLIPS_PER_BAND}+ clips",
        fontsize=9,
        loc="left",
    )
    if clips:
        axes.legend(fontsize=8, loc="best", frameon=False)


def _many(clips: Mapping[str, Sequence[_ClipSiSdr]]) -> bool:
    """Whether a bitmap of the points is smaller than their list."""
    return sum(map(len, clips.values())) > _MOST_VECTOR_POINTS


def _band_medians(gains: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(centre, median gain) of each SNR band with enough clips."""
    bands: dict[int, list[float]] = {}
    for snr_db, gain_db in gains:
        bands.setdefault(math.floor(snr_db / BAND_DB), []).append(gain_db)
    return [
        ((number + 0.5) * BAND_DB, float(np.median(gains_db)))
        for number, gains_db in sorted(bands.items())
        if len(gains_db) >= _MIN_CLIPS_PER_BAND
    ]


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    """Limits slightly beyond the values."""
    if not values:
        return -1.0, 1.0
    margin = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin
