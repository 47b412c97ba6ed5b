"""The page that a person looks at: one HTML file with everything inside, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.evaluation.clip_scores import ClipAudio, ClipScores
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.published import PublishedTable, read_published
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.media.audio import common_gain, flac
from pipelines.media.spectrograms import PANELS_GAP, PANELS_LEFT, PANELS_RIGHT
from pipelines.reports import evaluation_matrix, evaluation_sections
from pipelines.reports.clip_spectrograms import ABREAST, SpectrogramRow
from pipelines.reports.evaluation_figures import Picture
from pipelines.reports.page import data_uri, details, page, picture
from pipelines.reports.score_table import Statistics, remarks, signed
from rwsa.constants import SAMPLE_RATE_HZ

_STYLE = f"""
{evaluation_matrix.STYLE}{evaluation_sections.STYLE}
li.detail {{ list-style: none; margin-left: 1.2em; }}
.players {{ display: grid; grid-template-columns: repeat({ABREAST}, 1fr);
            column-gap: {PANELS_GAP:.2%}; margin: 0 {1 - PANELS_RIGHT:.2%} 0 {PANELS_LEFT:.2%}; }}
.players label {{ font-size: 13px; min-width: 0; }}
"""
_READING = (
    "Means over clips; in brackets the 95% bootstrap interval of the mean, drawn by speaker where speakers"
    " are known. Failed clips are counted, and in no mean. Bold: the highest mean."
)


@dataclass(frozen=True, kw_only=True)
class ReportClip:
    """A clip to look at and listen to; `label` says why this one."""

    label: str
    scores: ClipScores
    audio: ClipAudio
    rows: Sequence[SpectrogramRow]


def render_report(
    summary: EvaluationSummary,
    statistics: Statistics,
    *,
    about: Mapping[str, str],
    pictures: Sequence[Picture],
    gains: Mapping[str, bytes],
    clips: Sequence[ReportClip],
    published: PublishedTable | None = None,
) -> str:
    """The whole page.

    Args:
        summary: the scores.
        statistics: of each corpus.
        about: what else to say of the run, label to text.
        pictures: of the whole evaluation.
        gains: a picture (SVG) of each corpus, by its name.
        clips: those to listen to, of all corpora.
        published: rows to stand beside; the paper's Table 1 by default.
    """
    sections = "".join(
        _section(
            corpus,
            summary,
            statistics[corpus.name],
            gains[corpus.name],
            [clip for clip in clips if clip.scores.corpus == corpus.name],
        )
        for corpus in summary.corpora
    )
    # MLflow has all of a hash; so much of it tells weights apart.
    weights = {one.name: f"{one.weights} (SHA-256 {one.sha256[:16]}…)" for one in summary.models}
    body = (
        f"{details({**weights, **about})}"
        f"{evaluation_matrix.matrices(summary, statistics, published or read_published())}"
        f'<p class="quiet">{escape(_READING)}</p>\n{_remarks(summary, statistics)}'
        f"{''.join(map(_picture, pictures))}"
        f"{evaluation_sections.comparisons(summary, statistics)}{sections}"
    )
    return page(summary.name, body, style=_STYLE)


def encode_audio(clip: ClipAudio, name: str) -> bytes:
    """One of a clip's signals as 16-bit FLAC, which browsers play.

    Where any of them would clip, all are turned down alike, so that they compare by ear.
    """
    return flac(clip.signals[name], SAMPLE_RATE_HZ, gain=common_gain(clip.signals.values()))


def _remarks(summary: EvaluationSummary, statistics: Statistics) -> str:
    lines = "".join(
        f"<li{' class=detail' if line.startswith(' ') else ''}>{escape(line.strip())}</li>"
        for line in remarks(summary, statistics)
    )
    return f'<ul class="quiet">{lines}</ul>\n' if lines else ""


def _picture(one: Picture) -> str:
    return f"<h2>{escape(one.title)}</h2>\n{picture(one.svg, one.alt, caption=one.caption)}"


def _section(
    corpus: CorpusScores,
    summary: EvaluationSummary,
    statistics: CorpusStatistics,
    gain: bytes,
    clips: Sequence[ReportClip],
) -> str:
    return (
        f"<h2>{escape(corpus.name)}</h2>\n{picture(gain, f'SI-SDR of every clip of {corpus.name}')}"
        f"{evaluation_sections.groups(corpus, summary, statistics)}"
        f"{evaluation_sections.worst(corpus, summary, statistics)}"
        f"{''.join(_clip(clip, summary) for clip in clips)}"
    )


def _clip(clip: ReportClip, summary: EvaluationSummary) -> str:
    rows = "".join(
        f'<div class="players">{"".join(_player(clip.audio, name) for name in row.names)}</div>\n'
        f"{picture(row.picture, f'spectrograms of {clip.scores.clip_id}')}"
        for row in clip.rows
    )
    described = escape(_described(clip.scores, summary.systems[0].name))
    return f'<h3>{escape(clip.label)} <span class="quiet">{described}</span></h3>\n{rows}'


def _player(audio: ClipAudio, name: str) -> str:
    source = data_uri("audio/flac", encode_audio(audio, name))
    return f'<label>{escape(name)}<audio controls preload="metadata" src="{source}"></audio></label>'


def _described(scores: ClipScores, system: str) -> str:
    parts = [scores.clip_id, f"SI-SDR gain of {system} {signed('si_sdr', scores.gain('si_sdr', system))} dB"]
    if scores.input_snr_db is not None:
        parts.append(f"input SNR {round(scores.input_snr_db, 1) + 0.0:.1f} dB")
    parts += [f"speaker {scores.speaker}"] if scores.speaker else []
    parts += [f"environment {scores.environment}"] if scores.environment else []
    return " · ".join(parts)
