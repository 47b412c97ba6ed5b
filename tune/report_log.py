"""A sweep's answer on the disk and in its run: the page, the rows as a table, what makes the page anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.tracking import TrackedRun, commit
from rwsa.config import as_mapping
from rwsa.files import atomic_write
from tune.report_page import render_answer
from tune.results import TrialResult
from tune.sweep_config import SweepConfig
from tune.sweep_report import Answer
from tune.trial import axis_name, flat_means

PAGE, DATA, TABLE = "answer.html", "sweep.json", "trials.json"


def log_answer(
    run: TrackedRun,
    sweep: SweepConfig,
    rows: Sequence[TrialResult],
    found: Answer,
    folder: Path,
    *,
    about: Mapping[str, str],
) -> Path:
    """Write and log everything; returns where the page is.

    Args:
        run: the sweep's.
        folder: of the sweep.
        about: small print of the page.
    """
    known = {"commit": commit(), "MLflow run": run.run_id, **about}
    page = render_answer(sweep, rows, found, known)
    data = json.dumps(
        {
            "sweep": as_mapping(sweep),
            "rows": [as_mapping(row) for row in rows],
            "stated": found.stated,
            "about": dict(about),
        },
        indent=1,
    )
    for name, text in ((PAGE, page), (DATA, data)):
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    run.contents({PAGE: page.encode(), DATA: data.encode()})
    run.table(TABLE, _columns(rows))
    run.tag(rwsa__verdict=found.verdict, rwsa__winner=found.winner or "none")
    run.log(0, {f"trials.{status}": count for status, count in found.counts.items()})
    return folder / PAGE


def _columns(rows: Sequence[TrialResult]) -> dict[str, list[Any]]:
    """A row a trial; a name with a dot in it MLflow shows empty."""
    flat = [
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
        for row in rows
    ]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}
