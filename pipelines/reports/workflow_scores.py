"""Scores of the evaluations of a workflow on all corpora, from the files that `pipelines.evaluate` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.evaluation.clip_scores import NOISY, sign
from pipelines.evaluation.metric_labels import column_groups, label, unit
from pipelines.evaluation.published_tables import PublishedTable
from pipelines.reports.score_table import format_score
from pipelines.reports.score_table_html import CorpusTable, ScoreBlock, TableCell, TableRow, rows_beside
from rwsa.metrics import METRICS, TABLE1_METRICS

_SIDE_BY_SIDE = 3
_CLIPS = "clips"
_MOST_PUBLISHED = 16


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """What one evaluation wrote.

    Attributes:
        name: of its step's instance; empty if there is one only.
        trained_on: configuration -> corpus; of others, the first corpus is the in-domain one.
    """

    name: str
    corpora: Mapping[str, Mapping[str, Any]]
    trained_on: Mapping[str, str] = field(default_factory=dict)

    def in_domain(self, system: str) -> str:
        """The corpus that a system was trained on; those of several seeds are named `CONFIGURATION N`."""
        first = next(iter(self.corpora))
        return self.trained_on.get(system) or self.trained_on.get(system.rpartition(" ")[0], first)


def readable(values: Any) -> bool:
    """Whether the content of a score file is what `EvaluationSummary.as_json` writes."""
    if not isinstance(values, Mapping):
        return False
    corpora = values.get("corpora")
    return (
        isinstance(values.get("trained_on", {}), Mapping)
        and isinstance(corpora, Mapping)
        and bool(corpora)
        and all(
            isinstance(one, Mapping)
            and all(name == _CLIPS or isinstance(row, Mapping) for name, row in one.items())
            and NOISY in one
            for one in corpora.values()
        )
    )


def workflow_score_blocks(
    files: Sequence[ScoreFile], published: Sequence[PublishedTable]
) -> list[ScoreBlock]:
    """One table of all evaluations of a step: systems by corpora and metrics."""
    corpora = list(dict.fromkeys(name for file in files for name in file.corpora))
    metrics = [name for name in _metrics(files) if name in METRICS]
    blocks = []
    for group in column_groups(metrics):
        for at in range(0, len(corpora), _SIDE_BY_SIDE):
            side = corpora[at : at + _SIDE_BY_SIDE]
            tables = [_table(corpus, side, files, group, published) for corpus in side]
            blocks.append(ScoreBlock(tables=tables))
    return blocks


def _metrics(files: Sequence[ScoreFile]) -> list[str]:
    return list(
        dict.fromkeys(metric for file in files for one in file.corpora.values() for metric in one[NOISY])
    )


def _table(
    corpus: str,
    side_by_side: Sequence[str],
    files: Sequence[ScoreFile],
    metrics: Sequence[str],
    published: Sequence[PublishedTable],
) -> CorpusTable:
    rows = [
        TableRow(name=name, cells=_cells(scores, metrics), css="slim")
        for name, scores in _noisy_rows(corpus, files)
    ]
    systems = list(_system_rows(corpus, files))
    best = _best([scores for _, scores, _ in systems], metrics)
    domains = {file.in_domain(name) for file in files for name in _systems(file)}
    several_domains = len(domains) > 1
    for number, (name, scores, in_domain) in enumerate(systems):
        cells = [
            TableCell(
                text=cell.text, best=scores is not None and best.get(metric) == scores.get(metric) is not None
            )
            for cell, metric in zip(_cells(scores, metrics), metrics, strict=True)
        ]
        rule = "" if number else " rule"
        if several_domains:
            note = ("in-domain" if in_domain else "",)
            rows.append(
                TableRow(name=name, cells=[dataclasses.replace(cells[0], notes=note), *cells[1:]], css=rule)
            )
        else:
            rows.append(TableRow(name=name, cells=cells, css=f"slim{rule}"))
    is_table1 = tuple(metrics) == TABLE1_METRICS
    if is_table1:
        rows += list(rows_beside(corpus, side_by_side, published))[:_MOST_PUBLISHED]
    clips = next((file.corpora[corpus].get(_CLIPS) for file in files if corpus in file.corpora), None)
    first = domains == {corpus} and len(files[0].corpora) > 1
    about = " · ".join(["in-domain"] * first + ([f"{clips} clips"] if clips is not None else []))
    columns = [(label(name), unit(name)) for name in metrics]
    return CorpusTable(name=corpus, about=about, columns=columns, rows=rows)


def _noisy_rows(corpus: str, files: Sequence[ScoreFile]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """One row if all evaluations have the same noisy scores wherever they share a corpus, else one each."""
    found: dict[str, set[str]] = {}
    for file in files:
        for name, one in file.corpora.items():
            found.setdefault(name, set()).add(repr(sorted(one[NOISY].items())))
    if all(len(one) == 1 for one in found.values()):
        yield (
            NOISY,
            next((file.corpora[corpus][NOISY] for file in files if corpus in file.corpora), None),
        )
        return
    for file in files:
        yield f"{file.name} · {NOISY}", file.corpora[corpus][NOISY] if corpus in file.corpora else None


def _system_rows(
    corpus: str, files: Sequence[ScoreFile]
) -> Iterator[tuple[str, Mapping[str, Any] | None, bool]]:
    """(name, scores, whether in-domain) of each system of each evaluation, the same ones for every corpus."""
    names = [name for file in files for name in _systems(file)]
    for file in files:
        for name in _systems(file):
            shown = f"{file.name} · {name}" if file.name and names.count(name) > 1 else name
            yield shown, file.corpora.get(corpus, {}).get(name), corpus == file.in_domain(name)


def _systems(file: ScoreFile) -> list[str]:
    return list(
        dict.fromkeys(name for one in file.corpora.values() for name in one if name not in (_CLIPS, NOISY))
    )


def _best(rows: Sequence[Mapping[str, Any] | None], metrics: Sequence[str]) -> dict[str, float]:
    """Metric -> the best mean, where there are several systems."""
    scored = {
        metric: [row[metric] for row in rows if row is not None and row.get(metric) is not None]
        for metric in metrics
    }
    return {
        metric: max(values, key=lambda value: sign(metric) * value)
        for metric, values in scored.items()
        if len(values) > 1
    }


def _cells(scores: Mapping[str, Any] | None, metrics: Sequence[str]) -> list[TableCell]:
    return [
        TableCell(text="" if scores is None else format_score(metric, scores.get(metric)))
        for metric in metrics
    ]
