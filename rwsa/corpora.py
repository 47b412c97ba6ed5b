"""Scanning a corpus card: which clips of speech and noise, and which ready-made pairs, are there.

Only headers are read, so damage inside a file's body surfaces where the file is mixed or scored.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar, cast

from rwsa.audio import SUFFIXES, AudioInfo, read_info
from rwsa.cards import (
    SPLITS,
    CorpusCard,
    Evaluation,
    PairSource,
    Scores,
    Source,
    Split,
    check_card,
    places,
    read_card,
    split_of,
)
from rwsa.errors import InputError
from rwsa.manifest import Clip, Kind, Manifest, Pair, Problem, check_disjoint

__all__ = [
    "SPLITS",
    "Clip",
    "CorpusCard",
    "Evaluation",
    "Kind",
    "Manifest",
    "Pair",
    "PairSource",
    "Problem",
    "Scores",
    "Source",
    "Split",
    "check_disjoint",
    "read_card",
    "scan",
]

# What tells two splits' files apart: who speaks, which recording the noise was cut from, or which room.
_UNIT = {"speech": "speaker", "noise": "recording", "rooms": "recording", "pairs": "speaker"}
_KIND: dict[str, Kind] = {"speech": "speech", "noise": "noise", "rooms": "room"}
_HEADER_THREADS = 8


def scan(card: CorpusCard, *, strict: bool = False) -> Manifest:
    """Find a card's files and read their headers.

    The order depends on the paths alone. A file that cannot be used becomes a `Problem`: not readable,
    empty, several channels and no `channel`, a rate below the card's (above it is fine: mixing
    resamples); for pairs any other rate, a partner missing or of another length. So does a split
    whose number of clips is not that of `clips_expected`.

    Args:
        strict: raise on the first problem.

    Raises:
        InputError: the card contradicts itself; a root is missing; a source has no file that matches or
            none that can be used; a split gets no file; a leak (see `check_disjoint`). The message names
            card, key and remedy.
    """
    check_card(card, where=card.name)
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = [_scan_place(_At(card=card, key=key, place=place), pool) for key, place in places(card)]
    clips, repeated_clips = _unique([row for one in found for row in one.rows if isinstance(row, Clip)])
    pairs, repeated_pairs = _unique([row for one in found for row in one.rows if isinstance(row, Pair)])
    problems = [problem for one in found for problem in one.problems] + repeated_clips + repeated_pairs
    speech = [clip for clip in clips if clip.kind == "speech"]
    problems += _short_splits(card, Counter([clip.split for clip in speech] + [pair.split for pair in pairs]))
    if strict and problems:
        raise InputError(f"{problems[0].path}: {problems[0].reason} (card {card.name}, strict)")
    left_out = set[Path]().union(*(one.audio for one in found)).difference(*(one.claimed for one in found))
    manifest = Manifest(
        card=card.name,
        clips=tuple(clips),
        pairs=tuple(pairs),
        problems=tuple(problems),
        left_out=len(left_out),
    )
    check_disjoint(manifest)
    return manifest


@dataclass(frozen=True, kw_only=True)
class _At:
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
class _File:
    """A file that a pattern matched, before its header is read."""

    path: Path
    below: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class _Found:
    rows: Sequence[Clip | Pair]
    problems: list[Problem]
    audio: set[Path]
    claimed: set[Path]


def _scan_place(at: _At, pool: ThreadPoolExecutor) -> _Found:
    root = Path(at.place.root).expanduser().resolve()
    if not root.is_dir():
        raise at.error(f".root is {at.place.root}: there is no folder {root}", absent=True)
    files = _audio_below(root)
    if not files:
        raise at.error(f".root is {root}, which holds no audio ({', '.join(sorted(SUFFIXES))})", absent=True)
    if isinstance(at.place, Source):
        found = _scan_source(at, at.place, root, files, pool)
    else:
        found = _scan_pairs(at, at.place, root, files, pool)
    _check_rows(at, found)
    return found


def _scan_source(at: _At, source: Source, root: Path, files: list[str], pool: ThreadPoolExecutor) -> _Found:
    claimed = [
        (file, split)
        for file in _matching(at, root, files, "pattern")
        if (split := _split(at, file.labels)) is not None
    ]
    rows: list[Clip] = []
    problems: list[Problem] = []
    headers = pool.map(_header, [file.path for file, _ in claimed])
    for (file, split), header in zip(claimed, headers, strict=True):
        fault = header if isinstance(header, str) else _unfit_clip(header, source, at)
        if fault is not None:
            problems.append(Problem(path=str(file.path), reason=fault))
        else:
            rows.append(_clip(at, source, file, split, cast(AudioInfo, header)))
    return _Found(rows, problems, {root / file for file in files}, {file.path for file, _ in claimed})


def _clip(at: _At, source: Source, file: _File, split: Split, info: AudioInfo) -> Clip:
    return Clip(
        clip_id=_clip_id(at.card, file.below),
        kind=_KIND[at.key.partition("[")[0]],
        path=str(file.path),
        samples=info.samples,
        sample_rate_hz=info.sample_rate_hz,
        split=split,
        speaker=file.labels.get("speaker"),
        recording=file.labels.get("recording"),
        environment=file.labels.get("environment"),
        channel=source.channel if info.channels > 1 else None,
        licence=at.licence,
    )


def _unfit_clip(info: AudioInfo, source: Source, at: _At) -> str | None:
    if info.channels > 1 and source.channel is None:
        return f"has {info.channels} channels; choose one by `channel: 0` under {at.key}, or mix it down"
    if source.channel is not None and not 0 <= source.channel < info.channels:
        return (
            f"has {info.channels} channels, so no channel {source.channel} ({at.key}.channel; the first is 0)"
        )
    if info.sample_rate_hz < at.card.sample_rate_hz:
        return (
            f"is at {info.sample_rate_hz} Hz, below the card's {at.card.sample_rate_hz} Hz, so its upper "
            "band is missing; replace or exclude it"
        )
    return None


def _scan_pairs(
    at: _At, source: PairSource, root: Path, files: list[str], pool: ThreadPoolExecutor
) -> _Found:
    clean_files, noisy_files = (_matching(at, root, files, key) for key in ("clean", "noisy"))
    joint = _joint_groups(source)
    cleans, problems = _keyed(clean_files, joint)
    claimed: list[tuple[_File, _File, Split]] = []
    partnered: set[Path] = set()
    unruled: set[Path] = set()
    for noisy in noisy_files:
        clean = cleans.get(tuple(noisy.labels[group] for group in joint))
        if clean is None:
            problems.append(Problem(path=str(noisy.path), reason=f"has no clean partner ({at.key}.clean)"))
            continue
        partnered.add(clean.path)
        labels = clean.labels | {group: value for group, value in noisy.labels.items() if value is not None}
        split = _split(at, labels)
        if split is None:
            unruled |= {clean.path, noisy.path}
        else:
            claimed.append((clean, dataclasses.replace(noisy, labels=labels), split))
    for clean in cleans.values():
        if clean.path not in partnered:
            problems.append(Problem(path=str(clean.path), reason=f"has no noisy partner ({at.key}.noisy)"))
    rows, faults = _read_pairs(at, claimed, pool)
    matched = {file.path for file in (*clean_files, *noisy_files)}
    return _Found(rows, problems + faults, {root / file for file in files}, matched - unruled)


def _joint_groups(source: PairSource) -> tuple[str, ...]:
    """The groups that a clean and a noisy file must share to be a pair."""
    both = ("split" in re.compile(expression).groupindex for expression in (source.clean, source.noisy))
    return ("pair", "split") if all(both) else ("pair",)


def _keyed(
    files: list[_File], joint: tuple[str, ...]
) -> tuple[dict[tuple[str | None, ...], _File], list[Problem]]:
    keyed: dict[tuple[str | None, ...], _File] = {}
    problems = []
    for file in files:
        first = keyed.setdefault(tuple(file.labels[group] for group in joint), file)
        if first is not file:
            problems.append(
                Problem(path=str(file.path), reason=f"is a clean target like {first.path}; exclude one")
            )
    return keyed, problems


def _read_pairs(
    at: _At, claimed: list[tuple[_File, _File, Split]], pool: ThreadPoolExecutor
) -> tuple[list[Pair], list[Problem]]:
    rows: list[Pair] = []
    problems: list[Problem] = []
    headers = pool.map(_header, [file.path for clean, noisy, _ in claimed for file in (clean, noisy)])
    for clean, noisy, split in claimed:
        infos = next(headers), next(headers)
        faults = [
            Problem(path=str(file.path), reason=fault)
            for file, info in zip((clean, noisy), infos, strict=True)
            if (fault := info if isinstance(info, str) else _unfit_half(info, at)) is not None
        ]
        clean_info, noisy_info = cast(tuple[AudioInfo, AudioInfo], infos)
        if not faults and clean_info.samples != noisy_info.samples:
            lengths = f"has {noisy_info.samples} samples and its clean partner {clean_info.samples}"
            faults = [Problem(path=str(noisy.path), reason=f"{lengths}; a pair must be equally long")]
        problems += faults
        if not faults:
            rows.append(
                Pair(
                    clip_id=_clip_id(at.card, noisy.below),
                    clean=str(clean.path),
                    noisy=str(noisy.path),
                    split=split,
                    samples=noisy_info.samples,
                    sample_rate_hz=noisy_info.sample_rate_hz,
                    speaker=noisy.labels.get("speaker"),
                    licence=at.licence,
                )
            )
    return rows, problems


def _unfit_half(info: AudioInfo, at: _At) -> str | None:
    if info.channels > 1:
        return f"has {info.channels} channels where a pair must be mono; mix it down"
    if info.sample_rate_hz != at.card.sample_rate_hz:
        return (
            f"is at {info.sample_rate_hz} Hz where card {at.card.name} says {at.card.sample_rate_hz} Hz; "
            "resample the pair, or correct sample_rate_hz"
        )
    return None


def _matching(at: _At, root: Path, files: list[str], key: str) -> list[_File]:
    """The files that the expression under `key` matches and that are not excluded."""
    pattern = re.compile(getattr(at.place, key))
    kept = [file for file in files if not any(re.search(e, file) for e in at.place.exclude)]
    found = [_File(root / file, file, m.groupdict()) for file in kept if (m := pattern.fullmatch(file))]
    if not found:
        example = f"; the first is {kept[0]}" if kept else " (exclude leaves none)"
        raise at.error(
            f".{key} '{pattern.pattern}' matches none of the {len(files)} audio files below {root}{example}"
        )
    return found


def _split(at: _At, labels: dict[str, str | None]) -> Split | None:
    split = split_of(at.place, labels)
    if split is not None and split not in SPLITS:
        raise at.error(
            f" finds files of a split '{split}'; say under splits which of {', '.join(SPLITS)} it is"
        )
    return cast("Split | None", split)


def _header(path: Path) -> AudioInfo | str:
    """The file's header, or what is wrong with it."""
    try:
        return read_info(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror}); check its permissions"


