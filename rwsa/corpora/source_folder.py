"""One source of a card while it is scanned: its files, their labels and splits, and what was found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rwsa.corpora.cards import SPLITS, CorpusCard, PairSource, Source, Split, split_of
from rwsa.corpora.manifest import Clip, Pair, Problem
from rwsa.errors import InputError


@dataclass(frozen=True, kw_only=True)
class At:
    """Where in which card: what an error has to say."""

    card: CorpusCard
    key: str
    place: Source | PairSource

    @property
    def licence(self) -> str:
        return self.place.licence or self.card.licence

    def error(self, what: str, *, absent: bool = False) -> InputError:
        remedy = f". {' '.join(self.card.get.split())}" if absent and self.card.get else ""
        return InputError(f"card {self.card.name}: {self.key}{what}{remedy}")


@dataclass(frozen=True)
class File:
    """A file that a pattern matched, before its header is read."""

    path: str
    below: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class Found:
    """What a source gives: rows and problems, and the paths of all audio there and of what it claims."""

    rows: Sequence[Clip | Pair]
    problems: list[Problem]
    audio: set[str]
    claimed: set[str]


def paths_below(root: Path, files: Sequence[str]) -> set[str]:
    """Absolute paths of relative ones."""
    prefix = _prefix(root)
    return {prefix + file for file in files}


def _prefix(root: Path) -> str:
    # Joined as text: a Path for each of 100,000 files costs more than reading the folder.
    return str(root).rstrip("/") + "/"


def matching(at: At, root: Path, files: list[str], key: str) -> list[File]:
    """The files that the expression under `key` matches and that are not excluded."""
    pattern, prefix = re.compile(getattr(at.place, key)), _prefix(root)
    excluded = [re.compile(expression) for expression in at.place.exclude]
    kept = [file for file in files if not any(expression.search(file) for expression in excluded)]
    found = [File(prefix + file, file, m.groupdict()) for file in kept if (m := pattern.fullmatch(file))]
    if not found:
        example = f"; the first is {kept[0]}" if kept else " (exclude leaves none)"
        raise at.error(
            f".{key} '{pattern.pattern}' matches none of the {len(files)} audio files below {root}{example}"
        )
    return found


def split_in(at: At, labels: dict[str, str | None]) -> Split | None:
    split = split_of(at.place, labels)
    if split is not None and split not in SPLITS:
        raise at.error(
            f" finds files of a split '{split}'; say under splits which of {', '.join(SPLITS)} it is"
        )
    return cast("Split | None", split)


def clip_id(card: CorpusCard, below: str) -> str:
    """The card's name and an audio file's path below the root without its suffix."""
    return f"{card.name}/{below.rpartition('.')[0]}"
