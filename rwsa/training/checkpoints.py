"""Checkpoints of a run: folders that are there whole or not at all, alike however the run was launched."""

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

ABOUT = "state.json"
_NAME = re.compile(r"step-(\d{6,})")


class Checkpoints:
    """`FOLDER/step-000250` and so on, of which the newest and the best are kept. Rank 0 saves, all read.

    In a folder a checkpoint is written aside, flushed to the disk and renamed; to a store it is uploaded,
    `state.json` last, and without that it does not count.
    """

    def __init__(self, folder: StoragePath, *, keep: int = 2) -> None:
        """`folder` may lie in a store; `keep` newest ones stay, and the best."""
        self.folder, self._keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None], *, best_step: int | None) -> None:
        """Have `write` fill a folder, make it the checkpoint of `step`, and drop what is not to be kept.

        Raises:
            InputError: it cannot be written; those before it are whole.
        """
        path = self._path(step)
        try:
            if not is_remote(self.folder):
                for leftover in self.folder.glob(".step-*"):  # of a process that was killed
                    shutil.rmtree(leftover)
            with atomic_folder(path, last=ABOUT) as temporary:
                write(temporary)
            newest = self.steps()[-self._keep :]
            for old in self.steps():
                if old not in newest and old != best_step:
                    remove_folder(self._path(old), first=ABOUT)
        except (InputError, OSError) as error:
            reason = error_reason(error).removeprefix(f"{path}: ")
            raise InputError(
                f"{path}: the checkpoint cannot be saved ({reason}); make room, or the"
                " folder writable: the same command goes on from the checkpoint before"
            ) from error

    def replace_all(self, step: int, folder: Path, *, leave_out: Sequence[str] = ()) -> None:
        """Take another run's checkpoint, which lies in `folder`, in place of all of this one's.

        Raises:
            InputError: it cannot be written.
        """
        before = [old for old in self.steps() if old != step]
        ignore = shutil.ignore_patterns(*leave_out)

        def copy(aside: Path) -> None:
            shutil.copytree(folder, aside, ignore=ignore, dirs_exist_ok=True)

        self.save(step, copy, best_step=None)
        for old in before:
            if old in self.steps():
                remove_folder(self._path(old), first=ABOUT)

    def steps(self) -> list[int]:
        """Of all that are whole, in their order."""
        found = [(match, path) for path in list_folder(self.folder) if (match := _NAME.fullmatch(path.name))]
        return sorted(int(match[1]) for match, path in found if is_file(path / ABOUT))

    def at(self, step: int) -> StoragePath | None:
        """The one of a step, if it is there."""
        return self._path(step) if step in self.steps() else None

    def latest(self) -> StoragePath | None:
        """The newest, which a run goes on from."""
        steps = self.steps()
        return self._path(steps[-1]) if steps else None

    def best(self) -> StoragePath | None:
        """The one with the highest validation score; the newest where none was validated.

        Raises:
            InputError: it has been deleted.
        """
        latest = self.latest()
        if latest is None:
            return None
        step = read_json(latest / ABOUT)["best_step"]
        best = latest if step is None else self._path(step)
        if not is_file(best / ABOUT):
            raise InputError(
                f"{best}: the best checkpoint, by {latest.name}, is gone; put it back, or train on until"
                " there is a better one"
            )
        return best

    def _path(self, step: int) -> StoragePath:
        return self.folder / f"step-{step:06d}"


@contextmanager
def local(checkpoint: StoragePath) -> Iterator[Path]:
    """The checkpoint as a folder of this machine: itself, or a copy of what lies in a store."""
    if not is_remote(checkpoint):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-checkpoint-") as folder:
        for path in list_folder(checkpoint):
            with store_errors(path):
                content = path.read_bytes()
            (Path(folder) / path.name).write_bytes(content)
        yield Path(folder)
