"""Reading the JSON of an example, which comes from a shard and is not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Mixing writes a few kilobytes, nested 6 deep.
METADATA_BYTES = 1 << 20
_DEPTH = 32
_TEXTS = ("id", "split", "speaker", "environment", "noise")
_NUMBERS = ("snr_db", "peak_gain_db")
_LISTS = ("noises", "more_speech", "degradations")


def read_metadata(data: bytes, example_id: str) -> dict[str, Any]:
    """Parse and check the JSON of an example; keys that nothing reads by type may hold anything.

    Raises:
        ValueError: it is too large or too deep, not a JSON object, of another example, or a value has another
            type than the writer gives it; the message is one short clause.
    """
    if len(data) > METADATA_BYTES:
        raise ValueError(f"has {len(data):,} bytes, more than {METADATA_BYTES:,}")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not readable JSON") from None
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    if _is_deeper(values, _DEPTH):
        raise ValueError(f"is nested more than {_DEPTH} deep")
    _check_types(values)
    if values.get("id", example_id) != example_id:
        raise ValueError("describes another example")
    return values


def _check_types(values: Mapping[str, Any]) -> None:
    for key in _TEXTS:
        if not isinstance(values.get(key), str | None):
            raise ValueError(f"{key} is not text")
    for key in _NUMBERS:
        value = values.get(key)
        if not isinstance(value, int | float | None):
            raise ValueError(f"{key} is not a number")
        if isinstance(value, int) and abs(value) > 1 << 53:
            raise ValueError(f"{key} is out of range")
    for key in _LISTS:
        items = values.get(key)
        if items is not None and not (
            isinstance(items, list) and all(isinstance(item, dict) for item in items)
        ):
            raise ValueError(f"{key} is not a list of objects")


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(one, dict | list) for one in level)
