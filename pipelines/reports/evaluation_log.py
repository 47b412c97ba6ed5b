"""An evaluation in MLflow: a parent run with the score table, figures and the report, and one child run per
system and corpus with its means, intervals and scores by clip.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.core.datasets import LoggedDataset
from pipelines.core.tracking import Tracker, commit
from pipelines.evaluation.clip_scores import NOISY, ClipAudio, ClipScores
from pipelines.evaluation.clips import EvaluationSet, load_clip
from pipelines.evaluation.corpus_statistics import CorpusStatistics
from pipelines.evaluation.results import CHILD_KIND, KIND, CorpusScores, EvaluationSummary
from pipelines.evaluation.score_cache import scoring_version
from pipelines.evaluation.set_scorer import SetScorer
from pipelines.evaluation.systems import Model, Outputs, System
from pipelines.reports.evaluation_entities import corpus_dataset, log_domains
from pipelines.reports.evaluation_figures import evaluation_figures
from pipelines.reports.evaluation_gain_figure import gain_figure, gain_limits
from pipelines.reports.evaluation_report import ScoredSample, encode_audio, evaluation_html
from pipelines.reports.score_table import StatisticsByCorpus, markdown_table
from rwsa.config import as_mapping
from rwsa.metrics import Failure, metrics_version

CLIPS_TABLE = "clips.json"
SCORES_TABLE = "scores.json"
REPORT_FILE = "report.html"
# Tag of a parent run with all of its files.
_KEY = "rwsa.evaluation_key"
# Audio of more systems would make a report too large to open.
_MAX_SYSTEMS_WITH_AUDIO = 4


def finished_run(tracker: Tracker, key: str) -> str | None:
    """The id of the complete run of the evaluation with this key, None without one."""
    runs = tracker.client.search_runs([tracker.experiment_id], f"tags.`{_KEY}` = '{key}'", max_results=1)
    if not runs:
        return None
    tracker.record(runs[0].info.run_id, runs[0].info.run_name)
    return str(runs[0].info.run_id)


def select_samples(
    scorer: SetScorer, summary: EvaluationSummary, sets: Sequence[EvaluationSet], count: int
) -> list[ScoredSample]:
    """Audio samples, `count` clips per corpus, from the least to the largest gain of the first system.

    Raises:
        InputError: a clip or an output can no longer be read, or see `SetScorer.enhance_samples`.
    """
    systems = [summary.of(name) for name in summary.configurations][:_MAX_SYSTEMS_WITH_AUDIO]
    if not systems:
        return []
    chosen = [
        (at, label, index)
        for at, corpus in enumerate(summary.corpora)
        for label, index in corpus.select_clips(systems[0].name, count)
    ]
    enhanced = scorer.enhance_samples([(at, index) for at, _, index in chosen], systems)
    samples = []
    for (at, label, index), signals in zip(chosen, enhanced, strict=True):
        noisy, clean = load_clip(sets[at].clips[index])
        audio = ClipAudio(signals={NOISY: noisy, **signals, "clean": clean})
        samples.append(ScoredSample(label=label, scores=summary.corpora[at].clips[index], audio=audio))
    return samples


def log_evaluation(
    tracker: Tracker,
    summary: EvaluationSummary,
    statistics: StatisticsByCorpus,
    samples: Sequence[ScoredSample],
    *,
    key: str,
    parent: str | None = None,
    examples: int | None = None,
    models: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Log a complete evaluation; returns the id of its run.

    Args:
        tracker, summary, statistics, samples: what to log, and where.
        key: by which `finished_run` finds it.
        parent: id of the run to nest it under.
        examples: clips per corpus that were asked for.
        models: system -> id of its logged model, to which its scores belong, too.
    """
    datasets = {corpus.name: corpus_dataset(corpus) for corpus in summary.corpora}
    tags = {
        "rwsa.kind": KIND,
        "commit": commit(),
        "mlflow.note.content": markdown_table(summary, statistics),
        **_noisy_row_tags(summary.corpora),
        **_data_tags(summary.corpora),
    }
    params = _params(summary, examples)
    with tracker.run(summary.name, parent=parent, params=params, tags=tags) as run:
        run.log_datasets(*datasets.values())
        run.log_metrics(0, _metric_values(summary))
        for system in summary.systems:
            model_id = models.get(system.name)
            for corpus in summary.corpora:
                _log_child(
                    tracker,
                    run.run_id,
                    summary,
                    system,
                    corpus,
                    statistics[corpus.name],
                    model_id=model_id,
                    dataset=datasets[corpus.name],
                )
            if model_id is not None:
                log_domains(run, summary, system, model_id, datasets)
        run.log_table(SCORES_TABLE, score_columns(summary, statistics))
        with tempfile.TemporaryDirectory(prefix="rwsa-evaluation-") as folder:
            _write_artifacts(Path(folder), summary, statistics, samples, run.run_id)
            run.log_file(Path(folder))
        # Last, so that an incomplete run is never taken for this evaluation.
        run.tag(**{_KEY: key})
    return run.run_id


