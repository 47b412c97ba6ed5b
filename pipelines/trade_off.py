"""In-domain against out-of-domain, over whatever evaluations MLflow holds: one page.

    python -m pipelines.trade_off --set storage.root=outputs storage.tracking_uri=sqlite:///outputs/mlflow.db

Asks whether what a system gains at home it loses abroad: the rank correlation of the two over systems, and
which systems no other one beats at both.
"""

from __future__ import annotations

import argparse
from functools import partial

from pipelines.core.cli import out_argument, out_of, storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.reports.trade_off_report import trade_off_html
from pipelines.studies.trade_off_scores import Panel, panels, read_scores
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write

PAGE = "trade-off.html"


def trade_off(storage: StorageConfig, out: StoragePath) -> list[Panel]:
    """Write the page.

    Raises:
        InputError: MLflow cannot be used, or holds no two systems scored in-domain and out-of-domain; or
            `out` cannot be written.
    """
    found = panels(read_scores(Tracker(storage)))
    if not found:
        raise InputError(
            f"{storage.tracking_uri}: experiment '{storage.experiment}' has no two systems scored on an"
            " in-domain and another corpus; run pipelines.evaluate on two corpora, the in-domain one first"
        )
    with atomic_write(out) as aside:
        aside.write_text(trade_off_html(found, storage), encoding="utf-8")
    return found


@verb(
    "pipelines.trade_off",
    __doc__,
    partial(out_argument, name=PAGE, metavar="FILE.html"),
    storage_arguments,
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    out = out_of(options, name=PAGE)
    found = trade_off(storage_of(options), out)
    for panel in found:
        print(_line(panel))
    print(f"page: {out}")
    return 0


def _line(panel: Panel) -> str:
    told = "too few for a correlation" if panel.correlation is None else f"ρ {panel.correlation:+.2f}"
    best = ", ".join(point.name for point in panel.points if point.best)
    return (
        f"{panel.metric:7} {panel.home} against {panel.abroad}: {len(panel.points)} systems, {told};"
        f" beaten by none: {best}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
