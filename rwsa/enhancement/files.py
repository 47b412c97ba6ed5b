"""Enhance files, folders and streams: structure kept, outputs whole, a bad file reported and passed over."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from rwsa.audio import REMEDY, AudioInfo, find_audio, read_blocks, read_info, write_blocks
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.enhancement.recordings import Piece, enhance_recordings
from rwsa.errors import InputError
from rwsa.models import Network

# Encodings that an output shares with its input. The others hold less than 16 bits, or whole packets only,
# which makes an output longer than its input; the format's default stands in for them.
_KEPT = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"}
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
    """Enhance every audio file among `inputs`, which are files or folders, into the folder `out`.

    Outputs have the name, format, rate, channels and length of their inputs. Memory grows neither with
    length nor with number, and short files share batches.

    Returns:
        What went wrong, one line for each file passed over.

    Raises:
        InputError: an input is missing, a folder holds no audio, two inputs would be written to one
            file or over an input, an argument is out of range, or `out` cannot be written to; with
            `strict` also for the first bad file.
    """
    files = [_File(source, target) for source, target in _targets(inputs, out).items()]
    _make_writable(out)
    failures = []
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
    """Enhance one audio file read from `source` into `sink`, which gets the same format, or nothing.

    The level is that of the whole signal, so nothing comes out before all has come in. Both wait in the
    folder of temporary files, not in memory.

    Raises:
        InputError: `source` holds no readable audio, an argument is out of range, the folder of temporary
            files is full, or `sink` was closed.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
            file = _File(Path(folder, "stdin"), Path(folder, "stdout"))
            with file.source.open("wb") as spooled:
                shutil.copyfileobj(source, spooled)
            for error in _failures([file], model, crossfade, batch_size):
                message = str(error).replace(f"{folder}/", "").replace(REMEDY, "pipe in one whole audio file")
                raise InputError(message) from error
            with file.target.open("rb") as enhanced:
                shutil.copyfileobj(enhanced, sink)
                sink.flush()
    except OSError as error:
        raise InputError(f"stdin could not be enhanced to stdout ({error.strerror})") from error


class _File:
    """A file as a recording, and where to write it enhanced."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.given_up = False

    @property
    def info(self) -> AudioInfo:
        return read_info(self.source)

    @property
    def seconds(self) -> float:
        """By the header; 0 where there is none."""
        try:
            return self.info.seconds
        except InputError:
            return 0.0

    def blocks(self) -> Iterator[np.ndarray]:
        for block in read_blocks(self.source):
            if self.given_up:
                raise InputError(f"{self.source}: given up")
            yield block

    def write(self, pieces: Iterable[Piece | InputError], bar: tqdm) -> None:
        """Raises: InputError: that among `pieces`, or the target cannot be written."""
        info = self.info
        subtype = info.subtype if info.subtype in _KEPT else None
        blocks = _counted(pieces, info.sample_rate_hz, bar)
        write_blocks(self.target, blocks, info.sample_rate_hz, format=info.format, subtype=subtype)


def _failures(
    files: Sequence[_File], model: Network, crossfade: float, batch_size: int
) -> Iterator[InputError]:
    """Enhance all files; what kept one from it, as it happens."""
    pieces = enhance_recordings(files, model, ("model",), crossfade=crossfade, batch_size=batch_size)
    total = sum(file.seconds for file in files)
    with tqdm(total=total, desc="enhancing", bar_format=_BAR, disable=None) as bar:
        for file, own in itertools.groupby(pieces, key=itemgetter(0)):
            try:
                file.write((piece for _, piece in own), bar)
            except InputError as error:
                # Its segments to come would be enhanced for nothing.
                file.given_up = True
                yield error


def _counted(pieces: Iterable[Piece | InputError], sample_rate_hz: int, bar: tqdm) -> Iterator[np.ndarray]:
    for piece in pieces:
        if isinstance(piece, InputError):
            raise piece
        yield piece.wav[0]
        bar.update(piece.wav.shape[-1] / sample_rate_hz)


def _targets(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each source goes: a file under its name, a folder's files under their paths inside it."""
    targets: dict[Path, Path] = {}
    for given in inputs:
        if given.is_dir():
            targets |= {path: out / path.relative_to(given) for path in find_audio(given)}
        elif given.is_file():
            targets[given] = out / given.name
        else:
            raise InputError(f"{given}: no such file or folder")
    sources = {source.resolve() for source in targets}
    taken: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in taken:
            raise InputError(f"{source} and {taken[target]} would both become {target}; enhance them apart")
        if target.resolve() in sources:
            raise InputError(f"{target}: is an input and would be overwritten; choose another --out")
        taken[target] = source
    return targets


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror}); choose another --out") from error
