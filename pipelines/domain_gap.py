"""Measure the domain gap between corpora: the distances of their clips, by group of features.

    python -m pipelines.domain_gap --card datasets/A.yaml datasets/B.yaml … --shards FOLDER … --out FOLDER

A corpus is the test clips of its card, or a split of a folder of shards. The first is the in-domain one,
unless --reference names another; with both cards and folders, --reference is required.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

from pipelines.core.cli import (
    corpora_arguments,
    mlflow_argument,
    out_argument,
    out_of,
    storage_arguments,
    storage_of,
    verb,
)
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker, commit
from pipelines.reports.domain_gap_report import domain_gap_html, markdown, matrix_rows
from pipelines.studies.gap_results import NAMES, GapResults, GapSettings, measure_gaps
from pipelines.studies.gap_sources import SHARD_EXAMPLES, GapSource, measure, read_sources
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, write_json
from rwsa.lease import locked

FOLDER, PAGE, TABLE, RESULTS = "domain_gap", "domain_gap.html", "domain_gap.md", "domain_gap.json"


@locked("out")
def domain_gap(
    sources: Sequence[GapSource],
    out: StoragePath,
    *,
    reference: str | None = None,
    resamples: int = 500,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> GapResults:
    """Measure and compare corpora; write a page, a table and the results as JSON to a folder.

    Args:
        sources: see `pipelines.studies.gap_sources.read_sources`.
        out: folder, created if missing.
        reference: name of the in-domain corpus; the first by default.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        report: accepts progress lines.

    Raises:
        InputError: a corpus has too few usable clips, the reference is not among the corpora, or `out` is not
            writable.
    """
    names = [source.name for source in sources]
    if reference is not None and reference not in names:
        raise InputError(f"--reference {reference}: not among the corpora {names}")
    if not 100 <= resamples <= 10_000:
        raise InputError(f"--resamples {resamples}: must be from 100 to 10000")
    if seed < 0:
        raise InputError(f"--seed {seed}: must be at least 0")
    started = time.monotonic()
    corpora = [measure(source, report) for source in sources]
    settings = GapSettings(reference=reference or names[0], resamples=resamples, seed=seed)
    results = measure_gaps(corpora, settings)
    page = domain_gap_html(results, {"commit": commit(), "resamples": str(resamples)})
    for name, text in ((PAGE, page), (TABLE, markdown(results))):
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(out / RESULTS, results.as_json(), sort_keys=False)
    report(f"{len(corpora)} corpora compared in {time.monotonic() - started:.1f} s: {out / PAGE}")
    return results


def log_gap(storage: StorageConfig, results: GapResults, out: StoragePath) -> str:
    """Log the files of `domain_gap` as an MLflow run; returns its id.

    Raises:
        InputError: MLflow does not answer.
    """
    params = {
        "reference": results.settings.reference,
        "resamples": results.settings.resamples,
        "seed": results.settings.seed,
        "clips": {corpus.name: len(corpus.speakers) for corpus in results.corpora},
    }
    name = f"domain gap from {results.settings.reference}"
    with Tracker(storage).run(name, params=params, tags={"rwsa.kind": "domain-gap"}) as run:
        run.log_metrics(0, _metrics(results))
        run.tag(mlflow__note__content=markdown(results))
        for file in (PAGE, TABLE, RESULTS):
            run.log_file(out / file)
    return run.run_id


def _metrics(results: GapResults) -> dict[str, float]:
    """`gap.CORPUS.GROUP`: distance from the reference, in %."""
    reference = results.reference
    return {
        f"gap.{name}.{group.replace(' ', '_')}": 100 * results.of(group, reference, column).value
        for column, name in enumerate(results.names)
        for group in NAMES
        if column != reference
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    corpora_arguments(parser)
    parser.add_argument("--split", default="train", help="split of the shards to compare (default: train)")
    parser.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help=f"clips per corpus (default: as its card says; {SHARD_EXAMPLES} for shards)",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="in-domain corpus (default: the first; required with both --card and --shards)",
    )
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap resamples (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


@verb(
    "pipelines.domain_gap",
    __doc__,
    _arguments,
    partial(out_argument, name=FOLDER),
    mlflow_argument,
    storage_arguments,
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    if options.card and options.shards and options.reference is None:
        raise InputError("--reference is required with both --card and --shards: name the in-domain corpus")
    storage, out = storage_of(options), out_of(options, name=FOLDER)
    results = domain_gap(
        read_sources(options.card, options.shards, split=options.split, examples=options.examples),
        out,
        reference=options.reference,
        resamples=options.resamples,
        seed=options.seed,
    )
    for name, *cells in matrix_rows(results):
        print(f"{name:<20}{''.join(f'{cell:>24}' for cell in cells)}")
    print("energy distance in %, with 95% intervals; on the diagonal between halves of the corpus")
    if options.mlflow:
        run_id = log_gap(storage, results, out)
        print(f"MLflow run {run_id} in {storage.tracking_uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
