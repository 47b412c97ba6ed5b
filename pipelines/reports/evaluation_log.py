"""An evaluation in MLflow: a run with the whole table, pictures and the report page, and below it one run
for each system on each corpus, with figures, intervals and the table of clips.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.tracking import Tracker, commit
from pipelines.evaluation.clip_scores import NOISY, ClipAudio, ClipScores
from pipelines.evaluation.clips import EvaluationSet, load_clip
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.results import CHILD_KIND, KIND, CorpusScores, EvaluationSummary
from pipelines.evaluation.score_cache import scoring_version
from pipelines.evaluation.scored_sets import SetScorer
from pipelines.evaluation.systems import Model, Outputs, System
from pipelines.reports.clip_spectrograms import spectrogram_rows
from pipelines.reports.corpus_figure import gain_picture, picture_limits
from pipelines.reports.evaluation_figures import evaluation_pictures
from pipelines.reports.evaluation_report import ReportClip, encode_audio, render_report
from pipelines.reports.score_table import Statistics, markdown_table
from rwsa.config import as_mapping
from rwsa.metrics import Failure, version

CLIPS = "clips.json"
SCORES = "scores.json"
REPORT = "report.html"
# Of a parent run whose every file is there.
_KEY = "rwsa.evaluation_key"
# More would make pages of many systems too heavy to open.
_HEARD_SYSTEMS = 4


@dataclass(frozen=True, kw_only=True)
class HeardClip:
    """A clip chosen to be looked at and listened to; `label` says as what (worst, median, best)."""

    label: str
    scores: ClipScores
    audio: ClipAudio


def finished_run(tracker: Tracker, key: str) -> str | None:
    """The run that has all of the evaluation of this key, if there is one."""
    runs = tracker.client.search_runs([tracker.experiment_id], f"tags.`{_KEY}` = '{key}'", max_results=1)
    return runs[0].info.run_id if runs else None


def hear_chosen(
    scorer: SetScorer, summary: EvaluationSummary, sets: Sequence[EvaluationSet], count: int
) -> list[HeardClip]:
    """The signals of `count` clips a corpus, from the least to the most gain of the first system.

    Raises:
        InputError: a clip or an output cannot be read any longer, or see `SetScorer.hear`.
    """
    systems = [summary.of(name) for name in summary.configurations][:_HEARD_SYSTEMS]
    if not systems:
        return []
    chosen = [
        (at, label, index)
        for at, corpus in enumerate(summary.corpora)
        for label, index in corpus.chosen(systems[0].name, count)
    ]
    enhanced = scorer.hear([(at, index) for at, _, index in chosen], systems)
    heard = []
    for (at, label, index), signals in zip(chosen, enhanced, strict=True):
        noisy, clean = load_clip(sets[at].clips[index])
        audio = ClipAudio(signals={NOISY: noisy, **signals, "clean": clean})
        heard.append(HeardClip(label=label, scores=summary.corpora[at].clips[index], audio=audio))
    return heard


def log_evaluation(
    tracker: Tracker,
    summary: EvaluationSummary,
    statistics: Statistics,
    heard: Sequence[HeardClip],
    *,
    key: str,
    parent: str | None = None,
    examples: int | None = None,
) -> str:
    """Log all of an evaluation; returns the id of its run."""
    tags = {
        "rwsa.kind": KIND,
        "commit": commit(),
        "mlflow.note.content": markdown_table(summary, statistics),
        **_noisy_row_tags(summary.corpora),
        **_data_tags(summary.corpora),
    }
    params = _params(summary, examples)
    with tracker.run(summary.name, parent=parent, params=params, tags=tags) as run:
        run.log(0, _metric_values(summary))
        for system in summary.systems:
            for corpus in summary.corpora:
                _log_child(tracker, run.run_id, summary, system, corpus, statistics[corpus.name])
        run.table(SCORES, score_columns(summary, statistics))
        with tempfile.TemporaryDirectory(prefix="rwsa-evaluation-") as folder:
            _write_artifacts(Path(folder), summary, statistics, heard, run.run_id)
            run.file(Path(folder))
        # Last, so that a run that lacks something never passes for this evaluation.
        run.tag(**{_KEY: key})
    return run.run_id


def _params(summary: EvaluationSummary, examples: int | None) -> dict[str, Any]:
    return {
        "systems": ", ".join(system.name for system in summary.systems) or "none",
        "in_domain": summary.corpora[0].name,
        "examples": "as the cards say" if examples is None else examples,
        "clips": {corpus.name: len(corpus.clips) for corpus in summary.corpora},
        "metrics": ", ".join(summary.metrics),
        "metrics_version": version(summary.metrics),
        "scoring_code": scoring_version(),
    }


def _noisy_row_tags(corpora: Sequence[CorpusScores]) -> dict[str, str]:
    verdicts = {corpus.name: corpus.verdict() for corpus in corpora}
    return {f"noisy_row.{name}": verdict or "nothing published" for name, verdict in verdicts.items()}


def _data_tags(corpora: Sequence[CorpusScores]) -> dict[str, str]:
    return {f"data_sha256.{corpus.name}": corpus.data_sha256 or "unreadable clips" for corpus in corpora}


def _metric_values(summary: EvaluationSummary) -> dict[str, float]:
    """Means as `CORPUS.SYSTEM.METRIC`, and what the evaluation cost."""
    values = {f"seconds.{kind}_cpu": seconds for kind, seconds in summary.cpu_seconds.items()}
    values["seconds.wall"] = summary.seconds
    for corpus in summary.corpora:
        for system in corpus.systems:
            values |= {
                f"{corpus.name}.{system}.{metric}": mean
                for metric, mean in corpus.means(system).items()
                if mean is not None
            }
    return values


def score_columns(summary: EvaluationSummary, statistics: Statistics) -> dict[str, list[Any]]:
    """The table of means by column: a row a system, corpus and metric."""
    rows = [
        {
            "corpus": corpus.name,
            "system": system,
            "metric": metric,
            "mean": _rounded(one.mean),
            "low": _rounded(None if (interval := intervals[metric]) is None else interval.low),
            "high": _rounded(None if interval is None else interval.high),
            "clips": one.count,
            "failed": one.failures,
        }
        for corpus in summary.corpora
        for system in corpus.systems
        if (intervals := statistics[corpus.name].intervals[system]) is not None
        for metric, one in corpus.summaries(system).items()
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _log_child(
    tracker: Tracker,
    parent: str,
    summary: EvaluationSummary,
    system: System,
    corpus: CorpusScores,
    statistics: CorpusStatistics,
) -> None:
    domain = "in" if corpus is summary.corpora[0] else "out"
    tags = {
        "rwsa.kind": CHILD_KIND,
        "commit": commit(),
        "rwsa.system": system.name,
        "rwsa.configuration": system.configuration,
        "rwsa.corpus": corpus.name,
        "rwsa.domain": domain,
        "rwsa.in_domain_corpus": summary.corpora[0].name,
        "rwsa.scoring_code": scoring_version(),
        **_noisy_row_tags([corpus]),
        **_data_tags([corpus]),
        **({"weights_sha256": system.sha256} if isinstance(system, Model) else {}),
    }
    params = {"corpus": corpus.name, "clips": len(corpus.clips), **_system_params(system)}
    with tracker.run(f"{system.name} on {corpus.name}", parent=parent, params=params, tags=tags) as run:
        run.log(0, child_metrics(system.name, corpus, statistics))
        run.table(CLIPS, clip_columns(system.name, corpus))


def _system_params(system: System) -> dict[str, Any]:
    if isinstance(system, Outputs):
        return {"system": system.name, "outputs": system.folder}
    return {
        "system": system.name,
        "weights": system.weights,
        "weights_sha256": system.sha256,
        "parameters": system.parameters,
        "model": as_mapping(system.config),
    }


def child_metrics(system: str, corpus: CorpusScores, statistics: CorpusStatistics) -> dict[str, float]:
    """`pesq`, its interval, what the noisy input has, the gain, and counts of what failed; all corpora alike,
    so that MLflow compares them.
    """
    noisy, gains = corpus.means(NOISY), corpus.gains(system)
    values: dict[str, float | None] = {
        "clips": len(corpus.clips),
        "clips_failed": sum(bool(clip.failures) for clip in corpus.clips),
    }
    for name, one in corpus.summaries(system).items():
        values[name] = one.mean
        values[f"{name}.failed"] = one.failures or None
        if (interval := statistics.intervals[system][name]) is not None:
            values |= {f"{name}.low": interval.low, f"{name}.high": interval.high}
    for name in corpus.metrics:
        values |= {f"noisy.{name}": noisy[name], f"gain.{name}": gains[name]}
    return {name: value for name, value in values.items() if value is not None}


def clip_columns(system: str, corpus: CorpusScores) -> dict[str, list[Any]]:
    """The table of clips by column; what failed is None and told in `failures`."""
    rows = [_clip_row(system, clip) for clip in corpus.clips]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _clip_row(system: str, clip: ClipScores) -> dict[str, Any]:
    signals = {"": system, "noisy_": NOISY}
    return {
        # MLflow shows few columns at a time, so what one compares comes first; one whose name has a dot in
        # it, it shows empty.
        "clip": clip.clip_id.removeprefix(f"{clip.corpus}/"),
        "gain_si_sdr": _rounded(clip.gain("si_sdr", system)),
        **{
            f"{prefix}{metric}": _rounded(value)
            for prefix, name in signals.items()
            for metric, value in clip.signals[name].values.items()
        },
        "input_snr_db": _rounded(clip.input_snr_db),
        "speaker": clip.speaker,
        "environment": clip.environment,
        "seconds": clip.seconds,
        "clipped_share": _rounded(clip.signals[system].clipped_share),
        "failures": "; ".join(clip.failures),
    }


def _rounded(value: float | Failure | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else None


def _write_artifacts(
    folder: Path,
    summary: EvaluationSummary,
    statistics: Statistics,
    heard: Sequence[HeardClip],
    run_id: str,
) -> None:
    clips = []
    for clip in heard:
        stem = f"{clip.scores.corpus}/{clip.label}"
        rows = spectrogram_rows(clip.audio, clip.scores)
        clips.append(ReportClip(label=clip.label, scores=clip.scores, audio=clip.audio, rows=rows))
        for number, row in enumerate(rows, 1):
            suffix = f"-{number}" if len(rows) > 1 else ""
            _write(folder / f"spectrograms/{stem}{suffix}.svg", row.picture)
        for name in clip.audio.signals:
            _write(folder / f"audio/{stem}.{name}.flac", encode_audio(clip.audio, name))
    limits = picture_limits(summary)
    gains = {corpus.name: gain_picture(corpus, summary, limits) for corpus in summary.corpora}
    pictures = evaluation_pictures(summary, statistics)
    for name, picture in {**{p.name: p.svg for p in pictures}, **gains}.items():
        _write(folder / f"pictures/{name}.svg", picture)
    page = render_report(
        summary, statistics, about=_about(summary, run_id), pictures=pictures, gains=gains, clips=clips
    )
    _write(folder / REPORT, page.encode())


def _about(summary: EvaluationSummary, run_id: str) -> Mapping[str, str]:
    kept, signals = summary.kept
    costs = " + ".join(f"{kind} {seconds:.0f} s" for kind, seconds in summary.cpu_seconds.items())
    return {
        "commit": commit(),
        "took": f"{summary.seconds:.0f} s (CPU time: {costs}); {kept} of {signals} scores from before",
        "MLflow run": run_id,
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
