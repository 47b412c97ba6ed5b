"""Study how scores change when the reference is degraded and the estimates stay the same.

    python -m pipelines.reference_study --card datasets/libri_esc50.yaml [--weights FILE] [--examples N]

Intrusive metrics compare with a recording that is assumed clean. The study degrades it by known amounts of
noise and reverberation, and scores the noisy clip, the clean one and an enhanced one against it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipelines.core.cli import (
    as_location,
    cluster_argument,
    mlflow_argument,
    out_argument,
    out_of,
    storage_arguments,
    storage_of,
    verb,
    workers_argument,
)
from pipelines.core.pool import check_workers, map_unordered
from pipelines.core.progress import Progress
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker, commit
from pipelines.evaluation.clips import read_sets
from pipelines.reports.reference_report import heads, reference_study_html, score_rows
from pipelines.studies.reference_results import (
    CLEAN,
    ENHANCED,
    NOISY,
    STUDIED,
    ClipStudy,
    ReferenceStudy,
    StudyClip,
    study_clip,
)
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.files import StoragePath, absolute_location, atomic_write, sha256_of, write_json
from rwsa.lease import locked
from rwsa.metrics import check_metrics, metrics_version
from rwsa.models import weights_file

FOLDER, PAGE, RESULTS = "reference_study", "reference_study.html", "reference_study.json"
_EXAMPLES = 16


@locked("out")
def reference_study(
    card: Path,
    out: StoragePath,
    *,
    weights: Path | None = None,
    examples: int = _EXAMPLES,
    seed: int = 0,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> ReferenceStudy:
    """Degrade the references of a corpus and score fixed estimates against them; write page and JSON.

    Args:
        card: corpus card; see `pipelines.evaluation.clips.read_sets`.
        out: folder to write to, created if missing.
        weights: of a model whose output is an estimate too.
        examples: clips.
        seed: of the noises and rooms.
        workers: see `pipelines.core.pool.map_unordered`.
        report: accepts progress lines.

    Raises:
        InputError: the card or the weights cannot be used, no clip can be read, a metric's package is
            missing, or `out` is not writable.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be at least 0")
    check_workers(workers)
    check_metrics(STUDIED)
    if weights is not None:
        weights_file(weights)
    (corpus,) = read_sets([card], examples=examples)
    path = None if weights is None else absolute_location(str(weights))
    items = [StudyClip(clip=clip, weights=path, seed=seed) for clip in corpus.clips]
    started = time.monotonic()
    clips = _study_clips(items, workers, report)
    if all(clip.error is not None for clip in clips):
        raise InputError(f"{card}: no clip can be studied; the first: {clips[0].error}")
    about = {
        "clips": f"{len(clips)} of {corpus.of_clips}",
        "weights": "none" if weights is None else f"{weights} (SHA-256 {sha256_of(weights)[:12]}…)",
        "seed": str(seed),
        "metrics": metrics_version(STUDIED),
        "commit": commit(),
    }
    study = ReferenceStudy(
        corpus=corpus.name,
        about=about,
        estimates=(NOISY, CLEAN) if weights is None else (NOISY, ENHANCED, CLEAN),
        clips=tuple(clips),
    )
    with atomic_write(out / PAGE) as temporary:
        temporary.write_text(reference_study_html(study), encoding="utf-8")
    write_json(out / RESULTS, study.as_json(), sort_keys=False)
    report(f"{len(clips)} clips in {time.monotonic() - started:.1f} s: {out / PAGE}")
    return study


def _study_clips(
    items: Sequence[StudyClip], workers: int | None, report: Callable[[str], None]
) -> list[ClipStudy]:
    done: dict[int, ClipStudy] = {}
    failed = 0
    with Progress(len(items), "reference study", "clips", report) as progress:
        for number, clip in map_unordered(study_clip, items, workers=workers):
            done[number] = clip
            failed += clip.error is not None
            progress.set_postfix_str(f"failures {failed}", refresh=False)
            progress.update()
    return [done[number] for number in range(len(items))]


def log_study(storage: StorageConfig, study: ReferenceStudy, out: StoragePath) -> str:
    """Log the files of `reference_study` as an MLflow run; returns its id.

    Raises:
        InputError: MLflow does not answer.
    """
    params = {"corpus": study.corpus, **study.about}
    name = f"reference study of {study.corpus}"
    with Tracker(storage).run(name, params=params, tags={"rwsa.kind": "reference-study"}) as run:
        for file in (PAGE, RESULTS):
            run.log_file(out / file)
    return run.run_id


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card", type=path_argument, required=True, metavar="FILE.yaml", help="corpus card")
    parser.add_argument(
        "--weights", type=as_location, metavar="FILE", help="model whose output is scored as well"
    )
    parser.add_argument(
        "--examples", type=int, default=_EXAMPLES, metavar="N", help=f"clips (default: {_EXAMPLES})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noises and rooms (default: 0)")


@verb(
    "pipelines.reference_study",
    __doc__,
    _arguments,
    partial(out_argument, name=FOLDER),
    mlflow_argument,
    workers_argument,
    cluster_argument,
    storage_arguments,
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    storage, out = storage_of(options), out_of(options, name=FOLDER)
    study = reference_study(
        options.card,
        out,
        weights=options.weights,
        examples=options.examples,
        seed=options.seed,
        workers=options.workers,
    )
    for estimate in study.estimates:
        print(f"{estimate:<32}{''.join(f'{head:>16}' for head in heads()[1:])}")
        for name, *cells in score_rows(study, estimate):
            print(f"  {name:<30}{''.join(f'{cell:>16}' for cell in cells)}")
    if options.mlflow:
        run_id = log_study(storage, study, out)
        print(f"MLflow run {run_id} in {storage.tracking_uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
