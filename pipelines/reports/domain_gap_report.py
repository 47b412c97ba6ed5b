"""How corpora differ, for people: text tables, and a page with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pipelines.reports.domain_gap_figures import (
    groups_picture,
    matrix_picture,
    modulation_picture,
    shares_picture,
    spectra_picture,
)
from pipelines.reports.page import details, page, picture, table
from pipelines.studies.gap_results import NAMES, OVERALL, GapResults, units_for
from pipelines.studies.gap_sources import MeasuredCorpus
from rwsa.acoustics import GROUPS
from rwsa.energy_distance import DistanceEstimate
from rwsa.statistics import MIN_UNITS, count_units

_READING = (
    "Energy distance in %: 0 where two corpora's clips are distributed alike, 100 where each corpus is one"
    " point. Brackets hold 95% of the bootstrap's resamples. In italics, on the diagonal, the distance"
    " between random halves of one corpus: what zero looks like with half as many clips."
    " A star marks a distance that is above zero and above both corpora's halves."
    f" Intervals and halves are drawn by speaker for speech, by noise recording for noise, and by what"
    f" there are fewer of for the rest; fewer than {MIN_UNITS}, or unknown ones, allow no verdict, and"
    " their distances never get a star."
)

_ORDER = "Columns stand in the order of the rows; one colour scale for all."


def matrix_rows(results: GapResults, group: str = OVERALL) -> Iterator[list[str]]:
    """Name, and the distance from each corpus, as text."""
    numbers = range(len(results.names))
    for row in numbers:
        yield [results.names[row], *(_cell(results, group, row, column) for column in numbers)]


def reason_rows(results: GapResults) -> Iterator[list[str]]:
    """A group of features, and in it the distance of each other corpus from the reference, as text."""
    reference = results.reference
    for group in NAMES:
        others = (column for column in range(len(results.names)) if column != reference)
        yield [
            _all(group),
            _cell(results, group, reference, reference),
            *(_cell(results, group, reference, column) for column in others),
        ]


def reason_heads(results: GapResults) -> list[str]:
    """The heads of `reason_rows`."""
    reference = results.settings.reference
    return ["features", f"halves of {reference}", *(name for name in results.names if name != reference)]


def markdown(results: GapResults) -> str:
    """Both tables, and how to read them."""
    from_reference = _plain(f"Distance from {results.settings.reference}, by what differs:")
    return "\n".join(
        [
            _READING,
            "",
            *_markdown_table(["", *results.names], matrix_rows(results)),
            "",
            from_reference,
            "",
            *_markdown_table(reason_heads(results), reason_rows(results)),
            "",
            *(f"- {_plain(line)}" for line in remarks(results)),
            "",
        ]
    )


def render_page(results: GapResults, about: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        results: of the comparison.
        about: what else to say, label to text.
    """
    reference = results.settings.reference
    known = {"features in units of their spread in": reference, "seed": str(results.settings.seed), **about}
    lines = "".join(f"<li>{escape(line)}</li>" for line in remarks(results))
    names = ", ".join(results.names)
    body = (
        f"{details(known)}<p>{escape(_READING)}</p>\n"
        f"{picture(matrix_picture(results), f'matrix of the distances of {names}; the table below has them')}"
        f"{table(['', *results.names], matrix_rows(results))}"
        f'<ul class="quiet">{lines}</ul>\n'
        f"<h2>Why they differ</h2>\n"
        f"{picture(groups_picture(results), f'distances of {len(GROUPS)} groups', caption=_ORDER)}"
        f"<h3>{escape(f'Distance from {reference}, by what differs')}</h3>\n"
        f"{table(reason_heads(results), reason_rows(results))}"
        f"{table(['group', 'what it is'], ([g.name, g.about] for g in GROUPS), words=True)}"
        f"<h2>What they sound like</h2>\n{_pictures(results)}"
    )
    return page(f"Domain gap: {names}", body)


def remarks(results: GapResults) -> list[str]:
    """What a reader must know of each corpus."""
    lines = []
    for corpus in results.corpora:
        line = f"{corpus.name}: {len(corpus.speakers)} of {corpus.of_clips} clips ({corpus.about})"
        line += f"; {_counted(corpus.speakers, 'speakers')}, {_counted(corpus.noises, 'noise recordings')}"
        if open_groups := _without_verdict(corpus):
            line += f", which allow no verdict on {', '.join(open_groups)}"
        if corpus.failures:
            clip, reason = corpus.failures[0]
            line += f"; {len(corpus.failures)} left out, the first {clip}: {reason}"
        lines.append(line)
    return lines


def _counted(names: Sequence[str | None], what: str) -> str:
    """`4 speakers (too few)`; those not known are said to be so."""
    count = count_units(names)
    if count is None:
        return f"{what} not known"
    return f"{count} {what}{' (too few)' if count < MIN_UNITS else ''}"


def _without_verdict(corpus: MeasuredCorpus) -> list[str]:
    return [_all(group) for group in NAMES if not units_for(group, corpus).allow_verdict]


def _pictures(results: GapResults) -> str:
    names = ", ".join(results.names)
    band = "Lines are medians over clips; shaded, the middle 80% of them."
    return (
        picture(
            spectra_picture(results),
            f"long-term spectra of speech and noise of {names}: dB by frequency",
            caption=f"{band} Third octaves (IEC 61260-1), relative to the clip's whole power.",
        )
        + picture(
            modulation_picture(results),
            f"modulation spectra of speech and noise of {names}: dB by modulation frequency",
            caption=f"{band} How strongly, and how fast, the envelopes of octave bands change.",
        )
        + picture(
            shares_picture(results),
            f"distributions of SNR, level and decay time over the clips of {names}",
            caption="The share of a corpus's clips that lie below each value. The decay compares corpora;"
            " it is no measurement of reverberation time.",
        )
    )


def _all(group: str) -> str:
    return "all together" if group == OVERALL else group


def _cell(results: GapResults, group: str, row: int, column: int) -> str:
    star = " *" if results.differs(group, row, column) else ""
    return f"{_told(results.of(group, row, column))}{star}"


def _told(one: DistanceEstimate) -> str:
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _markdown_table(heads: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(_plain(head) for head in heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for row in rows:
        yield f"| {' | '.join(_plain(text) for text in row)} |"


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
