"""What the report page says below its matrix: tests between systems, kinds of clips, the worst of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.corpus_statistics import Compared, CorpusStatistics, Group, clip_values, mean
from pipelines.evaluation.metric_labels import abreast, heading
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.reports.page import table
from pipelines.reports.score_table import MISSING, Statistics, number, signed
from rwsa.statistics import MIN_PAIRS

STYLE = """
.tests small { display: block; color: var(--quiet); font-size: 12px; }
.tests td { min-width: 9em; }
.kinds thead tr:first-child th { border-bottom: 0; padding-bottom: 0; }
.kinds thead tr:last-child th { font-weight: 400; }
summary { cursor: pointer; margin: 10px 0 2px; }
"""
_GROUP_METRICS = ("pesq", "si_sdr")
# Longer tables are folded away until somebody asks.
_UNFOLDED_ROWS = 8
_READING = (
    "Difference of the means of first and second, over clips that both have; below, p of the two-sided"
    " Wilcoxon signed-rank test after Holm's correction over all tests of a corpus, and clips won / tied /"
    " lost by the first. Clips of one speaker are not independent: where speakers are few, p is too small."
    f" Fewer than {MIN_PAIRS} clips that differ allow no test."
)


def comparisons(summary: EvaluationSummary, statistics: Statistics) -> str:
    """Every two rows of the table, tested against each other, for each corpus."""
    if not summary.systems:
        return ""
    tables = "".join(
        f"<h3>{escape(corpus.name)}</h3>\n"
        f"{''.join(_tests(statistics[corpus.name].comparisons, row) for row in abreast(summary.metrics))}"
        for corpus in summary.corpora
    )
    return f'<h2>Which differences hold</h2>\n<p class="quiet">{escape(_READING)}</p>\n{tables}'


def _tests(compared: Sequence[Compared], metrics: Sequence[str]) -> str:
    pairs = dict.fromkeys((one.first, one.second) for one in compared)
    of = {(one.first, one.second, one.metric): one for one in compared}
    head = "".join(f"<th>{escape(heading(metric))}</th>" for metric in metrics)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)} against {escape(second)}</th>'
        + "".join(f"<td>{_test(of[first, second, metric])}</td>" for metric in metrics)
        + "</tr>\n"
        for first, second in pairs
    )
    return (
        f'<div class="scroll"><table class="tests"><thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _test(one: Compared) -> str:
    result = one.result
    return (
        f"{signed(one.metric, result.difference)}<small>{_p(result.p_holm)} ·"
        f" {result.wins} / {result.ties} / {result.losses}</small>"
    )


def _p(p: float | None) -> str:
    if p is None:
        return "no test"
    return "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"


def groups(corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics) -> str:
    """Means by input SNR, noise class and speaker."""
    return "".join(_grouped(kind, of_kind, corpus, summary) for kind, of_kind in statistics.groups.items())


def _grouped(kind: str, of_kind: Sequence[Group], corpus: CorpusScores, summary: EvaluationSummary) -> str:
    rows_of: Mapping[str, Sequence[str]] = {NOISY: [NOISY], **summary.configurations}
    columns = [(name, systems, metric) for metric in _GROUP_METRICS for name, systems in rows_of.items()]
    values = {(name, metric): clip_values(corpus, systems, metric) for name, systems, metric in columns}
    over = "".join(
        f'<th colspan="{len(rows_of)}">{escape(heading(metric))}</th>' for metric in _GROUP_METRICS
    )
    names = "".join(f"<th>{escape(name)}</th>" for name, _, _ in columns)
    head = f"<tr><th></th><th></th>{over}</tr>\n<tr><th>{escape(kind)}</th><th>clips</th>{names}</tr>"
    body = "".join(
        f'<tr><th scope="row">{escape(group.label)}</th><td>{len(group.clips)}</td>'
        + "".join(
            f"<td>{number(metric, mean([values[name, metric][index] for index in group.clips]))}</td>"
            for name, _, metric in columns
        )
        + "</tr>\n"
        for group in of_kind
    )
    content = f'<table class="kinds"><thead>{head}</thead>\n<tbody>{body}</tbody></table>'
    return _folded(f"By {kind}", len(of_kind), f'<div class="scroll">{content}</div>\n')


def worst(corpus: CorpusScores, summary: EvaluationSummary, statistics: CorpusStatistics) -> str:
    """The clips on which each system gains least."""
    return "".join(
        _folded(
            f"The {len(indices)} clips on which {name} gains least SI-SDR",
            len(indices) if at else 0,
            table(_WORST_HEADS, _worst_rows(corpus, summary.configurations[name], indices)),
        )
        for at, (name, indices) in enumerate(statistics.worst.items())
        if indices
    )


_WORST_HEADS = [
    *(
        "clip",
        "input SNR (dB)",
        "SI-SDR gain (dB)",
        "SI-SDR (dB)",
        "noisy SI-SDR",
        "PESQ (MOS)",
        "noisy PESQ",
    ),
    *("speaker", "noise"),
]


def _worst_rows(corpus: CorpusScores, systems: Sequence[str], indices: Sequence[int]) -> Iterator[list[str]]:
    scores = {metric: clip_values(corpus, systems, metric) for metric in _GROUP_METRICS}
    for index in indices:
        clip = corpus.clips[index]
        snr_db, after, before = clip.input_snr_db, scores["si_sdr"][index], clip.value(NOISY, "si_sdr")
        gain = None if after is None or before is None else after - before
        yield [
            clip.clip_id.removeprefix(f"{corpus.name}/"),
            MISSING if snr_db is None else f"{snr_db:.1f}",
            signed("si_sdr", gain),
            number("si_sdr", after),
            number("si_sdr", before),
            number("pesq", scores["pesq"][index]),
            number("pesq", clip.value(NOISY, "pesq")),
            clip.speaker or MISSING,
            clip.environment or MISSING,
        ]


def _folded(title: str, rows: int, content: str) -> str:
    opened = "" if rows > _UNFOLDED_ROWS else " open"
    return f"<details{opened}><summary>{escape(title)}</summary>\n{content}</details>\n"
