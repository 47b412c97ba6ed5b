"""A workflow materialised by Dagster, on a real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.toy_corpus import CARD
from tests.workflow_files import check_step, mix_step, write_workflow

dg = pytest.importorskip("dagster", reason="no dagster; pip install -e '.[dagster]'")


@pytest.mark.full
def test_assets_checks_failures_and_a_part(
    tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.dagster_assets import workflow_definitions

    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setenv("RWSA_SHARED_CHECKOUT", "1")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    broken = mix_step(2)
    broken["options"]["set"] = {"min_snr_db": 20}  # above max_snr_db
    leaks = check_step("one")
    leaks["options"]["card"] = "${folder}/leaks.yaml"
    steps = {"one": mix_step(1), "two": broken, "good": check_step("one"), "leaks": leaks}
    path = write_workflow(tmp_path, steps)
    card = CARD.format(root=tmp_path / "corpus").replace("(?P<speaker>", "[a-z]+_(?P<speaker>")
    (tmp_path / "leaks.yaml").write_text(card)
    job = workflow_definitions([str(path)]).resolve_job_def("run_toy")
    one = dg.AssetKey(["toy", "one"])
    with dg.DagsterInstance.ephemeral() as instance:
        run = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not run.success
        (failure,) = [event for event in run.all_events if event.is_step_failure]
        assert "two: failed" in failure.step_failure_data.user_failure_data.description
        assert "max_snr_db" in failure.step_failure_data.user_failure_data.description
        assert materialised(run) == {one: "finished"}
        assert {check.check_name: check.passed for check in run.get_asset_check_evaluations()} == {
            "good": True, "leaks": False,
        }  # fmt: skip
        again = job.execute_in_process(instance=instance, asset_selection=[one])
        assert materialised(again) == {one: "done"}


def materialised(run: Any) -> dict[Any, str]:
    found = (event.materialization for event in run.get_asset_materialization_events())
    return {one.asset_key: one.metadata["result"].value for one in found}
