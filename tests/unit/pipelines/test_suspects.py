"""Suspects of hallucination, and how far the metrics agree."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.evaluate import statistics_of
from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.suspects import suspects
from pipelines.reports.metric_correlation_figure import correlation_figure, metric_correlations
from pipelines.reports.score_table import remarks
from tests.evaluations import model, synthetic_scores


def summary_of(corpus: CorpusScores) -> EvaluationSummary:
    return EvaluationSummary(name="x", systems=(model("enhanced"),), corpora=(corpus,), seconds=1)


def changed(corpus: CorpusScores, metric: str, gains: list[float]) -> CorpusScores:
    """The corpus with other gains in a metric."""
    clips = []
    for clip, gain in zip(corpus.clips, gains, strict=True):
        noisy = clip.value(NOISY, metric)
        assert noisy is not None
        scores = clip.signals["enhanced"]
        scores = dataclasses.replace(scores, values={**scores.values, metric: noisy + gain})
        clips.append(dataclasses.replace(clip, signals={**clip.signals, "enhanced": scores}))
    return dataclasses.replace(corpus, clips=tuple(clips))


@pytest.fixture(scope="module")
def corpus() -> CorpusScores:
    """Every metric gains; so does the phone error, which should fall."""
    return synthetic_scores("street", 0, further=("phone_error",))


def test_a_system_whose_phone_error_rises_with_pesq_is_suspect(corpus: CorpusScores) -> None:
    (found,) = suspects(summary_of(corpus))
    assert (found.configuration, found.corpus, found.metric) == ("enhanced", "street", "phone_error")
    assert found.pesq_gain > 0 > found.gain
    assert [clip.gain for clip in found.clips] == sorted(clip.gain for clip in found.clips)
    summary = summary_of(corpus)
    line = next(iter(remarks(summary, statistics_of(summary))))
    assert f"street: enhanced may invent speech: PESQ rises by {found.pesq_gain:.3f}" in line
    assert found.clips[0].clip_id in line


def test_a_system_whose_si_sdr_falls_while_pesq_rises_is_suspect(corpus: CorpusScores) -> None:
    falls = changed(changed(corpus, "phone_error", [-0.1] * 40), "si_sdr", [-1.0] * 30 + [1.0] * 10)
    (found,) = suspects(summary_of(falls))
    assert (found.metric, found.gain, found.of_clips) == ("si_sdr", pytest.approx(-0.5), 40)
    assert {clip.clip_id for clip in found.clips} <= {f"clip-{number:02d}" for number in range(30)}


def test_nothing_is_suspect_if_all_metrics_gain_or_pesq_falls_too(corpus: CorpusScores) -> None:
    good = changed(corpus, "phone_error", [-0.1] * 40)
    assert suspects(summary_of(good)) == []
    bad = changed(changed(corpus, "pesq", [-0.1] * 40), "si_sdr", [-1.0] * 40)
    assert suspects(summary_of(bad)) == []


def test_correlations_count_a_falling_error_as_a_gain(corpus: CorpusScores) -> None:
    summary = summary_of(corpus)
    place = {name: number for number, name in enumerate(summary.metrics)}
    values = metric_correlations(summary)
    assert values[place["pesq"]][place["si_sdr"]] == pytest.approx(1)
    assert values[place["pesq"]][place["phone_error"]] == pytest.approx(-1)
    figure = correlation_figure(summary)
    assert figure is not None
    assert "The least is -1.00, of phone error and" in figure.caption
    few = dataclasses.replace(corpus, clips=corpus.clips[:3])
    assert correlation_figure(summary_of(few)) is None
