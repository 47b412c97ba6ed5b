"""The table of scores, as cells: printed on a terminal, and as Markdown in MLflow's run description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.clip_scores import METRICS, NOISY, NOISY_PHASE
from pipelines.evaluation_statistics import CorpusStatistics
from pipelines.noisy_row import LABELS
from pipelines.results import DECIMALS, UNITS, CorpusScores, EvaluationSummary
from pipelines.systems import Model
from rwsa.metrics import Summary
from rwsa.statistics import Interval, Spread

MISSING = "–"
_LISTED = 10
Statistics = Mapping[str, CorpusStatistics]


def heading(name: str) -> str:
    """A metric's name with its unit."""
    return f"{LABELS[name]} ({UNITS[name]})" if UNITS[name] else LABELS[name]


def number(name: str, value: float | None) -> str:
    """A score."""
    return MISSING if value is None else f"{value:.{DECIMALS[name]}f}"


def signed(name: str, value: float | None) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else f"{value:+.{DECIMALS[name]}f}"


def cell(name: str, summary: Summary | None) -> str:
    """A mean, with the number of clips that failed where any did."""
    if summary is None:
        return ""
    mean = number(name, summary.mean)
    return f"{mean} ({summary.failures} failed)" if summary.failures else mean


def interval_cell(name: str, interval: Interval | None) -> str:
    """`[low, high]`; nothing where there is none."""
    return "" if interval is None else f"[{number(name, interval.low)}, {number(name, interval.high)}]"


def spread_cell(name: str, one: Spread) -> str:
    """`mean±std` over seeds."""
    return f"{number(name, one.mean)}±{number(name, one.std)}"


def format_table(summary: EvaluationSummary, statistics: Statistics) -> str:
    """Rows of every corpus for a terminal, then what was off: the published row, failures, bad files."""
    head, *rows = _table(summary, statistics)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    left = (0, 2)
    lines = [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([*lines, *remarks(summary, statistics)])


def markdown_table(summary: EvaluationSummary, statistics: Statistics) -> str:
    """The same rows as Markdown, without intervals, for which MLflow's page has no room."""
    head, *rows = _table(summary, statistics, intervals=False)
    rule = [":--", "--:", ":--", *("--:" for _ in METRICS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def remarks(summary: EvaluationSummary, statistics: Statistics) -> Iterator[str]:
    """What a reader of the means must know besides, a line each."""
    for corpus in summary.corpora:
        verdict = corpus.verdict()
        if verdict is not None:
            yield f"{corpus.name}: {verdict}"
        yield f"{corpus.name}: {statistics[corpus.name].units}"
        yield from _listing(f"{corpus.name}: failures", corpus.failures())
        unusable = [f"{problem.path}: {problem.reason}" for problem in corpus.problems]
        yield from _listing(f"{corpus.name}: unusable files, left out", unusable)
        yield from _listing(f"{corpus.name}: clipped, in flat tops at full scale", corpus.clipped())
        for system, files in corpus.extra.items():
            yield from _listing(f"{corpus.name}: extra files of {system}, of no clip", files)


def _table(summary: EvaluationSummary, statistics: Statistics, *, intervals: bool = True) -> list[list[str]]:
    head = ["corpus", "clips", "signal", *(heading(name) for name in METRICS)]
    rows = (
        row
        for one in summary.corpora
        for row in _rows(one, summary, statistics[one.name], intervals=intervals)
    )
    return [head, *rows]


def _rows(
    corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics, *, intervals: bool
) -> Iterator[list[str]]:
    def cells(system: str) -> list[str]:
        return _cells(corpus, system, statistics.intervals[system] if intervals else {})

    yield [corpus.name, str(len(corpus.clips)), NOISY, *cells(NOISY)]
    if corpus.published is not None:
        differences = corpus.differences()
        yield ["", "", "noisy − published", *(signed(name, differences.get(name)) for name in METRICS)]
    for configuration, systems in summary.configurations.items():
        if configuration in statistics.spreads:
            over = statistics.spreads[configuration]
            spreads = [spread_cell(name, over[name]) if name in over else MISSING for name in METRICS]
            yield ["", "", f"{configuration} ({len(systems)} seeds)", *spreads]
        for system in systems:
            yield ["", "", system, *cells(system)]
        if isinstance(summary.of(configuration), Model):
            phase = cell(NOISY_PHASE, corpus.summaries(systems[0])[NOISY_PHASE])
            yield ["", "", f"{systems[0]}, noisy phase", *("" for _ in METRICS[:-1]), phase]


def _cells(corpus: CorpusScores, system: str, intervals: Mapping[str, Interval | None]) -> list[str]:
    summaries = corpus.summaries(system)
    return [
        f"{cell(name, summaries[name])} {interval_cell(name, intervals.get(name))}".rstrip()
        for name in METRICS
    ]


def _listing(title: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield f"{title} ({len(entries)}):"
        yield from (f"  {entry}" for entry in entries[:_LISTED])
    if len(entries) > _LISTED:
        yield f"  … and {len(entries) - _LISTED} more"
