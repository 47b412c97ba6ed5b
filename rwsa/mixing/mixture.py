"""A rendered example, and the metadata stored with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwsa.mixing.plan_audio import Sources
from rwsa.mixing.plan_rows import MixPlan, SourceRange


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A rendered example: float32 `[samples]`, on the 16-bit grid.

    Attributes:
        snr_db: SNR of the mixture: the planned one, unless the peak rule raised it.
        noise_gains_db: gain of each noise before they were added.
        noise_gain_db: gain of their sum, to reach the SNR.
        level_gain_db: gain of speech and noise, to reach the level.
        peak_gain_db: gain of noisy and clean, to stay below the peak limit; 0 or below.
        degradations: the applied transforms with their drawn parameters.
    """

    clean: np.ndarray
    noisy: np.ndarray
    sample_rate_hz: int
    snr_db: float
    noise_gains_db: tuple[float, ...]
    noise_gain_db: float
    level_gain_db: float
    peak_gain_db: float
    degradations: tuple[Mapping[str, Any], ...]


def describe(plan: MixPlan, sources: Sources, mixture: Mixture) -> dict[str, Any]:
    """The metadata stored with an example: JSON values without paths, so that bytes do not depend on them.

    `noise`, `noise_offset`, `noise_licence` and `environment` describe the first recording of the first
    noise (None if it is generated); `noises` describes all of them.
    """
    read = zip(plan.sources(), sources.offsets, strict=True)
    speech, *more_speech = (_source(*one) for one in itertools.islice(read, 1 + len(plan.more_speech)))
    room = None if plan.room is None else _source(*next(read))
    noises = [
        {
            "kind": noise.kind,
            "environment": noise.environment,
            "gain_db": gain_db,
            "layers": [
                {"gain_db": layer.gain_db, "parts": [_source(*next(read)) for _ in layer.parts]}
                for layer in noise.layers
            ],
            "room": None if noise.room is None else _source(*next(read)),
        }
        for noise, gain_db in zip(plan.noises, mixture.noise_gains_db, strict=True)
    ]
    layers: Any = noises[0]["layers"]
    first = layers[0]["parts"][0] if layers else dict.fromkeys(("clip", "offset", "licence"))
    return {
        "plan_row": plan.plan_row,
        "recipe": plan.recipe,
        "split": plan.split,
        "speech": speech["clip"],
        "speech_offset": speech["offset"],
        "speech_licence": speech["licence"],
        "more_speech": more_speech,
        "speaker": plan.speaker,
        "room": room,
        "target": plan.target,
        "noise": first["clip"],
        "noise_offset": first["offset"],
        "noise_licence": first["licence"],
        "environment": plan.environment,
        "noises": noises,
        "licences": sorted({source.licence for source in plan.sources()}),
        "snr_db": mixture.snr_db,
        "planned_snr_db": plan.snr_db,
        "snr_measure": plan.snr_measure,
        "level_dbfs": plan.level_dbfs,
        "noise_gain_db": mixture.noise_gain_db,
        "level_gain_db": mixture.level_gain_db,
        "peak_gain_db": mixture.peak_gain_db,
        "degradations": list(mixture.degradations),
        "transform_seed": plan.transform_seed,
    }


def _source(source: SourceRange, offset: int) -> dict[str, Any]:
    return {"clip": source.clip_id, "offset": offset, "licence": source.licence}
