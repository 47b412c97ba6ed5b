"""Checks of corpora: files, splits, audio, and whether test pairs are the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipelines.evaluation.metric_labels import label
from pipelines.evaluation.published_row import VERIFIED, NoisyScores, tolerances
from pipelines.inspection.check_report import Counts, Finding, Section, Severity, counted
from pipelines.inspection.duplicates import duplicates_finding, find_duplicates, find_duplicates_between
from pipelines.inspection.recording_facts import CorpusRecording, RecordingFacts
from rwsa.audio_facts import CLIPPED_RUN_SAMPLES, CLIPPED_SHARE, AudioFacts
from rwsa.corpora.cards import SPLITS, CorpusCard
from rwsa.corpora.manifest import Clip, ClipPair, Manifest, leaks
from rwsa.mixing import SILENCE_DBFS

# Speech at this level is close to the 16-bit noise floor once amplified; recordings are usually 20 dB louder.
QUIET_DBFS = -50.0
DC_OFFSET = 0.02
# What must stay within one split, and the kinds of files that name it.
_SPLIT_UNITS = {"speaker": ("speech", "pairs"), "noise recording": ("noise",), "room": ("room",)}


def check_corpus(
    card: CorpusCard,
    manifest: Manifest,
    recordings: Sequence[CorpusRecording],
    facts: RecordingFacts | None,
    scores: NoisyScores | None,
) -> Section:
    """Check one corpus.

    Args:
        card: of the corpus.
        manifest: of the corpus.
        recordings: of the corpus.
        facts: of its recordings; None if they were not decoded.
        scores: of its noisy test files; None if they were not scored.
    """
    findings = [_files(manifest), *_splits(manifest)]
    if facts is None:
        skipped = "not decoded (--headers-only)"
        findings.append(Finding(check="audio", severity=Severity.SKIPPED, summary=skipped))
    else:
        findings += _audio(recordings, facts)
        findings.append(duplicates_finding(find_duplicates(recordings, facts), "within the corpus"))
    if card.pairs:
        findings.append(_published(card, scores))
    return Section(
        title=f"{card.name}: {card.description}", counts=_counts(manifest), findings=tuple(findings)
    )


def check_between(recordings: Sequence[CorpusRecording], facts: RecordingFacts) -> Section:
    """Check several corpora against each other for the same recordings."""
    finding = duplicates_finding(find_duplicates_between(recordings, facts), "in two corpora")
    return Section(title="between corpora", findings=(finding,))


def _counts(manifest: Manifest) -> tuple[Counts, ...]:
    """Files, hours, speakers and recordings by split and kind."""
    rows: list[tuple[str, Clip | ClipPair]] = [(clip.kind, clip) for clip in manifest.clips]
    rows += [("pairs", pair) for pair in manifest.pairs]
    counts = []
    for split in SPLITS:
        for kind in dict.fromkeys(kind for kind, _ in rows):
            files = [row for row_kind, row in rows if row_kind == kind and row.split == split]
            if files:
                counts.append(
                    Counts(
                        split=split,
                        kind=kind,
                        files=len(files),
                        hours=sum(row.seconds for row in files) / 3600,
                        speakers=_distinct(row.speaker for row in files),
                        recordings=_distinct(row.recording for row in files if isinstance(row, Clip)),
                    )
                )
    return tuple(counts)


def _distinct(values: Iterable[str | None]) -> int | None:
    return len({value for value in values if value is not None}) or None


def _files(manifest: Manifest) -> Finding:
    """Files that cannot be used."""
    usable = len(manifest.clips) + 2 * len(manifest.pairs)
    return Finding(
        check="files",
        severity=Severity.ERROR if manifest.problems else Severity.OK,
        summary=f"{usable:,} usable, {counted(len(manifest.problems), 'problem')},"
        f" {manifest.left_out:,} more that the card does not use",
        details=tuple(f"{problem.path}: {problem.reason}" for problem in manifest.problems),
    )


def _splits(manifest: Manifest) -> Iterator[Finding]:
    """Whether every speaker, noise recording and room is in one split only."""
    rows: list[tuple[str, str | None, str]] = [("pairs", pair.speaker, pair.split) for pair in manifest.pairs]
    rows += [
        (clip.kind, clip.speaker if clip.kind == "speech" else clip.recording, clip.split)
        for clip in manifest.clips
    ]
    for unit, kinds in _SPLIT_UNITS.items():
        names = [(name, split) for kind, name, split in rows if kind in kinds]
        if names:
            yield _split(unit, names, [str(leak) for leak in leaks(manifest) if leak.unit == unit])


def _split(unit: str, names: Sequence[tuple[str | None, str]], leaking: Sequence[str]) -> Finding:
    """`names` holds name and split of every file's unit, `leaking` one line per unit in two splits."""
    unnamed = sum(name is None for name, _ in names)
    splits = [split for split in SPLITS if any(of == split for _, of in names)]
    named = Counter(split for name, split in set(names) if name is not None)
    counts = " + ".join(f"{named[split]:,} {split}" for split in splits)
    if len(splits) == 1:
        summary = f"{splits[0]} only"
    elif leaking:
        summary = f"{counts}: {len(leaking):,} in two splits"
    else:
        summary = f"{counts}: none in two splits"
    if unnamed:
        summary += f"; {unnamed:,} of {len(names):,} files have no {unit} label"
        summary += ", so the published split is unchecked" if len(splits) > 1 else ""
    unchecked = Severity.WARNING if unnamed and len(splits) > 1 else Severity.OK
    return Finding(
        check=f"{unit}s",
        severity=Severity.ERROR if leaking else unchecked,
        summary=summary,
        details=tuple(leaking),
    )


