"""What is checked of one corpus: its files, its splits, its audio, and whether it is the published one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pipelines.evaluation.metric_labels import label
from pipelines.evaluation.noisy_row import VERIFIED, tolerances
from pipelines.evaluation.noisy_scores import NoisyScores
from pipelines.inspection.check_report import Counts, Finding, Mark, counted
from pipelines.inspection.duplicates import Repeat
from pipelines.inspection.recording_facts import Facts, Recording
from rwsa.audio_facts import CLIPPED_RUN_SAMPLES, CLIPPED_SHARE, AudioFacts
from rwsa.corpora.cards import SPLITS, CorpusCard
from rwsa.corpora.manifest import Clip, ClipPair, Manifest, leaks
from rwsa.mixing import SILENCE_DBFS

# Speech this low is near the 16-bit floor's noise once raised; recordings are usually 20 dB above.
QUIET_DBFS = -50.0
OFFSET = 0.02
# What tells splits apart, and which manifest rows carry it.
_UNITS = {"speaker": ("speech", "pairs"), "noise recording": ("noise",), "room": ("room",)}


def counts_of(manifest: Manifest) -> tuple[Counts, ...]:
    """Files, hours and names in each split, of each kind."""
    rows: list[tuple[str, Clip | ClipPair]] = [(clip.kind, clip) for clip in manifest.clips]
    rows += [("pairs", pair) for pair in manifest.pairs]
    found = []
    for split in SPLITS:
        for kind in dict.fromkeys(kind for kind, _ in rows):
            of = [row for its, row in rows if its == kind and row.split == split]
            if of:
                found.append(
                    Counts(
                        split=split,
                        kind=kind,
                        files=len(of),
                        hours=sum(row.seconds for row in of) / 3600,
                        speakers=_names(row.speaker for row in of),
                        recordings=_names(row.recording for row in of if isinstance(row, Clip)),
                    )
                )
    return tuple(found)


def _names(values: Iterable[str | None]) -> int | None:
    return len({value for value in values if value is not None}) or None


def files_finding(manifest: Manifest) -> Finding:
    """What scanning could not use."""
    usable = len(manifest.clips) + 2 * len(manifest.pairs)
    return Finding(
        about="files",
        mark=Mark.FAULT if manifest.problems else Mark.OK,
        summary=f"{usable:,} usable, {counted(len(manifest.problems), 'problem')},"
        f" {manifest.left_out:,} more that the card does not claim",
        lines=tuple(f"{problem.path}: {problem.reason}" for problem in manifest.problems),
    )


def apart_findings(manifest: Manifest) -> list[Finding]:
    """Whether speakers and noise recordings keep to one split, and what names none and so shows nothing."""
    return [
        finding
        for unit, kinds in _UNITS.items()
        if (finding := _apart(manifest, unit, [row for kind in kinds for row in _rows(manifest, kind)]))
    ]


def _rows(manifest: Manifest, kind: str) -> list[tuple[str | None, str]]:
    if kind == "pairs":
        return [(pair.speaker, pair.split) for pair in manifest.pairs]
    return [
        (clip.speaker if kind == "speech" else clip.recording, clip.split)
        for clip in manifest.clips
        if clip.kind == kind
    ]


def _apart(manifest: Manifest, unit: str, rows: Sequence[tuple[str | None, str]]) -> Finding | None:
    if not rows:
        return None
    found = [leak for leak in leaks(manifest) if leak.unit == unit]
    nameless = sum(name is None for name, _ in rows)
    splits = [split for split in SPLITS if any(of == split for _, of in rows)]
    named = Counter(split for name, split in {row for row in rows if row[0] is not None})
    told = " + ".join(f"{named[split]:,} {split}" for split in splits)
    if len(splits) == 1:
        verdict = f"{splits[0]} alone, nothing to keep apart"
    elif found:
        verdict = f"{told}: {len(found):,} in two splits"
    else:
        verdict = f"{told}: none in two splits"
    if nameless:
        verdict += f"; {nameless:,} of {len(rows):,} files name no {unit}"
        verdict += ", so their publisher's word stands unchecked" if len(splits) > 1 else ""
    open_question = Mark.NOTE if nameless and len(splits) > 1 else Mark.OK
    return Finding(
        about=f"{unit}s",
        mark=Mark.FAULT if found else open_question,
        summary=verdict,
        lines=tuple(str(leak) for leak in found),
    )


def audio_findings(recordings: Sequence[Recording], facts: Facts) -> list[Finding]:
    """Files that cannot be decoded or hold nothing (faults); clipped, faint or off-centre ones (notes)."""
    known = [(one, facts[one.key]) for one in {one.key: one for one in recordings}.values()]
    damaged = [f"{one.path}: {fact}" for one, fact in known if isinstance(fact, str)]
    # An impulse response has neither a level nor pauses that matter.
    heard = [(one, fact) for one, fact in known if isinstance(fact, AudioFacts) and one.kind != "room"]
    silent = [(one, fact) for one, fact in heard if _level(fact) < SILENCE_DBFS]
    faint = [(one, fact) for one, fact in heard if SILENCE_DBFS <= _level(fact) < QUIET_DBFS]
    clipped = [(one, fact) for one, fact in heard if fact.clipped_share > CLIPPED_SHARE]
    offset = [(one, fact) for one, fact in heard if abs(fact.dc_offset) > OFFSET]

    def listed(
        found: list[tuple[Recording, AudioFacts]],
        badness: Callable[[AudioFacts], float],
        told: Callable[[AudioFacts], str],
    ) -> tuple[str, ...]:
        found = sorted(found, key=lambda pair: -badness(pair[1]))
        return tuple(f"{told(fact)}  {one.path}" for one, fact in found)

    findings = [
        Finding(
            about="audio",
            mark=Mark.FAULT if damaged else Mark.OK,
            summary=f"{counted(len(known), 'file')} decoded to their end, {len(damaged):,} damaged",
            lines=tuple(damaged),
        ),
        Finding(
            about="silent",
            mark=Mark.FAULT,
            summary=f"{counted(len(silent), 'file')} below {SILENCE_DBFS:g} dBFS over all,"
            " which mixing takes for silence",
            lines=listed(silent, lambda fact: -_level(fact), _told_level),
        ),
        Finding(
            about="faint",
            mark=Mark.NOTE,
            summary=f"{counted(len(faint), 'file')} below {QUIET_DBFS:g} dBFS",
            lines=listed(faint, lambda fact: -_level(fact), _told_level),
        ),
        Finding(
            about="clipped",
            mark=Mark.NOTE,
            summary=f"{counted(len(clipped), 'file')} with more than {CLIPPED_SHARE:.1%} of samples in flat"
            f" tops ({CLIPPED_RUN_SAMPLES} and more at full scale)",
            lines=listed(clipped, lambda fact: fact.clipped_share, lambda fact: f"{fact.clipped_share:6.2%}"),
        ),
        Finding(
            about="offset",
            mark=Mark.NOTE,
            summary=f"{counted(len(offset), 'file')} with a mean beyond ±{OFFSET:g} of full scale",
            lines=listed(offset, lambda fact: abs(fact.dc_offset), lambda fact: f"{fact.dc_offset:+.3f}"),
        ),
    ]
    return [finding for finding in findings if finding.about == "audio" or finding.lines]


def _level(facts: AudioFacts) -> float:
    return float("-inf") if facts.rms_dbfs is None else facts.rms_dbfs


def _told_level(facts: AudioFacts) -> str:
    return "nothing but zeros" if facts.rms_dbfs is None else f"{facts.rms_dbfs:.1f} dBFS"


def repeats_finding(found: Sequence[Repeat], where: str) -> Finding:
    """The same audio twice: a fault across splits or kinds, a note within one."""
    leaking = sum(repeat.leak for repeat in found)
    if leaking:
        summary = f"{counted(leaking, 'recording')} in two splits, or as two kinds, {where}"
        summary += f"; {len(found) - leaking:,} more twice in one split" if len(found) > leaking else ""
    elif found:
        summary = f"{counted(len(found), 'recording')} twice in one split {where}"
    else:
        summary = f"no recording twice {where}, by hash of the decoded audio"
    return Finding(
        about="repeats",
        mark=Mark.FAULT if leaking else Mark.NOTE if found else Mark.OK,
        summary=summary,
        lines=tuple(str(repeat) for repeat in found),
    )


def published_finding(card: CorpusCard, scores: NoisyScores | None) -> Finding:
    """Whether the noisy test files are the published ones; `scores` is None where they were not scored."""
    if scores is None:
        why = "not scored" if card.noisy_row else "the card has no published noisy row to hold it to"
        return Finding(about="published", mark=Mark.NOT_CHECKED, summary=why)
    row = ", ".join(f"{label(name)} {mean:.3f}" for name, mean in scores.means.items() if mean is not None)
    verdict = scores.verdict
    if verdict == VERIFIED:
        return Finding(
            about="published", mark=Mark.OK, summary=f"verified: noisy row {row} (within {tolerances()})"
        )
    part = scores.scored != scores.of_clips
    unknown = "" if "test" in card.clips_expected else "; how many test clips a whole copy has is not known"
    return Finding(
        about="published",
        mark=Mark.NOTE if part else Mark.FAULT,
        summary=f"partial, {verdict}" if part else f"{verdict} (tolerances {tolerances()}){unknown}",
        lines=(f"noisy row of these clips: {row}", *scores.failures),
    )
