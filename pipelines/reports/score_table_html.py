"""The HTML score table: systems × corpora × metrics as in the paper's Table 1, beside the published rows.

Metrics that Table 1 does not have follow in tables of their own. `templates/score_table.html` lays it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.evaluation.clip_scores import NOISY, NOISY_PHASE, sign
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.metric_labels import column_groups, decimals, label, unit
from pipelines.evaluation.published_tables import PublishedTable
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.systems import Model, System
from pipelines.reports.score_table import StatisticsByCorpus, format_mean, format_score, signed_score
from rwsa.metrics import TABLE1_METRICS
from rwsa.statistics import Interval

# Of four metrics each: what a width of 1280 pixels holds without scrolling sideways.
_CORPORA_SIDE_BY_SIDE = 3


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A score; `notes` are small lines below it, of which an empty one keeps its height."""

    text: str
    notes: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row; `about` is small print below its name."""

    name: str
    cells: Sequence[TableCell]
    about: str = ""
    css: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether the row only pads the table to align with its neighbours."""
        return not any(cell.text for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class CorpusTable:
    """The scores on one corpus; `columns` are labels and units of metrics."""

    name: str
    about: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[TableRow]


@dataclass(frozen=True, kw_only=True)
class ScoreBlock:
    """Tables of corpora side by side, with the same metrics and rows."""

    tables: Sequence[CorpusTable]
    title: str = ""
    about: str = ""


def score_blocks(
    summary: EvaluationSummary, statistics: StatisticsByCorpus, published: Sequence[PublishedTable]
) -> list[ScoreBlock]:
    """The score table in blocks, with the published rows of each corpus below.

    Corpora of a published table that were not evaluated are in a block of their own, if its models were all
    trained on one corpus.
    """
    side_by_side = [
        summary.corpora[at : at + _CORPORA_SIDE_BY_SIDE]
        for at in range(0, len(summary.corpora), _CORPORA_SIDE_BY_SIDE)
    ]

    def blocks(metrics: Sequence[str]) -> list[list[CorpusTable]]:
        return [
            [
                _corpus_table(corpus, corpora, metrics, summary, statistics[corpus.name], published)
                for corpus in corpora
            ]
            for corpora in side_by_side
        ]

    found = [ScoreBlock(tables=tables) for tables in blocks(TABLE1_METRICS)]
    evaluated = {corpus.name for corpus in summary.corpora}
    for table in published:
        elsewhere = [name for name in table.corpora if name not in evaluated]
        if table.in_domain is None or not elsewhere:
            continue
        found.append(
            ScoreBlock(
                title="As published",
                about=f"{table.title}: trained on {table.corpora[table.in_domain]};"
                " mean ± standard deviation over seeds",
                tables=[
                    CorpusTable(
                        name=table.corpora[name],
                        about="published",
                        columns=_columns(TABLE1_METRICS),
                        rows=list(published_rows(name, table)),
                    )
                    for name in elsewhere
                ],
            )
        )
    _, *further = column_groups(summary.metrics)
    tables_of_further = [tables for metrics in further for tables in blocks(metrics)]
    return found + [
        ScoreBlock(tables=tables, title="" if at else "Further metrics")
        for at, tables in enumerate(tables_of_further)
    ]


def _columns(metrics: Sequence[str]) -> list[tuple[str, str]]:
    return [(label(name), unit(name)) for name in metrics]


def _corpus_table(
    corpus: CorpusScores,
    side_by_side: Sequence[CorpusScores],
    metrics: Sequence[str],
    summary: EvaluationSummary,
    statistics: CorpusStatistics,
    published: Sequence[PublishedTable],
) -> CorpusTable:
    """The table of one corpus, padded so that rows align across corpora."""
    is_table1 = tuple(metrics) == TABLE1_METRICS
    rows = [_system_row(corpus, NOISY, side_by_side, metrics, statistics)]
    if is_table1 and any(one.published is not None for one in side_by_side):
        differences = corpus.differences()
        texts = [signed_score(name, differences.get(name)) if corpus.published else "" for name in metrics]
        rows.append(TableRow(name="noisy − published", cells=_texts(texts), css="slim"))
    rows += _systems(corpus, side_by_side, metrics, summary, statistics)
    if len(summary.configurations) == 1:
        # A single system leaves room for two more rows.
        system = summary.systems[0]
        gains = corpus.gains(system.name)
        texts = [signed_score(name, gains[name]) for name in metrics]
        rows.append(TableRow(name="gain", cells=_texts(texts), css="slim"))
        if is_table1 and isinstance(system, Model):
            phase = format_mean(NOISY_PHASE, corpus.summaries(system.name)[NOISY_PHASE])
            texts = [""] * (len(TABLE1_METRICS) - 1) + [phase]
            rows.append(TableRow(name="with the noisy phase", cells=_texts(texts), css="slim"))
    about = f"{len(corpus.clips)} clips"
    if is_table1:
        rows += rows_beside(corpus.name, [one.name for one in side_by_side], published)
        in_domain = corpus.name == summary.one_domain and len(summary.corpora) > 1
        domain = "in-domain" if in_domain else ""
        verdict = (corpus.verdict() or "").partition(":")[0].replace(" with the published row", "")
        about = " · ".join(filter(None, (domain, about, verdict)))
    return CorpusTable(name=corpus.name, about=about, columns=_columns(metrics), rows=rows)


def _texts(texts: Sequence[str]) -> list[TableCell]:
    return [TableCell(text=text) for text in texts]


def _systems(
    corpus: CorpusScores,
    side_by_side: Sequence[CorpusScores],
    metrics: Sequence[str],
    summary: EvaluationSummary,
    statistics: CorpusStatistics,
) -> Iterator[TableRow]:
    best = _best(corpus, summary)
    for configuration, systems in summary.configurations.items():
        size, rule = _size(summary.of(configuration)), "rule"
        if over := statistics.spreads.get(configuration):
            cells = [
                TableCell(
                    text=format_score(name, over[name].mean),
                    notes=(f"±{format_score(name, over[name].std)}",),
                )
                if name in over
                else TableCell(text="")
                for name in metrics
            ]
            yield TableRow(name=configuration, about=f"{len(systems)} seeds, {size}", cells=cells, css=rule)
            rule = ""
        for system in systems:
            about = "" if len(systems) > 1 else size
            yield _system_row(
                corpus, system, side_by_side, metrics, statistics, best=best, about=about, css=rule
            )
            rule = ""


def _best(corpus: CorpusScores, summary: EvaluationSummary) -> dict[str, str]:
    """Metric -> the system with the best mean, where there are several systems."""
    if len(summary.systems) < 2:
        return {}
    means = {one.name: corpus.means(one.name) for one in summary.systems}
    scored = {
        metric: [(value, name) for name, of in means.items() if (value := of[metric]) is not None]
        for metric in summary.metrics
    }
    return {
        metric: max((sign(metric) * value, name) for value, name in values)[1]
        for metric, values in scored.items()
        if values
    }


def _size(system: System) -> str:
    if not isinstance(system, Model):
        return "ready-made outputs"
    return f"{system.parameters / 1e6:.2f} M · {system.giga_flops:.2f} GFLOPs"


def _system_row(
    corpus: CorpusScores,
    system: str,
    side_by_side: Sequence[CorpusScores],
    metrics: Sequence[str],
    statistics: CorpusStatistics,
    *,
    best: dict[str, str] | None = None,
    about: str = "",
    css: str = "",
) -> TableRow:
    """Means, below each its interval, and below that how many clips failed."""
    summaries, intervals = corpus.summaries(system), statistics.intervals[system]
    cells = [
        TableCell(
            text=format_score(name, summaries[name].mean),
            notes=tuple(_notes(name, intervals[name], summaries[name].failures)) or ("",),
            best=(best or {}).get(name) == system,
        )
        for name in metrics
    ]
    failed = any(one.summaries(system)[name].failures for one in side_by_side for name in metrics)
    return TableRow(name=system, about=about, cells=cells, css=f"{css} {'tall' if failed else ''}".strip())


def _notes(name: str, interval: Interval | None, failures: int) -> Iterator[str]:
    if interval is not None:
        # One digit less than the mean has: the last one would carry no information.
        digits = decimals(name) - 1
        yield f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    if failures:
        yield f"{failures} failed"


def rows_beside(
    corpus: str, side_by_side: Sequence[str], published: Sequence[PublishedTable]
) -> Iterator[TableRow]:
    """The published rows below the scores of a corpus, aligned with those of the corpora beside it."""
    for table in published:
        if any(name in table.corpora for name in side_by_side):
            yield from published_rows(corpus, table, note=", published" if table.in_domain else "")


def published_rows(corpus: str, published: PublishedTable, *, note: str = "") -> Iterator[TableRow]:
    """The published rows of a corpus; empty ones for a corpus that has none."""
    for at, row in enumerate(published.rows):
        scores = published.cells(row, corpus) if corpus in published.corpora else {}
        cells = [
            TableCell(
                text=format_score(name, one.mean), notes=("" if one.std is None else f"±{one.std:.3f}",)
            )
            if (one := scores.get(name)) is not None
            else TableCell(text="")
            for name in TABLE1_METRICS
        ]
        yield TableRow(name=f"{row.model}{note}", about=row.about, cells=cells, css="" if at else "rule")
