"""The results of an evaluation: scores by corpus and system, their means, and the published-row test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.evaluation import published_row
from pipelines.evaluation.clip_scores import NOISY, ClipScores
from pipelines.evaluation.systems import Model, System
from rwsa.audio_facts import CLIPPED_SHARE
from rwsa.corpora.cards import Scores
from rwsa.corpora.manifest import Problem
from rwsa.metrics import TABLE1_METRICS, Summary, summarise

# Tag `rwsa.kind` of an evaluation's run in MLflow, and of its child runs.
KIND, CHILD_KIND = "evaluation", "system-on-corpus"


@dataclass(frozen=True, kw_only=True)
class CorpusScores:
    """The scores of all systems on one corpus.

    Attributes:
        name: of its card.
        clips: in the order of the corpus, all with the same systems.
        of_clips: number of clips in the whole test set.
        data_sha256: hash of the clips' content; None where a clip cannot be read.
        problems: unusable files, which are not among the clips.
        published: the noisy row in the card, if there is one.
        extra: system -> its output files that match no clip.
        metrics: of every signal, Table 1's first.
        card: path of its card.
    """

    name: str
    clips: tuple[ClipScores, ...]
    of_clips: int
    data_sha256: str | None = None
    problems: tuple[Problem, ...] = ()
    published: Scores | None = None
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: tuple[str, ...] = TABLE1_METRICS
    card: str = ""

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the rows, the noisy one first."""
        return tuple(self.clips[0].signals)

    def summaries(self, system: str) -> dict[str, Summary]:
        """Mean, count and failures of each metric of a system."""
        return summarise(clip.signals[system].values for clip in self.clips)

    def means(self, system: str) -> dict[str, float | None]:
        """Mean of each metric over the clips that have it; None where none has."""
        return {name: summary.mean for name, summary in self.summaries(system).items()}

    def values(self, system: str, metric: str) -> list[float | None]:
        """A system's score on each clip; None where it failed."""
        return [clip.value(system, metric) for clip in self.clips]

    def gains(self, system: str) -> dict[str, float | None]:
        """Mean gain over noisy in each metric, over the clips that have both scores; None without any."""
        gains = {
            name: [gain for clip in self.clips if (gain := clip.gain(name, system)) is not None]
            for name in self.metrics
        }
        return {name: math.fsum(values) / len(values) if values else None for name, values in gains.items()}

    def failures(self) -> list[str]:
        """`CLIP: failure and reason`, one line per damaged clip, signal or metric."""
        return [f"{clip.clip_id}: {what}" for clip in self.clips for what in clip.failures]

    def clipped(self) -> list[str]:
        """`CLIP: SYSTEM x%` of signals with more than `CLIPPED_SHARE` of their samples clipped."""
        return [
            f"{clip.clip_id}: {system} {one.clipped_share:.1%}"
            for clip in self.clips
            for system, one in clip.signals.items()
            if one.clipped_share > CLIPPED_SHARE
        ]

    def floored(self) -> list[str]:
        """`CLIP: SYSTEM, …` of signals whose CSIG and COVL are 1 only because of digital silence."""
        if not {"csig", "covl"} & set(self.metrics):
            return []
        of_clips = {
            clip.clip_id: [system for system, one in clip.signals.items() if one.floored]
            for clip in self.clips
        }
        return [f"{clip_id}: {', '.join(systems)}" for clip_id, systems in of_clips.items() if systems]

    def differences(self) -> dict[str, float]:
        """Noisy row minus the published one, by metric; empty where either is missing."""
        return published_row.differences(self.published, self.means(NOISY))

    def verdict(self) -> str | None:
        """The outcome of the published-row test; None without a published row."""
        if self.published is None:
            return None
        scored = sum(
            all(clip.value(NOISY, name) is not None for name in TABLE1_METRICS) for clip in self.clips
        )
        return published_row.verdict(self.published, self.means(NOISY), scored=scored, of_clips=self.of_clips)

    def select_clips(self, system: str, count: int) -> list[tuple[str, int]]:
        """(label, index into `clips`) of `count` clips, evenly spaced in rank of SI-SDR gain.

        Three are the worst, the median and the best; one is the median. Clips without a gain are left out.
        """
        gains = [(clip.gain("si_sdr", system), index) for index, clip in enumerate(self.clips)]
        ranked = [index for gain, index in sorted((g, i) for g, i in gains if g is not None)]
        count, last = min(count, len(ranked)), len(ranked) - 1
        ranks = [last // 2] if count == 1 else [at * last // (count - 1) for at in range(count)]
        return [(_rank_label(rank, last), ranked[rank]) for rank in ranks]


def _rank_label(rank: int, last: int) -> str:
    if last == 0:
        return "only"
    named = {last // 2: "median", 0: "worst", last: "best"}
    return named.get(rank, f"rank-{rank + 1}-of-{last + 1}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The scores of systems on corpora.

    Attributes:
        name: of the evaluation.
        systems: without the noisy row.
        corpora: the first is the in-domain one of systems that are not in `trained_on`.
        trained_on: configuration -> name of the corpus that it was trained on.
        seconds: of enhancing and scoring.
        cpu_seconds: kind of work -> CPU time over all processes.
        cached: how many signals had all scores in the cache, and of how many.
        run_id: in MLflow; None if not logged.
    """

    name: str
    systems: tuple[System, ...]
    corpora: tuple[CorpusScores, ...]
    seconds: float
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    cached: tuple[int, int] = (0, 0)
    trained_on: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of every signal."""
        return self.corpora[0].metrics

    @property
    def configurations(self) -> dict[str, list[str]]:
        """Configuration -> names of its systems, one per seed."""
        found: dict[str, list[str]] = {}
        for system in self.systems:
            found.setdefault(system.configuration, []).append(system.name)
        return found

    def of(self, configuration: str) -> System:
        """The first system of a configuration."""
        return next(system for system in self.systems if system.configuration == configuration)

    def in_domain(self, configuration: str) -> str:
        """Name of the corpus that a configuration was trained on."""
        return self.trained_on.get(configuration, self.corpora[0].name)

    @property
    def one_domain(self) -> str | None:
        """The in-domain corpus of all systems; None if they were trained on several."""
        domains = {self.in_domain(name) for name in self.configurations} or {self.corpora[0].name}
        return next(iter(domains)) if len(domains) == 1 else None

    @property
    def models(self) -> tuple[Model, ...]:
        """The systems that have weights."""
        return tuple(system for system in self.systems if isinstance(system, Model))

    def as_json(self) -> dict[str, Any]:
        """`{"corpora": {NAME: {"clips": N, SYSTEM: {METRIC: mean}, …}}}`, with `noisy` as the first system.

        Corpora keep their order; a mean over no value is None. `trained_on` is there if it was given.
        """
        trained_on = {"trained_on": dict(self.trained_on)} if self.trained_on else {}
        return {
            **trained_on,
            "corpora": {
                corpus.name: {
                    "clips": len(corpus.clips),
                    **{system: corpus.means(system) for system in corpus.systems},
                }
                for corpus in self.corpora
            },
        }
