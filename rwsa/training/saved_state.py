"""`state.json` of a checkpoint: its fields, what is checked, and which settings have changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError

from rwsa.config import as_mapping, build, config, config_hash
from rwsa.errors import InputError, UnreachableError
from rwsa.files import StoragePath, read_json, sha256_of
from rwsa.training.checkpoints import STATE_FILE, DamagedCheckpointError
from rwsa.training.config import TrainConfig

GENERATOR, TENSORS, AVERAGED = "generator.safetensors", "state.safetensors", "averaged.safetensors"
# Settings by which a run is known, or whose content the order's hash covers.
_NOT_COMPARED = {"name", "data.shards", "data.mix.workers"}
_SHOWN, _SHOWN_CHARACTERS = 6, 40

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@config
class SavedCursor:
    """`rwsa.shards.sampling.Cursor` as stored."""

    epoch: Count
    sample: Count


@config
class SavedState:
    """The fields of `state.json`; see `rwsa.training.state`.

    Attributes:
        files: SHA-256 of the other files by name.
        order, model, loss_weights: hashes; a checkpoint fits only the same.
        settings: the configuration; None in checkpoints of earlier versions.
    """

    files: dict[str, str]
    step: Count
    cursor: SavedCursor
    best_score: Finite | None
    best_step: Count | None
    validations_since_best: Count
    scaler: dict[str, Any]
    stepped: tuple[str, ...]
    averaged: Count | None
    order: str
    model: str
    loss_weights: str
    score: Finite | None = None
    settings: dict[str, Any] | None = None


@contextmanager
def damage(folder: StoragePath) -> Iterator[None]:
    """Turn errors of a checkpoint's content into `DamagedCheckpointError`."""
    try:
        yield
    except (DamagedCheckpointError, UnreachableError):
        raise
    except (InputError, SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{folder}: ")
        raise DamagedCheckpointError(f"{folder}: damaged: {reason}") from error


def read_saved(folder: StoragePath) -> SavedState:
    """Read `state.json`.

    Raises:
        DamagedCheckpointError: it is missing, unreadable, lacks a field, or names files that are not ours.
    """
    with damage(folder):
        values = read_json(folder / STATE_FILE)
        if not isinstance(values, dict):
            raise InputError(f"{STATE_FILE} holds no mapping")
        known = {field.name for field in dataclasses.fields(SavedState)}
        saved = build(SavedState, {k: v for k, v in values.items() if k in known}, where=STATE_FILE)
        if unknown := sorted(saved.files.keys() - {GENERATOR, TENSORS, AVERAGED}):
            raise InputError(f"{STATE_FILE} lists '{unknown[0][:_SHOWN_CHARACTERS]}', no checkpoint's file")
    return saved


def verify_files(folder: Path, saved: SavedState) -> None:
    """Check a checkpoint's files against their SHA-256 in `saved`, its `read_saved`.

    Raises:
        DamagedCheckpointError: a file is damaged or missing.
    """
    required = dict.fromkeys((GENERATOR, TENSORS), "") | saved.files
    for name, sha256 in required.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise DamagedCheckpointError(
                f"{path}: damaged or missing (its SHA-256 is not that in {STATE_FILE})"
            )


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run as dotted names and plain values; cards and recipes as their hashes."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    values = {name: value for name, value in as_mapping(config).items() if name in names}
    if config.data.mix is not None:
        for name in ("card", "recipe"):
            value = getattr(config.data.mix, name)
            values["data"]["mix"][name] = value if isinstance(value, str) else config_hash(value)
    return {name: value for name, value in _flat(values) if name not in _NOT_COMPARED}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changed_settings(saved: SavedState, config: TrainConfig) -> dict[str, str]:
    """The settings that differ from the checkpoint's, each as `old → new`."""
    if saved.settings is None:
        return {}
    now = settings_of(config)
    before = {name: value for name, value in saved.settings.items() if name not in _NOT_COMPARED}
    changed = {}
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            old, new = (str(value)[:_SHOWN_CHARACTERS] for value in (before.get(name), now.get(name)))
            changed[name] = f"{old} → {new}"
    return changed


def listed(changed: Mapping[str, str]) -> str:
    """Changed settings in one line, the first few of many."""
    items = [f"{name} {values}" for name, values in changed.items()]
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
