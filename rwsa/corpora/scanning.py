"""Scanning a corpus card: which clips of speech and noise, and which ready-made pairs, are there.

Only headers are read, so damage inside a file's body surfaces where the file is mixed or scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, cast

from rwsa.audio import SUFFIXES, AudioInfo
from rwsa.corpora.cards import (
    CorpusCard,
    Source,
    Split,
    check_card,
    places,
)
from rwsa.corpora.files import audio_below, read_headers
from rwsa.corpora.manifest import Clip, Kind, Manifest, Pair, Problem, check_disjoint
from rwsa.corpora.pairs import scan_pairs
from rwsa.corpora.source_folder import At, File, Found, clip_id, matching, paths_below, split_in
from rwsa.errors import InputError
from rwsa.file_cache import FileCache

# What tells two splits' files apart: who speaks, which recording the noise was cut from, or which room.
_UNIT = {"speech": "speaker", "noise": "recording", "rooms": "recording", "pairs": "speaker"}
_KIND: dict[str, Kind] = {"speech": "speech", "noise": "noise", "rooms": "room"}


def scan(
    card: CorpusCard, *, strict: bool = False, cache: FileCache | None = None, leaks_raise: bool = True
) -> Manifest:
    """Find a card's files and read their headers.

    The order depends on the paths alone. A file that cannot be used becomes a `Problem`: not readable,
    empty, several channels and no `channel`, a rate below the card's (above it is fine: mixing
    resamples); for pairs any other rate, a partner missing or of another length. So does a split
    whose number of clips is not that of `clips_expected`.

    Args:
        strict: raise on the first problem.
        cache: where headers are kept; a second scan then only looks for files that are new or changed.
        leaks_raise: false leaves leaks for the caller to find, by `rwsa.corpora.manifest.leaks`.

    Raises:
        InputError: the card contradicts itself; a root is missing; a source has no file that matches or
            none that can be used; a split gets no file; a leak (see `check_disjoint`). The message names
            card, key and remedy.
    """
    check_card(card, where=card.name)
    found = [_scan_place(At(card=card, key=key, place=place), cache) for key, place in places(card)]
    clips, repeated_clips = _unique([row for one in found for row in one.rows if isinstance(row, Clip)])
    pairs, repeated_pairs = _unique([row for one in found for row in one.rows if isinstance(row, Pair)])
    problems = [problem for one in found for problem in one.problems] + repeated_clips + repeated_pairs
    speech = [clip for clip in clips if clip.kind == "speech"]
    problems += _short_splits(card, Counter([clip.split for clip in speech] + [pair.split for pair in pairs]))
    if strict and problems:
        raise InputError(f"{problems[0].path}: {problems[0].reason} (card {card.name}, strict)")
    left_out = set[str]().union(*(one.audio for one in found)).difference(*(one.claimed for one in found))
    manifest = Manifest(
        card=card.name,
        clips=tuple(clips),
        pairs=tuple(pairs),
        problems=tuple(problems),
        left_out=len(left_out),
    )
    if leaks_raise:
        check_disjoint(manifest)
    return manifest


def _scan_place(at: At, cache: FileCache | None) -> Found:
    root = Path(at.place.root).expanduser().resolve()
    if not root.is_dir():
        raise at.error(f".root is {at.place.root}: there is no folder {root}", absent=True)
    files = audio_below(root)
    if not files:
        raise at.error(f".root is {root}, which holds no audio ({', '.join(sorted(SUFFIXES))})", absent=True)
    if isinstance(at.place, Source):
        found = _scan_source(at, at.place, root, files, cache)
    else:
        found = scan_pairs(at, at.place, root, files, cache)
    _check_rows(at, found)
    return found


def _scan_source(at: At, source: Source, root: Path, files: list[str], cache: FileCache | None) -> Found:
    claimed = [
        (file, split)
        for file in matching(at, root, files, "pattern")
        if (split := split_in(at, file.labels)) is not None
    ]
    rows: list[Clip] = []
    problems: list[Problem] = []
    headers = read_headers([file.path for file, _ in claimed], cache)
    for (file, split), header in zip(claimed, headers, strict=True):
        fault = header if isinstance(header, str) else _unfit_clip(header, source, at)
        if fault is not None:
            problems.append(Problem(path=file.path, reason=fault))
        else:
            rows.append(_clip(at, source, file, split, cast(AudioInfo, header)))
    return Found(rows, problems, paths_below(root, files), {file.path for file, _ in claimed})


def _clip(at: At, source: Source, file: File, split: Split, info: AudioInfo) -> Clip:
    return Clip(
        clip_id=clip_id(at.card, file.below),
        kind=_KIND[at.key.partition("[")[0]],
        path=file.path,
        samples=info.samples,
        sample_rate_hz=info.sample_rate_hz,
        split=split,
        speaker=file.labels.get("speaker"),
        recording=file.labels.get("recording"),
        environment=file.labels.get("environment"),
        channel=source.channel if info.channels > 1 else None,
        licence=at.licence,
    )


def _unfit_clip(info: AudioInfo, source: Source, at: At) -> str | None:
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


def _check_rows(at: At, found: Found) -> None:
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
