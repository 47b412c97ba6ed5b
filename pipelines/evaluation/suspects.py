"""Systems suspected of hallucination: PESQ rises while the signal or its phones get worse.

A generative or over-trained system can please PESQ with speech that was not said. SI-SDR and the phone error
then get worse on the same clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.evaluation.clip_scores import NOISY, sign
from pipelines.evaluation.corpus_statistics import clip_values
from pipelines.evaluation.metric_labels import tie_tolerance
from pipelines.evaluation.results import CorpusScores, EvaluationSummary

RISES, WORSENS = "pesq", ("si_sdr", "phone_error")


@dataclass(frozen=True, kw_only=True)
class SuspectClip:
    """A clip on which PESQ rises and another metric worsens, with the gains (negative: worse)."""

    clip_id: str
    pesq_gain: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A configuration whose mean PESQ rises on a corpus while the mean of `metric` worsens.

    Attributes:
        pesq_gain, gain: means over the clips that have both.
        clips: that show it, those with the largest loss in `metric` first.
        of_clips: how many clips have both.
    """

    configuration: str
    corpus: str
    metric: str
    pesq_gain: float
    gain: float
    clips: tuple[SuspectClip, ...]
    of_clips: int


def suspects(summary: EvaluationSummary) -> list[Suspect]:
    """All suspected configurations, by corpus and metric; differences within a tie do not count."""
    return [
        found
        for corpus in summary.corpora
        for name, systems in summary.configurations.items()
        for metric in WORSENS
        if metric in corpus.metrics and (found := _suspect(corpus, name, systems, metric)) is not None
    ]


def _suspect(corpus: CorpusScores, name: str, systems: Sequence[str], metric: str) -> Suspect | None:
    clips = [
        SuspectClip(clip_id=clip.clip_id.removeprefix(f"{corpus.name}/"), pesq_gain=pesq, gain=gain)
        for clip, pesq, gain in zip(
            corpus.clips, _gains(corpus, systems, RISES), _gains(corpus, systems, metric), strict=True
        )
        if pesq is not None and gain is not None
    ]
    if not clips:
        return None
    pesq_gain = sum(clip.pesq_gain for clip in clips) / len(clips)
    gain = sum(clip.gain for clip in clips) / len(clips)
    if pesq_gain <= tie_tolerance(RISES) or gain >= -tie_tolerance(metric):
        return None
    both = [clip for clip in clips if clip.pesq_gain > 0 > clip.gain]
    return Suspect(
        configuration=name,
        corpus=corpus.name,
        metric=metric,
        pesq_gain=pesq_gain,
        gain=gain,
        clips=tuple(sorted(both, key=lambda clip: clip.gain)),
        of_clips=len(clips),
    )


def _gains(corpus: CorpusScores, systems: Sequence[str], metric: str) -> Iterator[float | None]:
    """By how much a configuration is better than the noisy input on each clip; None where either failed."""
    pairs = zip(clip_values(corpus, systems, metric), corpus.values(NOISY, metric), strict=True)
    for value, noisy in pairs:
        yield None if value is None or noisy is None else sign(metric) * (value - noisy)
