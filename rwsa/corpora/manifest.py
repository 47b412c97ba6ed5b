"""The manifest of a corpus: one row per file or pair, and the check for leaks between splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rwsa.corpora.cards import Split
from rwsa.errors import InputError

Kind = Literal["speech", "noise", "room"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One file of speech, noise or a room impulse response.

    `samples` is the length at the file's own `sample_rate_hz`. `clip_id` is the card's name and the path
    below the root without its suffix; `path` is absolute; `channel` is the channel to use of a
    multi-channel file, None for mono. `recording` of a room names whatever must stay in one split.
    """

    clip_id: str
    kind: Kind
    path: str
    samples: int
    sample_rate_hz: int
    split: Split
    speaker: str | None
    recording: str | None
    environment: str | None
    channel: int | None = None
    licence: str

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


@dataclass(frozen=True, kw_only=True)
class ClipPair:
    """A noisy file and its clean target, both mono and equally long; both paths are absolute.

    `clip_id` is the card's name and the noisy file's path below the root without its suffix.
    """

    clip_id: str
    clean: str
    noisy: str
    split: Split
    samples: int
    sample_rate_hz: int
    speaker: str | None
    licence: str

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file or folder that does not meet the card, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The result of scanning a card, source by source, sorted by path within each.

    `left_out` counts audio files below the roots that no pattern or split rule matches.
    """

    card: str
    clips: tuple[Clip, ...] = ()
    pairs: tuple[ClipPair, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: int = 0

    def speech(self, split: str) -> tuple[Clip, ...]:
        return tuple(clip for clip in self.clips if clip.kind == "speech" and clip.split == split)

    def noise(self, split: str) -> tuple[Clip, ...]:
        return tuple(clip for clip in self.clips if clip.kind == "noise" and clip.split == split)

    def rooms(self, split: str) -> tuple[Clip, ...]:
        return tuple(clip for clip in self.clips if clip.kind == "room" and clip.split == split)

    def pairs_of(self, split: str) -> tuple[ClipPair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == split)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A speaker, noise recording or room in two splits, with one file of each split."""

    unit: str
    name: str
    first_split: str
    first_path: str
    split: str
    path: str

    def __str__(self) -> str:
        return (
            f"{self.unit} '{self.name}' is in {self.first_split} ({self.first_path}) and in {self.split} "
            f"({self.path})"
        )


def leaks(manifest: Manifest) -> list[Leak]:
    """Every speaker, noise recording and room in more than one split, one `Leak` per further split.

    Rows without a label are skipped. A name means the same speaker (recording) in all sources of a card.
    """
    speech = [(row.speaker, row.split, row.path) for row in manifest.clips if row.kind == "speech"]
    noise = [(row.recording, row.split, row.path) for row in manifest.clips if row.kind == "noise"]
    rooms = [(row.recording, row.split, row.path) for row in manifest.clips if row.kind == "room"]
    pairs = [(row.speaker, row.split, row.noisy) for row in manifest.pairs]
    by_name: dict[tuple[str, str, str], Leak] = {}
    for unit, rows in (("speaker", speech + pairs), ("noise recording", noise), ("room", rooms)):
        seen: dict[str, tuple[str, str]] = {}
        for name, split, path in rows:
            if name is None:
                continue
            first_split, first_path = seen.setdefault(name, (split, path))
            if first_split != split:
                leak = Leak(
                    unit=unit,
                    name=name,
                    first_split=first_split,
                    first_path=first_path,
                    split=split,
                    path=path,
                )
                by_name.setdefault((unit, name, split), leak)
    return list(by_name.values())


def check_disjoint(manifest: Manifest) -> None:
    """Check that no speaker, noise recording or room is in two splits; see `leaks`.

    Raises:
        InputError: naming the speaker, recording or room, both splits and a file in each.
    """
    for leak in leaks(manifest):
        raise InputError(
            f"{manifest.card}: {leak}; keep all its files in one split (the card's splits), or exclude some"
        )
