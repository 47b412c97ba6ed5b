"""Import ready-made pairs into shards unchanged, to train on a published corpus.

    python -m pipelines.import_pairs --card datasets/vb_demandex.yaml --out FOLDER

Nothing is mixed, scaled or resampled: the shards hold the published samples. A second run after a crash
reuses complete shards (verified by size and checksum) and writes the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.cli import cluster_argument, shards_arguments, shards_of, verb, workers_argument
from pipelines.core.pool import check_workers, map_unordered
from pipelines.core.progress import Progress
from pipelines.inspection.check_report import counted
from pipelines.mixing.output_folder import remove_index
from rwsa.audio import read_mono, rms, round_to_int16
from rwsa.command_line import path_argument, report
from rwsa.corpora import scan
from rwsa.corpora.cards import SPLITS, CorpusCard, Split, read_card
from rwsa.corpora.manifest import ClipPair, Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import StoragePath, absolute_location, location, sha256_of
from rwsa.lease import check_held, locked
from rwsa.names import local_path
from rwsa.shards import Example, is_up_to_date, write_shard
from rwsa.shards.index import Failure, ShardEntry, entry_or_none, entry_path, entry_paths, merge_index

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One shard to make."""

    folder: StoragePath
    corpus: str
    split: Split
    number: int
    sample_rate_hz: int
    pairs: tuple[tuple[str, ClipPair], ...]


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """The results of an import; `reused` counts shards that were complete from an earlier run."""

    examples: int
    hours: float
    shards: int
    reused: int
    failures: tuple[Failure, ...]
    problems: int


@locked("out")
def import_pairs(
    card: CorpusCard,
    out: StoragePath,
    *,
    splits: Sequence[Split] | None = None,
    shard_examples: int = 64,
    workers: int | None = None,
    cache: FileCache | None = None,
    report: Callable[[str], None] = print,
) -> ImportSummary:
    """Write the pairs of a card into shards, in the order of their paths.

    Args:
        card: a card with `pairs`.
        out: folder of the shards; created if missing.
        splits: the splits to import; default: all splits with pairs.
        shard_examples: pairs per shard.
        workers: see `pipelines.core.pool.map_unordered`.
        cache: cache of file headers; see `rwsa.corpora.scan`.
        report: called with progress lines.

    Raises:
        InputError: the card has no pairs (of a split); the folder holds other shards or cannot be
            written; nothing could be imported.
    """
    check_workers(workers)
    out = location(absolute_location(str(out)))  # Ray's workers have other current directories
    if shard_examples < 1:
        raise InputError(f"--shard-examples {shard_examples}: must be at least 1")
    if not card.pairs:
        raise InputError(f"card {card.name}: has no pairs to import; mix its speech and noise instead")
    manifest = scan(card, cache=cache)
    for problem in manifest.problems[:_SHOWN]:
        report(f"left out {problem.path}: {problem.reason}")
    jobs = list(_jobs(card, manifest, out, _split_names(card, manifest, splits), shard_examples))
    _check_folder(out, jobs)
    remove_index(out)
    entries: list[tuple[ShardEntry, bool]] = []
    with Progress(len(jobs), "import pairs", "shards", report) as progress:
        for _, outcome in map_unordered(_make, jobs, workers=workers):
            if isinstance(outcome, str):
                raise InputError(outcome)
            entries.append(outcome)
            check_held(out)
            progress.update()
    failures = sorted((one for entry, _ in entries for one in entry.failures), key=lambda one: one.example_id)
    summary = ImportSummary(
        examples=sum(len(entry.examples) for entry, _ in entries),
        hours=sum(entry.seconds for entry, _ in entries) / 3600,
        shards=len(entries),
        reused=sum(reused for _, reused in entries),
        failures=tuple(failures),
        problems=len(manifest.problems),
    )
    if not summary.examples:
        raise InputError(f"{out}: no pair could be imported; the first: {failures[0].reason}")
    merge_index(out)
    return summary


def _split_names(card: CorpusCard, manifest: Manifest, splits: Sequence[Split] | None) -> list[Split]:
    existing: list[Split] = [split for split in SPLITS if manifest.pairs_of(split)]  # type: ignore[misc]
    for split in splits or ():
        if split not in existing:
            raise InputError(f"card {card.name}: has no pairs in split '{split}', only in {existing}")
    return list(splits or existing)


