"""Scanning a corpus card: list its clips of speech, noise and rooms and its ready-made pairs.

Only headers are read; a damaged body is detected when the file is mixed or scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, cast

from rwsa.audio import AudioInfo
from rwsa.audio_folders import SUFFIXES, list_audio
from rwsa.corpora.audio_files import read_headers
from rwsa.corpora.card_source import (
    CardSource,
    MatchedFile,
    SourceScan,
    checked_split,
    clip_id,
    matched_files,
    paths_below,
)
from rwsa.corpora.cards import CorpusCard, Source, Split, check_card, sources
from rwsa.corpora.manifest import Clip, ClipPair, Kind, Manifest, Problem, check_disjoint
from rwsa.corpora.pairs import scan_pairs
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.names import not_empty, shown

# The label that must not be in two splits.
_UNIT = {"speech": "speaker", "noise": "recording", "rooms": "recording", "pairs": "speaker"}
_KIND: dict[str, Kind] = {"speech": "speech", "noise": "noise", "rooms": "room"}


def scan(
    card: CorpusCard, *, strict: bool = False, cache: FileCache | None = None, leaks_raise: bool = True
) -> Manifest:
    """Find a card's files and read their headers.

    The order depends only on the paths. A file that cannot be used becomes a `Problem`: unreadable,
    empty, several channels and no `channel`, a rate below the card's (a higher one is resampled when
    mixing); for pairs any other rate, a missing partner, or a partner of another length. A split whose
    number of clips differs from `clips_expected` is a problem too.

    Args:
        strict: raise on the first problem.
        cache: cache of headers; a second scan opens only new or changed files.
        leaks_raise: raise on leaks; if false, the caller checks `rwsa.corpora.manifest.leaks`.

    Raises:
        InputError: the card contradicts itself; a root is missing; no file of a source matches or can be
            used; a split gets no file; there is a leak (see `check_disjoint`). The message names card, key
            and remedy.
    """
    check_card(card, where=card.name)
    scans = [
        _scan_card_source(CardSource(card=card, key=key, source=source), cache)
        for key, source in sources(card)
    ]
    clips, repeated_clips = _unique([row for one in scans for row in one.rows if isinstance(row, Clip)])
    pairs, repeated_pairs = _unique([row for one in scans for row in one.rows if isinstance(row, ClipPair)])
    problems = [problem for one in scans for problem in one.problems] + repeated_clips + repeated_pairs
    speech = [clip for clip in clips if clip.kind == "speech"]
    problems += _short_splits(card, Counter([clip.split for clip in speech] + [pair.split for pair in pairs]))
    if strict and problems:
        raise InputError(f"{problems[0].path}: {problems[0].reason} (card {card.name}, strict)")
    left_out = set[str]().union(*(one.audio for one in scans)).difference(*(one.claimed for one in scans))
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


def _scan_card_source(at: CardSource, cache: FileCache | None) -> SourceScan:
    try:
        root = Path(not_empty(at.source.root)).expanduser().resolve()
        exists = root.is_dir()
    except OSError as error:  # too long a name, or a folder above without permission
        raise at.error(f".root is '{shown(at.source.root)}': {error.strerror}") from error
    except (InputError, RuntimeError) as error:  # `~` of an unknown user
        raise at.error(f".root is '{shown(at.source.root)}': {error}") from error
    if not exists:
        raise at.error(f".root is {shown(at.source.root)}: no folder {shown(root)}", absent=True)
    listing = list_audio(root, each_once=True)
    files = listing.files
    if not files:
        reason = listing.unlisted.get(root) or f"holds no audio ({', '.join(sorted(SUFFIXES))})"
        raise at.error(f".root is {shown(root)}, which {reason}", absent=True)
    if isinstance(at.source, Source):
        scanned = _scan_source(at, at.source, root, files, cache)
    else:
        scanned = scan_pairs(at, at.source, root, files, cache)
    _check_rows(at, scanned)
    scanned.problems.extend(
        Problem(path=shown(folder), reason=reason) for folder, reason in listing.unlisted.items()
    )
    return scanned


def _scan_source(
    at: CardSource, source: Source, root: Path, files: list[str], cache: FileCache | None
) -> SourceScan:
    claimed = [
        (file, split)
        for file in matched_files(at, root, files, "pattern")
        if (split := checked_split(at, file.labels)) is not None
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
    return SourceScan(rows, problems, paths_below(root, files), {file.path for file, _ in claimed})


def _clip(at: CardSource, source: Source, file: MatchedFile, split: Split, info: AudioInfo) -> Clip:
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


def _unfit_clip(info: AudioInfo, source: Source, at: CardSource) -> str | None:
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


def _check_rows(at: CardSource, scanned: SourceScan) -> None:
    """Raise if a source yields no rows, lacks a split of its `splits`, or may leak between splits."""
    if not scanned.rows:
        problems = scanned.problems
        first = f"; the first: {problems[0].path}: {problems[0].reason}" if problems else ""
        raise at.error(f": none of its files can be used ({len(problems)} have problems{first})")
    splits = {row.split for row in scanned.rows}
    for split in at.source.splits:
        if split not in splits:
            raise at.error(f".splits.{split} matches no usable file; correct or remove it")
    unit = _UNIT[at.key.partition("[")[0]]
    nameless = any(getattr(row, unit) is None for row in scanned.rows)
    if len(splits) > 1 and nameless and not at.source.published_split:
        raise at.error(
            f" has files in {' and '.join(sorted(splits))} that have no {unit} label, so it cannot be "
            f"checked that they are disjoint; add a group (?P<{unit}>…), or `published_split: true` if the "
            "publisher vouches for it"
        )


Row = TypeVar("Row", Clip, ClipPair)


def _unique(rows: Iterable[Row]) -> tuple[list[Row], list[Problem]]:
    """The rows with distinct ids, and a problem for every repeated id."""
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
            path=" ".join(source.root for _, source in sources(card)),
            reason=f"{split} has {counts[split]} usable clips, clips_expected is {expected}; complete it",
        )
        for split, expected in card.clips_expected.items()
        if counts[split] != expected
    ]
