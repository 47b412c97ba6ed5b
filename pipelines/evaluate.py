"""Score systems and the noisy input on corpora, with Ray, and log the results to MLflow.

    python -m pipelines.evaluate --weights FILE NAME=FILE … --system NAME=FOLDER … --corpora CARD CARD …

A corpus is its ready-made test pairs, or mixtures rendered on the fly from its card's recipe and seed; the
first is the in-domain one, unless `--trained-on` names another. Scores are cached by content, so only
missing ones are computed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.cli import as_location, cluster_argument, storage_arguments, storage_of, verb
from pipelines.core.logged_models import size_name
from pipelines.core.mlflow_guard import TrackingError
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluation.clip_scores import NOISY, with_table1
from pipelines.evaluation.clips import EvaluationSet, read_sets
from pipelines.evaluation.corpus_statistics import corpus_statistics
from pipelines.evaluation.results import EvaluationSummary
from pipelines.evaluation.score_cache import SCORES, ScoreCache, digest
from pipelines.evaluation.set_scorer import SetScorer
from pipelines.evaluation.systems import ENHANCED, Model, System, read_systems, read_trained_on
from pipelines.reports.evaluation_entities import logged_models, point_aliases
from pipelines.reports.evaluation_log import finished_run, log_evaluation, select_samples
from pipelines.reports.evaluation_report import TEMPLATE
from pipelines.reports.page import template_hash
from pipelines.reports.score_table import StatisticsByCorpus, format_table
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.file_cache import FileCache, cache_folder
from rwsa.files import StoragePath, check_writable, location, write_json
from rwsa.fingerprint import code_fingerprint
from rwsa.lease import locked
from rwsa.metrics import TABLE1_METRICS, check_metrics

__all__ = ["EvaluationSummary", "evaluate"]

_BOOTSTRAP_SEED = 20251001
_NAMES_SHOWN = 4
# What `code_fingerprint` covers of an evaluation's run: statistics and reports of the scores.
LOGGING = (
    ("pipelines.evaluate", "pipelines.reports.evaluation_log"),
    ("jinja2", "matplotlib", "numpy", "scipy"),
    ("pipelines.evaluation", "pipelines.reports", "pipelines.media", "rwsa.audio_facts", "rwsa.statistics"),
)


@locked("json_path", inside=False)
def evaluate(
    weights: Sequence[str | StoragePath],
    corpora: Sequence[Path],
    *,
    storage: StorageConfig,
    outputs: Sequence[str] = (),
    trained_on: Sequence[str] = (),
    metrics: Sequence[str] = (),
    examples: int | None = None,
    name: str | None = None,
    parent: str | None = None,
    json_path: Path | None = None,
    workers: int | None = None,
    device: str = "auto",
    audio_clips: int = 3,
    strict: bool = False,
    report: Callable[[str], None] = print,
) -> EvaluationSummary:
    """Score systems on corpora and log the results; Ray starts if scores are missing.

    If MLflow has a run of the same evaluation, by content and code, it is not logged again, and the summary
    names that run.

    Args:
        weights: files that `rwsa.load_model` reads; for names see
            `pipelines.evaluation.systems.read_systems`.
        corpora: corpus cards, the in-domain one first; see `pipelines.evaluation.clips.read_sets`.
        storage: of cached scores and MLflow.
        outputs: `NAME=FOLDER` of other systems' ready-made outputs; see
            `pipelines.evaluation.systems.match_outputs`.
        trained_on: `NAME=CORPUS`, for systems whose in-domain corpus is not the first; see
            `pipelines.evaluation.systems.read_trained_on`.
        metrics: names from `rwsa.metrics.METRICS` to add to Table 1's, which are always scored: the
            published-row test and comparisons of evaluations need them.
        examples: clips per corpus, for quick runs; see `pipelines.evaluation.clips.read_sets`.
        name: of the run; by default see `run_name`.
        parent: id of the MLflow run to nest this one under.
        json_path: file to write `EvaluationSummary.as_json` to, with intervals and the systems' weights.
        workers: CPUs to use; as many as Ray has by default.
        device: `cpu`; `cuda`, every GPU that Ray has; or `auto`, `cuda` where this machine has a GPU.
        audio_clips: audio samples per corpus to log, from worst to best.
        strict: stop at the first damaged clip or failed metric.
        report: accepts progress lines.

    Raises:
        InputError: weights, outputs, a card or an argument cannot be used; MLflow does not answer; a metric
            is unknown or its package missing; `json_path` or the score cache cannot be written; or, when
            `strict`, anything fails.
    """
    _check_numbers(audio_clips=audio_clips, workers=workers)
    scored_metrics = with_table1(metrics)
    check_metrics(scored_metrics)
    _check_writable(json_path)
    systems, networks = read_systems(weights, outputs)
    root = location(storage.root)
    files = FileCache(cache_folder(root))
    sets = read_sets(corpora, examples=examples, strict=strict, cache=files)
    cards = {one.name: card for one, card in zip(sets, corpora, strict=True)}
    domains = read_trained_on(trained_on, systems, cards)
    name = name or run_name(systems, list(cards))
    tracker = Tracker(storage)
    scorer = SetScorer(
        systems,
        networks,
        sets,
        cache=ScoreCache(root / "cache" / SCORES),
        files=files,
        metrics=scored_metrics,
        device=_device(device),
        workers=workers,
        report=report,
    )
    key = _key(scorer, sets, domains, name, parent, audio_clips)
    run_id = finished_run(tracker, key)
    summary = EvaluationSummary(
        name=name,
        systems=systems,
        corpora=scorer.score(strict=strict),
        seconds=scorer.seconds,
        cpu_seconds=scorer.cpu_seconds,
        cached=scorer.cached,
        trained_on=domains,
        run_id=run_id,
    )
    try:
        if run_id is None:
            samples = select_samples(scorer, summary, sets, audio_clips)
            statistics = statistics_of(summary)
            run_id = log_evaluation(
                tracker,
                summary,
                statistics,
                samples,
                key=key,
                parent=parent,
                examples=examples,
                models=logged_models(tracker, summary),
            )
            point_aliases(tracker, summary)
            summary = dataclasses.replace(summary, run_id=run_id)
    except TrackingError:
        report(format_table(summary, statistics_of(summary)))
        raise
    finally:  # without MLflow, too
        if json_path is not None:
            # Unsorted: the first corpus is the in-domain one.
            write_json(json_path, summary.as_json() | _details(summary), sort_keys=False)
    return summary


def statistics_of(summary: EvaluationSummary) -> StatisticsByCorpus:
    """Statistics by corpus, each with its own generator, so that they do not depend on other corpora."""
    return {
        corpus.name: corpus_statistics(corpus, summary, np.random.default_rng(_BOOTSTRAP_SEED))
        for corpus in summary.corpora
    }


def run_name(systems: Sequence[System], corpora: Sequence[str]) -> str:
    """`evaluate xs, s on 3 corpora`; a single model without a name is called by its size."""
    names = list(dict.fromkeys(_shown_name(system) for system in systems)) or [NOISY]
    shown = ", ".join(names) if len(names) <= _NAMES_SHOWN else f"{len(names)} systems"
    return f"evaluate {shown} on {corpora[0] if len(corpora) == 1 else f'{len(corpora)} corpora'}"


def _shown_name(system: System) -> str:
    if isinstance(system, Model) and system.configuration == ENHANCED:
        return size_name(system.config)
    return system.configuration


def _details(summary: EvaluationSummary) -> dict[str, Any]:
    """What a model card needs besides the means: intervals, what they are over, and the weights' hashes."""
    statistics = statistics_of(summary)
    return {
        "intervals": {
            corpus: {
                system: {metric: [one.low, one.high] for metric, one in of_system.items() if one is not None}
                for system, of_system in found.intervals.items()
            }
            for corpus, found in statistics.items()
        },
        "units": {corpus: found.units for corpus, found in statistics.items()},
        "weights": {model.name: model.sha256 for model in summary.models},
    }


