"""Write the report of a sweep again from its MLflow run, without training.

python -m tune.report PARENT_RUN_ID --out report
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.cli import storage_arguments, storage_of, verb
from pipelines.core.mlflow_guard import TrackingError
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import TrackedRun, Tracker, commit
from rwsa.command_line import path_argument
from rwsa.config import as_mapping, build
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, read_json
from rwsa.lease import locked
from tune.sweep_config import SweepConfig
from tune.sweep_page import sweep_html
from tune.sweep_report import SweepReport, make_report
from tune.trial import axis_name, flat_means
from tune.trial_results import TrialResult

PAGE, DATA, TABLE = "report.html", "sweep.json", "trials.json"
_EARLIER_PAGE = "answer.html"
# Keys of `sweep.json` that earlier versions wrote under other names.
_EARLIER_KEYS = {"results": "rows", "preregistered_rule": "stated"}


@locked("out")
def report(parent: str, out: Path, *, storage: StorageConfig) -> StoragePath:
    """Write the report of a sweep's run again, to a folder and to the run; returns the page's path.

    Args:
        parent: id of the sweep's MLflow run.
        out: folder for the page.
        storage: of MLflow.

    Raises:
        InputError: MLflow does not answer, or has no such sweep.
    """
    tracker = Tracker(storage)
    with tempfile.TemporaryDirectory(prefix="rwsa-report-") as folder:
        try:
            path = Path(tracker.client.download_artifacts(parent, DATA, folder))
        except TrackingError as error:
            raise InputError(
                f"{parent}: MLflow at {storage.tracking_uri} has no sweep with this run id ({error}); use the"
                " id that tune.sweep prints at its end"
            ) from error
        found = parse_sweep(
            read_json(path),
            where=f"{DATA} of run {parent}",
            remedy="use the id that tune.sweep prints at its end",
        )
    run = TrackedRun(storage, parent)
    page = log_report(run, found.sweep, found.results, found.report, out, about=found.about)
    run.close(status=None)
    return page


@dataclass(frozen=True, kw_only=True)
class StoredSweep:
    """A sweep as `sweep.json` holds it, with its report."""

    sweep: SweepConfig
    results: list[TrialResult]
    report: SweepReport
    about: Mapping[str, str]


def parse_sweep(data: Any, *, where: str, remedy: str) -> StoredSweep:
    """The sweep in the content of a `sweep.json`, also of earlier versions.

    Raises:
        InputError: it is not a sweep's.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: is not of a sweep; {remedy}")
    data = data | {key: data[earlier] for key, earlier in _EARLIER_KEYS.items() if earlier in data}
    rows, about, config = (data.get(name) for name in ("results", "about", "sweep"))
    if not (isinstance(rows, list) and isinstance(about, dict) and isinstance(config, dict)):
        raise InputError(f"{where}: has no results; {remedy}")
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where}: a result is not a mapping; run the sweep again")
    sweep = build(SweepConfig, config, where=f"{where}: sweep")
    results = [build(TrialResult, row, where=f"{where}: result {n}") for n, row in enumerate(rows)]
    found = make_report(sweep, results, preregistered_rule=data.get("preregistered_rule"))
    return StoredSweep(sweep=sweep, results=results, report=found, about=about)


def log_report(
    run: TrackedRun,
    sweep: SweepConfig,
    results: Sequence[TrialResult],
    summary: SweepReport,
    folder: StoragePath,
    *,
    about: Mapping[str, str],
) -> StoragePath:
    """Write and log the page, its data and a table of the trials; returns the page's path.

    Args:
        run: of the sweep.
        sweep: the sweep.
        results: of its trials.
        summary: of the results.
        folder: of the sweep.
        about: details at the end of the page.
    """
    page = sweep_html(sweep, results, summary, {"commit": commit(), "MLflow run": run.run_id, **about})
    data = json.dumps(
        {
            "sweep": as_mapping(sweep),
            "results": [as_mapping(row) for row in results],
            "preregistered_rule": summary.preregistered_rule,
            "about": dict(about),
        },
        indent=1,
    )
    for name, text in ((PAGE, page), (DATA, data)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    (folder / _EARLIER_PAGE).unlink(missing_ok=True)  # of a sweep started by version 0.1.0
    run.log_contents({PAGE: page.encode(), DATA: data.encode()})
    run.log_table(TABLE, _columns(results))
    run.tag(rwsa__verdict=summary.verdict, rwsa__winner=summary.winner or "none")
    run.log_metrics(0, {f"trials.{status}": count for status, count in summary.counts.items()})
    return folder / PAGE


def _columns(results: Sequence[TrialResult]) -> dict[str, list[Any]]:
    """Table of trials, by column; names have no dots, as MLflow shows such columns empty."""
    rows = [
        {
            **{axis_name(name).replace(".", "_"): str(value) for name, value in row.point.items()},
            "seed": row.seed,
            "status": row.status,
            **{name.replace(".", " "): round(value, 4) for name, value in flat_means(row.means).items()},
            "parameters": row.parameters,
            "training_seconds": round(row.seconds, 1),
            "reason": row.reason or "",
            "trial": row.trial,
        }
        for row in results
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parent", metavar="RUN_ID", help="id of the sweep's MLflow run, as tune.sweep prints it"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("report"),
        metavar="FOLDER",
        help="folder for the page (default: report)",
    )


@verb("tune.report", __doc__, _arguments, storage_arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    print(report(options.parent, options.out, storage=storage_of(options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
