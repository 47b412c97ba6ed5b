"""The Arrow schema of a plan table, and conversion of plans to tables and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rwsa.mixing.plan_rows import MixPlan, Noise, SourceRange, from_row
from rwsa.mixing.transforms import Transform

_SOURCE = pa.struct(
    {
        "clip_id": pa.string(),
        "path": pa.string(),
        "channel": pa.int64(),
        "sample_rate_hz": pa.int64(),
        "clip_samples": pa.int64(),
        "offset": pa.int64(),
        "samples": pa.int64(),
        "licence": pa.string(),
    }
)
_NOISE = pa.struct(
    {
        "kind": pa.string(),
        "environment": pa.string(),
        "gain_db": pa.float64(),
        "seed": pa.int64(),
        "layers": pa.list_(pa.struct({"gain_db": pa.float64(), "parts": pa.list_(_SOURCE)})),
        "room": _SOURCE,
    }
)
# `parameters` is JSON, since every transform has others.
_TRANSFORM = pa.struct({"name": pa.string(), "p": pa.float64(), "parameters": pa.string()})
_TRANSFORMS = ("speech_transforms", "noise_transforms", "mixture_transforms")
# The fields of `MixPlan` and of the dataclasses in it, in their order.
SCHEMA = pa.schema(
    {
        "plan_row": pa.int64(),
        "example_id": pa.string(),
        "recipe": pa.string(),
        "split": pa.string(),
        "sample_rate_hz": pa.int64(),
        "mix_rate_hz": pa.int64(),
        "samples": pa.int64(),
        "speech": _SOURCE,
        "more_speech": pa.list_(_SOURCE),
        "noises": pa.list_(_NOISE),
        "speaker": pa.string(),
        "environment": pa.string(),
        "room": _SOURCE,
        "target": pa.string(),
        "early_ms": pa.float64(),
        "snr_db": pa.float64(),
        "snr_measure": pa.string(),
        "level_dbfs": pa.float64(),
        "peak": pa.string(),
        "max_peak": pa.float64(),
        **dict.fromkeys(_TRANSFORMS, pa.list_(_TRANSFORM)),
        "transform_seed": pa.int64(),
    }
)


def to_table(plans: Sequence[MixPlan]) -> pa.Table:
    """Plans as a table of `SCHEMA`."""
    return pa.Table.from_pylist([_row(plan) for plan in plans], schema=SCHEMA)


def from_table(table: pa.Table) -> list[MixPlan]:
    """The inverse of `to_table`.

    Raises:
        KeyError, TypeError, ValueError: the table has other columns or damaged JSON.
    """
    if not table.schema.equals(SCHEMA):
        raise TypeError("other columns or types than a plan's")
    rows = table.to_pylist()
    for row in rows:
        for name in _TRANSFORMS:
            for transform in row[name]:
                transform["parameters"] = json.loads(transform["parameters"])
    return [from_row(row) for row in rows]


# `vars` and not `dataclasses.asdict`, which copies everything and takes several times as long.
def _row(plan: MixPlan) -> dict[str, Any]:
    return {
        **vars(plan),
        "speech": vars(plan.speech),
        "more_speech": [vars(part) for part in plan.more_speech],
        "noises": [_noise(noise) for noise in plan.noises],
        "room": _source_or_none(plan.room),
        **{name: [_transform(transform) for transform in getattr(plan, name)] for name in _TRANSFORMS},
    }


def _noise(noise: Noise) -> dict[str, Any]:
    layers = [
        {"gain_db": layer.gain_db, "parts": [vars(part) for part in layer.parts]} for layer in noise.layers
    ]
    return {**vars(noise), "layers": layers, "room": _source_or_none(noise.room)}


def _source_or_none(source: SourceRange | None) -> dict[str, Any] | None:
    return None if source is None else vars(source)


def _transform(transform: Transform) -> dict[str, Any]:
    return {**vars(transform), "parameters": json.dumps(transform.parameters, sort_keys=True)}
