"""Enhance files, folders and streams; outputs are written atomically, bad files are reported and skipped."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from rwsa.audio import REMEDY, AudioInfo, read_blocks, read_info, write_blocks
from rwsa.audio_folders import find_audio
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.enhancement.recordings import Piece, enhance_recordings
from rwsa.errors import InputError
from rwsa.files import WRITE_REMEDY
from rwsa.models import Network
from rwsa.names import shown

# Encodings that the output takes over from its input; others get the format's default. They have less than 16
# bits, or packets of fixed length, which make an output longer than its input.
_PRESERVED_SUBTYPES = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"}
_STREAM_REMEDIES = {
    REMEDY: "pipe in one complete audio file",
    WRITE_REMEDY: "set TMPDIR to a folder with space",
}
# Then no other file could be written either.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def enhance_files(
    inputs: Sequence[Path],
    out: Path,
    model: Network,
    *,
    crossfade: float = DEFAULT_CROSSFADE,
    batch_size: int = 4,
    strict: bool = False,
) -> list[str]:
    """Enhance all audio files of `inputs`, files or folders, into the folder `out`.

    Outputs have the name, format, rate, channels and length of their inputs. Memory use does not grow with
    the length or number of files, and short files share batches.

    Returns:
        One error message per skipped file.

    Raises:
        InputError: an input is missing, a folder has no audio, two inputs have the same output, an output
            would overwrite an input, an argument is out of range, or `out` is not writable or full; with
            `strict` also the first bad file.
    """
    unlisted: dict[Path, str] = {}
    files = [_File(source, target) for source, target in _targets(inputs, out, unlisted).items()]
    failures = [f"{shown(folder)}: {reason}" for folder, reason in unlisted.items()]
    if strict and failures:
        raise InputError(failures[0])
    _make_writable(out)
    for error in _failures(files, model, crossfade, batch_size):
        if strict:
            raise error
        failures.append(str(error))
    return failures


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
            file = _File(Path(folder, "stdin"), Path(folder, "stdout"))
            with file.source.open("wb") as spooled:
                shutil.copyfileobj(source, spooled)
            try:
                for error in _failures([file], model, crossfade, batch_size):
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


class _File:
    """An audio file as a `Recording`, with the path of its output."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.abandoned = False

    @property
    def info(self) -> AudioInfo:
        return read_info(self.source)

    @property
    def seconds(self) -> float:
        """Duration by the header; 0 if unreadable."""
        try:
            return self.info.seconds
        except InputError:
            return 0.0

    def blocks(self) -> Iterator[np.ndarray]:
        for block in read_blocks(self.source):
            if self.abandoned:
                raise InputError(f"{shown(self.source)}: abandoned")
            yield block

    def write(self, pieces: Iterable[Piece | InputError], bar: tqdm[Any]) -> None:
        """Write the enhanced file.

        Raises:
            InputError: one is in `pieces`, or the target cannot be written.
        """
        info = self.info
        subtype = info.subtype if info.subtype in _PRESERVED_SUBTYPES else None
        blocks = _with_progress(pieces, info.sample_rate_hz, bar)
        write_blocks(self.target, blocks, info.sample_rate_hz, format=info.format, subtype=subtype)


def _failures(
    files: Sequence[_File], model: Network, crossfade: float, batch_size: int
) -> Iterator[InputError]:
    """Enhance all files; yields the error of each failed file.

    Raises:
        InputError: the disk is full.
    """
    pieces = enhance_recordings(files, model, ("model",), crossfade=crossfade, batch_size=batch_size)
    total = sum(file.seconds for file in files)
    with tqdm(total=total, desc="enhancing", bar_format=_BAR, disable=None) as bar:
        for file, own in itertools.groupby(pieces, key=itemgetter(0)):
            try:
                file.write((piece for _, piece in own), bar)
            except InputError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_SPACE:
                    raise
                # Do not enhance its remaining segments.
                file.abandoned = True
                yield error


def _with_progress(
    pieces: Iterable[Piece | InputError], sample_rate_hz: int, bar: tqdm[Any]
) -> Iterator[np.ndarray]:
    for piece in pieces:
        if isinstance(piece, InputError):
            raise piece
        yield piece.wav[0]
        bar.update(piece.wav.shape[-1] / sample_rate_hz)


def _targets(inputs: Sequence[Path], out: Path, unlisted: dict[Path, str]) -> dict[Path, Path]:
    """Output path of each source: a file's name, or its path relative to its input folder."""
    targets: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir():
            targets |= {file: out / file.relative_to(path) for file in find_audio(path, unlisted)}
        elif os.path.lexists(path):
            targets[path] = out / path.name
        else:
            raise InputError(f"{shown(path)}: no such file or folder")
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
