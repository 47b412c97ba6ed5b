"""What is known of each step: its identity, its outputs, and where it stands.

ROOT/workflows/NAME/STEP/IDENTITY/   results, log, `started.json` and, at the end, `done.json`
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rwsa.errors import InputError
from rwsa.files import (
    StoragePath,
    is_file,
    is_remote,
    list_folder,
    location,
    read_json,
    sha256_of,
    store_errors,
    write_json,
)
from rwsa.shards.index import INDEX_NAME

STARTED, DONE, LOG = "started.json", "done.json", "log.txt"
_DIGITS = 12

State = Literal["done", "missing", "partial", "stale", "new", "waiting"]


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
            now, then = getattr(self, kind), getattr(earlier, kind)
            changed = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
            if changed:
                more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                word = {"options": "option", "inputs": "file", "code": "code of"}[kind]
                return f"{word} {changed[0]} changed{more}"
        return "forced to run again"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A location or a text that a step leaves, and the hash of its content."""

    value: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step that was completed, or one that was only started (without outputs)."""

    identity: Identity
    outputs: Mapping[str, Output] | None
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

    def newest(self) -> Record | None:
        """The record that was completed last."""
        records = [_read(folder / DONE) for folder in list_folder(self.folder) if is_file(folder / DONE)]
        return max(records, key=lambda record: record.finished, default=None)

    def start(self, identity: Identity, command: list[str]) -> None:
        write_json(
            self.of(identity) / STARTED, {"identity": dataclasses.asdict(identity), "command": command}
        )

    def finish(self, record: Record) -> None:
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


def content_hash(path: StoragePath) -> str | None:
    """Hash of a file, or of a folder by the index of its shards or the names, sizes and times of its files.

    None if there is nothing at `path`.
    """
    with store_errors(path):
        if path.is_file():
            return sha256_of(path)
        if is_file(path / INDEX_NAME):
            return sha256_of(path / INDEX_NAME)
        if not path.exists():
            return None
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                status = file.stat()
                time = "" if is_remote(file) else status.st_mtime_ns
                digest.update(
                    f"{str(file)[len(str(path)) :]} {status.st_size} {time}\n".encode(
                        errors="surrogateescape"
                    )
                )
        return digest.hexdigest()


def output_of(value: str, *, is_place: bool) -> Output:
    """An output with the hash of its content; of a text, of the text.

    Raises:
        InputError: the step should have left it, and there is nothing.
    """
    found = content_hash(location(value)) if is_place else hashlib.sha256(value.encode()).hexdigest()
    if found is None:
        raise InputError(f"{value}: the step ended well but left nothing there")
    return Output(value=value, digest=found)
