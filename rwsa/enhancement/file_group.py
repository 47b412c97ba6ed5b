"""Enhance a group of files in this process; short files of a group share batches."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

from rwsa.audio import AudioInfo, read_blocks, read_info, write_blocks
from rwsa.enhancement.recordings import Piece, enhance_recordings
from rwsa.errors import InputError
from rwsa.models import Network
from rwsa.names import shown

# Called with seconds of audio that were enhanced since the last call.
Progress = Callable[[float], object]

# Encodings that the output takes over from its input; others get the format's default. They have less than 16
# bits, or packets of fixed length, which make an output longer than its input.
_PRESERVED_SUBTYPES = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"}
# Then no other file could be written either.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class AudioFile:
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

    def write(self, pieces: Iterable[Piece | InputError], progress: Progress) -> None:
        """Write the enhanced file.

        Raises:
            InputError: one is in `pieces`, or the target cannot be written.
        """
        info = self.info
        subtype = info.subtype if info.subtype in _PRESERVED_SUBTYPES else None
        blocks = _with_progress(pieces, info.sample_rate_hz, progress)
        write_blocks(self.target, blocks, info.sample_rate_hz, format=info.format, subtype=subtype)


def enhance_group(
    files: Sequence[AudioFile], model: Network, crossfade: float, batch_size: int, progress: Progress
) -> Iterator[InputError]:
    """Enhance files; yields the error of each failed file.

    Raises:
        InputError: the disk is full, or an argument is out of range.
    """
    pieces = enhance_recordings(files, model, ("model",), crossfade=crossfade, batch_size=batch_size)
    for file, own in itertools.groupby(pieces, key=itemgetter(0)):
        try:
            file.write((piece for _, piece in own), progress)
        except InputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_SPACE:
                raise
            # Do not enhance its remaining segments.
            file.abandoned = True
            yield error


def _with_progress(
    pieces: Iterable[Piece | InputError], sample_rate_hz: int, progress: Progress
) -> Iterator[np.ndarray]:
    for piece in pieces:
        if isinstance(piece, InputError):
            raise piece
        yield piece.wav[0]
        progress(piece.wav.shape[-1] / sample_rate_hz)
