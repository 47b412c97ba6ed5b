"""The table of scores, as cells: printed on a terminal, and as Markdown in MLflow's run description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.clip_scores import METRICS, NOISY_PHASE
from pipelines.noisy_row import LABELS
from pipelines.results import DECIMALS, UNITS, CorpusScores, EvaluationSummary
from rwsa.metrics import Summary

MISSING = "–"
_LISTED = 10


def heading(name: str) -> str:
    """A metric's name with its unit."""
    return f"{LABELS[name]} ({UNITS[name]})" if UNITS[name] else LABELS[name]


def cell(name: str, summary: Summary | None) -> str:
    """A mean, with the number of clips that failed where any did."""
    if summary is None:
        return ""
    mean = MISSING if summary.mean is None else f"{summary.mean:.{DECIMALS[name]}f}"
    return f"{mean} ({summary.failures} failed)" if summary.failures else mean


def signed(name: str, value: float | None) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else f"{value:+.{DECIMALS[name]}f}"


def format_table(summary: EvaluationSummary) -> str:
    """Rows of every corpus for a terminal, then what was off: the published row, failures, bad files."""
    head = ["corpus", "clips", "signal", *(heading(name) for name in METRICS)]
    rows = [row for corpus in summary.corpora for row in _rows(corpus)]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    left = (0, 2)
    lines = [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([*lines, *remarks(summary)])


def markdown_table(summary: EvaluationSummary) -> str:
    """The same rows as Markdown."""
    head = ["corpus", "clips", "signal", *(heading(name) for name in METRICS)]
    rule = [":--", "--:", ":--", *("--:" for _ in METRICS)]
    rows = [row for corpus in summary.corpora for row in _rows(corpus)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def remarks(summary: EvaluationSummary) -> Iterator[str]:
    """What a reader of the means must know besides, a line each."""
    for corpus in summary.corpora:
        verdict = corpus.verdict()
        if verdict is not None:
            yield f"{corpus.name}: {verdict}"
        yield from _listing(f"{corpus.name}: failures", corpus.failures())
        unusable = [f"{problem.path}: {problem.reason}" for problem in corpus.problems]
        yield from _listing(f"{corpus.name}: unusable files, left out", unusable)


def _rows(corpus: CorpusScores) -> Iterator[list[str]]:
    noisy, enhanced = corpus.summaries("noisy"), corpus.summaries("enhanced")
    yield [corpus.name, str(len(corpus.clips)), "noisy", *_cells(noisy)]
    if corpus.published is not None:
        differences = corpus.differences()
        yield ["", "", "noisy − published", *(signed(name, differences.get(name)) for name in METRICS)]
    yield ["", "", "enhanced", *_cells(enhanced)]
    phase = cell(NOISY_PHASE, enhanced[NOISY_PHASE])
    yield ["", "", "enhanced, noisy phase", *("" for _ in METRICS[:-1]), phase]


def _cells(summaries: Mapping[str, Summary]) -> list[str]:
    return [cell(name, summaries[name]) for name in METRICS]


def _listing(title: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield f"{title} ({len(entries)}):"
        yield from (f"  {entry}" for entry in entries[:_LISTED])
    if len(entries) > _LISTED:
        yield f"  … and {len(entries) - _LISTED} more"
