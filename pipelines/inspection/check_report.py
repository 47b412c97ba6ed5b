"""What a check found, as values, as lines for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

_LISTED = 10


class Mark(Enum):
    """How a finding counts: a fault must be repaired, a note be known; the last is what was not checked."""

    OK = "ok"
    NOTE = "note"
    FAULT = "FAULT"
    NOT_CHECKED = "–"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked.

    Attributes:
        about: what, in a word.
        summary: one line.
        lines: the cases, the worst first.
    """

    about: str
    mark: Mark
    summary: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Files of one kind in one split; a kind that names none has None for speakers (recordings)."""

    split: str
    kind: str
    files: int
    hours: float
    speakers: int | None = None
    recordings: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A corpus, a folder of shards, or what lies between them."""

    title: str
    counts: tuple[Counts, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that was checked."""

    parts: tuple[Part, ...]

    def count(self, mark: Mark) -> int:
        """Findings with this mark."""
        return sum(finding.mark is mark for part in self.parts for finding in part.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with every case."""
        parts = [dataclasses.asdict(part) for part in self.parts]
        for part in parts:
            for finding in part["findings"]:
                finding["mark"] = finding["mark"].name.lower()
        return {"faults": self.count(Mark.FAULT), "notes": self.count(Mark.NOTE), "parts": parts}

    def as_text(self) -> str:
        """For a terminal: of each finding the first few cases, and a verdict in the last line."""
        return "\n".join([line for part in self.parts for line in _part_lines(part)] + [self._verdict()])

    def _verdict(self) -> str:
        faults, notes = self.count(Mark.FAULT), self.count(Mark.NOTE)
        left = self.count(Mark.NOT_CHECKED)
        words = [counted(faults, "fault") if faults else "no faults"]
        words += [counted(notes, "note")] * bool(notes) + [f"{left} not checked"] * bool(left)
        return ", ".join(words)


def counted(number: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _part_lines(part: Part) -> Iterator[str]:
    yield part.title
    if part.counts:
        yield from _table(part.counts)
    width = max((len(finding.about) for finding in part.findings), default=0)
    for finding in part.findings:
        yield f"  {finding.mark.value:<5}  {finding.about:<{width}}  {finding.summary}"
        yield from (f"           {line}" for line in finding.lines[:_LISTED])
        if len(finding.lines) > _LISTED:
            yield f"           … and {len(finding.lines) - _LISTED} more (--json FILE has all)"
    yield ""


def _table(counts: Sequence[Counts]) -> Iterator[str]:
    """Columns that nothing fills are left out."""
    rows = [["split", "kind", "files", "hours", "speakers", "recordings"]]
    rows += [
        [
            one.split,
            one.kind,
            f"{one.files:,}",
            f"{one.hours:.2f}",
            *("–" if value is None else f"{value:,}" for value in (one.speakers, one.recordings)),
        ]
        for one in counts
    ]
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"–"}]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        names = [name.ljust(width) for name, width in zip(row[:2], widths, strict=False)]
        yield "  ".join(["", *names, *cells])
