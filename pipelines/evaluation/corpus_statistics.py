"""Statistics of an evaluation: intervals, spread over seeds, paired tests, and groups of clips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.clip_scores import NOISY, NOISY_PHASE, ClipScores, sign
from pipelines.evaluation.metric_labels import tie_tolerance
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
class PairedTest:
    """The comparison of two rows of the table on one corpus and metric."""

    first: str
    second: str
    metric: str
    result: Comparison


@dataclass(frozen=True, kw_only=True)
class ClipGroup:
    """Clips of one band of SNR, noise class or speaker; `clips` are indices."""

    label: str
    clips: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """Statistics of one corpus.

    Attributes:
        intervals: system -> metric -> 95% interval of the mean; None with too few units.
        units: text that names the resampled units, or why there are no intervals.
        spreads: configuration -> metric -> spread over seeds, of configurations with several seeds.
        comparisons: of every two rows of the table, in every metric.
        groups: kind (input SNR, noise class, speaker) -> its groups, if known.
        worst: configuration -> indices of the clips with the least SI-SDR gain, in ascending order.
    """

    intervals: Mapping[str, Mapping[str, Interval | None]]
    units: str
    spreads: Mapping[str, Mapping[str, SeedSpread]]
    comparisons: tuple[PairedTest, ...]
    groups: Mapping[str, tuple[ClipGroup, ...]]
    worst: Mapping[str, tuple[int, ...]]


def corpus_statistics(
    corpus: CorpusScores, summary: EvaluationSummary, rng: np.random.Generator
) -> CorpusStatistics:
    """Compute all statistics of one corpus; `rng` draws the bootstrap."""
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
    """One score per clip, the mean over the systems of a configuration; None where one of them failed."""
    columns = [corpus.values(system, metric) for system in systems]
    return [_mean_of_all(scores) for scores in zip(*columns, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    return None if None in values else mean(values)


def _intervals(corpus: CorpusScores, rng: np.random.Generator) -> dict[str, dict[str, Interval | None]]:
    """Intervals of all systems and metrics, from the same resamples."""
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
        what = f"{nameless} clips (speakers unknown)"
    else:
        what = f"{speakers} speakers" + (f" and {nameless} clips with unknown speaker" if nameless else "")
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


def _comparisons(corpus: CorpusScores, configurations: Mapping[str, Sequence[str]]) -> list[PairedTest]:
    """Compare every two rows in every metric, with Holm's correction over the corpus."""
    rows = {**configurations, NOISY: [NOISY]}
    results = {
        (first, second, metric): compare_scores(
            _better(clip_values(corpus, rows[first], metric), metric),
            _better(clip_values(corpus, rows[second], metric), metric),
            tie=tie_tolerance(metric),
        )
        for first, second in itertools.combinations(rows, 2)
        for metric in corpus.metrics
    }
    corrected = holm({key: result.p for key, result in results.items()})
    return [
        PairedTest(
            first=key[0],
            second=key[1],
            metric=key[2],
            result=Comparison(**{**vars(result), "p_holm": corrected[key]}),
        )
        for key, result in results.items()
    ]


def _better(values: Sequence[float | None], metric: str) -> list[float | None]:
    """The scores, distances and errors negated, so that more is better."""
    return [None if value is None else sign(metric) * value for value in values]


def _groups(clips: Sequence[ClipScores]) -> dict[str, tuple[ClipGroup, ...]]:
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
        found[kind] = tuple(ClipGroup(label=label, clips=tuple(labels[label])) for label in sorted(labels))
    return {kind: groups for kind, groups in found.items() if len(groups) > 1}


def _bands(clips: Sequence[ClipScores]) -> tuple[ClipGroup, ...]:
    bands: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.input_snr_db is not None:
            bands.setdefault(math.floor(clip.input_snr_db / BAND_DB), []).append(index)
    return tuple(
        ClipGroup(label=f"{number * BAND_DB:g} to {(number + 1) * BAND_DB:g} dB", clips=tuple(bands[number]))
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
