"""Checkpoints of a run: saved atomically, with retention of the newest and the best.

How many are retained is `keep_checkpoints` in `rwsa.training.config`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rwsa.errors import InputError
from rwsa.files import (
    StoragePath,
    atomic_folder,
    error_reason,
    is_file,
    is_remote,
    list_folder,
    read_json,
    remove_folder,
    store_errors,
)

STATE_FILE = "state.json"
DAMAGED = ".damaged"
_NAME = re.compile(r"step-(\d{6,})")
_FILE = re.compile(r"\w[\w.-]*\.(?:json|safetensors)")


class DamagedCheckpointError(InputError):
    """A checkpoint's files are missing, truncated or changed, or do not fit each other."""


class Checkpoints:
    """Checkpoints `FOLDER/step-000250`, …: the newest and the best are kept. Rank 0 saves, all ranks read.

    In a folder a checkpoint is written to a temporary folder, synced to disk and renamed. To an object store
    it is uploaded with `state.json` last; without that file it is incomplete and ignored.
    """

    def __init__(self, folder: StoragePath, *, keep: int = 2) -> None:
        """Keep the `keep` newest checkpoints and the best."""
        self.folder, self._keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None], *, best_step: int | None) -> None:
        """Save the folder that `write` fills as the checkpoint of `step`, and delete old checkpoints.

        Raises:
            InputError: it cannot be written; earlier checkpoints stay intact.
        """
        path = self.path(step)
        try:
            if not is_remote(self.folder):
                for leftover in self.folder.glob(".step-*"):  # of a killed process
                    shutil.rmtree(leftover)
            with atomic_folder(path, last=STATE_FILE) as temporary:
                write(temporary)
            newest = self.steps()[-self._keep :]
            for old in self.steps():
                if old not in newest and old != best_step:
                    remove_folder(self.path(old), first=STATE_FILE)
        except (InputError, OSError) as error:
            reason = error_reason(error).removeprefix(f"{path}: ")
            raise InputError(
                f"{path}: the checkpoint cannot be saved ({reason}); free disk space or make the"
                " folder writable; the same command resumes from the previous checkpoint"
            ) from error

    def replace_all(self, step: int, folder: Path, *, leave_out: Sequence[str] = ()) -> None:
        """Replace all checkpoints by another run's checkpoint, which is in `folder`.

        Raises:
            InputError: it cannot be written.
        """
        before = [old for old in self.steps() if old != step]
        ignore = shutil.ignore_patterns(*leave_out)

        def copy(target: Path) -> None:
            shutil.copytree(folder, target, ignore=ignore, dirs_exist_ok=True)

        self.save(step, copy, best_step=None)
        for old in before:
            if old in self.steps():
                remove_folder(self.path(old), first=STATE_FILE)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        named = [(match, path) for path in list_folder(self.folder) if (match := _NAME.fullmatch(path.name))]
        return sorted(int(match[1]) for match, path in named if is_file(path / STATE_FILE))

    def found(self) -> list[int]:
        """`steps`, and in a folder also checkpoints without `state.json`, which only damage explains."""
        if is_remote(self.folder):
            return self.steps()  # an interrupted upload leaves such a checkpoint
        names = (_NAME.fullmatch(path.name) for path in list_folder(self.folder))
        return sorted(int(match[1]) for match in names if match)

    def set_aside(self, step: int) -> StoragePath:
        """Rename a damaged checkpoint to `step-….damaged`, and return its new location.

        Raises:
            InputError: it cannot be renamed.
        """
        path = self.path(step)
        aside = path.with_name(path.name + DAMAGED)
        try:
            remove_folder(aside, first=STATE_FILE)
            if not is_remote(path):
                path.rename(str(aside))
                return aside
            names = [file.name for file in list_folder(path)]
            with store_errors(path):
                for name in sorted(names, key=lambda name: name != STATE_FILE):
                    path.fs.mv(f"{path.path}/{name}", f"{path.path}{DAMAGED}/{name}")
        except OSError as error:
            raise InputError(
                f"{path}: damaged, and cannot be renamed ({error_reason(error)}); make the folder writable"
            ) from error
        return aside

    def at(self, step: int) -> StoragePath | None:
        """The checkpoint of a step, if it exists."""
        return self.path(step) if step in self.steps() else None

    def latest(self) -> StoragePath | None:
        """The newest checkpoint, from which a run resumes."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def best(self) -> StoragePath | None:
        """The checkpoint with the highest validation score; the newest if none was validated.

        Raises:
            InputError: it was deleted, or the newest checkpoint is damaged.
        """
        latest = self.latest()
        if latest is None:
            return None
        state = read_json(latest / STATE_FILE)
        step = state.get("best_step", "") if isinstance(state, dict) else ""
        if not isinstance(step, int | None):
            raise DamagedCheckpointError(
                f"{latest / STATE_FILE}: damaged: it names no best_step; start the run again, which falls"
                " back to the checkpoint before"
            )
        best = latest if step is None else self.path(step)
        if not is_file(best / STATE_FILE):
            raise InputError(
                f"{best}: the best checkpoint according to {latest.name} is missing; restore it, or train"
                " until there is a better one"
            )
        return best

    def path(self, step: int) -> StoragePath:
        """Where the checkpoint of a step is, whether it exists or not."""
        return self.folder / f"step-{step:06d}"


@contextmanager
def local_folder(checkpoint: StoragePath) -> Iterator[Path]:
    """The checkpoint as a local folder: itself, or a temporary copy of one in an object store."""
    if not is_remote(checkpoint):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-checkpoint-") as folder:
        for path in list_folder(checkpoint):
            if not _FILE.fullmatch(path.name):
                continue
            with store_errors(path):
                content = path.read_bytes()
            (Path(folder) / path.name).write_bytes(content)
        yield Path(folder)