def _params(summary: EvaluationSummary, examples: int | None) -> dict[str, Any]:
    return {
        "systems": ", ".join(system.name for system in summary.systems) or "none",
        "in_domain": summary.one_domain or dict(summary.trained_on),
        "examples": "as the cards say" if examples is None else examples,
        "clips": {corpus.name: len(corpus.clips) for corpus in summary.corpora},
        "metrics": ", ".join(summary.metrics),
        "metrics_version": metrics_version(summary.metrics),
        "scoring_code": scoring_version(),
    }


def _noisy_row_tags(corpora: Sequence[CorpusScores]) -> dict[str, str]:
    verdicts = {corpus.name: corpus.verdict() for corpus in corpora}
    return {f"noisy_row.{name}": verdict or "nothing published" for name, verdict in verdicts.items()}


def _data_tags(corpora: Sequence[CorpusScores]) -> dict[str, str]:
    return {f"data_sha256.{corpus.name}": corpus.data_sha256 or "unreadable clips" for corpus in corpora}


def _metric_values(summary: EvaluationSummary) -> dict[str, float]:
    """Means as `CORPUS.SYSTEM.METRIC`, and the evaluation's durations."""
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


def score_columns(summary: EvaluationSummary, statistics: StatisticsByCorpus) -> dict[str, list[Any]]:
    """The table of means by column, one row per corpus, system and metric."""
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
    *,
    model_id: str | None,
    dataset: LoggedDataset,
) -> None:
    in_domain = summary.in_domain(system.configuration)
    tags = {
        "rwsa.kind": CHILD_KIND,
        "commit": commit(),
        "rwsa.system": system.name,
        "rwsa.configuration": system.configuration,
        "rwsa.corpus": corpus.name,
        "rwsa.domain": "in" if corpus.name == in_domain else "out",
        "rwsa.in_domain_corpus": in_domain,
        "rwsa.scoring_code": scoring_version(),
        **_noisy_row_tags([corpus]),
        **_data_tags([corpus]),
        **({"weights_sha256": system.sha256} if isinstance(system, Model) else {}),
    }
    params = {"corpus": corpus.name, "clips": len(corpus.clips), **_system_params(system)}
    with tracker.run(f"{system.name} on {corpus.name}", parent=parent, params=params, tags=tags) as run:
        run.log_datasets(dataset)
        if model_id is not None:
            run.use_model(model_id)
        values = child_metrics(system.name, corpus, statistics)
        # Of a model's scores, MLflow's table of models has room for means and gains.
        of_model = {name: values[name] for name in values if name.removeprefix("gain.") in corpus.metrics}
        run.log_metrics(0, {name: values[name] for name in values.keys() - of_model.keys()})
        run.log_metrics(0, of_model, model_id=model_id, dataset=dataset)
        run.log_table(CLIPS_TABLE, clip_columns(system.name, corpus))


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
    """Means (`pesq`), intervals, means of the noisy input, gains and counts of failures of a child run.

    The names do not contain the corpus, so that MLflow compares corpora.
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
    """The table of clips by column; a failed score is None, with its reason in `failures`."""
    rows = [_clip_row(system, clip) for clip in corpus.clips]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _clip_row(system: str, clip: ClipScores) -> dict[str, Any]:
    signals = {"": system, "noisy_": NOISY}
    return {
        # MLflow shows only the first columns, so scores come first, and leaves columns empty whose name has a
        # dot.
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
    statistics: StatisticsByCorpus,
    samples: Sequence[ScoredSample],
    run_id: str,
) -> None:
    for sample in samples:
        stem = f"{sample.scores.corpus}/{sample.label}"
        for number, row in enumerate(sample.spectrograms, 1):
            suffix = f"-{number}" if len(sample.spectrograms) > 1 else ""
            _write(folder / f"spectrograms/{stem}{suffix}.svg", row.svg)
        for name in sample.audio.signals:
            _write(folder / f"audio/{stem}.{name}.flac", encode_audio(sample.audio, name))
    limits = gain_limits(summary)
    gains = {corpus.name: gain_figure(corpus, summary, limits) for corpus in summary.corpora}
    figures = evaluation_figures(summary, statistics)
    for name, figure in {**figures, **gains}.items():
        _write(folder / f"figures/{name}.svg", figure.svg)
    html = evaluation_html(
        summary,
        statistics,
        about=_about(summary, run_id),
        figures=list(figures.values()),
        gain_figures=gains,
        samples=samples,
    )
    _write(folder / REPORT_FILE, html.encode())


def _about(summary: EvaluationSummary, run_id: str) -> Mapping[str, str]:
    cached, signals = summary.cached
    costs = " + ".join(f"{kind} {seconds:.0f} s" for kind, seconds in summary.cpu_seconds.items())
    return {
        "commit": commit(),
        "duration": f"{summary.seconds:.0f} s (CPU time: {costs}); {cached} of {signals} scores cached",
        "MLflow run": run_id,
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
