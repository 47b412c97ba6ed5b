"""The page that a person looks at: one HTML file with everything inside, without scripts.

MLflow shows it in a sandboxed frame, so nothing in it may depend on another file or on JavaScript.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.clip_scores import METRICS, NOISY_PHASE, ClipAudio, ClipScores
from pipelines.pages import common_gain, data_uri, flac
from pipelines.pictures import PANELS
from pipelines.results import CorpusScores, EvaluationSummary
from pipelines.score_table import cell, heading, remarks, signed
from pipelines.spectrograms import PANELS_GAP, PANELS_LEFT, PANELS_RIGHT
from rwsa.metrics import SAMPLE_RATE_HZ

# Four metrics each: as many as 1280 pixels hold without scrolling sideways.
_CORPORA_ABREAST, _ABREAST_PIXELS = 3, 1100
_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
        max-width: 1200px; margin: 0 auto; padding: 16px 24px 64px; }}
h1 {{ font-size: 24px; margin: 8px 0 2px; }}
h2 {{ font-size: 19px; margin: 44px 0 4px; border-top: 2px solid #1a1a1a; padding-top: 12px; }}
h3 {{ font-size: 15px; margin: 26px 0 6px; }}
p, ul {{ margin: 6px 0; }}
.quiet {{ color: #555; font-size: 13px; font-weight: 400; overflow-wrap: anywhere; }}
.matrix {{ display: flex; flex-wrap: wrap; column-gap: 20px; margin: 16px 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; flex: 1 1 auto;
         margin-bottom: 16px; }}
th, td {{ padding: 4px 7px; text-align: right; white-space: nowrap; height: 22px; }}
thead th {{ font-weight: 600; }}
thead tr:last-child th {{ font-weight: 400; font-size: 13px; border-bottom: 1px solid #1a1a1a; }}
th.corpus {{ text-align: center; border-bottom: 1px solid #999; }}
th.name {{ text-align: left; font-weight: 400; padding-left: 0; }}
tr.model > * {{ font-weight: 600; }}
tbody tr:last-child > * {{ border-bottom: 1px solid #1a1a1a; }}
/* Abreast, the first table names the rows for all; one below the other, each does. */
@media (min-width: {_ABREAST_PIXELS}px) {{ table + table .name {{ display: none; }} }}
@media (max-width: {_ABREAST_PIXELS - 1}px) {{ .matrix {{ flex-direction: column; }} }}
@media (max-width: 640px) {{ th, td, thead tr:last-child th {{ padding: 4px 3px; font-size: 12px; }} }}
img {{ display: block; width: 100%; height: auto; }}
.players {{ display: grid; grid-template-columns: repeat({len(PANELS)}, 1fr);
            column-gap: {PANELS_GAP:.2%}; margin: 0 {1 - PANELS_RIGHT:.2%} 0 {PANELS_LEFT:.2%}; }}
.players label {{ font-size: 13px; }}
audio {{ width: 100%; height: 36px; display: block; }}
"""


@dataclass(frozen=True, kw_only=True)
class ReportClip:
    """A clip to look at and listen to; `label` says why this one, `spectrograms` is a PNG."""

    label: str
    scores: ClipScores
    audio: ClipAudio
    spectrograms: bytes


def render_report(
    summary: EvaluationSummary,
    *,
    about: Mapping[str, str],
    pictures: Mapping[str, bytes],
    clips: Sequence[ReportClip],
) -> str:
    """The whole page.

    Args:
        summary: the scores.
        about: what else to say of the model and the run, label to text.
        pictures: a PNG for each corpus, by its name.
        clips: those to listen to, of all corpora.
    """
    title = escape(summary.name)
    sections = "".join(
        _section(corpus, pictures[corpus.name], [clip for clip in clips if clip.scores.corpus == corpus.name])
        for corpus in summary.corpora
    )
    known = {"weights": summary.weights, "SHA-256": summary.weights_sha256, **about}
    details = "<br>".join(f"{escape(label)}: {escape(text)}" for label, text in known.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        f'<p class="quiet">{details}</p>\n{"".join(_matrices(summary))}{_remarks(summary)}'
        f"{sections}</body></html>\n"
    )


