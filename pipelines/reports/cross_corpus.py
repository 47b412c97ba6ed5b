"""The matrix of an evaluation whose systems were trained on several corpora: trained on × scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.corpus_statistics import mean
from pipelines.evaluation.metric_labels import heading
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.reports.score_table import format_score, signed_score
from rwsa.metrics import TABLE1_METRICS


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """Mean score and mean gain over the noisy input, as text."""

    score: str
    gain: str
    in_domain: bool


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A configuration on each corpus; `elsewhere` is its mean gain over the corpora it was not trained on."""

    name: str
    trained_on: str
    cells: Sequence[MatrixCell]
    elsewhere: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The scores by one metric."""

    metric: str
    corpora: Sequence[str]
    rows: Sequence[MatrixRow]


def cross_corpus(summary: EvaluationSummary) -> list[Matrix]:
    """A matrix for each metric of Table 1; none if all systems have one in-domain corpus."""
    if summary.one_domain is not None:
        return []
    return [
        Matrix(
            metric=heading(metric),
            corpora=[corpus.name for corpus in summary.corpora],
            rows=[_row(summary, name, systems, metric) for name, systems in summary.configurations.items()],
        )
        for metric in TABLE1_METRICS
    ]


def _row(summary: EvaluationSummary, name: str, systems: Sequence[str], metric: str) -> MatrixRow:
    """Means over the seeds of a configuration."""
    in_domain = summary.in_domain(name)
    gains = {corpus.name: _gain(corpus, systems, metric) for corpus in summary.corpora}
    elsewhere = [gain for corpus, gain in gains.items() if corpus != in_domain]
    return MatrixRow(
        name=name,
        trained_on=in_domain,
        cells=[
            MatrixCell(
                score=format_score(metric, mean([corpus.means(system)[metric] for system in systems])),
                gain=signed_score(metric, gains[corpus.name]),
                in_domain=corpus.name == in_domain,
            )
            for corpus in summary.corpora
        ],
        elsewhere=signed_score(metric, mean(elsewhere)),
    )


def _gain(corpus: CorpusScores, systems: Sequence[str], metric: str) -> float | None:
    return mean([corpus.gains(system)[metric] for system in systems])