def _audio(recordings: Sequence[CorpusRecording], facts: RecordingFacts) -> list[Finding]:
    """Damaged and silent files (errors); quiet, clipped or off-centre ones (warnings)."""
    unique = [
        (recording, facts[recording.key]) for recording in {one.key: one for one in recordings}.values()
    ]
    damaged = [f"{recording.path}: {fact}" for recording, fact in unique if isinstance(fact, str)]
    # An impulse response has no meaningful level or pauses.
    known = [
        (recording, fact)
        for recording, fact in unique
        if isinstance(fact, AudioFacts) and recording.kind != "room"
    ]

    def finding(
        check: str,
        severity: Severity,
        summary: str,
        affected: Callable[[AudioFacts], bool],
        badness: Callable[[AudioFacts], float],
        value: Callable[[AudioFacts], str],
    ) -> Iterator[Finding]:
        cases = sorted((case for case in known if affected(case[1])), key=lambda case: -badness(case[1]))
        if cases:
            yield Finding(
                check=check,
                severity=severity,
                summary=f"{counted(len(cases), 'file')} {summary}",
                details=tuple(f"{recording.path}: {value(fact)}" for recording, fact in cases),
            )

    return [
        Finding(
            check="audio",
            severity=Severity.ERROR if damaged else Severity.OK,
            summary=f"{counted(len(unique), 'file')} decoded completely, {len(damaged):,} damaged",
            details=tuple(damaged),
        ),
        *finding(
            "silent",
            Severity.ERROR,
            f"below {SILENCE_DBFS:g} dBFS, which mixing treats as silence",
            lambda fact: _level_dbfs(fact) < SILENCE_DBFS,
            lambda fact: -_level_dbfs(fact),
            _format_level,
        ),
        *finding(
            "quiet",
            Severity.WARNING,
            f"below {QUIET_DBFS:g} dBFS",
            lambda fact: SILENCE_DBFS <= _level_dbfs(fact) < QUIET_DBFS,
            lambda fact: -_level_dbfs(fact),
            _format_level,
        ),
        *finding(
            "clipped",
            Severity.WARNING,
            f"with more than {CLIPPED_SHARE:.1%} of samples clipped (runs of at least {CLIPPED_RUN_SAMPLES}"
            " at full scale)",
            lambda fact: fact.clipped_share > CLIPPED_SHARE,
            lambda fact: fact.clipped_share,
            lambda fact: f"{fact.clipped_share:.2%}",
        ),
        *finding(
            "offset",
            Severity.WARNING,
            f"with a DC offset beyond ±{DC_OFFSET:g} of full scale",
            lambda fact: abs(fact.dc_offset) > DC_OFFSET,
            lambda fact: abs(fact.dc_offset),
            lambda fact: f"{fact.dc_offset:+.3f}",
        ),
    ]


def _level_dbfs(facts: AudioFacts) -> float:
    return float("-inf") if facts.rms_dbfs is None else facts.rms_dbfs


def _format_level(facts: AudioFacts) -> str:
    return "only zeros" if facts.rms_dbfs is None else f"{facts.rms_dbfs:.1f} dBFS"


def _published(card: CorpusCard, scores: NoisyScores | None) -> Finding:
    """Whether the noisy test files have the published scores."""
    if scores is None:
        reason = "not scored" if card.noisy_row else "the card has no published noisy row to compare with"
        return Finding(check="published", severity=Severity.SKIPPED, summary=reason)
    row = ", ".join(f"{label(name)} {mean:.3f}" for name, mean in scores.means.items() if mean is not None)
    verdict = scores.verdict
    if verdict == VERIFIED:
        summary = f"verified: noisy row {row} (within {tolerances()})"
        return Finding(check="published", severity=Severity.OK, summary=summary)
    partial = scores.scored != scores.of_clips
    unknown = "" if "test" in card.clips_expected else "; the number of published test clips is unknown"
    return Finding(
        check="published",
        severity=Severity.WARNING if partial else Severity.ERROR,
        summary=f"partial, {verdict}" if partial else f"{verdict} (tolerances {tolerances()}){unknown}",
        details=(f"noisy row of these clips: {row}", *scores.failures),
    )
