"""Spectrograms of a clip's signals, three abreast, each under its scores; one colour scale for all."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from pipelines.evaluation.clip_scores import NOISY, ClipAudio, ClipScores, Row
from pipelines.evaluation.metric_labels import label, unit
from pipelines.media.figures import themed_svg
from pipelines.media.spectrograms import draw_spectrograms, loudest_level_db
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics import TABLE1_METRICS, Failure

ABREAST = 3
_CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class SpectrogramRow:
    """Names of the signals in a picture, from left to right, and the picture (SVG)."""

    names: tuple[str, ...]
    picture: bytes


def spectrogram_rows(audio: ClipAudio, scores: ClipScores) -> list[SpectrogramRow]:
    """Noisy, the first system and clean in the first row, further systems below."""
    systems = [name for name in audio.signals if name not in (NOISY, _CLEAN)]
    first = (NOISY, *systems[: ABREAST - 2], _CLEAN)
    rest = systems[ABREAST - 2 :]
    rows = [first, *(tuple(rest[at : at + ABREAST]) for at in range(0, len(rest), ABREAST))]
    loudest_db = loudest_level_db(audio.signals.values())
    return [SpectrogramRow(names=row, picture=_picture(row, audio, scores, loudest_db)) for row in rows]


def _picture(names: tuple[str, ...], audio: ClipAudio, scores: ClipScores, loudest_db: float) -> bytes:
    signals = {
        _title(name, scores.signals[name].values if name != _CLEAN else {}): audio.signals[name]
        for name in names
    }

    def draw(figure: Figure) -> None:
        draw_spectrograms(figure, signals, SAMPLE_RATE_HZ, columns=ABREAST, loudest_db=loudest_db)

    return themed_svg(draw, height_inches=3.3)


def _title(name: str, values: Row) -> str:
    told = " · ".join(_told(metric, values[metric]) for metric in TABLE1_METRICS if metric in values)
    return f"{name}\n{told}" if told else name


def _told(metric: str, value: float | Failure) -> str:
    if isinstance(value, Failure):
        return f"{label(metric)} failed"
    return f"{label(metric)} {value:.1f} dB" if unit(metric) == "dB" else f"{label(metric)} {value:.2f}"
