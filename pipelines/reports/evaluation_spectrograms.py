"""Spectrograms of a clip's signals, three side by side with their scores, on one colour scale."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from pipelines.evaluation.clip_scores import NOISY, ClipAudio, ClipScores, MetricRow
from pipelines.evaluation.metric_labels import label, unit
from pipelines.media.figures import themed_svg
from pipelines.media.spectrograms import draw_spectrograms, loudest_level_db
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics import TABLE1_METRICS, Failure

_COLUMNS = 3
_CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class SpectrogramRow:
    """Names of the signals in a figure, from left to right, and the figure (SVG)."""

    names: tuple[str, ...]
    svg: bytes


def spectrogram_rows(audio: ClipAudio, scores: ClipScores) -> list[SpectrogramRow]:
    """Noisy, the first system and clean in the first row, further systems below."""
    systems = [name for name in audio.signals if name not in (NOISY, _CLEAN)]
    first = (NOISY, *systems[: _COLUMNS - 2], _CLEAN)
    rest = systems[_COLUMNS - 2 :]
    rows = [first, *(tuple(rest[at : at + _COLUMNS]) for at in range(0, len(rest), _COLUMNS))]
    loudest_db = loudest_level_db(audio.signals.values())
    return [SpectrogramRow(names=row, svg=_row_svg(row, audio, scores, loudest_db)) for row in rows]


def _row_svg(names: tuple[str, ...], audio: ClipAudio, scores: ClipScores, loudest_db: float) -> bytes:
    signals = {
        _title(name, scores.signals[name].values if name != _CLEAN else {}): audio.signals[name]
        for name in names
    }

    def draw(figure: Figure) -> None:
        draw_spectrograms(figure, signals, SAMPLE_RATE_HZ, columns=_COLUMNS, loudest_db=loudest_db)

    return themed_svg(draw, height_inches=3.3)


def _title(name: str, values: MetricRow) -> str:
    scores = " · ".join(_score(metric, values[metric]) for metric in TABLE1_METRICS if metric in values)
    return f"{name}\n{scores}" if scores else name


def _score(metric: str, value: float | Failure) -> str:
    if isinstance(value, Failure):
        return f"{label(metric)} failed"
    return f"{label(metric)} {value:.1f} dB" if unit(metric) == "dB" else f"{label(metric)} {value:.2f}"
