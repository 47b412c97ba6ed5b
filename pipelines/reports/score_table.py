"""The score table as text: for a terminal, and as Markdown for the description of an MLflow run.

The four metrics of the paper's Table 1 form one table, further metrics another one below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.evaluation.clip_scores import NOISY, NOISY_PHASE
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.metric_labels import column_groups, decimals, heading
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.suspects import Suspect, suspects
from pipelines.evaluation.systems import Model
from rwsa.metrics import TABLE1_METRICS, Summary
from rwsa.statistics import Interval

MISSING = "–"
_LISTED = 10
StatisticsByCorpus = Mapping[str, CorpusStatistics]


def format_score(name: str, value: float | None) -> str:
    """A score."""
    return MISSING if value is None else f"{value:.{decimals(name)}f}"


def signed_score(name: str, value: float | None) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else f"{value:+.{decimals(name)}f}"


def format_mean(name: str, summary: Summary | None) -> str:
    """A mean, with the number of failed clips, if any."""
    if summary is None:
        return ""
    mean = format_score(name, summary.mean)
    return f"{mean} ({summary.failures} failed)" if summary.failures else mean


def format_interval(name: str, interval: Interval | None) -> str:
    """`[low, high]`, or an empty text."""
    return (
        ""
        if interval is None
        else f"[{format_score(name, interval.low)}, {format_score(name, interval.high)}]"
    )


def format_table(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> str:
    """The table for a terminal, followed by `remarks`."""
    tables = ["\n".join(_aligned(rows)) for rows in _tables(summary, statistics)]
    return "\n".join(["\n\n".join(tables), *remarks(summary, statistics)])


def markdown_table(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> str:
    """The table as Markdown, without intervals, which would be too wide for MLflow's page."""
    return "\n\n".join(map(_markdown, _tables(summary, statistics, intervals=False)))


def _aligned(table: list[list[str]]) -> Iterator[str]:
    head, *rows = table
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    left = (0, 2)
    for row in (head, *rows):
        cells = (
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _markdown(table: list[list[str]]) -> str:
    head, *rows = table
    rule = [":--", "--:", ":--", *("--:" for _ in head[3:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def remarks(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> Iterator[str]:
    """Lines about each corpus: published row, intervals, failures, unusable, clipped and extra files.

    Suspects of hallucination come first.
    """
    for one in suspects(summary):
        yield suspect_line(one)
    for corpus in summary.corpora:
        if summary.one_domain is None:
            trained = [name for name in summary.configurations if summary.in_domain(name) == corpus.name]
            yield f"{corpus.name}: in-domain for {', '.join(trained) or 'no system'}"
        verdict = corpus.verdict()
        if verdict is not None:
            yield f"{corpus.name}: {verdict}"
        yield f"{corpus.name}: {statistics[corpus.name].units}"
        yield from _listing(f"{corpus.name}: failures", corpus.failures())
        unusable = [f"{problem.path}: {problem.reason}" for problem in corpus.problems]
        yield from _listing(f"{corpus.name}: unusable files, left out", unusable)
        yield from _listing(f"{corpus.name}: clipped at full scale", corpus.clipped())
        yield from _listing(f"{corpus.name}: CSIG and COVL are 1 due to digital silence", corpus.floored())
        for system, files in corpus.extra.items():
            yield from _listing(f"{corpus.name}: extra files of {system} that match no clip", files)


def suspect_line(one: Suspect) -> str:
    """`s may hallucinate on street: PESQ rises by 0.21 …`."""
    return (
        f"{one.corpus}: {one.configuration} may invent speech: PESQ rises by {one.pesq_gain:.3f} while"
        f" {heading(one.metric)} worsens by {-one.gain:.3f}; listen to {len(one.clips)} clips that show both"
        + (f", such as {one.clips[0].clip_id}" if one.clips else "")
    )


def _tables(
    summary: EvaluationSummary, statistics: StatisticsByCorpus, *, intervals: bool = True
) -> Iterator[list[list[str]]]:
    """Rows of cells, the head first, of one table per group of metrics."""
    for metrics in column_groups(summary.metrics):
        head = ["corpus", "clips", "signal", *(heading(name) for name in metrics)]
        rows = (
            row
            for one in summary.corpora
            for row in _rows(one, summary, statistics[one.name], metrics, intervals=intervals)
        )
        yield [head, *rows]


def _rows(
    corpus: CorpusScores,
    summary: EvaluationSummary,
    statistics: CorpusStatistics,
    metrics: Sequence[str],
    *,
    intervals: bool,
) -> Iterator[list[str]]:
    def cells(system: str) -> list[str]:
        return _cells(corpus, system, metrics, statistics.intervals[system] if intervals else {})

    yield [corpus.name, str(len(corpus.clips)), NOISY, *cells(NOISY)]
    # The published row and the noisy phase have only the metrics of Table 1.
    if corpus.published is not None and metrics == TABLE1_METRICS:
        differences = corpus.differences()
        yield [
            "",
            "",
            "noisy − published",
            *(signed_score(name, differences.get(name)) for name in metrics),
        ]
    for configuration, systems in summary.configurations.items():
        if configuration in statistics.spreads:
            over = statistics.spreads[configuration]
            spreads = [
                f"{format_score(name, over[name].mean)}±{format_score(name, over[name].std)}"
                if name in over
                else MISSING
                for name in metrics
            ]
            yield ["", "", f"{configuration} ({len(systems)} seeds)", *spreads]
        for system in systems:
            yield ["", "", system, *cells(system)]
        if isinstance(summary.of(configuration), Model) and metrics == TABLE1_METRICS:
            phase = format_mean(NOISY_PHASE, corpus.summaries(systems[0])[NOISY_PHASE])
            yield ["", "", f"{systems[0]}, noisy phase", *("" for _ in metrics[:-1]), phase]


def _cells(
    corpus: CorpusScores, system: str, metrics: Sequence[str], intervals: Mapping[str, Interval | None]
) -> list[str]:
    summaries = corpus.summaries(system)
    return [
        f"{format_mean(name, summaries[name])} {format_interval(name, intervals.get(name))}".rstrip()
        for name in metrics
    ]


def _listing(title: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield f"{title} ({len(entries)}):"
        yield from (f"  {entry}" for entry in entries[:_LISTED])
    if len(entries) > _LISTED:
        yield f"  … and {len(entries) - _LISTED} more"
