"""Check corpora and shards: leaks, duplicates, bad audio, and whether a corpus is the published one.

    python -m pipelines.check --card datasets/A.yaml [datasets/B.yaml …] [--shards FOLDER …]

Exit status: 0 without errors, 1 with errors, 2 if the check could not be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.core.cli import (
    as_location,
    cache_argument,
    cluster_argument,
    corpora_arguments,
    verb,
    workers_argument,
)
from pipelines.core.pool import check_workers
from pipelines.evaluation.published_row import score_noisy
from pipelines.inspection.check_report import CheckReport, Severity
from pipelines.inspection.corpus_check import check_between, check_corpus
from pipelines.inspection.recording_facts import read_recording_facts, recordings_of
from pipelines.inspection.shard_check import check_shards
from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, read_card
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import write_json
from rwsa.lease import exclusive_lock


def check_corpora(
    cards: Sequence[CorpusCard],
    *,
    shards: Sequence[Path] = (),
    cache: FileCache,
    headers_only: bool = False,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> CheckReport:
    """Check corpora, each on its own and against each other, and folders of shards.

    Args:
        cards: of different names.
        shards: folders with an `index.json`.
        cache: of headers, facts about audio and scores; cached files are not read again.
        headers_only: decode and score nothing; damage, duplicates and corpora that are not the published
            ones then go undetected.
        workers: see `pipelines.core.pool.map_unordered`.
        report: receives progress lines.

    Raises:
        InputError: there is nothing to check; a card, a folder, the cache or an argument cannot be used.
    """
    check_workers(workers)
    if not cards and not shards:
        raise InputError("nothing to check; name a --card or a folder of --shards")
    names = [card.name for card in cards]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--card: two cards are named '{name}'; leave one out")
    manifests = [scan(card, cache=cache, leaks_raise=False) for card in cards]
    recordings = [one for manifest in manifests for one in recordings_of(manifest)]
    facts = None if headers_only else read_recording_facts(recordings, cache, workers=workers, report=report)
    sections = []
    for card, manifest in zip(cards, manifests, strict=True):
        scores = None
        if card.pairs and card.noisy_row and not headers_only:
            scores = score_noisy(card, manifest, files=cache, workers=workers, report=report)
        own = [one for one in recordings if one.card == card.name]
        sections.append(check_corpus(card, manifest, own, facts, scores))
    if len(cards) > 1 and facts is not None:
        sections.append(check_between(recordings, facts))
    sections += [check_shards(folder, manifests, workers=workers) for folder in shards]
    return CheckReport(sections=tuple(sections))


def _arguments(parser: argparse.ArgumentParser) -> None:
    corpora_arguments(parser)
    parser.add_argument("--headers-only", action="store_true", help="neither decode nor score audio")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings as well as on errors")
    parser.add_argument("--json", type=as_location, metavar="FILE", help="also write the report to this file")


@verb(
    "pipelines.check",
    __doc__,
    _arguments,
    cache_argument,
    workers_argument,
    cluster_argument,
    failure="errors in the data",
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    result = check_corpora(
        [read_card(path) for path in options.card],
        shards=options.shards,
        cache=FileCache(options.cache),
        headers_only=options.headers_only,
        workers=options.workers,
        report=lambda line: print(line, file=sys.stderr),
    )
    # Print first: the file may not be writable.
    print(result.as_text(), flush=True)
    if options.json is not None:
        with exclusive_lock(options.json, inside=False):
            write_json(options.json, result.as_json(), sort_keys=False)
    return int(result.count(Severity.ERROR) > 0 or (options.strict and result.count(Severity.WARNING) > 0))


if __name__ == "__main__":
    raise SystemExit(main())
