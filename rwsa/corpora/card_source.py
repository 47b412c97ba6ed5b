"""One source of a card while it is scanned: its files, their labels and splits, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rwsa.corpora.cards import SPLITS, CorpusCard, PairSource, Source, Split, split_of
from rwsa.corpora.manifest import Clip, ClipPair, Problem
from rwsa.corpora.matching import match_files
from rwsa.errors import InputError
from rwsa.names import as_utf8, shown, stored_path


@dataclass(frozen=True, kw_only=True)
class CardSource:
    """A source with its card and its key in the card, for error messages."""

    card: CorpusCard
    key: str
    source: Source | PairSource

    @property
    def licence(self) -> str:
        return self.source.licence or self.card.licence

    def error(self, what: str, *, absent: bool = False) -> InputError:
        remedy = f". {' '.join(self.card.get.split())}" if absent and self.card.get else ""
        return InputError(f"card {self.card.name}: {self.key}{what}{remedy}")


@dataclass(frozen=True)
class MatchedFile:
    """A file that a pattern matched, before its header is read; all its text is UTF-8.

    `path` is absolute, as `rwsa.names.stored_path` gives it; `below` is relative to the root.
    """

    path: str
    below: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class SourceScan:
    """The result of scanning a source: rows, problems, and the paths of all audio and of claimed files."""

    rows: Sequence[Clip | ClipPair]
    problems: list[Problem]
    audio: set[str]
    claimed: set[str]


def paths_below(root: Path, files: Sequence[str]) -> set[str]:
    """Absolute paths, as `MatchedFile` has them, of files given relative to `root`."""
    prefix = _prefix(root)
    return {stored_path(prefix + file) for file in files}


def _prefix(root: Path) -> str:
    # Joined as text: a Path for each of 100,000 files costs more than reading the folder.
    return str(root).rstrip("/") + "/"


def matched_files(at: CardSource, root: Path, files: list[str], key: str) -> list[MatchedFile]:
    """The files that match the expression under `key` and are not excluded."""
    pattern, prefix = getattr(at.source, key), _prefix(root)
    try:
        kept, labelled = match_files(pattern, at.source.exclude, files)
    except InputError as error:
        raise at.error(f".{key} {error}") from None
    matched = [
        MatchedFile(stored_path(prefix + file), as_utf8(file), _labels(labels)) for file, labels in labelled
    ]
    if not matched:
        example = f"; the first is {shown(kept[0])}" if kept else " (exclude leaves none)"
        raise at.error(
            f".{key} '{pattern}' matches none of the {len(files)} audio files below {root}{example}"
        )
    return matched


def _labels(groups: dict[str, str | None]) -> dict[str, str | None]:
    return {name: value and as_utf8(value) for name, value in groups.items()}


def checked_split(at: CardSource, labels: dict[str, str | None]) -> Split | None:
    """The split of a file with these labels, None if no rule matches.

    Raises:
        InputError: the split is not train, valid or test.
    """
    split = split_of(at.source, labels)
    if split is not None and split not in SPLITS:
        raise at.error(f" has files with split '{split}'; map it under splits to one of {', '.join(SPLITS)}")
    return cast("Split | None", split)


def clip_id(card: CorpusCard, below: str) -> str:
    """The card's name and an audio file's path below the root without its suffix."""
    return f"{card.name}/{below.rpartition('.')[0]}"