def _jobs(
    card: CorpusCard, manifest: Manifest, out: StoragePath, splits: Sequence[Split], shard_examples: int
) -> Iterator[_Job]:
    for split in splits:
        prefix = card.name.replace(".", "_")[:40]  # what an example id may contain
        pairs = [(f"{prefix}-{split}-{n:07d}", pair) for n, pair in enumerate(manifest.pairs_of(split))]
        for number, start in enumerate(range(0, len(pairs), shard_examples)):
            chunk = tuple(pairs[start : start + shard_examples])
            yield _Job(
                folder=out,
                corpus=card.name,
                split=split,
                number=number,
                sample_rate_hz=card.sample_rate_hz,
                pairs=chunk,
            )


def _hash(pairs: Sequence[tuple[str, ClipPair]]) -> str:
    """A hash of the pairs and the bytes of their files, without paths and times."""
    digest = hashlib.sha256()
    for name, pair in pairs:
        files = [_bytes_hash(local_path(path)) for path in (pair.noisy, pair.clean)]
        row = [name, pair.clip_id, pair.samples, pair.speaker, pair.licence, *files]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def _bytes_hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:  # the pair becomes a failure with this reason
        return f"unreadable: {error.strerror}"


def _check_folder(out: StoragePath, jobs: Sequence[_Job]) -> None:
    """Refuse a folder with shards that this import would not make."""
    planned = {entry_path(out, job.split, job.number).name for job in jobs}
    imported = {job.split for job in jobs}
    for split, paths in entry_paths(out).items():
        for path in paths:
            entry = entry_or_none(path)
            if entry is None:
                continue
            if entry.corpus != jobs[0].corpus or entry.recipe_hash:
                raise InputError(
                    f"{path}: belongs to another corpus; choose another folder, or delete this one"
                )
            if split in imported and path.name not in planned:
                raise InputError(
                    f"{path}: exceeds the planned number of shards (there are fewer pairs, or more in a"
                    " shard, than before); choose another folder, or delete this one"
                )


def _make(job: _Job) -> tuple[ShardEntry, bool] | str:
    """Ray task: make one shard unless it is up to date; an error that ends the import is returned as text.

    Returns:
        The shard's entry and whether it was reused, or the error.
    """
    try:
        plan_hash = _hash(job.pairs)
        existing = entry_or_none(entry_path(job.folder, job.split, job.number))
        if existing is not None and is_up_to_date(job.folder, existing, plan_hash):
            return existing, True
        entry = write_shard(
            job.folder,
            job.split,
            job.number,
            map(_example, *zip(*job.pairs, strict=True)),
            sample_rate_hz=job.sample_rate_hz,
            corpus=job.corpus,
            plan_hash=plan_hash,
        )
    except InputError as error:
        return str(error)
    return entry, False


def _example(name: str, pair: ClipPair) -> Example | Failure:
    try:
        noisy, clean = (
            _sixteen_bit(read_mono(local_path(path), pair.sample_rate_hz), path)
            for path in (pair.noisy, pair.clean)
        )
    except InputError as error:
        return Failure(example_id=name, reason=str(error))
    return Example(
        example_id=name,
        noisy=noisy,
        clean=clean,
        sample_rate_hz=pair.sample_rate_hz,
        meta=_meta(pair, noisy, clean),
    )


def _sixteen_bit(wav: np.ndarray, path: str) -> np.ndarray:
    """Round to 16 bits; samples of 16-bit files stay bit-identical."""
    if np.abs(wav).max() > 1:
        raise InputError(f"{path}: peaks above full scale, which 16 bits cannot hold; scale the pair down")
    return round_to_int16(wav)


def _meta(pair: ClipPair, noisy: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """The metadata of an example, without paths; the SNR is measured over the clip (None if undefined)."""
    speech, noise = rms(clean), rms(noisy - clean)
    return {
        "split": pair.split,
        "pair": pair.clip_id,
        "speech": pair.clip_id,
        "speech_licence": pair.licence,
        "licences": [pair.licence],
        "speaker": pair.speaker,
        "snr_db": 20 * math.log10(speech / noise) if speech and noise else None,
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--card", type=path_argument, required=True, metavar="FILE.yaml", help="corpus card with pairs"
    )


@verb("pipelines.import_pairs", __doc__, _arguments, shards_arguments, workers_argument, cluster_argument)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    out = shards_of(options)
    summary = import_pairs(
        read_card(options.card),
        out,
        splits=options.splits,
        shard_examples=options.shard_examples,
        workers=options.workers,
    )
    for failure in summary.failures[:_SHOWN]:
        report(f"failed {failure.example_id}: {failure.reason}")
    print(
        f"{out}: {counted(summary.examples, 'pair')}, {summary.hours:.3f} h,"
        f" {counted(summary.shards, 'shard')} ({summary.reused:,} reused),"
        f" {counted(len(summary.failures), 'failure')}, {counted(summary.problems, 'problem')}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
