"""Compare systems in-domain and out-of-domain, over all evaluations in MLflow, on one page.

    python -m pipelines.trade_off --set storage.root=outputs storage.tracking_uri=sqlite:///outputs/mlflow.db

Shows whether systems that are better in-domain are worse out-of-domain: the rank correlation over systems,
and the systems on the Pareto front.
"""

from __future__ import annotations

import argparse
from functools import partial

from pipelines.core.cli import out_argument, out_of, storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.reports.trade_off_report import trade_off_html
from pipelines.studies.trade_off_scores import TradeOffPanel, read_scores, trade_off_panels
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write
from rwsa.lease import locked

PAGE = "trade-off.html"


@locked("out", inside=False)
def trade_off(storage: StorageConfig, out: StoragePath) -> list[TradeOffPanel]:
    """Write the page; returns its panels.

    Raises:
        InputError: MLflow cannot be used, or has no two systems with scores in-domain and out-of-domain; or
            `out` cannot be written.
    """
    panels = trade_off_panels(read_scores(Tracker(storage)))
    if not panels:
        raise InputError(
            f"{storage.tracking_uri}: experiment '{storage.experiment}' has no two systems scored on an"
            " in-domain and another corpus; run pipelines.evaluate on two corpora, the in-domain one first"
        )
    with atomic_write(out) as temporary:
        temporary.write_text(trade_off_html(panels, storage), encoding="utf-8")
    return panels


@verb(
    "pipelines.trade_off",
    __doc__,
    partial(out_argument, name=PAGE, metavar="FILE.html"),
    storage_arguments,
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    out = out_of(options, name=PAGE)
    panels = trade_off(storage_of(options), out)
    for panel in panels:
        print(_line(panel))
    print(f"page: {out}")
    return 0


def _line(panel: TradeOffPanel) -> str:
    correlation = "too few for a correlation" if panel.correlation is None else f"ρ {panel.correlation:+.2f}"
    best = ", ".join(point.name for point in panel.points if point.best)
    corpora = f"{panel.in_domain} against {panel.out_of_domain}"
    return f"{panel.metric:7} {corpora}: {len(panel.points)} systems, {correlation}; Pareto front: {best}"


if __name__ == "__main__":
    raise SystemExit(main())
