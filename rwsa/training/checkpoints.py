"""Checkpoints of a run: folders that are there whole or not at all, alike however the run was launched."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from upath import UPath

from rwsa.errors import InputError
from rwsa.files import is_file, is_remote, listed, reaching, read_json, reason_of

ABOUT = "state.json"
_NAME = re.compile(r"step-(\d{6,})")


class Checkpoints:
    """`FOLDER/step-000250` and so on, of which the newest and the best are kept. Rank 0 saves, all read.

    In a folder a checkpoint is written aside, flushed to the disk and renamed; to a store it is uploaded,
    `state.json` last, and without that it does not count.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        """`folder` may lie in a store; `keep` newest ones stay, and the best."""
        self.folder, self._keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None], *, best_step: int | None) -> None:
        """Have `write` fill a folder, make it the checkpoint of `step`, and drop what is not to be kept.

        Raises:
            InputError: it cannot be written; those before it are whole.
        """
        try:
            with (
                _uploaded(self._path(step)) if is_remote(self.folder) else _renamed(self._path(step)) as aside
            ):
                write(aside)
            newest = self.steps()[-self._keep :]
            for old in self.steps():
                if old not in newest and old != best_step:
                    _remove(self._path(old))
        except (InputError, OSError) as error:
            raise InputError(
                f"{self._path(step)}: the checkpoint cannot be saved ({reason_of(error)}); make room, or the"
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
                _remove(self._path(old))

    def steps(self) -> list[int]:
        """Of all that are whole, in their order."""
        found = [(match, path) for path in listed(self.folder) if (match := _NAME.fullmatch(path.name))]
        return sorted(int(match[1]) for match, path in found if is_file(path / ABOUT))

    def at(self, step: int) -> Path | None:
        """The one of a step, if it is there."""
        return self._path(step) if step in self.steps() else None

    def latest(self) -> Path | None:
        """The newest, which a run goes on from."""
        steps = self.steps()
        return self._path(steps[-1]) if steps else None

    def best(self) -> Path | None:
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

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"


@contextmanager
def local(checkpoint: Path) -> Iterator[Path]:
    """The checkpoint as a folder of this machine: itself, or a copy of what lies in a store."""
    if not is_remote(checkpoint):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-checkpoint-") as folder:
        for path in listed(checkpoint):
            with reaching(path):
                content = path.read_bytes()
            (Path(folder) / path.name).write_bytes(content)
        yield Path(folder)


@contextmanager
def _renamed(target: Path) -> Iterator[Path]:
    for left in target.parent.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(left)
    aside = target.with_name(f".{target.name}")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in (*aside.iterdir(), aside):
            _flush(path)
        _remove(target)
        aside.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _uploaded(target: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rwsa-checkpoint-") as folder:
        yield Path(folder)
        _remove(target)
        with reaching(target):
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == ABOUT):
                (target / path.name).write_bytes(path.read_bytes())


def _remove(path: Path) -> None:
    if not is_remote(path):
        if path.exists():
            # Renamed first, so that it is never found half removed.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.old")))
    elif listed(path):
        store = cast(UPath, path)
        with reaching(path):
            # First what makes it count, so that it is never found half removed.
            if is_file(path / ABOUT):
                (path / ABOUT).unlink()
            store.fs.rm(store.path, recursive=True)


def _flush(path: Path) -> None:
    """Have the disk keep it through a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
