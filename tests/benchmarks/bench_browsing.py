"""Pages over many stored results: 2,000 runs, 100,000 scores of clips, a sweep of 1,000 trials.

    python -m tests.benchmarks.bench_browsing [--chromium /usr/bin/chromium]

Nothing is trained: runs and scores are made up and stored as real ones are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import CHILD_KIND, EvaluationSummary
from pipelines.reports.evaluation_figures import evaluation_figures
from pipelines.reports.evaluation_gain_figure import gain_figure, gain_limits
from pipelines.reports.evaluation_report import evaluation_html
from pipelines.trade_off import trade_off
from rwsa.metrics import TABLE1_METRICS
from tests.benchmarks.timing import cpu_seconds, seconds
from tests.evaluations import model, synthetic_scores
from tests.sweep_rows import rows_of, sweep_of
from tune.report import log_report
from tune.sweep_report import make_report

_CORPORA = ("libri-esc50", "commands-urban", "voices-ambient", "pairs")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--scores", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as name:
        folder = Path(name)
        pages = {
            f"trade-off of {options.runs:,} runs": lambda page: _trade_off(folder, page, options.runs),
            f"evaluation of {options.scores:,} scores": lambda page: _evaluation(page, options.scores),
            f"sweep of {options.trials:,} trials": lambda page: _sweep(folder, page, options.trials),
        }
        for number, (what, write) in enumerate(pages.items()):
            page = folder / f"{number}.html"
            made = write(page)
            opened = _open_seconds(page, options.chromium)
            print(
                f"{what}: {made}; {page.stat().st_size / 1e6:.1f} MB, opens in {opened:.2f} s"
                f" (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )


def _trade_off(folder: Path, page: Path, runs: int) -> str:
    storage = StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    _store_runs(Tracker(storage), runs)
    calls = list[int]()
    spent = cpu_seconds(lambda: calls.append(_counted(storage, page)))
    return f"{spent:.1f} CPU s, {calls[-1]} queries"


def _counted(storage: StorageConfig, page: Path) -> int:
    """Write the page; returns how many searches it made."""
    from mlflow import MlflowClient

    real, count = MlflowClient.search_runs, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return real(*arguments, **options)

    MlflowClient.search_runs = counted  # type: ignore[method-assign]
    try:
        trade_off(storage, page)
    finally:
        MlflowClient.search_runs = real  # type: ignore[method-assign]
    return count


def _store_runs(tracker: Tracker, runs: int) -> None:
    for number in range(runs // 2):
        for place, corpus in enumerate(_CORPORA[:2]):
            score = 1 + (number * 7919 % 1000) / 1000 - 0.2 * place * (number * 104729 % 1000) / 1000
            tags = {
                "rwsa.kind": CHILD_KIND,
                "rwsa.system": f"system-{number}",
                "rwsa.corpus": corpus,
                "rwsa.in_domain_corpus": _CORPORA[0],
                f"data_sha256.{corpus}": corpus,
                "rwsa.scoring_code": "1",
                "weights_sha256": f"{number:064d}",
            }
            run_id = tracker.client.create_run(tracker.experiment_id, tags=tags).info.run_id
            values: dict[str, float] = {"clips": 100.0}
            values |= {str(name): score for name in TABLE1_METRICS}
            values |= {f"noisy.{name}": 1.0 for name in TABLE1_METRICS}
            metrics = [Metric(name, value, 0, 0) for name, value in values.items()]
            tracker.client.log_batch(
                run_id, metrics=metrics, params=[Param("system", "x")], tags=[RunTag("a", "b")]
            )
            tracker.client.set_terminated(run_id)


def _evaluation(page: Path, scores: int) -> str:
    systems = ("xs", "s", "m")
    clips = scores // (len(_CORPORA) * (len(systems) + 1))
    summary = EvaluationSummary(
        name="many clips",
        systems=tuple(map(model, systems)),
        corpora=tuple(
            synthetic_scores(name, seed, systems, count=clips) for seed, name in enumerate(_CORPORA)
        ),
        seconds=1.0,
    )

    def write() -> None:
        statistics, limits = statistics_of(summary), gain_limits(summary)
        text = evaluation_html(
            summary,
            statistics,
            about={},
            figures=list(evaluation_figures(summary, statistics).values()),
            gain_figures={one.name: gain_figure(one, summary, limits) for one in summary.corpora},
            samples=[],
        )
        page.write_text(text, encoding="utf-8")

    return f"{cpu_seconds(write):.1f} CPU s"


def _sweep(folder: Path, page: Path, trials: int) -> str:
    rows = rows_of(
        {f"choice-{number}": [number % 17 + seed / 10 for seed in range(5)] for number in range(trials // 5)}
    )
    sweep = sweep_of()
    storage = StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/sweep.db")

    def write() -> None:
        with Tracker(storage).run(sweep.name) as run:
            report = make_report(sweep, rows)
            written = log_report(run, sweep, rows, report, folder, about={})
            page.write_bytes(written.read_bytes())

    return f"{cpu_seconds(write):.1f} CPU s"


def _open_seconds(page: Path, chromium: Path) -> float:
    """Until the browser has loaded the page and drawn all pictures; NaN without a browser."""
    if not chromium.exists():
        return float("nan")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium), args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(300_000)

        def look() -> None:
            opened.goto(page.as_uri())
            opened.wait_for_function("[...document.images].every(image => image.complete)")
            opened.screenshot()

        spent = seconds(look)
        browser.close()
    return spent


if __name__ == "__main__":
    main()
