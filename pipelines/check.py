"""Check corpora and shards: leaks, repeats, bad audio, and whether a corpus is the published one.

    python -m pipelines.check --card datasets/A.yaml [datasets/B.yaml …] [--shards FOLDER …]

Exit status: 0 if there are no faults, 1 if there are, 2 if the check could not be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.core.cli import (
    cache_argument,
    cluster_argument,
    corpora_arguments,
    verb,
    workers_argument,
)
from pipelines.core.pool import check_workers
from pipelines.evaluation.noisy_scores import score_noisy
from pipelines.inspection.card_check import (
    apart_findings,
    audio_findings,
    counts_of,
    files_finding,
    published_finding,
    repeats_finding,
)
from pipelines.inspection.check_report import CheckReport, Counts, Finding, Mark, Part, counted
from pipelines.inspection.duplicates import repeats, repeats_between
from pipelines.inspection.recording_facts import Facts, Recording, read_facts, recordings_of
from pipelines.inspection.shard_check import ShardCheck, check_shards
from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import write_json


def check(
    cards: Sequence[CorpusCard],
    *,
    shards: Sequence[Path] = (),
    cache: FileCache,
    headers_only: bool = False,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> CheckReport:
    """Check corpora, by themselves and against each other, and folders of shards.

    Args:
        cards: of different names.
        shards: folders that `index.json` is in.
        cache: of headers, facts about audio and scores; what it knows is not read again.
        headers_only: decode and score nothing, so that damage, repeats and other corpora under a
            published name stay unseen.
        workers: see `pipelines.core.pool.unordered`.
        report: takes progress lines.

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
    facts = None if headers_only else read_facts(recordings, cache, workers=workers, report=report)
    parts = []
    for card, manifest in zip(cards, manifests, strict=True):
        findings = [files_finding(manifest), *apart_findings(manifest)]
        own = [one for one in recordings if one.card == card.name]
        findings += _audio(own, facts)
        if card.pairs:
            scored = bool(card.noisy_row) and not headers_only
            scores = (
                score_noisy(card, manifest, files=cache, workers=workers, report=report) if scored else None
            )
            findings.append(published_finding(card, scores))
        parts.append(_card_part(card, manifest, findings))
    if len(cards) > 1 and facts is not None:
        between = repeats_finding(repeats_between(recordings, facts), "in two corpora")
        parts.append(Part(title="between corpora", findings=(between,)))
    parts += [
        _shards_part(check_shards(folder, manifests, workers=workers), with_recordings=bool(cards))
        for folder in shards
    ]
    return CheckReport(parts=tuple(parts))


def _audio(recordings: Sequence[Recording], facts: Facts | None) -> list[Finding]:
    if facts is None:
        return [Finding(about="audio", mark=Mark.NOT_CHECKED, summary="not decoded (--headers-only)")]
    return [*audio_findings(recordings, facts), repeats_finding(repeats(recordings, facts), "within it")]


def _card_part(card: CorpusCard, manifest: Manifest, findings: Sequence[Finding]) -> Part:
    return Part(
        title=f"{card.name}: {card.description}", counts=counts_of(manifest), findings=tuple(findings)
    )


def _shards_part(found: ShardCheck, *, with_recordings: bool) -> Part:
    """`with_recordings`: cards were given, which tell what clips are one recording."""
    whole = Finding(
        about="whole",
        mark=Mark.FAULT if found.damaged else Mark.OK,
        summary=f"{len(found.damaged):,} damaged, by the checksums of bytes and of samples",
        lines=found.damaged,
    )
    unchecked = found.nameless > 0 and len(found.examples) > 1
    compared = "example, speaker, clip or recording" if with_recordings else "example, speaker or clip"
    nameless = f"; {counted(found.nameless, 'example')} without a speaker's name" if found.nameless else ""
    apart = Finding(
        about="apart",
        mark=Mark.FAULT if found.leaks else Mark.NOTE if unchecked else Mark.OK,
        summary=f"{len(found.leaks) or 'no'} {compared} in two splits{nameless}"
        + (", by their clips alone" if unchecked else ""),
        lines=found.leaks,
    )
    counts = tuple(
        Counts(split=split, kind="examples", files=count, hours=found.hours[split])
        for split, count in found.examples.items()
    )
    return Part(title=f"shards {found.folder}", counts=counts, findings=(whole, apart))


def _arguments(parser: argparse.ArgumentParser) -> None:
    corpora_arguments(parser)
    parser.add_argument("--headers-only", action="store_true", help="neither decode nor score audio")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on notes as well as on faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")


@verb(
    "pipelines.check",
    __doc__,
    _arguments,
    cache_argument,
    workers_argument,
    cluster_argument,
    failure="faults in the data",
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    found = check(
        [read_card(path) for path in options.card],
        shards=options.shards,
        cache=FileCache(options.cache),
        headers_only=options.headers_only,
        workers=options.workers,
        report=lambda line: print(line, file=sys.stderr),
    )
    # First, so that a finished check is not lost where the file cannot be written.
    print(found.as_text(), flush=True)
    if options.json is not None:
        write_json(options.json, found.as_json(), sort_keys=False)
    return int(found.count(Mark.FAULT) > 0 or (options.strict and found.count(Mark.NOTE) > 0))


if __name__ == "__main__":
    raise SystemExit(main())
