"""Pair the files of a folder of enhanced clips with those of a folder of clean clips, by name."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from rwsa.audio_folders import find_audio
from rwsa.errors import InputError
from rwsa.names import as_utf8, shown


@dataclass(frozen=True, kw_only=True)
class ClipFailure:
    """A clip or one of its metrics that could not be scored; `metric` is None for all metrics."""

    file: str
    reason: str
    metric: str | None = None

    def __str__(self) -> str:
        return f"{shown(self.file)}: {'' if self.metric is None else self.metric + ': '}{self.reason}"


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """A clip to score; `fault` is the reason why it cannot be scored, if any."""

    file: str
    clean: Path
    enhanced: Path
    fault: str | None


def pair_files(clean: Path, enhanced: Path) -> tuple[list[FilePair], list[ClipFailure]]:
    """Pair the files of two folders by their relative path without extension.

    Returns:
        One pair per clean file; one failure per enhanced file without a clean one, and per folder that cannot
        be listed.

    Raises:
        InputError: a folder is missing, empty or shares no file with the other.
    """
    unlisted: dict[Path, str] = {}
    references, estimates = _by_stem(clean, unlisted), _by_stem(enhanced, unlisted)
    _rename_alike(estimates, references)
    if not references.keys() & estimates.keys():
        examples = " and ".join(shown(next(iter(stems))) for stems in (estimates, references) if stems)
        raise InputError(
            f"{shown(enhanced)}: shares no file name with {shown(clean)}; names must match, apart from the"
            f" extension (for example {examples})"
        )
    pairs = []
    for stem, files in references.items():
        partners = estimates.get(stem, [])
        fault = _pairing_fault(files, clean, partners, enhanced)
        pairs += [
            FilePair(
                file=as_utf8(path.relative_to(clean).as_posix()),
                clean=path,
                enhanced=partners[0] if partners else enhanced,
                fault=fault,
            )
            for path in files
        ]
    extra = [
        ClipFailure(file=as_utf8(path.relative_to(enhanced).as_posix()), reason=f"not in {shown(clean)}")
        for stem in estimates.keys() - references.keys()
        for path in estimates[stem]
    ]
    extra += [ClipFailure(file=shown(folder), reason=reason) for folder, reason in unlisted.items()]
    return sorted(pairs, key=lambda pair: pair.file), sorted(extra, key=lambda failure: failure.file)


def _by_stem(folder: Path, unlisted: dict[Path, str]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in find_audio(folder, unlisted):
        files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _rename_alike(estimates: dict[str, list[Path]], references: dict[str, list[Path]]) -> None:
    """Give estimates the names of references that differ in Unicode's normal form only, as from a Mac."""
    unmatched = {unicodedata.normalize("NFC", stem): stem for stem in references if stem not in estimates}
    for stem in [stem for stem in estimates if stem not in references]:
        if (same := unmatched.get(unicodedata.normalize("NFC", stem))) is not None:
            estimates.setdefault(same, []).extend(estimates.pop(stem))


def _pairing_fault(files: list[Path], clean: Path, partners: list[Path], enhanced: Path) -> str | None:
    if not partners:
        return f"not in {shown(enhanced)}"
    for folder, same in ((clean, files), (enhanced, partners)):
        if len(same) > 1:
            return f"{shown(folder)} holds {' and '.join(shown(path.name) for path in same)}; keep one"
    return None
