"""Sweeps of earlier versions are read: folders, rules and the data that `tune.report` uses.

`tests/fixtures/before/sweep` is a finished sweep of two configurations with two seeds. It was made by the
version before the rule was reworded and keys of `sweep.json` were renamed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from rwsa.files import read_json
from tune.report import report
from tune.search_space import base_values, plan_trials
from tune.sweep_config import SweepConfig, read_sweep
from tune.sweep_page import sweep_html
from tune.sweep_report import make_report, winner_rule
from tune.trial_results import EvaluationSettings, ResultFolder

FIXTURE = Path(__file__).parents[2] / "fixtures" / "before" / "sweep"
CHANGED = "The rule was changed"


@pytest.fixture
def files(tmp_path: Path) -> ResultFolder:
    return ResultFolder(shutil.copytree(FIXTURE, tmp_path / "sweep"))


@pytest.fixture
def sweep() -> SweepConfig:
    return read_sweep(FIXTURE / "before.yaml")


def test_trials_keep_their_names_and_results(files: ResultFolder, sweep: SweepConfig) -> None:
    planned = plan_trials(sweep, base_values(sweep))
    assert sorted(trial.name for trial in planned) == files.trial_names()
    results = files.results(planned, EvaluationSettings(corpora=sweep.corpora, examples=sweep.examples))
    assert [result.status for result in results] == ["finished"] * 4
    assert [len(files.progress(trial.name).reports) for trial in planned] == [2] * 4
    assert list(results[0].means) == ["pairs", "others"]


def test_the_earlier_wording_is_the_same_rule(files: ResultFolder, sweep: SweepConfig) -> None:
    saved = files.preregister_rule(winner_rule(sweep))
    assert saved != winner_rule(sweep)
    planned = plan_trials(sweep, base_values(sweep))
    results = files.results(planned, EvaluationSettings(corpora=sweep.corpora, examples=sweep.examples))
    summary = make_report(sweep, results, preregistered_rule=saved)
    assert summary.preregistered_rule == summary.rule
    assert summary.verdict.startswith("No winner: sharing none has the highest mean, -20.123")
    assert CHANGED not in sweep_html(sweep, results, summary, {})
    other = make_report(sweep, results, preregistered_rule=saved.replace("SI-SDR", "PESQ"))
    assert CHANGED in sweep_html(sweep, results, other, {})


def test_a_report_is_written_again_from_earlier_data(tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with Tracker(storage).run("before") as run:
        run.log_file(FIXTURE / "sweep.json")
    page = report(run.run_id, tmp_path / "report", storage=storage)
    assert "Does sharing attention help?" in page.read_text()
    assert CHANGED not in page.read_text()
    data = read_json(page.parent / "sweep.json")
    assert len(data["results"]) == 4
    assert not data.keys() & {"rows", "stated"}
    artifacts = {one.path for one in MlflowClient(storage.tracking_uri).list_artifacts(run.run_id)}
    assert artifacts == {"report.html", "sweep.json", "trials.json"}
