"""Enhance files, folders and streams; outputs are written atomically, bad files are reported and skipped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import torch
from tqdm import tqdm

from rwsa.audio import REMEDY
from rwsa.audio_folders import find_audio
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.enhancement.file_group import AudioFile, enhance_group
from rwsa.errors import InputError
from rwsa.files import WRITE_REMEDY
from rwsa.models import Network
from rwsa.names import shown

_STREAM_REMEDIES = {
    REMEDY: "pipe in one complete audio file",
    WRITE_REMEDY: "set TMPDIR to a folder with space",
}
# A group of files is of at least so much audio, or so many files; workers take one group after another.
_GROUP_SECONDS, _GROUP_FILES = 20.0, 100
# A further worker takes a few seconds to start.
_SECONDS_PER_WORKER = 60.0
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def enhance_files(
    inputs: Sequence[Path],
    out: Path | None,
    model: Network,
    *,
    crossfade: float = DEFAULT_CROSSFADE,
    batch_size: int = 4,
    strict: bool = False,
    workers: int | None = 1,
) -> list[str]:
    """Enhance all audio files of `inputs`, files or folders.

    Outputs have the format, rate, channels and length of their inputs. Memory use does not grow with
    the length or number of files, and short files share batches.

    Args:
        out: folder for outputs with the names of their inputs; None writes each beside its input, as
            `beside` names it.
        workers: processes that enhance at the same time, each with its share of torch's threads; outputs are
            the same for any number. None chooses it from the number of threads and the amount of audio. With
            more than one, a script needs `if __name__ == "__main__":`.

    Returns:
        One error message per skipped file.

    Raises:
        InputError: an input is missing, a folder has no audio, two inputs have the same output, an output
            would overwrite an input, an argument is out of range, or `out` is not writable or full; with
            `strict` also the first bad file.
    """
    unlisted: dict[Path, str] = {}
    targets = _targets(inputs, out, unlisted)
    files = [AudioFile(source, target) for source, target in targets.items()]
    failures = [f"{shown(folder)}: {reason}" for folder, reason in unlisted.items()]
    if strict and failures:
        raise InputError(failures[0])
    for folder in output_folders(inputs, out):
        _make_writable(folder)
    for error in _failures(files, model, crossfade, batch_size, workers):
        if strict:
            raise error
        failures.append(str(error))
    return failures


def output_folders(inputs: Sequence[Path], out: Path | None) -> list[Path]:
    """The folders that `enhance_files` writes to.

    Raises:
        InputError: an input is missing, or has no place beside it.
    """
    if out is not None:
        return [out]
    for path in inputs:
        _check_exists(path)
    return sorted({beside(path) if path.is_dir() else path.parent for path in inputs})


def beside(path: Path) -> Path:
    """Where a file or folder's enhanced version goes by default: `noisy-enhanced.wav` beside `noisy.wav`.

    Raises:
        InputError: it is the root of a file system.
    """
    named = path if path.name not in ("", "..") else path.resolve()
    if not named.name:
        raise InputError(f"{shown(path)}: has no folder beside it; give --out")
    stem, suffix = (named.name, "") if path.is_dir() else (named.stem, named.suffix)
    return named.with_name(f"{stem}-enhanced{suffix}")


def enhance_stream(
    source: BinaryIO,
    sink: BinaryIO,
    model: Network,
    *,
    crossfade: float = DEFAULT_CROSSFADE,
    batch_size: int = 4,
) -> None:
    """Enhance one audio file from `source` to `sink`, in the same format; on an error nothing is written.

    Output starts after the end of the input, since the level is that of the whole signal. Both are
    buffered in temporary files, not in memory.

    Raises:
        InputError: `source` has no readable audio, an argument is out of range, the temporary folder is
            full, or `sink` was closed.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
            file = AudioFile(Path(folder, "stdin"), Path(folder, "stdout"))
            with file.source.open("wb") as spooled:
                shutil.copyfileobj(source, spooled)
            try:
                for error in _failures([file], model, crossfade, batch_size, workers=1):
                    raise error
            except InputError as error:
                message = str(error).replace(f"{folder}/", "")
                for remedy, here in _STREAM_REMEDIES.items():
                    message = message.replace(remedy, here)
                raise InputError(message) from error
            with file.target.open("rb") as enhanced:
                shutil.copyfileobj(enhanced, sink)
                sink.flush()
    except OSError as error:
        raise InputError(
            f"stdin could not be enhanced to stdout ({error.strerror}); check that stdout's reader runs, and"
            " that its disk and TMPDIR have space"
        ) from error


def _failures(
    files: Sequence[AudioFile], model: Network, crossfade: float, batch_size: int, workers: int | None
) -> Iterator[InputError]:
    """Enhance all files; yields the error of each failed file, in their order.

    Raises:
        InputError: the disk is full, or an argument is out of range.
    """
    seconds = [file.seconds for file in files]
    groups = _groups(files, seconds)
    count = _worker_count(workers, len(groups), sum(seconds), next(model.parameters()).device)
    with tqdm(total=sum(seconds), desc="enhancing", bar_format=_BAR, disable=None) as bar:
        if count > 1:
            from rwsa.enhancement.workers import enhance_in_workers

            errors = enhance_in_workers(groups, model, crossfade, batch_size, bar.update, workers=count)
            with closing(errors):
                yield from errors
        else:
            for group in groups:
                yield from enhance_group(group, model, crossfade, batch_size, bar.update)


def _groups(files: Sequence[AudioFile], seconds: Sequence[float]) -> list[list[AudioFile]]:
    """Consecutive files that share batches, the same for any number of workers, and so are the outputs."""
    groups: list[list[AudioFile]] = []
    lasting = _GROUP_SECONDS
    for file, duration in zip(files, seconds, strict=True):
        if lasting >= _GROUP_SECONDS or len(groups[-1]) >= _GROUP_FILES:
            groups.append([])
            lasting = 0.0
        groups[-1].append(file)
        lasting += duration
    return groups


def _worker_count(workers: int | None, groups: int, seconds: float, device: torch.device) -> int:
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 process is needed")
    if device.type != "cpu":
        if workers not in (None, 1):
            raise InputError(f"--workers is {workers}, but only one process can use the device {device}")
        return 1
    if workers is None:
        workers = min(torch.get_num_threads(), int(seconds / _SECONDS_PER_WORKER))
    return max(1, min(workers, groups))


def _check_exists(path: Path) -> None:
    if not os.path.lexists(path):
        raise InputError(f"{shown(path)}: no such file or folder")


def _targets(inputs: Sequence[Path], out: Path | None, unlisted: dict[Path, str]) -> dict[Path, Path]:
    """Output path of each source: a file's name, or its path relative to its input folder."""
    targets: dict[Path, Path] = {}
    for path in inputs:
        _check_exists(path)
        if path.is_dir():
            folder = beside(path) if out is None else out
            targets |= {file: folder / file.relative_to(path) for file in find_audio(path, unlisted)}
        else:
            targets[path] = beside(path) if out is None else out / path.name
    sources = {os.path.realpath(source) for source in targets}
    taken: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in taken:
            raise InputError(
                f"{shown(source)} and {shown(taken[target])} would both be written to {shown(target)};"
                " enhance them separately"
            )
        if os.path.realpath(target) in sources:
            raise InputError(f"{shown(target)}: is an input and would be overwritten; choose another --out")
        taken[target] = source
    return targets


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            f"{shown(out)}: cannot be written to ({error.strerror}); choose another --out"
        ) from error
