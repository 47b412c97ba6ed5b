"""An evaluation as an MLflow run: figures, the table of clips, audio, pictures and the report page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.clip_scores import METRICS, NOISY_PHASE, ClipAudio, ClipScores
from pipelines.pictures import PANELS, gain_picture, picture_limits, spectrograms
from pipelines.report import ReportClip, encode_audio, render_report
from pipelines.results import SIGNALS, EvaluationSummary
from pipelines.score_table import markdown_table
from pipelines.tracking import TrackedRun, commit
from rwsa.config import as_mapping
from rwsa.metrics import Failure
from rwsa.models import ModelConfig

TABLE = "clips.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class HeardClip:
    """A clip chosen to be looked at and listened to; `label` says as what (worst, median, best)."""

    label: str
    scores: ClipScores
    audio: ClipAudio


def run_params(
    weights: Path, weights_sha256: str, config: ModelConfig, examples: int | None, corpora: Mapping[str, int]
) -> dict[str, Any]:
    """What the run's parameters are; `corpora` gives the number of clips of each."""
    return {
        "weights": str(weights),
        "weights_sha256": weights_sha256,
        "examples": "as the cards say" if examples is None else examples,
        "clips": dict(corpora),
        "model": as_mapping(config),
    }


def log_evaluation(
    run: TrackedRun, summary: EvaluationSummary, heard: Sequence[HeardClip], config: ModelConfig
) -> None:
    """Log all of an evaluation but its parameters."""
    run.log(0, metric_values(summary))
    run.table(TABLE, clip_columns(summary))
    verdicts = {corpus.name: verdict for corpus in summary.corpora if (verdict := corpus.verdict())}
    run.tag(
        mlflow__note__content=markdown_table(summary),
        **{f"noisy_row.{name}": verdict for name, verdict in verdicts.items()},
    )
    with tempfile.TemporaryDirectory(prefix="rwsa-evaluation-") as folder:
        _write_artifacts(Path(folder), summary, heard, config)
        run.file(Path(folder))


def metric_values(summary: EvaluationSummary) -> dict[str, float]:
    """Means as `CORPUS.noisy.pesq` and so on, with `….failed` where clips failed, which a mean leaves out."""
    values: dict[str, float] = {}
    for corpus in summary.corpora:
        values[f"{corpus.name}.clips"] = len(corpus.clips)
        values[f"{corpus.name}.clips_failed"] = sum(bool(clip.failures) for clip in corpus.clips)
        for signal in SIGNALS:
            for name, one in corpus.summaries(signal).items():
                if one.mean is not None:
                    values[f"{corpus.name}.{signal}.{name}"] = one.mean
                if one.failures:
                    values[f"{corpus.name}.{signal}.{name}.failed"] = one.failures
        for name, gain in corpus.gains().items():
            if gain is not None:
                values[f"{corpus.name}.gain.{name}"] = gain
    return values


def clip_columns(summary: EvaluationSummary) -> dict[str, list[Any]]:
    """The table of all clips of all corpora, by column; what failed is None and told in `failures`."""
    rows = [_clip_row(clip) for corpus in summary.corpora for clip in corpus.clips]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _clip_row(clip: ClipScores) -> dict[str, Any]:
    return {
        # MLflow shows few columns at a time, so what one compares comes first; one whose name has a dot in
        # it, it shows empty.
        "corpus": clip.corpus,
        "clip": clip.clip_id.removeprefix(f"{clip.corpus}/"),
        "gain_si_sdr": _rounded(clip.gain("si_sdr")),
        **{f"noisy_{name}": _rounded(clip.noisy[name]) for name in METRICS},
        **{f"enhanced_{name}": _rounded(clip.enhanced[name]) for name in (*METRICS, NOISY_PHASE)},
        "input_snr_db": _rounded(clip.input_snr_db),
        "speaker": clip.speaker,
        "environment": clip.environment,
        "seconds": clip.seconds,
        "failures": "; ".join(clip.failures),
    }


def _rounded(value: float | Failure | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else None


def _write_artifacts(
    folder: Path, summary: EvaluationSummary, heard: Sequence[HeardClip], config: ModelConfig
) -> None:
    clips = []
    for clip in heard:
        stem = f"{clip.scores.corpus}/{clip.label}"
        picture = spectrograms(clip.audio, clip.scores)
        clips.append(ReportClip(label=clip.label, scores=clip.scores, audio=clip.audio, spectrograms=picture))
        _write(folder / f"spectrograms/{stem}.png", picture)
        for name in PANELS:
            _write(folder / f"audio/{stem}.{name}.flac", encode_audio(clip.audio, name))
    limits = picture_limits(summary.corpora)
    pictures = {corpus.name: gain_picture(corpus, limits) for corpus in summary.corpora}
    for name, content in pictures.items():
        _write(folder / f"pictures/{name}.png", content)
    page = render_report(summary, about=_about(summary, config), pictures=pictures, clips=clips)
    _write(folder / REPORT, page.encode())


def _about(summary: EvaluationSummary, config: ModelConfig) -> dict[str, str]:
    return {
        "model": config.summary,
        "commit": commit(),
        "enhancing and scoring": f"{summary.seconds:.0f} s",
        **({"MLflow run": summary.run_id} if summary.run_id else {}),
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