def _key(
    scorer: SetScorer,
    sets: Sequence[EvaluationSet],
    domains: Mapping[str, str],
    name: str,
    parent: str | None,
    audio_clips: int,
) -> str:
    """Hash of all that decides what is logged, the code included."""
    about = [[one.name, str(one.noisy_row), [str(problem) for problem in one.problems]] for one in sets]
    code = [code_fingerprint(*LOGGING), template_hash(TEMPLATE)]
    return digest([scorer.key, about, sorted(domains.items()), name, parent, audio_clips, code])


def _check_numbers(*, audio_clips: int, workers: int | None) -> None:
    if audio_clips < 0:
        raise InputError(f"--audio-clips {audio_clips}: must be at least 0")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: use auto, cpu or cuda")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _check_writable(path: Path | None) -> None:
    """Fail before the work rather than after it."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    check_writable(path)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]FILE",
        help="model weights; files of one NAME are one system trained with several seeds",
    )
    parser.add_argument(
        "--system",
        dest="outputs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FOLDER",
        help="enhanced files of another system, named like the noisy files; with several corpora, in one"
        " subfolder per corpus",
    )
    parser.add_argument(
        "--corpora",
        type=path_argument,
        nargs="+",
        required=True,
        metavar="CARD",
        help="corpus cards, the in-domain one first",
    )
    parser.add_argument(
        "--trained-on",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=CORPUS",
        help="for systems that were not trained on the first corpus: on which of the others",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"metrics of `rwsa score` to add to {', '.join(TABLE1_METRICS)}, which are always scored",
    )
    parser.add_argument("--name", help="name of the MLflow run (default: from the systems)")
    parser.add_argument("--parent", help="id of the MLflow run to nest this one under", metavar="RUN_ID")
    parser.add_argument(
        "--examples", type=int, help="clips per corpus (default: as its card says)", metavar="N"
    )
    parser.add_argument(
        "--audio-clips", type=int, default=3, help="audio samples per corpus to log (default: 3)", metavar="N"
    )
    parser.add_argument(
        "--json",
        type=as_location,
        dest="json_path",
        help="also write means and intervals to this file",
        metavar="FILE",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first damaged clip or failed metric"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or auto (default: auto, a GPU if this machine has one)"
    )
    parser.add_argument("--workers", type=int, help="CPUs to use (default: all that Ray has)", metavar="N")


@verb("pipelines.evaluate", __doc__, _arguments, cluster_argument, storage_arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    storage, values = storage_of(options), vars(options)
    del values["settings"], values["address"]
    summary = evaluate(storage=storage, **values)
    print(format_table(summary, statistics_of(summary)))
    print(_last_line(summary, storage))
    return 0


def _last_line(summary: EvaluationSummary, storage: StorageConfig) -> str:
    clips = sum(len(corpus.clips) for corpus in summary.corpora)
    cached, signals = summary.cached
    known = f", {cached} of {signals} signals from the cache" if cached else ""
    return (
        f"{clips} clips in {summary.seconds:.1f} s{known};"
        f" MLflow run {summary.run_id} in {storage.tracking_uri}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
