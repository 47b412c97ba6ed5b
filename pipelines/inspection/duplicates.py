"""Duplicate recordings, by the hash of their decoded audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.inspection.check_report import Finding, Severity, counted
from pipelines.inspection.recording_facts import CorpusRecording, RecordingFacts
from rwsa.audio_facts import AudioFacts

# Kinds of files that are a network's target in training: speech in one corpus may be a clean half in another.
_ROLES = {"speech": "target", "clean": "target"}


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Two files with the same decoded audio."""

    first: CorpusRecording
    second: CorpusRecording

    @property
    def leak(self) -> bool:
        """Whether they are in different splits, or one is speech and the other is not."""
        return self.first.split != self.second.split or _role(self.first) != _role(self.second)

    def __str__(self) -> str:
        first, second = (f"{one.card} {one.split} {one.kind} {one.path}" for one in (self.first, self.second))
        return f"{first} = {second}"


def find_duplicates(recordings: Iterable[CorpusRecording], facts: RecordingFacts) -> list[Duplicate]:
    """Every file of a corpus whose audio an earlier file has, paired with the first such file; leaks first.

    Unreadable files and digital silence have no hash and are not compared. Resampled, lossily coded or scaled
    copies are not found.
    """
    first: dict[str, CorpusRecording] = {}
    duplicates = []
    for sha256, recording in _hashed(recordings, facts):
        earlier = first.setdefault(sha256, recording)
        if earlier is not recording:
            duplicates.append(Duplicate(first=earlier, second=recording))
    return sorted(duplicates, key=lambda duplicate: not duplicate.leak)


def find_duplicates_between(recordings: Iterable[CorpusRecording], facts: RecordingFacts) -> list[Duplicate]:
    """Every file whose audio an earlier corpus has, paired with a file that it leaks to if there is one.

    One path that two corpora use for the same split and role is intended and no duplicate. Otherwise as
    `find_duplicates`.
    """
    # One recording per card, split and role represents its copies, so that comparisons stay few.
    earlier: dict[str, dict[tuple[str, str, str], CorpusRecording]] = {}
    duplicates = []
    for sha256, recording in _hashed(recordings, facts):
        known = earlier.setdefault(sha256, {})
        pairs = [
            Duplicate(first=one, second=recording) for one in known.values() if one.card != recording.card
        ]
        if pairs:
            duplicates.append(next((pair for pair in pairs if pair.leak), pairs[0]))
        known.setdefault((recording.card, recording.split, _role(recording)), recording)
    return sorted(
        (pair for pair in duplicates if pair.leak or pair.first.path != pair.second.path),
        key=lambda duplicate: not duplicate.leak,
    )


def _hashed(
    recordings: Iterable[CorpusRecording], facts: RecordingFacts
) -> Iterator[tuple[str, CorpusRecording]]:
    for recording in recordings:
        known = facts.get(recording.key)
        if isinstance(known, AudioFacts) and known.sha256 is not None:
            yield known.sha256, recording


def _role(recording: CorpusRecording) -> str:
    return _ROLES.get(recording.kind, recording.kind)


def duplicates_finding(duplicates: Sequence[Duplicate], where: str) -> Finding:
    """Duplicates across splits or roles are errors, others warnings."""
    leaking = sum(duplicate.leak for duplicate in duplicates)
    if leaking:
        summary = f"{counted(leaking, 'recording')} in two splits or roles {where}"
        others = len(duplicates) - leaking
        summary += f"; {others:,} more twice in one split" if others else ""
    elif duplicates:
        summary = f"{counted(len(duplicates), 'recording')} twice in one split {where}"
    else:
        summary = f"no recording twice {where} (hash of the decoded audio)"
    return Finding(
        check="duplicates",
        severity=Severity.ERROR if leaking else Severity.WARNING if duplicates else Severity.OK,
        summary=summary,
        details=tuple(str(duplicate) for duplicate in duplicates),
    )
