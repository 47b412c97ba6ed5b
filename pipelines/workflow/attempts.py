"""When the process of a step ran, and how it ended: `attempts.json` in the folder of the step's results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.reports.workflow_steps import Attempt
from pipelines.workflow.records import LOG
from rwsa.errors import InputError
from rwsa.files import StoragePath, is_file, read_json, write_json

_FILE = "attempts.json"


def read_attempts(folder: StoragePath) -> list[Attempt]:
    """The attempts, in order; one that has no end may still run.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / _FILE
    if not is_file(path):
        return []
    try:
        return [Attempt(**one) for one in read_json(path)]
    except TypeError as error:
        raise InputError(f"{path}: not a list of attempts ({error}); delete it") from error


def begin_attempt(folder: StoragePath, at: float) -> None:
    """Record that a process starts now."""
    _write(folder, [*ended(folder), Attempt(started=at, ended=None, result="running")])


def end_attempt(folder: StoragePath, at: float, result: str) -> None:
    """Record how the last process ended."""
    *earlier, last = read_attempts(folder)
    _write(folder, [*earlier, dataclasses.replace(last, ended=at, result=result)])


def ended(folder: StoragePath) -> list[Attempt]:
    """The attempts of a step that does not run: one without an end was interrupted, when its log ends."""
    return [
        one
        if one.ended is not None
        else dataclasses.replace(one, ended=_last_sign(folder, one.started), result="interrupted")
        for one in read_attempts(folder)
    ]


def _last_sign(folder: StoragePath, started: float) -> float:
    path = folder / LOG
    return max(started, float(path.stat().st_mtime or 0.0)) if is_file(path) else started


def _write(folder: StoragePath, attempts: Sequence[Attempt]) -> None:
    write_json(folder / _FILE, [dataclasses.asdict(one) for one in attempts])
