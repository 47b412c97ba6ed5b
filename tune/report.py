"""Make a sweep's answer page anew from what its run in MLflow holds; nothing is trained.

python -m tune.report PARENT_RUN_ID --out answer
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from pipelines.core.cli import add_storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import TrackedRun, Tracker
from rwsa.config import build
from rwsa.errors import InputError
from rwsa.files import read_json
from tune.report_log import DATA, log_answer
from tune.results import TrialResult
from tune.sweep_config import SweepConfig
from tune.sweep_report import answer


def report(parent: str, out: Path, *, storage: StorageConfig) -> Path:
    """Render the page of a sweep's run again, log it there, and write it to a folder.

    Args:
        parent: id of the run.
        out: folder for the page.
        storage: of MLflow.

    Raises:
        InputError: MLflow does not answer, or has no such sweep.
    """
    tracker = Tracker(storage)
    with tempfile.TemporaryDirectory(prefix="rwsa-report-") as folder:
        try:
            path = Path(tracker.client.download_artifacts(parent, DATA, folder))
        except (MlflowException, OSError) as error:
            raise InputError(
                f"{parent}: MLflow at {storage.tracking_uri} has no sweep of this id ({error}); take the id"
                " that tune.sweep names at its end"
            ) from error
        data = read_json(path)
    sweep = build(SweepConfig, data["sweep"], where=f"{parent}: sweep")
    rows = [build(TrialResult, row, where=f"{parent}: {row['trial']}") for row in data["rows"]]
    run = TrackedRun(storage, parent)
    found = answer(sweep, rows, stated=data.get("stated"))
    page = log_answer(run, sweep, rows, found, out, about=data["about"])
    run.close(status=None)
    return page


@verb
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tune.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parent", metavar="PARENT_RUN_ID", help="the sweep's run in MLflow")
    parser.add_argument("--out", type=Path, default=Path("answer"), help="folder for the page")
    add_storage_arguments(parser)
    options = parser.parse_args(argv)
    print(report(options.parent, options.out, storage=storage_of(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
