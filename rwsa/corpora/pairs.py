"""Scanning a source of ready-made pairs: matching noisy to clean files and checking that they fit."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import cast

from rwsa.audio import AudioInfo
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
from rwsa.corpora.cards import PairSource, Split
from rwsa.corpora.manifest import ClipPair, Problem
from rwsa.file_cache import FileCache


def scan_pairs(
    at: CardSource, source: PairSource, root: Path, files: list[str], cache: FileCache | None
) -> SourceScan:
    """Match the clean and noisy `files` (relative to `root`) of `source`.

    Raises:
        InputError: a pattern matches nothing, or a file's split is not train, valid or test.
    """
    clean_files, noisy_files = (matched_files(at, root, files, key) for key in ("clean", "noisy"))
    joint = _joint_groups(source)
    cleans, problems = _keyed(clean_files, joint)
    claimed: list[tuple[MatchedFile, MatchedFile, Split]] = []
    partnered: set[str] = set()
    unruled: set[str] = set()
    for noisy in noisy_files:
        clean = cleans.get(tuple(noisy.labels[group] for group in joint))
        if clean is None:
            problems.append(Problem(path=noisy.path, reason=f"has no clean partner ({at.key}.clean)"))
            continue
        partnered.add(clean.path)
        labels = clean.labels | {group: value for group, value in noisy.labels.items() if value is not None}
        split = checked_split(at, labels)
        if split is None:
            unruled |= {clean.path, noisy.path}
        else:
            claimed.append((clean, dataclasses.replace(noisy, labels=labels), split))
    for clean in cleans.values():
        if clean.path not in partnered:
            problems.append(Problem(path=clean.path, reason=f"has no noisy partner ({at.key}.noisy)"))
    rows, faults = _read_pairs(at, claimed, cache)
    matched = {file.path for file in (*clean_files, *noisy_files)}
    return SourceScan(rows, problems + faults, paths_below(root, files), matched - unruled)


def _joint_groups(source: PairSource) -> tuple[str, ...]:
    """The groups whose values must agree for a clean and a noisy file to form a pair."""
    both = ("split" in re.compile(expression).groupindex for expression in (source.clean, source.noisy))
    return ("pair", "split") if all(both) else ("pair",)


def _keyed(
    files: list[MatchedFile], joint: tuple[str, ...]
) -> tuple[dict[tuple[str | None, ...], MatchedFile], list[Problem]]:
    keyed: dict[tuple[str | None, ...], MatchedFile] = {}
    problems = []
    for file in files:
        first = keyed.setdefault(tuple(file.labels[group] for group in joint), file)
        if first is not file:
            problems.append(
                Problem(path=file.path, reason=f"is the same clean target as {first.path}; exclude one")
            )
    return keyed, problems


def _read_pairs(
    at: CardSource, claimed: list[tuple[MatchedFile, MatchedFile, Split]], cache: FileCache | None
) -> tuple[list[ClipPair], list[Problem]]:
    rows: list[ClipPair] = []
    problems: list[Problem] = []
    headers = iter(read_headers([file.path for pair in claimed for file in pair[:2]], cache))
    for clean, noisy, split in claimed:
        infos = next(headers), next(headers)
        faults = [
            Problem(path=file.path, reason=fault)
            for file, info in zip((clean, noisy), infos, strict=True)
            if (fault := info if isinstance(info, str) else _unfit_half(info, at)) is not None
        ]
        clean_info, noisy_info = cast(tuple[AudioInfo, AudioInfo], infos)
        if not faults and clean_info.samples != noisy_info.samples:
            lengths = f"has {noisy_info.samples} samples and its clean partner {clean_info.samples}"
            faults = [Problem(path=noisy.path, reason=f"{lengths}; a pair must be equally long")]
        problems += faults
        if not faults:
            rows.append(
                ClipPair(
                    clip_id=clip_id(at.card, noisy.below),
                    clean=clean.path,
                    noisy=noisy.path,
                    split=split,
                    samples=noisy_info.samples,
                    sample_rate_hz=noisy_info.sample_rate_hz,
                    speaker=noisy.labels.get("speaker"),
                    licence=at.licence,
                )
            )
    return rows, problems


def _unfit_half(info: AudioInfo, at: CardSource) -> str | None:
    if info.channels > 1:
        return f"has {info.channels} channels, but a pair must be mono; mix it down"
    if info.sample_rate_hz != at.card.sample_rate_hz:
        return (
            f"is at {info.sample_rate_hz} Hz but card {at.card.name} requires {at.card.sample_rate_hz} Hz; "
            "resample the pair, or correct sample_rate_hz"
        )
    return None
