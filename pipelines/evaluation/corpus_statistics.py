"""What can be said of an evaluation's means: intervals, seeds, tests, and scores by kinds of clips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.clip_scores import NOISY, NOISY_PHASE, ClipScores
from pipelines.evaluation.metric_labels import tie
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from rwsa.statistics import (
    MIN_UNITS,
    Comparison,
    Interval,
    SeedSpread,
    bootstrap_means,
    compare_scores,
    holm,
    resampling_units,
    seed_spread,
)

BAND_DB = 5.0
WORST_CLIPS = 10


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two rows of the table on one corpus and metric."""

    first: str
    second: str
    metric: str
    result: Comparison


@dataclass(frozen=True, kw_only=True)
class Group:
    """Clips of one kind: a band of SNR, a noise class, a speaker; `clips` are indices."""

    label: str
    clips: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """Of one corpus.

    Attributes:
        intervals: system -> metric -> 95% interval of the mean, None where there are too few units.
        units: what was resampled, or why nothing was, in words.
        spreads: configuration -> metric -> over seeds, of configurations that have several.
        comparisons: of every two rows of the table, in every metric.
        groups: kind (input SNR, noise class, speaker) -> its groups, where clips tell.
        worst: configuration -> indices of the clips that gain least SI-SDR, the least first.
    """

    intervals: Mapping[str, Mapping[str, Interval | None]]
    units: str
    spreads: Mapping[str, Mapping[str, SeedSpread]]
    comparisons: tuple[Compared, ...]
    groups: Mapping[str, tuple[Group, ...]]
    worst: Mapping[str, tuple[int, ...]]


def corpus_statistics(
    corpus: CorpusScores, summary: EvaluationSummary, rng: np.random.Generator
) -> CorpusStatistics:
    """All of it for one corpus; `rng` draws the bootstrap."""
    configurations = summary.configurations
    return CorpusStatistics(
        intervals=_intervals(corpus, rng),
        units=_units(corpus),
        spreads={
            name: _spreads(corpus, systems) for name, systems in configurations.items() if len(systems) > 1
        },
        comparisons=tuple(_comparisons(corpus, configurations)),
        groups=_groups(corpus.clips),
        worst={name: _worst(corpus, systems) for name, systems in configurations.items()},
    )


def clip_values(corpus: CorpusScores, systems: Sequence[str], metric: str) -> list[float | None]:
    """A score a clip, the mean over the systems of one configuration; None where one of them failed."""
    columns = [corpus.values(system, metric) for system in systems]
    return [_mean_of_all(scores) for scores in zip(*columns, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """Over those that are there; None for none."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    return None if None in values else mean(values)


def _intervals(corpus: CorpusScores, rng: np.random.Generator) -> dict[str, dict[str, Interval | None]]:
    """One draw of resamples for all systems and metrics, so that they are alike but for the scores."""
    columns = [
        (system, metric)
        for system in corpus.systems
        for metric in (*corpus.metrics, NOISY_PHASE)
        if any(metric in clip.signals[system].values for clip in corpus.clips)
    ]
    values = np.array([corpus.values(system, metric) for system, metric in columns], dtype=np.float64).T
    units = resampling_units([clip.speaker for clip in corpus.clips])
    intervals: dict[str, dict[str, Interval | None]] = {system: {} for system in corpus.systems}
    for (system, metric), interval in zip(columns, bootstrap_means(values, units, rng), strict=True):
        intervals[system][metric] = interval
    return intervals


def _units(corpus: CorpusScores) -> str:
    names = [clip.speaker for clip in corpus.clips]
    nameless, speakers = names.count(None), len({name for name in names if name is not None})
    if nameless == len(names):
        what = f"{nameless} clips (speakers not known)"
    else:
        what = f"{speakers} speakers" + (f" and {nameless} clips of nobody known" if nameless else "")
    few = len(set(resampling_units(names).tolist())) < MIN_UNITS
    return f"no intervals, {what} are too few" if few else f"95% intervals by bootstrap over {what}"


def _spreads(corpus: CorpusScores, systems: Sequence[str]) -> dict[str, SeedSpread]:
    found: dict[str, SeedSpread] = {}
    for metric in corpus.metrics:
        means = [corpus.means(system)[metric] for system in systems]
        there = [value for value in means if value is not None]
        one = seed_spread(there) if len(there) == len(means) else None
        if one is not None:
            found[metric] = one
    return found


def _comparisons(corpus: CorpusScores, configurations: Mapping[str, Sequence[str]]) -> list[Compared]:
    """Every two rows in every metric; Holm's correction is over all of one corpus."""
    rows = {**configurations, NOISY: [NOISY]}
    results = {
        (first, second, metric): compare_scores(
            clip_values(corpus, rows[first], metric),
            clip_values(corpus, rows[second], metric),
            tie=tie(metric),
        )
        for first, second in itertools.combinations(rows, 2)
        for metric in corpus.metrics
    }
    corrected = holm({key: result.p for key, result in results.items()})
    return [
        Compared(
            first=key[0],
            second=key[1],
            metric=key[2],
            result=Comparison(**{**vars(result), "p_holm": corrected[key]}),
        )
        for key, result in results.items()
    ]


def _groups(clips: Sequence[ClipScores]) -> dict[str, tuple[Group, ...]]:
    kinds: dict[str, Callable[[ClipScores], str | None]] = {
        "noise class": lambda clip: clip.environment,
        "speaker": lambda clip: clip.speaker,
    }
    found = {"input SNR": _bands(clips)}
    for kind, of in kinds.items():
        labels: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            if (label := of(clip)) is not None:
                labels.setdefault(label, []).append(index)
        found[kind] = tuple(Group(label=label, clips=tuple(labels[label])) for label in sorted(labels))
    return {kind: groups for kind, groups in found.items() if len(groups) > 1}


def _bands(clips: Sequence[ClipScores]) -> tuple[Group, ...]:
    bands: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.input_snr_db is not None:
            bands.setdefault(math.floor(clip.input_snr_db / BAND_DB), []).append(index)
    return tuple(
        Group(label=f"{number * BAND_DB:g} to {(number + 1) * BAND_DB:g} dB", clips=tuple(bands[number]))
        for number in sorted(bands)
    )


def _worst(corpus: CorpusScores, systems: Sequence[str]) -> tuple[int, ...]:
    enhanced, noisy = clip_values(corpus, systems, "si_sdr"), corpus.values(NOISY, "si_sdr")
    gains = [
        (value - before, index)
        for index, (value, before) in enumerate(zip(enhanced, noisy, strict=True))
        if value is not None and before is not None
    ]
    return tuple(index for _, index in sorted(gains)[:WORST_CLIPS])
