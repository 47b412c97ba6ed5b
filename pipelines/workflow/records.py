"""What is known of each step: its identity, its outputs, and where it stands.

ROOT/workflows/NAME/STEP/IDENTITY/   results, log, `started.json`, at the end `done.json` or `failed.json`
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.core.tracking import flatten
from pipelines.workflow.content import content_hash, signature
from rwsa.errors import InputError
from rwsa.files import StoragePath, is_file, list_folder, location, read_json, write_json

STARTED, FAILED, DONE, LOG = "started.json", "failed.json", "done.json", "log.txt"
_DIGITS = 12

_CHANGED = {"options": "option", "inputs": "file", "code": "code of"}

State = Literal["done", "missing", "failed", "partial", "stale", "new"]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides a step's result; equal parts, equal result.

    Attributes:
        options: the resolved options, with the content of outputs in place of their locations.
        inputs: path of a file or folder outside the workflow -> hash of its content.
        code: modules -> fingerprint.
        forced: how often the step was forced to run again.
    """

    verb: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: Mapping[str, str]
    forced: int = 0

    @property
    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

    def difference(self, earlier: Identity) -> str:
        """What changed since `earlier`, in a few words."""
        if self.verb != earlier.verb:
            return f"verb is {self.verb}, was {earlier.verb}"
        for kind in ("options", "inputs", "code"):
            now, then = flatten(getattr(self, kind)), flatten(getattr(earlier, kind))
            changed = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
            if changed:
                more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                return f"{_CHANGED[kind]} {changed[0].removeprefix('set.')} changed{more}"
        return "forced to run again"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A location or a text that a step leaves.

    Attributes:
        value: the location or text.
        digest: hash of the content.
        signature: see `pipelines.workflow.content.signature`; None for a text.
    """

    value: str
    digest: str
    signature: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step that was completed.

    Attributes:
        seconds: that it took.
        finished: when, in seconds since the epoch.
    """

    identity: Identity
    outputs: Mapping[str, Output]
    seconds: float
    finished: float


class StepFolder:
    """The records of one step, in `folder`."""

    def __init__(self, folder: StoragePath) -> None:
        self.folder = folder

    def of(self, identity: Identity) -> StoragePath:
        """The folder of the results of this identity."""
        return self.folder / identity.digest

    def record(self, identity: Identity) -> Record | None:
        """The record of an identity that was completed; None if it was not."""
        path = self.of(identity) / DONE
        return _read(path) if is_file(path) else None

    def started(self, identity: Identity) -> bool:
        return is_file(self.of(identity) / STARTED)

    def failure(self, identity: Identity) -> str | None:
        """Why the last run of this identity failed; None if it did not."""
        path = self.of(identity) / FAILED
        return str(read_json(path).get("why")) if is_file(path) else None

    def newest(self) -> Record | None:
        """The record that was completed last."""
        records = [_read(folder / DONE) for folder in list_folder(self.folder) if is_file(folder / DONE)]
        return max(records, key=lambda record: record.finished, default=None)

    def start(self, identity: Identity, command: Sequence[str]) -> None:
        """Record that a run begins."""
        values = {"identity": dataclasses.asdict(identity), "command": list(command)}
        write_json(self.of(identity) / STARTED, values)
        (self.of(identity) / FAILED).unlink(missing_ok=True)

    def fail(self, identity: Identity, why: str) -> None:
        """Record that a run failed."""
        write_json(self.of(identity) / FAILED, {"why": why})

    def finish(self, record: Record) -> None:
        """Record that a run completed."""
        write_json(self.of(record.identity) / DONE, dataclasses.asdict(record))


def _read(path: StoragePath) -> Record:
    values = read_json(path)
    try:
        outputs = {name: Output(**output) for name, output in values["outputs"].items()}
        return Record(**{**values, "identity": Identity(**values["identity"]), "outputs": outputs})
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the record of a step ({error!r}); delete it, and the step runs again"
        ) from error


def output_of(value: str, *, is_place: bool) -> Output:
    """An output with the hash of its content; of a text, of the text.

    Raises:
        InputError: the step should have left it, and there is nothing.
    """
    if not is_place:
        return Output(value=value, digest=hashlib.sha256(value.encode()).hexdigest())
    path = location(value)
    digest = content_hash(path)
    if digest is None:
        raise InputError(f"{value}: the step ended well but left nothing there; see its log")
    return Output(value=value, digest=digest, signature=signature(path))


def is_there(output: Output) -> bool:
    """Whether an output is as the step left it."""
    if output.signature is None:
        return True
    path = location(output.value)
    # The signature differs if files were copied or restored; then the content decides.
    return signature(path) == output.signature or content_hash(path) == output.digest
