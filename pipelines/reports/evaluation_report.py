"""The evaluation report: score table, figures, pairwise tests, groups of clips and audio samples."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.clip_scores import NOISY, ClipAudio, ClipScores
from pipelines.evaluation.corpus_statistics import ClipGroup, CorpusStatistics, PairedTest, clip_values, mean
from pipelines.evaluation.metric_labels import column_groups, heading, label
from pipelines.evaluation.published_tables import PublishedTable, published_tables
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.suspects import Suspect, suspects
from pipelines.media.audio import common_gain, flac
from pipelines.reports.cross_corpus import cross_corpus
from pipelines.reports.evaluation_spectrograms import SpectrogramRow, spectrogram_rows
from pipelines.reports.page import ReportFigure, data_uri, fill_template
from pipelines.reports.score_table import (
    MISSING,
    StatisticsByCorpus,
    format_score,
    remarks,
    signed_score,
    suspect_line,
)
from pipelines.reports.score_table_html import score_blocks
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.statistics import MIN_PAIRS

TEMPLATE = "evaluation_report.html"
_GROUP_METRICS = ("pesq", "si_sdr")
# Longer tables are folded at first.
_UNFOLDED_ROWS = 8
_SUSPECT_CLIPS = 20


@dataclass(frozen=True, kw_only=True)
class ScoredSample:
    """A clip with its scores and signals; `label` is its rank by SI-SDR gain (worst, median, best)."""

    label: str
    scores: ClipScores
    audio: ClipAudio

    @functools.cached_property
    def spectrograms(self) -> list[SpectrogramRow]:
        """Spectrograms of all signals."""
        return spectrogram_rows(self.audio, self.scores)


def evaluation_html(
    summary: EvaluationSummary,
    statistics: StatisticsByCorpus,
    *,
    about: Mapping[str, str],
    figures: Sequence[ReportFigure],
    gain_figures: Mapping[str, ReportFigure],
    samples: Sequence[ScoredSample],
    published: Sequence[PublishedTable] | None = None,
) -> str:
    """The report as HTML.

    Args:
        summary: the scores.
        statistics: of each corpus.
        about: further properties of the run, label to text.
        figures: of the whole evaluation.
        gain_figures: of each corpus, by its name.
        samples: audio samples of all corpora.
        published: rows to compare with; the paper's Table 1 and public enhancers by default.
    """
    # MLflow stores the complete hash; this much of it identifies the weights.
    weights = {one.name: f"{one.weights} (SHA-256 {one.sha256[:16]}…)" for one in summary.models}
    return fill_template(
        TEMPLATE,
        title=summary.name,
        about={**weights, **about},
        score_blocks=score_blocks(summary, statistics, published or published_tables()),
        matrices=cross_corpus(summary),
        remarks=list(remarks(summary, statistics)),
        suspects=[_suspect(one) for one in suspects(summary)],
        figures=figures,
        min_pairs=MIN_PAIRS,
        tests={one.name: _test_tables(statistics[one.name], summary) for one in summary.corpora}
        if summary.systems
        else {},
        corpora=[
            {
                "name": corpus.name,
                "gain_figure": gain_figures[corpus.name],
                "groups": [
                    _group_table(kind, groups, corpus, summary)
                    for kind, groups in statistics[corpus.name].groups.items()
                ],
                "worst": list(_worst_tables(corpus, summary, statistics[corpus.name])),
                "samples": [
                    _sample(one, summary.systems[0].name)
                    for one in samples
                    if one.scores.corpus == corpus.name
                ],
            }
            for corpus in summary.corpora
        ],
    )


def encode_audio(clip: ClipAudio, name: str) -> bytes:
    """One of a clip's signals as 16-bit FLAC.

    If any signal would clip, one gain attenuates all of them, so that they stay comparable by ear.
    """
    return flac(clip.signals[name], SAMPLE_RATE_HZ, gain=common_gain(clip.signals.values()))


def _test_tables(statistics: CorpusStatistics, summary: EvaluationSummary) -> list[dict[str, Any]]:
    """Every two rows of the score table tested against each other, in tables of a few metrics each."""
    tests = {(one.first, one.second, one.metric): one for one in statistics.comparisons}
    pairs = dict.fromkeys((first, second) for first, second, _ in tests)
    return [
        {
            "heads": [heading(metric) for metric in metrics],
            "rows": [
                (f"{first} against {second}", [_test(tests[first, second, metric]) for metric in metrics])
                for first, second in pairs
            ],
        }
        for metrics in column_groups(summary.metrics)
    ]


def _test(one: PairedTest) -> tuple[str, str]:
    result = one.result
    if result.p_holm is None:
        p = "no test"
    else:
        p = "p < 0.001" if result.p_holm < 0.001 else f"p = {result.p_holm:.3f}"
    return signed_score(
        one.metric, result.difference
    ), f"{p} · {result.wins} / {result.ties} / {result.losses}"


def _group_table(
    kind: str, groups: Sequence[ClipGroup], corpus: CorpusScores, summary: EvaluationSummary
) -> dict[str, Any]:
    """Means of each signal over the clips of each group."""
    systems_of: Mapping[str, Sequence[str]] = {NOISY: [NOISY], **summary.configurations}
    values = {
        metric: [clip_values(corpus, systems, metric) for systems in systems_of.values()]
        for metric in _GROUP_METRICS
    }
    return {
        "kind": kind,
        "open": len(groups) <= _UNFOLDED_ROWS,
        "metrics": [heading(metric) for metric in _GROUP_METRICS],
        "signals": list(systems_of),
        "rows": [
            {
                "label": group.label,
                "clips": len(group.clips),
                "scores": [
                    [
                        format_score(metric, mean([of_one[index] for index in group.clips]))
                        for of_one in columns
                    ]
                    for metric, columns in values.items()
                ],
            }
            for group in groups
        ],
    }


def _worst_tables(
    corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics
) -> Iterator[dict[str, Any]]:
    """The clips with the least SI-SDR gain of each configuration; all tables but the first are folded."""
    for at, (name, indices) in enumerate(statistics.worst.items()):
        if indices:
            yield {
                "title": f"The {len(indices)} clips with the least SI-SDR gain of {name}",
                "open": not at or len(indices) <= _UNFOLDED_ROWS,
                "rows": list(_worst_rows(corpus, summary.configurations[name], indices)),
            }


def _worst_rows(corpus: CorpusScores, systems: Sequence[str], indices: Sequence[int]) -> Iterator[list[str]]:
    scores = {metric: clip_values(corpus, systems, metric) for metric in _GROUP_METRICS}
    for index in indices:
        clip = corpus.clips[index]
        snr_db, after, before = clip.input_snr_db, scores["si_sdr"][index], clip.value(NOISY, "si_sdr")
        gain_db = None if after is None or before is None else after - before
        yield [
            clip.clip_id.removeprefix(f"{corpus.name}/"),
            MISSING if snr_db is None else f"{snr_db:.1f}",
            signed_score("si_sdr", gain_db),
            format_score("si_sdr", after),
            format_score("si_sdr", before),
            format_score("pesq", scores["pesq"][index]),
            format_score("pesq", clip.value(NOISY, "pesq")),
            clip.speaker or MISSING,
            clip.environment or MISSING,
        ]


def _suspect(one: Suspect) -> dict[str, Any]:
    """The warning about a system on a corpus, and the clips that show it."""
    what = label(one.metric)
    return {
        "text": suspect_line(one),
        "title": f"The {len(one.clips)} of {one.of_clips} clips",
        "heads": ["clip", "PESQ gain", f"{what} gain (negative: worse)"],
        "rows": [
            [clip.clip_id, signed_score("pesq", clip.pesq_gain), signed_score(one.metric, clip.gain)]
            for clip in one.clips[:_SUSPECT_CLIPS]
        ],
    }


def _sample(sample: ScoredSample, system: str) -> dict[str, Any]:
    scores = sample.scores
    parts = [
        scores.clip_id,
        f"SI-SDR gain of {system} {signed_score('si_sdr', scores.gain('si_sdr', system))} dB",
    ]
    if scores.input_snr_db is not None:
        parts.append(f"input SNR {round(scores.input_snr_db, 1) + 0.0:.1f} dB")
    parts += [f"speaker {scores.speaker}"] if scores.speaker else []
    parts += [f"noise {scores.environment}"] if scores.environment else []
    return {
        "label": sample.label,
        "about": " · ".join(parts),
        "rows": [
            {
                "signals": {
                    name: data_uri("audio/flac", encode_audio(sample.audio, name)) for name in row.names
                },
                "figure": ReportFigure(svg=row.svg, alt=f"spectrograms of {scores.clip_id}"),
            }
            for row in sample.spectrograms
        ],
    }
