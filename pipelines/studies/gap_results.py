"""Domain gaps: distances between corpora by group of features, with those between halves as a baseline."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pipelines.studies.gap_sources import MeasuredCorpus
from rwsa.acoustics import GROUPS, FeatureGroup
from rwsa.energy_distance import DistanceEstimate, FeatureSample, energy_distance, halves_distance
from rwsa.errors import InputError
from rwsa.statistics import MIN_UNITS, count_units, resampling_units

OVERALL: Final = "all"
NAMES: Final = (OVERALL, *(group.name for group in GROUPS))
_SPLITS = 100
_LEAST_OF_HALVES = 4


@dataclass(frozen=True, kw_only=True)
class GapSettings:
    """Settings of a comparison.

    Attributes:
        reference: name of the in-domain corpus, whose spread is the unit of every feature.
        resamples: of the bootstrap.
        seed: of all random draws.
    """

    reference: str
    resamples: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ResamplingUnits:
    """The units that are resampled for a group of features of a corpus.

    Attributes:
        of: speakers or noise recordings.
        names: one per clip; None where unknown.
    """

    of: str
    names: tuple[str | None, ...]

    @property
    def count(self) -> int | None:
        """Their number; None where one is unknown, which is then resampled as a unit of its own."""
        return count_units(self.names)

    @property
    def allow_verdict(self) -> bool:
        return (self.count or 0) >= MIN_UNITS


def units_for(group: str, corpus: MeasuredCorpus) -> ResamplingUnits:
    """The units that make clips dependent in a group of features.

    Clips depend through speakers in features of speech, and through noise recordings in features of noise.
    Level, SNR and the overall distance depend on both: the fewer units limit, and unknown ones may be fewer.
    """
    speakers = ResamplingUnits(of="speakers", names=corpus.speakers)
    noises = ResamplingUnits(of="noise recordings", names=corpus.noises)
    if group.startswith("speech"):
        return speakers
    if group.startswith("noise"):
        return noises
    return min(speakers, noises, key=lambda units: units.count or 0)


@dataclass(frozen=True, kw_only=True)
class GapResults:
    """Distances by group of features, then by (row, column) of corpora.

    The diagonal has the distance between random halves of a corpus, as a baseline for equal corpora.
    """

    settings: GapSettings
    corpora: tuple[MeasuredCorpus, ...]
    distances: dict[str, dict[tuple[int, int], DistanceEstimate]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(corpus.name for corpus in self.corpora)

    @property
    def reference(self) -> int:
        return self.names.index(self.settings.reference)

    def of(self, group: str, row: int, column: int) -> DistanceEstimate:
        return self.distances[group][min(row, column), max(row, column)]

    def differs(self, group: str, row: int, column: int) -> bool:
        """Whether the interval is above zero and above that of the halves of either corpus.

        Never where the speakers or noise recordings of either corpus are unknown or fewer than `MIN_UNITS`:
        the interval is then too narrow, and equal corpora would seem to differ.
        """
        if not all(units_for(group, self.corpora[one]).allow_verdict for one in (row, column)):
            return False
        least = max(self.of(group, one, one).high for one in (row, column))
        return row != column and self.of(group, row, column).low > max(0.0, least)

    def as_json(self) -> dict[str, Any]:
        """Everything but the features, as JSON values."""
        return {
            "reference": self.settings.reference,
            "resamples": self.settings.resamples,
            "seed": self.settings.seed,
            "corpora": [
                {
                    "name": corpus.name,
                    "about": corpus.about,
                    "clips": len(corpus.speakers),
                    "of_clips": corpus.of_clips,
                    "interval_over": {group: _units_as_json(units_for(group, corpus)) for group in NAMES},
                    "failures": [{"clip": clip, "reason": reason} for clip, reason in corpus.failures],
                    "mean": {name: values.mean(axis=0).tolist() for name, values in corpus.features.items()},
                    "spread": {name: values.std(axis=0).tolist() for name, values in corpus.features.items()},
                }
                for corpus in self.corpora
            ],
            "features": [asdict(group) for group in GROUPS],
            "distances": {group: list(self._rows(group)) for group in NAMES},
        }

    def _rows(self, group: str) -> Iterator[dict[str, Any]]:
        for (row, column), estimate in self.distances[group].items():
            yield {
                "corpora": [self.names[row], self.names[column]],
                "of_halves": row == column,
                **asdict(estimate),
                "differs": self.differs(group, row, column),
            }


def _units_as_json(units: ResamplingUnits) -> dict[str, Any]:
    return {"units": units.of, "count": units.count, "allow_verdict": units.allow_verdict}


def measure_gaps(corpora: Sequence[MeasuredCorpus], settings: GapSettings) -> GapResults:
    """Distances of all pairs, by group and over all groups.

    Features are divided by their spread in the reference corpus, so that distances are relative to the
    training data, and one more corpus does not change those of the others. In the overall distance every
    group has the same weight, whatever its number of features.

    Raises:
        InputError: no corpus has the reference's name.
    """
    names = [corpus.name for corpus in corpora]
    if settings.reference not in names:
        raise InputError(f"--reference {settings.reference}: not among the corpora {names}")
    reference = corpora[names.index(settings.reference)]
    scaled = [_scaled(corpus, reference) for corpus in corpora]
    smoothings = _smoothings(reference)
    distances: dict[str, dict[tuple[int, int], DistanceEstimate]] = {}
    for group in NAMES:
        samples = [
            FeatureSample(
                vectors=vectors[group], units=resampling_units(units_for(group, corpus).names, at_least=2)
            )
            for vectors, corpus in zip(scaled, corpora, strict=True)
        ]
        found = distances.setdefault(group, {})
        for row, one in enumerate(samples):
            rng = _generator(settings.seed, group, names[row])
            found[row, row] = halves_distance(
                _halvable(one), splits=_SPLITS, rng=rng, smoothing=smoothings[group]
            )
            for column in range(row + 1, len(samples)):
                rng = _generator(settings.seed, group, names[row], names[column])
                found[row, column] = energy_distance(
                    one,
                    samples[column],
                    resamples=settings.resamples,
                    rng=rng,
                    smoothing=smoothings[group],
                )
    return GapResults(
        settings=settings,
        corpora=tuple(corpora),
        distances=distances,
    )


def _halvable(sample: FeatureSample) -> FeatureSample:
    """The sample, with clips as units if there are too few for halves; it gets no verdict anyway."""
    if len(np.unique(sample.units)) >= _LEAST_OF_HALVES:
        return sample
    return FeatureSample(vectors=sample.vectors, units=np.arange(len(sample.vectors)))


def _scaled(corpus: MeasuredCorpus, reference: MeasuredCorpus) -> dict[str, np.ndarray]:
    """Feature vectors by group, of length about 1, and of all groups."""
    scaled = {
        group.name: corpus.features[group.name] / (_spread(reference, group) * np.sqrt(len(group.names)))
        for group in GROUPS
    }
    return {**scaled, OVERALL: np.concatenate(list(scaled.values()), axis=1)}


def _spread(reference: MeasuredCorpus, group: FeatureGroup) -> np.ndarray:
    return np.maximum(reference.features[group.name].std(axis=0), group.least_spread)


def _smoothings(reference: MeasuredCorpus) -> dict[str, float]:
    """The least spread of each group's features, in units of the scaled vectors."""
    smoothings = {
        group.name: float(np.sqrt(np.mean((group.least_spread / _spread(reference, group)) ** 2)))
        for group in GROUPS
    }
    return {**smoothings, OVERALL: math.hypot(*smoothings.values())}


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A generator per pair, so that one more corpus does not change the intervals of the others."""
    key = [zlib.crc32(name.encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))
