"""Score a model on every corpus named, noisy and enhanced, in parallel on Ray; log it as one MLflow run.

    python -m pipelines.evaluate --weights FILE --corpora datasets/A.yaml datasets/B.yaml …

A corpus is its ready-made test pairs, or mixtures rendered on the fly from its card's recipe and seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.clip_scores import METRICS
from pipelines.clips import EvaluationSet, read_sets
from pipelines.cluster import start_ray
from pipelines.evaluation_run import HeardClip, log_evaluation, run_params
from pipelines.results import CorpusScores, EvaluationSummary
from pipelines.score_table import format_table
from pipelines.scorers import ScorerPool
from pipelines.tracking import Tracker
from rwsa.config import config, read_config
from rwsa.errors import InputError
from rwsa.files import sha256_of, write_json, written_aside
from rwsa.metrics import check
from rwsa.models import load_model
from rwsa.training.config import StorageConfig

__all__ = ["EvaluationSummary", "evaluate"]


@config
class EvaluateSettings:
    """What `--set` can change."""

    storage: StorageConfig = StorageConfig()


def evaluate(
    weights: Path,
    corpora: Sequence[Path],
    *,
    storage: StorageConfig,
    examples: int | None = None,
    name: str | None = None,
    parent: str | None = None,
    json_path: Path | None = None,
    workers: int | None = None,
    audio_clips: int = 3,
    strict: bool = False,
    report: Callable[[str], None] = print,
) -> EvaluationSummary:
    """Score a model on corpora and log it, starting Ray if need be.

    The clips of all corpora go through one pool of actors, so that a small corpus leaves none idle.

    Args:
        weights: a file that `rwsa.load_model` reads.
        corpora: corpus cards; see `pipelines.clips.read_sets`.
        storage: where MLflow is.
        examples: clips a corpus, for quick runs; see `pipelines.clips.read_sets`.
        name: of the run; `evaluate-` and the weights' file name by default.
        parent: id of the MLflow run to nest this one under.
        json_path: write `EvaluationSummary.as_json` here too.
        workers: actors, one CPU each; as many as Ray has CPUs by default.
        audio_clips: clips of each corpus to log as audio and spectrograms, from worst to best.
        strict: make the first damaged clip or failed metric end the evaluation.
        report: takes progress lines.

    Raises:
        InputError: weights, a card or an argument cannot be used; MLflow does not answer; a metric's
            package is missing; `json_path` cannot be written; or, when `strict`, anything fails.
    """
    if audio_clips < 0:
        raise InputError(f"--audio-clips {audio_clips}: must be at least 0")
    check(METRICS)
    _check_writable(json_path)
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; give weights that training wrote")
    model, weights_sha256 = load_model(weights), sha256_of(weights)
    sets = read_sets(corpora, examples=examples, strict=strict)
    name = name or f"evaluate-{weights.stem}"
    counts = {one.name: len(one.clips) for one in sets}
    start_ray()
    params = run_params(weights, weights_sha256, model.config, examples, counts)
    with (
        Tracker(storage).run(name, parent=parent, params=params, tags={"rwsa.kind": "evaluation"}) as run,
        ScorerPool(model, workers, report) as pool,
    ):
        started = time.monotonic()
        scores = score_sets(pool, sets, strict=strict)
        summary = EvaluationSummary(
            name=name,
            weights=str(weights),
            weights_sha256=weights_sha256,
            corpora=scores,
            seconds=time.monotonic() - started,
            run_id=run.run_id,
        )
        log_evaluation(run, summary, hear_chosen(pool, sets, scores, audio_clips), model.config)
    if json_path is not None:
        # The corpora's order has a meaning: in-domain first.
        write_json(json_path, summary.as_json(), sort_keys=False)
    return summary


def score_sets(
    pool: ScorerPool, sets: Sequence[EvaluationSet], *, strict: bool = False
) -> tuple[CorpusScores, ...]:
    """Score all clips of all sets in one pool.

    Raises:
        InputError: see `ScorerPool.score`.
    """
    scored = iter(pool.score([clip for one in sets for clip in one.clips], strict=strict))
    return tuple(
        CorpusScores(
            name=one.name,
            clips=tuple(next(scored) for _ in one.clips),
            of_clips=one.of_clips,
            problems=one.problems,
            published=one.noisy_row,
        )
        for one in sets
    )


def hear_chosen(
    pool: ScorerPool, sets: Sequence[EvaluationSet], scores: Sequence[CorpusScores], count: int
) -> list[HeardClip]:
    """Enhance some clips again, for their audio: keeping all of it would not fit in memory.

    Raises:
        InputError: see `ScorerPool.hear`.
    """
    chosen = [
        (label, one.clips[index], scored.clips[index])
        for one, scored in zip(sets, scores, strict=True)
        for label, index in scored.chosen(count)
    ]
    audio = pool.hear([clip for _, clip, _ in chosen])
    return [
        HeardClip(label=label, scores=scored, audio=wavs)
        for (label, _, scored), wavs in zip(chosen, audio, strict=True)
    ]


def _check_writable(path: Path | None) -> None:
    """Find out before the work rather than after it."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    probe = path.with_name(f"{path.name}.probe")
    with written_aside(probe) as aside:
        aside.touch()
    probe.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="model weights")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="corpus cards", metavar="CARD")
    parser.add_argument("--name", help="name of the MLflow run; default: from the weights")
    parser.add_argument("--examples", type=int, help="clips a corpus; default: as its card says", metavar="N")
    parser.add_argument("--workers", type=int, help="actors; default: as many as CPUs", metavar="N")
    parser.add_argument("--audio-clips", type=int, default=3, help="clips a corpus to listen to", metavar="N")
    parser.add_argument(
        "--json", type=Path, dest="json_path", help="write the means here too", metavar="FILE"
    )
    parser.add_argument("--parent", help="id of the MLflow run to nest this one under", metavar="RUN_ID")
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar="storage.KEY=VALUE"
    )
    parser.add_argument(
        "--strict", action="store_true", help="end at the first damaged clip or failed metric"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        storage = read_config(EvaluateSettings, [], options.settings).storage
        summary = evaluate(
            options.weights,
            options.corpora,
            storage=storage,
            examples=options.examples,
            name=options.name,
            parent=options.parent,
            json_path=options.json_path,
            workers=options.workers,
            audio_clips=options.audio_clips,
            strict=options.strict,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(summary))
    clips = sum(len(corpus.clips) for corpus in summary.corpora)
    print(f"{clips} clips in {summary.seconds:.1f} s; MLflow run {summary.run_id} in {storage.tracking_uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
