"""Sweeps on real Ray Tune: MLflow runs, failed trials, schedulers, Optuna."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from rwsa.errors import InputError
from rwsa.lease import exclusive_lock
from tests.sweep_runs import reproducible, sweep_config, write_data
from tune.report import main as report_main
from tune.sweep import SweepSummary, sweep
from tune.trial_results import ResultFolder, TrialResult

pytestmark = pytest.mark.usefixtures("ray_address")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("sweeps"))


def _finished(summary: SweepSummary) -> list[TrialResult]:
    return [row for row in summary.results if row.status == "finished"]


def test_trials_are_child_runs_failures_are_results_and_nothing_runs_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "good": {},
        "without data": {"data": {"valid": "test"}},  # no split has this name
        "diverging": {"optimiser": {"learning_rate": 1e30}},
    }
    config = sweep_config(data, "tiny", axes={"case": {"named": cases}})
    summary = sweep(config)
    finished, without_data, diverging = summary.results
    assert [row.status for row in summary.results] == ["finished", "failed", "failed"]
    assert "no split 'test'" in (without_data.reason or "")
    assert "NaN or infinite" in (diverging.reason or "")
    assert [step for step, _ in finished.reports] == [1, 2]
    assert finished.parameters is not None

    client = MlflowClient(f"sqlite:///{data}/mlflow.db")
    child, parent = client.get_run(finished.run_id), client.get_run(summary.run_id)
    assert child.data.tags[MLFLOW_PARENT_RUN_ID] == summary.run_id
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.params["axis.case"] == "good"
    assert child.data.metrics["pairs.si_sdr"] == finished.means["pairs"]["enhanced"]["si_sdr"]
    assert "highest SI-SDR on the only corpus" in parent.data.tags["rwsa.rule"]
    assert parent.data.metrics["trials.failed"] == 2
    assert {one.path for one in client.list_artifacts(summary.run_id)} == {
        "report.html",
        "sweep.json",
        "trials.json",
    }
    assert "Does it work?" in summary.page.read_text()

    again = sweep(config)
    assert again.run_id == summary.run_id
    assert again.results == summary.results
    once_more = sweep(config, retry_failed=True)
    assert once_more.results[0] == finished
    assert [row.reason for row in once_more.results] == [row.reason for row in summary.results]

    settings = ["--set", f"storage.tracking_uri=sqlite:///{data}/mlflow.db", f"storage.root={data}"]
    assert report_main([summary.run_id, "--out", str(tmp_path / "report"), *settings]) == 0
    assert str(tmp_path / "report" / "report.html") in capsys.readouterr().out
    assert "Does it work?" in (tmp_path / "report" / "report.html").read_text()
    assert report_main(["nothing", *settings]) == 2
    assert "has no sweep with this run id" in capsys.readouterr().err


def test_another_corpus_is_evaluated_without_training_again(data: Path) -> None:
    axes = {"seed": {"values": [3]}}
    (before,) = sweep(sweep_config(data, "again", axes=axes)).results
    card = data / "other.yaml"
    card.write_text((data / "card.yaml").read_text().replace("name: pairs", "name: others"))
    (after,) = sweep(
        sweep_config(data, "again", axes=axes, corpora=[str(data / "card.yaml"), str(card)])
    ).results
    assert list(after.means) == ["pairs", "others"]
    assert (after.seconds, after.reports) == (before.seconds, before.reports)


def test_asha_stops_bad_trials_and_a_second_start_stops_them_again(data: Path) -> None:
    # With a learning rate near zero the scores stay those of the initial weights: -19, -26 and -27 dB.
    config = sweep_config(
        data,
        "early",
        axes={"optimiser.learning_rate": {"values": [1e-12]}},
        seeds=[0, 1, 2],
        scheduler={"kind": "asha", "grace_steps": 1, "reduction_factor": 2},
        concurrent_trials=1,
        set={"max_steps": 4},
    )
    summary = sweep(config)
    assert [(row.status, row.step) for row in summary.results] == [
        ("finished", 4),
        ("stopped", 1),
        ("stopped", 1),
    ]
    stopped = summary.results[1:]
    assert all(row.reason == "early, by asha" and not row.means for row in stopped)
    assert summary.report.configurations[0].in_domain is not None
    assert summary.report.configurations[0].in_domain.runs == 1
    # If the driver had been lost after the first trial, the others would give the same results.
    files = ResultFolder(data / "sweeps" / "early")
    files.delete_result(stopped[-1].trial)
    assert reproducible(sweep(config).results) == reproducible(summary.results)


def test_trials_of_equal_compute_are_timed_once(data: Path) -> None:
    config = sweep_config(
        data,
        "equal",
        axes={"model.blocks": {"values": [1, 4]}},
        scheduler={"kind": "asha", "grace_steps": 2, "reduction_factor": 2},
        core_minutes=0.02,
        set={"max_steps": 2},
    )
    summary = sweep(config)
    one_block, four_blocks = (row.reports[-1][0] for row in summary.results)
    assert one_block > four_blocks
    saved = ResultFolder(data / "sweeps" / "equal").core_seconds()
    assert len(saved) == 2
    assert sweep(config).results == summary.results
    assert ResultFolder(data / "sweeps" / "equal").core_seconds() == saved


@pytest.mark.full
def test_optuna_chooses_points_and_a_second_start_reuses_them(data: Path) -> None:
    config = sweep_config(
        data,
        "chosen",
        axes={"optimiser.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        search={"kind": "optuna", "trials": 3, "seed": 1},
        concurrent_trials=1,
        set={"max_steps": 1},
    )
    summary = sweep(config)
    rates = [row.point["optimiser.learning_rate"] for row in _finished(summary)]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert sweep(config).results == summary.results


@pytest.mark.full
def test_population_based_training_continues_from_the_best_trial(data: Path) -> None:
    config = sweep_config(
        data,
        "population",
        axes={"optimiser.learning_rate": {"log_uniform": [1e-12, 1e-2]}},
        search={"kind": "random", "trials": 2, "seed": 3},
        scheduler={"kind": "pbt", "interval_steps": 2},
        set={"max_steps": 4},
    )
    summary = sweep(config)
    assert [row.status for row in summary.results] == ["finished", "finished"]
    assert all(row.step == 4 for row in summary.results)
    files = ResultFolder(data / "sweeps" / "population")
    initial = {row.trial: row.trial.split("learning_rate_")[1].split("-seed")[0] for row in summary.results}
    now = {row.trial: files.progress(row.trial).point for row in summary.results}
    changed = [name for name in initial if f"{now[name]['optimiser.learning_rate']}" != initial[name]]
    # One of two trials is always the worse; at the last step nothing is exchanged.
    assert len(changed) == 1


def test_trials_train_on_workers_and_report_scores(data: Path) -> None:
    config = sweep_config(data, "workers", axes={"seed": {"values": [0]}}, workers=1)
    (row,) = sweep(config).results
    assert (row.status, row.reason) == ("finished", None)
    assert [step for step, _ in row.reports] == [1, 2]


def test_two_drivers_of_one_sweep_are_refused(data: Path) -> None:
    config = sweep_config(data, "busy", axes={"seed": {"values": [0]}})
    with (
        exclusive_lock(data / "sweeps" / "busy"),
        pytest.raises(InputError, match="in use by"),
    ):
        sweep(config)
