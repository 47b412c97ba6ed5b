"""Listing the audio files below a folder: the only place that decides which files are audio."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rwsa.errors import InputError
from rwsa.names import shown

# What libsndfile reads.
SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".w64", ".rf64", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph"),
        *(".flac", ".ogg", ".oga", ".opus", ".mp3"),
    )
)
# Listed too, so that such a file is reported as unreadable and not left out silently.
OTHER_SUFFIXES = frozenset(
    (
        *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".bw64", ".mka", ".mkv"),
        *(".mp2", ".spx", ".weba", ".webm", ".wma", ".wv"),
    )
)
_LISTED = tuple(SUFFIXES | OTHER_SUFFIXES)
_MOST_VISITS = 64


@dataclass(frozen=True)
class AudioListing:
    """The audio files below a folder.

    Attributes:
        files: sorted relative POSIX paths.
        unlisted: folders that could not be listed, and why.
    """

    files: list[str]
    unlisted: dict[Path, str]


def list_audio(root: Path, *, each_once: bool = False) -> AudioListing:
    """List the audio files below `root`, by suffix, in any case of letters.

    Links to folders are followed, since data are often assembled from links, but not into a folder that
    contains the link. Hidden files and folders are passed over: partly written files start with a dot.

    Args:
        each_once: visit a folder that several links lead to only once, so that no file is listed twice.

    Raises:
        InputError: links lead to one folder more than 64 times.
    """
    files: list[str] = []
    unlisted: dict[Path, str] = {}
    visits: Counter[str] = Counter()
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset())]
    while waiting:
        below, containing = waiting.pop()
        folder = root / below
        real = os.path.realpath(folder)
        if real in containing or (each_once and visits[real]):
            continue
        visits[real] += 1
        if visits[real] > _MOST_VISITS:
            raise InputError(f"{shown(root)}: links lead to {shown(real)} more than {_MOST_VISITS} times")
        try:
            subfolders, audio = _contents(folder)
        except OSError as error:
            unlisted[folder] = f"cannot be listed ({error.strerror}); give read permission"
            continue
        files += [below + name for name in audio]
        waiting += [(f"{below}{name}/", containing | {real}) for name in reversed(subfolders)]
    return AudioListing(files=sorted(files), unlisted=unlisted)


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """The names of a folder's subfolders, sorted, and of its audio files; not of hidden ones."""
    subfolders, audio = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if _is_folder(entry):
                subfolders.append(entry.name)
            elif entry.name.lower().endswith(_LISTED):
                audio.append(entry.name)
    return sorted(subfolders), audio


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_audio(folder: Path, unlisted: dict[Path, str] | None = None) -> list[Path]:
    """All audio files below `folder`, sorted; see `list_audio`.

    Args:
        unlisted: receives the folders below that cannot be listed, and why; without it, they raise.

    Raises:
        InputError: the folder is missing, contains no audio or cannot be listed.
    """
    if not folder.is_dir():
        raise InputError(f"{shown(folder)}: no such folder")
    listing = list_audio(folder)
    for path, reason in listing.unlisted.items():
        if unlisted is None or path == folder:
            raise InputError(f"{shown(path)}: {reason}")
        unlisted[path] = reason
    if not listing.files and not listing.unlisted:
        raise InputError(f"{shown(folder)}: holds no audio ({', '.join(sorted(SUFFIXES))})")
    return [folder / file for file in listing.files]
