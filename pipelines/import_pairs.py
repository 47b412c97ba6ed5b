"""Put ready-made pairs into shards as they are, so that a published corpus can be trained on.

    python -m pipelines.import_pairs --card datasets/vb_demandex.yaml --out FOLDER

Nothing is mixed, scaled or resampled: the shards hold the published samples. Run again after a crash,
it keeps the shards that their entries prove whole and makes the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.cli import add_cluster_arguments, add_shards_arguments, at_address, shards_of, verb
from pipelines.core.pool import check_workers, unordered
from pipelines.mixing.render_folder import withdraw_index
from rwsa.audio import read_mono, rms, round_to_int16
from rwsa.corpora import scan
from rwsa.corpora.cards import SPLITS, CorpusCard, Split, read_card
from rwsa.corpora.manifest import Manifest, Pair
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import absolute, location, sha256_of
from rwsa.shards import Example, is_up_to_date, write_shard
from rwsa.shards.index import Failure, ShardEntry, entry_or_none, entry_path, entry_paths, merge_index

_FAILURES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One shard to make."""

    folder: Path
    corpus: str
    split: Split
    number: int
    sample_rate_hz: int
    pairs: tuple[tuple[str, Pair], ...]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did: examples and hours in the shards now, what failed, and shards kept."""

    examples: int
    hours: float
    shards: int
    kept: int
    failures: tuple[Failure, ...]
    problems: int


def import_pairs(
    card: CorpusCard,
    out: Path,
    *,
    splits: Sequence[Split] | None = None,
    shard_examples: int = 64,
    workers: int | None = None,
    cache: FileCache | None = None,
    report: Callable[[str], None] = print,
) -> Imported:
    """Write the pairs of a card into shards, in the order of their paths.

    Args:
        card: with `pairs`.
        out: folder of the shards; made if missing.
        splits: which to import; all that there are by default.
        shard_examples: pairs in a shard.
        workers: see `pipelines.core.pool.unordered`.
        cache: of headers; see `rwsa.corpora.scan`.
        report: takes progress lines.

    Raises:
        InputError: the card has no pairs (of a split); the folder holds other shards or cannot be
            written; nothing could be imported.
    """
    check_workers(workers)
    out = location(absolute(str(out)))  # Ray's workers run elsewhere
    if shard_examples < 1:
        raise InputError(f"--shard-examples {shard_examples}: must be at least 1")
    if not card.pairs:
        raise InputError(f"card {card.name}: has no pairs to import; mix its speech and noise instead")
    manifest = scan(card, cache=cache)
    for problem in manifest.problems[:_FAILURES_SHOWN]:
        report(f"left out {problem.path}: {problem.reason}")
    jobs = list(_jobs(card, manifest, out, _wanted(card, manifest, splits), shard_examples))
    _check_folder(out, jobs)
    withdraw_index(out)
    entries: list[tuple[ShardEntry, bool]] = []
    for _, outcome in unordered(_make, jobs, workers=workers):
        if isinstance(outcome, str):
            raise InputError(outcome)
        entries.append(outcome)
        report(f"shards {len(entries)}/{len(jobs)}")
    failures = sorted((one for entry, _ in entries for one in entry.failures), key=lambda one: one.example_id)
    imported = Imported(
        examples=sum(len(entry.examples) for entry, _ in entries),
        hours=sum(entry.seconds for entry, _ in entries) / 3600,
        shards=len(entries),
        kept=sum(kept for _, kept in entries),
        failures=tuple(failures),
        problems=len(manifest.problems),
    )
    if not imported.examples:
        raise InputError(f"{out}: no pair could be imported; the first, {failures[0].reason}")
    merge_index(out)
    return imported


def _wanted(card: CorpusCard, manifest: Manifest, splits: Sequence[Split] | None) -> list[Split]:
    there: list[Split] = [split for split in SPLITS if manifest.pairs_of(split)]  # type: ignore[misc]
    for split in splits or ():
        if split not in there:
            raise InputError(f"card {card.name}: has no pairs in split '{split}', only {there}")
    return list(splits or there)


def _jobs(
    card: CorpusCard, manifest: Manifest, out: Path, splits: Sequence[Split], shard_examples: int
) -> Iterator[_Job]:
    for split in splits:
        pairs = [(f"{_safe(card.name)}-{split}-{n:07d}", p) for n, p in enumerate(manifest.pairs_of(split))]
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


def _safe(name: str) -> str:
    """A card's name as an example id may hold it."""
    return name.replace(".", "_")[:40]


def _hash(pairs: Sequence[tuple[str, Pair]]) -> str:
    """Changes when a pair or its files do; the same wherever and whenever the corpus was copied."""
    digest = hashlib.sha256()
    for name, pair in pairs:
        files = [_bytes_hash(Path(path)) for path in (pair.noisy, pair.clean)]
        row = [name, pair.clip_id, pair.samples, pair.speaker, pair.licence, *files]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def _bytes_hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:  # The pair will be a failure, and say so.
        return f"unreadable: {error.strerror}"


def _check_folder(out: Path, jobs: Sequence[_Job]) -> None:
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
                    f"{path}: belongs to another corpus; name another folder, or delete this one"
                )
            if split in imported and path.name not in planned:
                raise InputError(
                    f"{path}: is one shard more than there will be (there are fewer pairs, or more in a"
                    " shard, than before); name another folder, or delete this one"
                )


def _make(job: _Job) -> tuple[ShardEntry, bool] | str:
    """Ray task: one shard, unless it is there and whole; or what ends the whole import."""
    try:
        plan_hash = _hash(job.pairs)
        kept = entry_or_none(entry_path(job.folder, job.split, job.number))
        if kept is not None and is_up_to_date(job.folder, kept, plan_hash):
            return kept, True
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


def _example(name: str, pair: Pair) -> Example | Failure:
    try:
        noisy, clean = (
            _sixteen_bit(read_mono(Path(path), pair.sample_rate_hz), path)
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
    """On the grid of the shards; 16-bit files stay as they are, to the bit."""
    if np.abs(wav).max() > 1:
        raise InputError(f"{path}: peaks above full scale, which 16 bits cannot hold; scale the pair down")
    return round_to_int16(wav)


def _meta(pair: Pair, noisy: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """JSON values, without paths; the SNR is measured, over the whole clip, None where it has none."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.import_pairs", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--card", type=Path, required=True, help="corpus card with pairs")
    add_shards_arguments(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="default: all that there are")
    parser.add_argument("--shard-examples", type=int, default=64, metavar="N")
    parser.add_argument("--workers", type=int, help="0: in this process, without Ray; default: all CPUs")
    add_cluster_arguments(parser)
    return parser


@verb
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(argv)
    out = shards_of(options)
    with at_address(options.address):
        done = import_pairs(
            read_card(options.card),
            out,
            splits=options.splits,
            shard_examples=options.shard_examples,
            workers=options.workers,
        )
    for failure in done.failures[:_FAILURES_SHOWN]:
        print(f"failed {failure.example_id}: {failure.reason}", file=sys.stderr)
    print(
        f"{out}: {done.examples} pairs, {done.hours:.3f} h, {done.shards} shards ({done.kept} kept"
        f" from before), {len(done.failures)} failures, {done.problems} problems"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
