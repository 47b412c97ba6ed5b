"""The rows of a plan: all choices for one example, as plain values for JSON or a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rwsa.mixing.recipes import NoiseKind, PeakRule, SnrMeasure, Target
from rwsa.mixing.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class SourceRange:
    """A stretch of a recording: `samples` from `offset` on, at the file's own rate.

    If `offset + samples` exceeds `clip_samples`, the recording is looped (noise only). `channel` None means
    a mono file.
    """

    clip_id: str
    path: str
    channel: int | None
    sample_rate_hz: int
    clip_samples: int
    offset: int
    samples: int
    licence: str


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Concatenated recordings; `gain_db` is relative to the other layers of the noise."""

    gain_db: float
    parts: tuple[SourceRange, ...]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """One of the noises of an example.

    Attributes:
        kind: `recording` has one layer, `babble` one per talker, `speech_shaped` none, as it is generated.
        environment: from the manifest; the kind if there is none.
        gain_db: level relative to the other noises of the example.
        seed: seed of a generated noise, otherwise 0.
        room: room impulse response; None leaves the noise as recorded.
    """

    kind: NoiseKind
    environment: str | None
    gain_db: float
    seed: int
    layers: tuple[Layer, ...]
    room: SourceRange | None


@dataclass(frozen=True, kw_only=True)
class MixPlan:
    """One row of a plan: all choices for one example.

    Attributes:
        plan_row: number of the example within its split.
        samples: length of the example at `sample_rate_hz`.
        mix_rate_hz: the sample rate at which it is mixed.
        more_speech: further recordings of the same speaker, appended to `speech`.
        speaker: from the manifest, None if unknown.
        environment: environment of the first noise.
        room: room impulse response of the speech; None leaves it as recorded.
        level_dbfs: RMS of the mixture; None leaves the speech at its recorded level.
        transform_seed: seed of all draws of the transforms.

    The other fields are as in `Recipe`.
    """

    plan_row: int
    example_id: str
    recipe: str
    split: str
    sample_rate_hz: int
    mix_rate_hz: int
    samples: int
    speech: SourceRange
    more_speech: tuple[SourceRange, ...]
    noises: tuple[Noise, ...]
    speaker: str | None
    environment: str | None
    room: SourceRange | None
    target: Target
    early_ms: float
    snr_db: float
    snr_measure: SnrMeasure
    level_dbfs: float | None
    peak: PeakRule
    max_peak: float
    speech_transforms: tuple[Transform, ...]
    noise_transforms: tuple[Transform, ...]
    mixture_transforms: tuple[Transform, ...]
    transform_seed: int

    def sources(self) -> Iterator[SourceRange]:
        """All stretches of recordings, those of the target first."""
        yield self.speech
        yield from self.more_speech
        if self.room is not None:
            yield self.room
        for noise in self.noises:
            yield from (part for layer in noise.layers for part in layer.parts)
            if noise.room is not None:
                yield noise.room


def to_row(plan: MixPlan) -> dict[str, Any]:
    """A plan as plain nested values, for JSON or a table."""
    return dataclasses.asdict(plan)


def from_row(row: Mapping[str, Any]) -> MixPlan:
    """The inverse of `to_row`."""
    values = dict(row)
    for name in ("speech_transforms", "noise_transforms", "mixture_transforms"):
        values[name] = tuple(Transform(**transform) for transform in row[name])
    values["speech"] = SourceRange(**row["speech"])
    values["more_speech"] = _ranges(row["more_speech"])
    values["room"] = _range_or_none(row["room"])
    values["noises"] = tuple(_noise(noise) for noise in row["noises"])
    return MixPlan(**values)


def plan_hash(plans: Iterable[MixPlan]) -> str:
    """A hash of the rows without paths, so that it does not depend on where the recordings are."""
    digest = hashlib.sha256()
    for plan in plans:
        digest.update(json.dumps(_without_paths(to_row(plan)), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def _noise(row: Mapping[str, Any]) -> Noise:
    layers = tuple(Layer(gain_db=one["gain_db"], parts=_ranges(one["parts"])) for one in row["layers"])
    return Noise(**{**row, "layers": layers, "room": _range_or_none(row["room"])})


def _ranges(rows: Sequence[Mapping[str, Any]]) -> tuple[SourceRange, ...]:
    return tuple(SourceRange(**row) for row in rows)


def _range_or_none(row: Mapping[str, Any] | None) -> SourceRange | None:
    return None if row is None else SourceRange(**row)


def _without_paths(value: Any) -> Any:
    """The nested values without the keys `path`."""
    if isinstance(value, dict):
        return {name: _without_paths(item) for name, item in value.items() if name != "path"}
    return [_without_paths(item) for item in value] if isinstance(value, list | tuple) else value