def _clip_id(card: CorpusCard, below: str) -> str:
    return f"{card.name}/{PurePosixPath(below).with_suffix('')}"


def _audio_below(root: Path) -> list[str]:
    """Audio files below `root` as sorted relative POSIX paths; hidden ones (half-written) left out.

    Linked folders are followed, since corpora are often assembled from links, each real folder once.
    """
    found: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # In place, so that os.walk does not enter hidden folders, and walks in one order everywhere.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        audio = (name for name in names if name[0] != "." and Path(name).suffix.lower() in SUFFIXES)
        found += [(below / name).as_posix() for name in audio]
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be listed ({error.strerror}); give read permission"
    ) from error


def _check_rows(at: _At, found: _Found) -> None:
    """Raise where a source gives nothing, lacks a promised split, or may leak from one split to another."""
    if not found.rows:
        first = f"; the first: {found.problems[0].path}: {found.problems[0].reason}" if found.problems else ""
        raise at.error(f": none of its files can be used ({len(found.problems)} have problems{first})")
    splits = {row.split for row in found.rows}
    for split in at.place.splits:
        if split not in splits:
            raise at.error(f".splits.{split} takes no usable file; correct or remove it")
    unit = _UNIT[at.key.partition("[")[0]]
    nameless = any(getattr(row, unit) is None for row in found.rows)
    if len(splits) > 1 and nameless and not at.place.published_split:
        raise at.error(
            f" has files in {' and '.join(sorted(splits))} that name no {unit}, so nobody can check that "
            f"they are apart; add a group (?P<{unit}>…), or `published_split: true` if its publisher says so"
        )


Row = TypeVar("Row", Clip, Pair)


def _unique(rows: Iterable[Row]) -> tuple[list[Row], list[Problem]]:
    """Rows whose id is new, and a problem for every other."""
    kept: dict[str, Row] = {}
    problems: list[Problem] = []
    for row in rows:
        if kept.setdefault(row.clip_id, row) is not row:
            path = row.path if isinstance(row, Clip) else row.noisy
            problems.append(
                Problem(path=path, reason=f"has the clip id {row.clip_id} of another file; exclude one")
            )
    return list(kept.values()), problems


def _short_splits(card: CorpusCard, counts: Counter[Split]) -> list[Problem]:
    return [
        Problem(
            path=" ".join(place.root for _, place in places(card)),
            reason=f"{split} has {counts[split]} usable clips, clips_expected says {expected}; complete it",
        )
        for split, expected in card.clips_expected.items()
        if counts[split] != expected
    ]