def encode_audio(clip: ClipAudio, name: str) -> bytes:
    """One of a clip's signals as 16-bit FLAC, which browsers play.

    Where any of the three would clip, all are turned down alike, so that they compare by ear.
    """
    gain = common_gain(getattr(clip, panel) for panel in PANELS)
    return flac(getattr(clip, name), SAMPLE_RATE_HZ, gain=gain)


def _matrices(summary: EvaluationSummary) -> Iterator[str]:
    """Systems by corpora by metrics, as the paper's Table 1 is laid out: a table a corpus, side by side."""
    for at in range(0, len(summary.corpora), _CORPORA_ABREAST):
        corpora = summary.corpora[at : at + _CORPORA_ABREAST]
        # Where one corpus has a published row all get that line, so that lines stay level.
        published = any(corpus.published is not None for corpus in corpora)
        tables = "".join(_matrix(summary.name, corpus, published=published) for corpus in corpora)
        yield f'<div class="matrix">{tables}</div>\n'


def _matrix(system: str, corpus: CorpusScores, *, published: bool) -> str:
    metrics = "".join(f"<th>{heading(name)}</th>" for name in METRICS)
    noisy, enhanced = corpus.summaries("noisy"), corpus.summaries("enhanced")
    differences, gains = corpus.differences(), corpus.gains()
    rows = [_row("noisy", [cell(name, noisy[name]) for name in METRICS])]
    if published:
        compared = [signed(name, differences.get(name)) if corpus.published else "" for name in METRICS]
        rows.append(_row("noisy − published", compared))
    rows.append(_row(system, [cell(name, enhanced[name]) for name in METRICS], css="model"))
    rows.append(_row("gain", [signed(name, gains[name]) for name in METRICS]))
    only_last = [""] * (len(METRICS) - 1)
    rows.append(_row("with the noisy phase", [*only_last, cell(NOISY_PHASE, enhanced[NOISY_PHASE])]))
    return (
        f'<table><thead><tr><th class="name"></th><th class="corpus" colspan="{len(METRICS)}">'
        f'{escape(corpus.name)} <span class="quiet">{len(corpus.clips)} clips</span></th></tr>'
        f'<tr><th class="name"></th>{metrics}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table>\n'
    )


def _row(name: str, texts: Sequence[str], *, css: str = "") -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr class="{css}"><th class="name" scope="row">{escape(name)}</th>{cells}</tr>\n'


def _remarks(summary: EvaluationSummary) -> str:
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in remarks(summary))
    return f'<ul class="quiet">{lines}</ul>\n' if lines else ""


def _section(corpus: CorpusScores, picture: bytes, clips: Sequence[ReportClip]) -> str:
    name, source = escape(corpus.name), data_uri("image/png", picture)
    return (
        f'<h2>{name}</h2>\n<img alt="SI-SDR of every clip of {name}" src="{source}">\n'
        f"{''.join(map(_clip, clips))}"
    )


def _clip(clip: ReportClip) -> str:
    players = "".join(
        f'<label>{name}<audio controls preload="metadata" '
        f'src="{data_uri("audio/flac", encode_audio(clip.audio, name))}"></audio></label>'
        for name in PANELS
    )
    picture = data_uri("image/png", clip.spectrograms)
    return (
        f'<h3>{escape(clip.label)} <span class="quiet">{escape(_described(clip.scores))}</span></h3>\n'
        f'<div class="players">{players}</div>\n'
        f'<img alt="spectrograms of {escape(clip.scores.clip_id)}" src="{picture}">\n'
    )


def _described(scores: ClipScores) -> str:
    parts = [scores.clip_id, f"SI-SDR gain {signed('si_sdr', scores.gain('si_sdr'))} dB"]
    if scores.input_snr_db is not None:
        parts.append(f"input SNR {round(scores.input_snr_db, 1) + 0.0:.1f} dB")
    parts += [f"speaker {scores.speaker}"] if scores.speaker else []
    parts += [f"environment {scores.environment}"] if scores.environment else []
    return " · ".join(parts)
