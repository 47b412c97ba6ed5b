"""Scores of a corpus's noisy test files as they are: the measure of whether it is the published corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from pipelines.core.pool import map_unordered
from pipelines.core.progress import Progress
from pipelines.evaluation.clip_scores import NOISY, ClipScorer, MetricRow, SignalScores
from pipelines.evaluation.clips import EvaluationClip, load_clip, pairs_to_score
from pipelines.evaluation.noisy_row import verdict
from pipelines.evaluation.score_cache import ScoreCache, beside, clip_keys, score_key
from rwsa.corpora.cards import CorpusCard, Scores
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.metrics import TABLE1_METRICS, Failure, check, summarise


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
        """See `pipelines.evaluation.noisy_row.verdict`."""
        return verdict(self.published, self.means, scored=self.scored, of_clips=self.of_clips)


def score_noisy(
    card: CorpusCard,
    manifest: Manifest,
    *,
    files: FileCache,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> NoisyScores:
    """Score the noisy file of every test pair against its clean one.

    Args:
        card: with pairs and a `noisy_row`.
        files: hashes of files; the scores, which evaluations use too, lie beside it.
        workers: see `pipelines.core.pool.map_unordered`.
        report: takes progress lines.

    Raises:
        InputError: a metric's package is missing, the cache cannot be used, or a worker was killed again and
            again.
    """
    assert card.noisy_row is not None
    check(TABLE1_METRICS)
    clips, of_clips = pairs_to_score(card, manifest)
    keys = [None if key is None else score_key(NOISY, key) for key in clip_keys(clips, files)]
    cache = beside(files)
    rows = _kept(cache, keys)
    missing = [number for number in range(len(clips)) if number not in rows]
    with Progress(len(missing), f"{card.name}: score noisy files", "files", report) as progress:
        for place, scores in map_unordered(_score, [clips[number] for number in missing], workers=workers):
            number = missing[place]
            if isinstance(scores, Failure):
                # Not kept: a repaired file differs.
                rows[number] = dict.fromkeys(TABLE1_METRICS, scores)
            else:
                rows[number] = scores.values
                if (key := keys[number]) is not None:
                    cache.put(key, scores)
            progress.update()
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


def _kept(cache: ScoreCache, keys: Sequence[str | None]) -> dict[int, MetricRow]:
    """Rows from before, of those clips that have all of `TABLE1_METRICS`, by number."""
    rows: dict[int, MetricRow] = {}
    for number, key in enumerate(keys):
        values = {} if key is None or (kept := cache.get(key)) is None else kept.values
        if values.keys() >= set(TABLE1_METRICS):
            rows[number] = {name: values[name] for name in TABLE1_METRICS}
    return rows


def _score(clip: EvaluationClip) -> SignalScores | Failure:
    """Ray task; a failure where the clip cannot be read."""
    try:
        noisy, clean = load_clip(clip)
    except InputError as error:
        return Failure(str(error))
    # One thread as in Ray's workers, so that a score is the same wherever it is computed.
    with threadpool_limits(1):
        return ClipScorer(clean).score(noisy)
