"""Report of a check: findings with a severity, as text for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

_DETAILS_SHOWN = 10


class Severity(Enum):
    """Severity of a finding: errors must be repaired, warnings may be intended."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check.

    Attributes:
        check: name of the check.
        severity: of what it found.
        summary: one line.
        details: one line per case, the worst first.
    """

    check: str
    severity: Severity
    summary: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Files of one kind in one split; speakers and recordings are None if no file names one."""

    split: str
    kind: str
    files: int
    hours: float
    speakers: int | None = None
    recordings: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Findings about one corpus, all corpora together, or one folder of shards."""

    title: str
    counts: tuple[Counts, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All findings."""

    sections: tuple[Section, ...]

    def count(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity is severity for section in self.sections for finding in section.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with all details."""
        sections = [dataclasses.asdict(section) for section in self.sections]
        for section in sections:
            for finding in section["findings"]:
                finding["severity"] = finding["severity"].value
        errors, warnings = self.count(Severity.ERROR), self.count(Severity.WARNING)
        return {"errors": errors, "warnings": warnings, "sections": sections}

    def as_text(self) -> str:
        """Text for a terminal: every finding with its first details; the last line has the totals and, as it
        is all that a workflow shows of a failed check, the first error.
        """
        errors, warnings = self.count(Severity.ERROR), self.count(Severity.WARNING)
        skipped = self.count(Severity.SKIPPED)
        totals = [counted(errors, "error") if errors else "no errors"]
        totals += [counted(warnings, "warning")] * bool(warnings)
        totals += [f"{counted(skipped, 'check')} skipped"] * bool(skipped)
        found = (finding for section in self.sections for finding in section.findings)
        first = next((one for one in found if one.severity is Severity.ERROR), None)
        last = ", ".join(totals) + (f"; {first.check}: {first.summary}" if first else "")
        return "\n".join([line for section in self.sections for line in _lines(section)] + [last])


def counted(number: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _lines(section: Section) -> Iterator[str]:
    yield section.title
    if section.counts:
        yield from _table(section.counts)
    width = max((len(finding.check) for finding in section.findings), default=0)
    for finding in section.findings:
        yield f"  {finding.severity.value:<7}  {finding.check:<{width}}  {finding.summary}"
        yield from (f"             {line}" for line in finding.details[:_DETAILS_SHOWN])
        if len(finding.details) > _DETAILS_SHOWN:
            yield f"             … and {len(finding.details) - _DETAILS_SHOWN} more (all with --json FILE)"
    yield ""


def _table(counts: Sequence[Counts]) -> Iterator[str]:
    """Table of counts without its empty columns."""
    rows = [["split", "kind", "files", "hours", "speakers", "recordings"]]
    rows += [
        [
            row.split,
            row.kind,
            f"{row.files:,}",
            f"{row.hours:.2f}",
            *("–" if value is None else f"{value:,}" for value in (row.speakers, row.recordings)),
        ]
        for row in counts
    ]
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"–"}]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        names = [name.ljust(width) for name, width in zip(row[:2], widths, strict=False)]
        yield "  ".join(["", *names, *cells])
