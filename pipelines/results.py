"""What an evaluation found: scores of clips, means with counts, and the check of a corpus's noisy row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pipelines import noisy_row
from pipelines.clip_scores import METRICS, ClipScores
from rwsa.cards import Scores
from rwsa.manifest import Problem
from rwsa.metrics import Summary, summarise

Signal = Literal["noisy", "enhanced"]
SIGNALS: tuple[Signal, ...] = ("noisy", "enhanced")
UNITS = {"pesq": "MOS", "ssnr": "dB", "estoi": "", "si_sdr": "dB"}
DECIMALS = {"pesq": 3, "ssnr": 2, "estoi": 3, "si_sdr": 2, "si_sdr_noisy_phase": 2}


@dataclass(frozen=True, kw_only=True)
class CorpusScores:
    """One corpus.

    Attributes:
        name: of its card.
        clips: in the order of the corpus; damaged ones have failures in place of scores.
        of_clips: how many clips the whole test set has.
        problems: files that scanning found unusable, so that they are no clips at all.
        published: the card's noisy row, if it states one.
    """

    name: str
    clips: tuple[ClipScores, ...]
    of_clips: int
    problems: tuple[Problem, ...] = ()
    published: Scores | None = None

    def summaries(self, signal: Signal) -> dict[str, Summary]:
        """Mean, count and failures of each metric of `signal`."""
        return summarise(getattr(clip, signal) for clip in self.clips)

    def means(self, signal: Signal) -> dict[str, float | None]:
        """Mean of each metric over the clips that have it; None where none has."""
        return {name: summary.mean for name, summary in self.summaries(signal).items()}

    def gains(self) -> dict[str, float | None]:
        """Mean of enhanced minus noisy for each metric, over the clips that have both; None for none."""
        gains = {
            name: [gain for clip in self.clips if (gain := clip.gain(name)) is not None] for name in METRICS
        }
        return {name: math.fsum(values) / len(values) if values else None for name, values in gains.items()}

    def failures(self) -> list[str]:
        """`CLIP: what failed and why`, one line a damaged clip or failed metric."""
        return [f"{clip.clip_id}: {what}" for clip in self.clips for what in clip.failures]

    def differences(self) -> dict[str, float]:
        """Noisy row minus the published one, by metric; empty where either is lacking."""
        return noisy_row.differences(self.published, self.means("noisy"))

    def verdict(self) -> str | None:
        """Whether this is the published corpus, by `pipelines.noisy_row`; None where nothing is published."""
        if self.published is None:
            return None
        return noisy_row.verdict(
            self.published,
            self.means("noisy"),
            scored=sum(not clip.failures for clip in self.clips),
            of_clips=self.of_clips,
        )

    def chosen(self, count: int) -> list[tuple[str, int]]:
        """(label, index into `clips`) of `count` clips, spread evenly from least to most SI-SDR gain.

        Three are the worst, the median and the best; one is the median. Clips without a gain are out.
        """
        gains = [(clip.gain("si_sdr"), index) for index, clip in enumerate(self.clips)]
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
    """One model on several corpora.

    Attributes:
        name: of the evaluation.
        weights: the file.
        weights_sha256: of its bytes.
        corpora: in the order given.
        seconds: that enhancing and scoring took.
        run_id: MLflow's; None where it is not logged.
    """

    name: str
    weights: str
    weights_sha256: str
    corpora: tuple[CorpusScores, ...]
    seconds: float
    run_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """`{"corpora": {NAME: {"clips": N, "noisy": {METRIC: mean}, "enhanced": {METRIC: mean}}}}`.

        Corpora keep their order; a mean over no value is None.
        """
        return {
            "corpora": {
                corpus.name: {
                    "clips": len(corpus.clips),
                    **{signal: corpus.means(signal) for signal in SIGNALS},
                }
                for corpus in self.corpora
            }
        }
