"""In-domain against out-of-domain, over whatever evaluations MLflow holds: one page.

    python -m pipelines.trade_off --set storage.root=outputs storage.tracking_uri=sqlite:///outputs/mlflow.db

Asks whether what a system gains at home it loses abroad: the rank correlation of the two over systems, and
which systems no other one beats at both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.tracking import Tracker
from pipelines.trade_off_page import render_page
from pipelines.trade_off_scores import Panel, panels, read_scores
from rwsa.config import config, read_config
from rwsa.errors import InputError
from rwsa.files import written_aside
from rwsa.training.config import StorageConfig

PAGE = "trade-off.html"


@config
class TradeOffSettings:
    """What `--set` can change."""

    storage: StorageConfig = StorageConfig()


def trade_off(storage: StorageConfig, out: Path) -> list[Panel]:
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
    with written_aside(out) as aside:
        aside.write_text(render_page(found, storage), encoding="utf-8")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.trade_off", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help=f"default: {PAGE} in storage.root", metavar="FILE")
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar="storage.KEY=VALUE"
    )
    options = parser.parse_args(argv)
    try:
        storage = read_config(TradeOffSettings, [], options.settings).storage
        out = options.out or Path(storage.root) / PAGE
        found = trade_off(storage, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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
