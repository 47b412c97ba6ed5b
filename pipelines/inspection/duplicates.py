"""The same recording in two places, by the hash of its decoded audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.inspection.recording_facts import Facts, Recording
from rwsa.audio_facts import AudioFacts

# Both are what a network is to give back; a recording may be speech in one corpus, a target in another.
_ROLES = {"speech": "target", "clean": "target"}


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Two files with the same audio.

    Attributes:
        same_file: two cards (or two sources) claim one file, as cards that share a folder do.
        leak: they are in different splits, or one is speech and the other is not.
    """

    first: Recording
    other: Recording

    @property
    def same_file(self) -> bool:
        return self.first.path == self.other.path

    @property
    def leak(self) -> bool:
        return self.first.split != self.other.split or _role(self.first) != _role(self.other)

    def __str__(self) -> str:
        return f"{_place(self.first)} = {_place(self.other)}"


def repeats(recordings: Iterable[Recording], facts: Facts) -> list[Repeat]:
    """Every file of a card whose audio an earlier one has, paired with the first such, leaks first.

    Files of nothing but digital silence have no hash, and those that cannot be read no facts: neither
    is compared. Copies that were resampled, coded with loss or scaled are not found.
    """
    first: dict[str, Recording] = {}
    found = []
    for sha256, recording in _hashed(recordings, facts):
        earlier = first.setdefault(sha256, recording)
        if earlier is not recording:
            found.append(Repeat(first=earlier, other=recording))
    return sorted(found, key=lambda repeat: not repeat.leak)


def repeats_between(recordings: Iterable[Recording], facts: Facts) -> list[Repeat]:
    """Every file whose audio an earlier card has, paired with one that it leaks to if there is any.

    A file that two cards use alike, by its path, is theirs on purpose and no repeat. Otherwise as
    `repeats`.
    """
    # One of a card, split and role stands for its like, so that many copies stay few to compare with.
    earlier: dict[str, dict[tuple[str, str, str], Recording]] = {}
    found = []
    for sha256, recording in _hashed(recordings, facts):
        known = earlier.setdefault(sha256, {})
        pairs = [Repeat(first=one, other=recording) for one in known.values() if one.card != recording.card]
        if pairs:
            found.append(next((pair for pair in pairs if pair.leak), pairs[0]))
        known.setdefault((recording.card, recording.split, _role(recording)), recording)
    return sorted(
        (pair for pair in found if pair.leak or not pair.same_file), key=lambda repeat: not repeat.leak
    )


def _hashed(recordings: Iterable[Recording], facts: Facts) -> Iterator[tuple[str, Recording]]:
    for recording in recordings:
        known = facts.get(recording.key)
        if isinstance(known, AudioFacts) and known.sha256 is not None:
            yield known.sha256, recording


def _role(recording: Recording) -> str:
    return _ROLES.get(recording.kind, recording.kind)


def _place(recording: Recording) -> str:
    return f"{recording.card} {recording.split} {recording.kind} {recording.path}"
