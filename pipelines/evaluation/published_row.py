"""The published-row test: a corpus is the published one if its noisy files reproduce the published scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from pipelines.core.progress import Progress
from pipelines.evaluation.clip_scores import NOISY, ClipScorer, MetricRow, SignalScores
from pipelines.evaluation.clips import EvaluationClip, load_clip, pairs_to_score
from pipelines.evaluation.metric_labels import label
from pipelines.evaluation.score_cache import ScoreCache, beside, clip_keys, score_key
from rwsa.corpora.cards import CorpusCard, Scores
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.metrics import TABLE1_METRICS, Failure, check_metrics, summarise

# How close to the published noisy row a genuine copy comes; the papers print three decimals.
TOLERANCES = {"pesq": 0.005, "ssnr": 0.01, "si_sdr": 0.01}
VERIFIED = "verified"


def differences(published: Scores | None, means: Mapping[str, float | None]) -> dict[str, float]:
    """Means minus the published ones, by metric; empty where either is missing."""
    if published is None:
        return {}
    return {
        name: mean - float(getattr(published, name))
        for name in TABLE1_METRICS
        if (mean := means.get(name)) is not None
    }


def verdict(published: Scores, means: Mapping[str, float | None], *, scored: int, of_clips: int) -> str:
    """`VERIFIED`, or why the corpus is not verified.

    The means must agree within `TOLERANCES`, and over all clips: a subset has other means.

    Args:
        means: of the noisy test files.
        scored: clips that the means are over.
        of_clips: clips in the whole test set.
    """
    if scored != of_clips or not scored:
        return f"not compared with the published row: {scored} of {of_clips} clips scored"
    gaps = differences(published, means)
    off = [
        f"{label(name)} {getattr(published, name) + gaps[name]:.3f} where"
        f" {getattr(published, name):.3f} is published ({gaps[name]:+.3f})"
        for name, tolerance in TOLERANCES.items()
        if abs(gaps[name]) > tolerance
    ]
    return f"not the published corpus: {', '.join(off)}" if off else VERIFIED


def tolerances() -> str:
    """The tolerances as text: `PESQ ±0.005, …`."""
    return ", ".join(f"{label(name)} ±{tolerance:g}" for name, tolerance in TOLERANCES.items())


@dataclass(frozen=True, kw_only=True)
class NoisyScores:
    """The noisy row of a corpus.

    Attributes:
        means: metric -> mean over the clips that have it; None where none has.
        scored: clips with every metric.
        of_clips: clips in the whole test set.
        failures: `CLIP: reason` of the clips that could not be scored.
    """

    published: Scores
    means: Mapping[str, float | None]
    scored: int
    of_clips: int
    failures: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The outcome of the test; see `verdict`."""
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
        files: hashes of files; the score cache, shared with evaluations, is next to it.
        workers: see `pipelines.core.pool.map_unordered`.
        report: accepts progress lines.

    Raises:
        InputError: a metric's package is missing, the cache cannot be used, or a worker was killed
            repeatedly.
    """
    # Imported late: evaluations and reports import this module, and Ray takes seconds.
    from pipelines.core.pool import map_unordered

    assert card.noisy_row is not None
    check_metrics(TABLE1_METRICS)
    clips, of_clips = pairs_to_score(card, manifest)
    keys = [None if key is None else score_key(NOISY, key) for key in clip_keys(clips, files)]
    cache = beside(files)
    rows = _cached_rows(cache, keys)
    missing = [number for number in range(len(clips)) if number not in rows]
    with Progress(len(missing), f"{card.name}: score noisy files", "files", report) as progress:
        for place, scores in map_unordered(_score, [clips[number] for number in missing], workers=workers):
            number = missing[place]
            if isinstance(scores, Failure):
                # Not cached: a repaired file has another key.
                rows[number] = dict.fromkeys(TABLE1_METRICS, scores)
            else:
                rows[number] = scores.values
                if (key := keys[number]) is not None:
                    cache.put(key, scores)
            progress.update()
    # In the order of the clips, so that sums do not depend on the order of completion.
    ordered = [rows[number] for number in range(len(clips))]
    return NoisyScores(
        published=card.noisy_row,
        means={name: summary.mean for name, summary in summarise(ordered).items()},
        scored=sum(not any(isinstance(value, Failure) for value in row.values()) for row in ordered),
        of_clips=of_clips,
        failures=tuple(
            f"{clip.clip_id}: {name}: {value.reason}"
            for clip, row in zip(clips, ordered, strict=True)
            for name, value in row.items()
            if isinstance(value, Failure)
        ),
    )


def _cached_rows(cache: ScoreCache, keys: Sequence[str | None]) -> dict[int, MetricRow]:
    """Number -> cached scores of the clips that have all of Table 1's metrics."""
    rows: dict[int, MetricRow] = {}
    for number, key in enumerate(keys):
        values = {} if key is None or (cached := cache.get(key)) is None else cached.values
        if values.keys() >= set(TABLE1_METRICS):
            rows[number] = {name: values[name] for name in TABLE1_METRICS}
    return rows


def _score(clip: EvaluationClip) -> SignalScores | Failure:
    """Score a clip's noisy file; a Ray task. A failure where the clip cannot be read."""
    try:
        noisy, clean = load_clip(clip)
    except InputError as error:
        return Failure(str(error))
    # One thread as in Ray's workers, so that a score is the same wherever it is computed.
    with threadpool_limits(1):
        return ClipScorer(clean).score(noisy)
