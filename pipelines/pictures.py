"""Pictures of scores and of the clips scored, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipelines.clip_scores import ClipAudio, ClipScores
from pipelines.figures import BLUE, GREY, VERMILION, new_figure, png
from pipelines.noisy_row import LABELS
from pipelines.results import UNITS, CorpusScores
from pipelines.spectrograms import draw_spectrograms
from rwsa.metrics import SAMPLE_RATE_HZ, Failure

PANELS: tuple[str, ...] = ("noisy", "enhanced", "clean")
_MARK: dict[str, Any] = {"s": 18, "color": BLUE, "alpha": 0.65, "linewidths": 0}
_LEAST_CLIPS_IN_BIN = 3
_BIN_DB = 5.0


def spectrograms(audio: ClipAudio, scores: ClipScores) -> bytes:
    """Noisy, enhanced and clean side by side, each with its scores."""
    figure = new_figure(height_inches=3.3)
    signals = {_panel_title(name, scores): getattr(audio, name) for name in PANELS}
    draw_spectrograms(figure, signals, SAMPLE_RATE_HZ)
    return png(figure)


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """Axes shared by the pictures of several corpora, so that they compare at a glance: (low, high) in dB."""

    si_sdr_db: tuple[float, float]
    gain_db: tuple[float, float]
    input_snr_db: tuple[float, float]


def picture_limits(corpora: Sequence[CorpusScores]) -> PictureLimits:
    """Limits that hold every clip of every corpus."""
    points = [point for corpus in corpora for point in _points(corpus)]
    snrs_db = [point.input_snr_db for point in points if point.input_snr_db is not None]
    return PictureLimits(
        si_sdr_db=_around([value for point in points for value in (point.noisy_db, point.enhanced_db)]),
        gain_db=_around([0.0, *(point.gain_db for point in points)]),
        input_snr_db=_around(snrs_db),
    )


def gain_picture(corpus: CorpusScores, limits: PictureLimits) -> bytes:
    """SI-SDR of enhanced against noisy, and its gain by input SNR; a dot a clip."""
    figure = new_figure(height_inches=3.6)
    pairs, by_snr = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 2)})
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.14, top=0.91, wspace=0.15)
    points = _points(corpus)
    _draw_pairs(pairs, points, limits)
    _draw_gains(by_snr, points, limits)
    return png(figure)


@dataclass(frozen=True, kw_only=True)
class _Point:
    """SI-SDR of one clip."""

    noisy_db: float
    enhanced_db: float
    input_snr_db: float | None

    @property
    def gain_db(self) -> float:
        return self.enhanced_db - self.noisy_db


def _points(corpus: CorpusScores) -> list[_Point]:
    points = []
    for clip in corpus.clips:
        noisy, enhanced = clip.noisy["si_sdr"], clip.enhanced["si_sdr"]
        if not isinstance(noisy, Failure) and not isinstance(enhanced, Failure):
            points.append(_Point(noisy_db=noisy, enhanced_db=enhanced, input_snr_db=clip.input_snr_db))
    return points


def _draw_pairs(axes: Axes, points: Sequence[_Point], limits: PictureLimits) -> None:
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1)
    axes.scatter([p.noisy_db for p in points], [p.enhanced_db for p in points], **_MARK)
    axes.set(xlim=limits.si_sdr_db, ylim=limits.si_sdr_db)
    axes.set(xlabel="noisy SI-SDR (dB)", ylabel="enhanced SI-SDR (dB)")
    axes.set_title("a dot a clip; better above the line", fontsize=9, loc="left")


def _draw_gains(axes: Axes, points: Sequence[_Point], limits: PictureLimits) -> None:
    known = [(p.input_snr_db, p.gain_db) for p in points if p.input_snr_db is not None]
    axes.axhline(0, color=GREY, linewidth=1)
    axes.scatter([snr for snr, _ in known], [gain for _, gain in known], label="clip", **_MARK)
    medians = _medians(known)
    if medians:
        label = f"median of a {_BIN_DB:g} dB band ({_LEAST_CLIPS_IN_BIN} clips or more)"
        axes.plot(*zip(*medians, strict=True), color=VERMILION, marker="D", markersize=5, label=label)
    axes.set(xlim=limits.input_snr_db, ylim=limits.gain_db)
    axes.set(xlabel="input SNR (dB)", ylabel="SI-SDR gain (dB)")
    axes.set_title("gain by input SNR", fontsize=9, loc="left")
    axes.legend(fontsize=8, loc="best", frameon=False)


def _medians(known: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(middle, median gain) of each SNR bin that holds enough clips."""
    bins: dict[int, list[float]] = {}
    for snr_db, gain_db in known:
        bins.setdefault(math.floor(snr_db / _BIN_DB), []).append(gain_db)
    return [
        ((number + 0.5) * _BIN_DB, float(np.median(gains)))
        for number, gains in sorted(bins.items())
        if len(gains) >= _LEAST_CLIPS_IN_BIN
    ]


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Limits a little outside the values."""
    if not values:
        return -1.0, 1.0
    margin = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _panel_title(name: str, scores: ClipScores) -> str:
    if name == "clean":
        return name
    values: Mapping[str, float | Failure] = getattr(scores, name)
    return f"{name}\n{' · '.join(_told(metric, values[metric]) for metric in LABELS)}"


def _told(metric: str, value: float | Failure) -> str:
    if isinstance(value, Failure):
        return f"{LABELS[metric]} failed"
    return f"{LABELS[metric]} {value:.1f} dB" if UNITS[metric] == "dB" else f"{LABELS[metric]} {value:.2f}"
