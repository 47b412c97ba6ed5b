"""Systems by corpora by metrics, laid out as the paper's Table 1, with the published rows beside ours.

Metrics that Table 1 does not have stand in matrices of their own below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.evaluation.clip_scores import NOISY, NOISY_PHASE
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.metric_labels import abreast, decimals, label, unit
from pipelines.evaluation.published import Cell, PublishedRow, PublishedTable
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.systems import Model, System
from pipelines.reports.score_table import Statistics, cell, number, signed
from rwsa.metrics import TABLE1_METRICS
from rwsa.statistics import Interval, SeedSpread

# Four metrics each: as many as 1280 pixels hold without scrolling sideways.
_CORPORA_ABREAST, _ABREAST_PIXELS = 3, 1100
STYLE = f"""
.matrix {{ display: flex; flex-wrap: wrap; column-gap: 14px; margin: 16px 0; }}
.matrix table {{ flex: 1 1 auto; margin-bottom: 16px; max-width: 640px; }}
.matrix th, .matrix td {{ padding: 2px 4px; text-align: right; white-space: nowrap; height: 34px;
                          line-height: 1.2; vertical-align: top; }}
.matrix thead th.name {{ border-bottom: 0; }}
.matrix tr.slim > * {{ height: 20px; }}
.matrix tr.tall > * {{ height: 50px; }}
.matrix thead tr:last-child th {{ font-weight: 400; font-size: 13px; border-bottom: 1px solid var(--ink); }}
.matrix th.corpus {{ text-align: center; border-bottom: 1px solid var(--line); height: 38px; }}
.matrix tbody th.name {{ text-align: left; font-weight: 400; padding-left: 0; }}
.matrix small {{ display: block; color: var(--quiet); font-size: 11px; font-weight: 400; }}
.matrix .best {{ font-weight: 700; }}
.matrix tr.rule > * {{ border-top: 1px solid var(--line); }}
.matrix tbody tr:last-child > * {{ border-bottom: 1px solid var(--ink); }}
/* Abreast, the first table names the rows for all; one below the other, each does. */
@media (min-width: {_ABREAST_PIXELS}px) {{ .matrix {{ flex-wrap: nowrap; }} }}
@media (min-width: {_ABREAST_PIXELS}px) {{ .matrix table + table .name {{ display: none; }} }}
@media (max-width: {_ABREAST_PIXELS - 1}px) {{ .matrix {{ flex-direction: column; }} }}
@media (max-width: 640px) {{
  .matrix th, .matrix td, .matrix thead tr:last-child th {{ padding: 2px; font-size: 12px; }}
  .matrix small {{ font-size: 10px; }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Tables abreast: their metrics, the same in each, and a corpus a table."""

    metrics: Sequence[str]
    corpora: Sequence[CorpusScores]

    def css(self, system: str) -> str:
        """The class of a system's row: where clips failed, it has a line more in all tables alike."""
        failed = any(
            one.failures
            for corpus in self.corpora
            for name, one in corpus.summaries(system).items()
            if name in self.metrics
        )
        return "tall" if failed else ""


def matrices(summary: EvaluationSummary, statistics: Statistics, published: PublishedTable) -> str:
    """Blocks of corpora abreast.

    The published rows stand in a corpus's table where they are its own, and else in a block of theirs.
    """
    blocks = list(_ours(summary, statistics, published))
    names = {corpus.name for corpus in summary.corpora}
    if elsewhere := [name for name in published.corpora if name not in names]:
        blocks.append(
            f'<h3>As published <span class="quiet">{escape(published.title)}: trained on'
            f" {escape(published.corpora[published.in_domain])}; below a mean, its standard deviation over"
            " seeds</span></h3>\n" + _block(_published_table(name, published) for name in elsewhere)
        )
    _, *further = abreast(summary.metrics)
    if further:
        blocks.append("<h3>Further metrics</h3>\n")
    for metrics in further:
        blocks += [
            _block(
                _further_table(corpus, summary, statistics[corpus.name], columns)
                for corpus in columns.corpora
            )
            for columns in (_Columns(metrics=metrics, corpora=corpora) for corpora in _abreast(summary))
        ]
    return "".join(blocks)


def _abreast(summary: EvaluationSummary) -> Iterator[Sequence[CorpusScores]]:
    for at in range(0, len(summary.corpora), _CORPORA_ABREAST):
        yield summary.corpora[at : at + _CORPORA_ABREAST]


def _ours(summary: EvaluationSummary, statistics: Statistics, published: PublishedTable) -> Iterator[str]:
    for corpora in _abreast(summary):
        here = any(corpus.name in published.corpora for corpus in corpora)
        yield _block(
            _corpus_table(corpus, summary, statistics[corpus.name], corpora, published if here else None)
            for corpus in corpora
        )


def _block(tables: Iterator[str]) -> str:
    return f'<div class="matrix">{"".join(tables)}</div>\n'


def _corpus_table(
    corpus: CorpusScores,
    summary: EvaluationSummary,
    statistics: CorpusStatistics,
    beside: Sequence[CorpusScores],
    published: PublishedTable | None,
) -> str:
    columns = _Columns(metrics=TABLE1_METRICS, corpora=beside)
    rows = [_row(NOISY, "", _cells(corpus, NOISY, columns, statistics), css=columns.css(NOISY))]
    # Where one corpus has a published row all get that line, so that lines stay level.
    if any(one.published is not None for one in beside):
        differences = corpus.differences()
        texts = [
            escape(signed(name, differences.get(name))) if corpus.published else "" for name in TABLE1_METRICS
        ]
        rows.append(_row("noisy − published", "", texts, css="slim"))
    rows += _systems(corpus, summary, columns, statistics)
    if len(summary.configurations) == 1:
        rows += [_gain(corpus, summary.systems[0], TABLE1_METRICS), *_noisy_phase(corpus, summary.systems[0])]
    if published is not None:
        rows += _published_rows(corpus.name, published, note=", published")
    domain = "in-domain" if corpus is summary.corpora[0] and len(summary.corpora) > 1 else ""
    about = " · ".join(filter(None, (domain, f"{len(corpus.clips)} clips", _verdict(corpus))))
    return _table(corpus.name, about, TABLE1_METRICS, rows)


def _further_table(
    corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics, columns: _Columns
) -> str:
    """A corpus in metrics that have no published rows."""
    rows = [_row(NOISY, "", _cells(corpus, NOISY, columns, statistics), css=columns.css(NOISY))]
    rows += _systems(corpus, summary, columns, statistics)
    if len(summary.configurations) == 1:
        rows.append(_gain(corpus, summary.systems[0], columns.metrics))
    return _table(corpus.name, f"{len(corpus.clips)} clips", columns.metrics, rows)


def _verdict(corpus: CorpusScores) -> str:
    verdict = corpus.verdict()
    return "" if verdict is None else verdict.partition(":")[0].replace(" with the published row", "")


def _systems(
    corpus: CorpusScores, summary: EvaluationSummary, columns: _Columns, statistics: CorpusStatistics
) -> Iterator[str]:
    best, css = _best(corpus, summary), "rule"
    for configuration, systems in summary.configurations.items():
        if over := statistics.spreads.get(configuration):
            texts = [_spread(name, over[name]) if name in over else "" for name in columns.metrics]
            about = f"{len(systems)} seeds, {_size(summary.of(configuration))}"
            yield _row(configuration, about, texts, css=css)
            css = ""
        for system in systems:
            cells = _cells(corpus, system, columns, statistics)
            marked = [
                f'<span class="best">{text}</span>' if (system, name) in best else text
                for name, text in zip(columns.metrics, cells, strict=True)
            ]
            about = "" if len(systems) > 1 else _size(summary.of(configuration))
            yield _row(system, about, marked, css=f"{css} {columns.css(system)}".strip())
            css = ""


def _best(corpus: CorpusScores, summary: EvaluationSummary) -> set[tuple[str, str]]:
    """(system, metric) of the highest mean of each metric, where there are several systems."""
    if len(summary.systems) < 2:
        return set()
    found = set()
    for metric in summary.metrics:
        means = [
            (value, one.name)
            for one in summary.systems
            if (value := corpus.means(one.name)[metric]) is not None
        ]
        if means:
            found.add((max(means)[1], metric))
    return found


def _gain(corpus: CorpusScores, system: System, metrics: Sequence[str]) -> str:
    """A row that there is room for where one system stands alone; so is the next one."""
    gains = corpus.gains(system.name)
    return _row("gain", "", [escape(signed(name, gains[name])) for name in metrics], css="slim")


def _noisy_phase(corpus: CorpusScores, system: System) -> Iterator[str]:
    if isinstance(system, Model):
        phase = corpus.summaries(system.name)[NOISY_PHASE]
        texts = [""] * (len(TABLE1_METRICS) - 1) + [escape(cell(NOISY_PHASE, phase))]
        yield _row("with the noisy phase", "", texts, css="slim")


def _size(system: System) -> str:
    if not isinstance(system, Model):
        return "ready-made outputs"
    millions = system.parameters / 1e6
    return f"{millions:.2f} M · {system.giga_flops:.2f} GFLOPs"


def _cells(corpus: CorpusScores, system: str, columns: _Columns, statistics: CorpusStatistics) -> list[str]:
    """Means, below each its interval, and below that how many clips failed."""
    summaries, intervals = corpus.summaries(system), statistics.intervals[system]
    return [
        f"{number(name, summaries[name].mean)}{_below(name, intervals[name], summaries[name].failures)}"
        for name in columns.metrics
    ]


def _below(name: str, interval: Interval | None, failures: int) -> str:
    lines = [*([_short(name, interval)] if interval else []), *([f"{failures} failed"] if failures else [])]
    return "".join(f"<small>{line}</small>" for line in lines or ["&nbsp;"])


def _spread(name: str, one: SeedSpread) -> str:
    return f"{number(name, one.mean)}<small>±{number(name, one.std)}</small>"


def _short(name: str, interval: Interval) -> str:
    """An interval with a digit less than the mean: the last one would say nothing."""
    digits = decimals(name) - 1
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _published_table(corpus: str, published: PublishedTable) -> str:
    return _table(
        published.corpora[corpus], "published", TABLE1_METRICS, list(_published_rows(corpus, published))
    )


def _published_rows(corpus: str, published: PublishedTable, *, note: str = "") -> Iterator[str]:
    """The published rows of a corpus; empty ones for a corpus beside it that has none."""
    for at, row in enumerate(published.rows):
        cells = published.cells(row, corpus) if corpus in published.corpora else {}
        texts = [_published_cell(name, cells.get(name)) for name in TABLE1_METRICS]
        yield _row(f"{row.model}{note}", _published_size(row), texts, css="rule" if at == 0 else "")


def _published_cell(name: str, one: Cell | None) -> str:
    if one is None:
        return ""
    std = "&nbsp;" if one.std is None else f"±{one.std:.3f}"
    return f"{number(name, one.mean)}<small>{std}</small>"


def _published_size(row: PublishedRow) -> str:
    if row.parameters_millions is None or row.giga_flops is None:
        return ""
    return f"{row.parameters_millions:.2f} M · {row.giga_flops:.2f} GFLOPs"


def _table(name: str, about: str, metrics: Sequence[str], rows: Sequence[str]) -> str:
    heads = "".join(
        f"<th>{escape(label(name))}<small>{unit(name) or '&nbsp;'}</small></th>" for name in metrics
    )
    return (
        f'<table><thead><tr><th class="name"></th><th class="corpus" colspan="{len(metrics)}">'
        f"{escape(name)}<small>{escape(about)}</small></th></tr>"
        f'<tr><th class="name"></th>{heads}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table>\n'
    )


def _row(name: str, about: str, cells: Sequence[str], css: str = "") -> str:
    """A row; `name` and `about` are text, `cells` are HTML."""
    body = "".join(f"<td>{text}</td>" for text in cells)
    small = f"<small>{escape(about)}</small>" if about else ""
    return f'<tr class="{css}"><th class="name" scope="row">{escape(name)}{small}</th>{body}</tr>\n'
