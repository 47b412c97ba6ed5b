"""Scores of a corpus's noisy test files as they are: the measure of whether it is the published corpus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.clip_scores import METRICS
from pipelines.clips import EvaluationClip, load_clip, pairs_to_score
from pipelines.noisy_row import verdict
from pipelines.progress import Ticker, duration
from pipelines.ray_map import unordered
from rwsa.cards import CorpusCard, Scores
from rwsa.errors import InputError
from rwsa.manifest import Manifest
from rwsa.metrics import Failure, check, score, summarise


@dataclass(frozen=True, kw_only=True)
class NoisyScores:
    """The noisy row of a corpus.

    Attributes:
        means: metric -> mean over the clips that have it; None where none has.
        scored: clips with every metric.
        of_clips: how many the whole test set has.
        failures: `CLIP: why` of the clips that could not be scored.
    """

    published: Scores
    means: Mapping[str, float | None]
    scored: int
    of_clips: int
    failures: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """See `pipelines.noisy_row.verdict`."""
        return verdict(self.published, self.means, scored=self.scored, of_clips=self.of_clips)


def score_noisy(
    card: CorpusCard,
    manifest: Manifest,
    *,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> NoisyScores:
    """Score the noisy file of every test pair against its clean one.

    Args:
        card: with pairs and a `noisy_row`.
        workers: see `pipelines.ray_map.unordered`.
        report: takes progress lines.

    Raises:
        InputError: a metric's package is missing, or a worker was killed again and again.
    """
    assert card.noisy_row is not None
    check(METRICS)
    clips, of_clips = pairs_to_score(card, manifest)
    rows: dict[int, Mapping[str, float | Failure]] = {}
    started, ticker = time.monotonic(), Ticker()
    for number, row in unordered(_score, clips, workers=workers):
        rows[number] = row
        if ticker.due():
            left = (time.monotonic() - started) / len(rows) * (len(clips) - len(rows))
            report(f"{card.name}: noisy files scored {len(rows)}/{len(clips)}, {duration(left)} left")
    # In the order of the clips, so that the sums do not depend on who finished first.
    ordered = [rows[number] for number in range(len(clips))]
    failures = [
        f"{clip.clip_id}: {name}: {value.reason}"
        for clip, row in zip(clips, ordered, strict=True)
        for name, value in row.items()
        if isinstance(value, Failure)
    ]
    return NoisyScores(
        published=card.noisy_row,
        means={name: summary.mean for name, summary in summarise(ordered).items()},
        scored=sum(not any(isinstance(value, Failure) for value in row.values()) for row in ordered),
        of_clips=of_clips,
        failures=tuple(failures),
    )


def _score(clip: EvaluationClip) -> Mapping[str, float | Failure]:
    """Ray task."""
    try:
        noisy, clean = load_clip(clip)
    except InputError as error:
        return dict.fromkeys(METRICS, Failure(str(error)))
    return score(clean, noisy, METRICS)
