"""Workflows as Dagster assets: their graph, what is run and reported, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwsa.errors import InputError
from tests.workflow_files import check_step, mix_step, write_workflow

dg = pytest.importorskip("dagster", reason="no dagster; pip install -e '.[dagster]'")

from pipelines import dagster_assets  # noqa: E402
from pipelines.dagster_assets import AssetGraph, workflow_definitions  # noqa: E402
from pipelines.dagster_run import summary_in  # noqa: E402
from pipelines.workflow.schema import read_workflow  # noqa: E402

STEPS: dict[str, Any] = {
    "mix": mix_step(1) | {"foreach": {"kind": ["a-1", "b"]}},
    "mix-check": check_step("mix") | {"foreach": {"kind": ["a-1", "b"]}},
    "corpus": {"verb": "check", "options": {"card": "${folder}/corpus/card.yaml"}},
    "page": {
        "verb": "dataset-page",
        "foreach": {"kind": ["a-1", "b"]},
        "options": {"shards": "${mix.shards}"},
        "needs": ["mix-check", "corpus"],
    },
}
BLUE, RED = dg.AssetKey(["toy", "mix-a_1"]), dg.AssetKey(["toy", "mix-b"])


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()  # only its name matters here
    return write_workflow(tmp_path, STEPS)


@pytest.fixture
def graph(workflow: Path) -> AssetGraph:
    return AssetGraph(read_workflow(workflow))


def test_steps_are_assets_in_groups_and_checks_belong_to_what_they_check(workflow: Path) -> None:
    found = workflow_definitions([str(workflow)]).resolve_asset_graph()
    names = {"mix-a_1", "mix-b", "page-a_1", "page-b", "corpus"}
    assert {key.path[-1] for key in found.get_all_asset_keys()} == names
    page = found.get(dg.AssetKey(["toy", "page-b"]))
    assert {key.path[-1] for key in page.parent_keys} == {"mix-b", "corpus"}
    assert page.group_name == "page"
    assert found.get(BLUE).group_name == found.get(RED).group_name == "mix"
    assert {(key.asset_key, key.name) for key in found.asset_check_keys} == {
        (BLUE, "mix_check_a_1"), (RED, "mix_check_b"),
    }  # fmt: skip


def test_what_dagster_selects_is_what_runs(graph: AssetGraph) -> None:
    checks = {dg.AssetCheckKey(RED, "mix_check_b")}
    assert graph.chosen({RED}, checks) == ["mix-b", "mix-check-b"]
    assert graph.chosen({BLUE}, set()) == ["mix-a_1"]


def result(step: str, state: str, **more: Any) -> dict[str, Any]:
    values = {"why": "", "seconds": 1.0, "identity": "1f", "folder": "/f", "log": "", "outputs": {}}
    return {"step": step, "result": state, **values, **more}


def reported(reports: Iterator[Any]) -> tuple[list[Any], str]:
    """What was reported before a failure, and the failure's description."""
    found = []
    try:
        for one in reports:
            found.append(one)
    except dg.Failure as failure:
        return found, str(failure.description)
    return found, ""


def test_what_completed_is_reported_and_the_failure_names_the_step(graph: AssetGraph) -> None:
    steps = [
        result("mix-a_1", "done", outputs={"shards": "s3://b/shards"}),
        result("mix-b", "failed", why="full disk"),
        result("mix-check-a_1", "failed", errors=2, warnings=0),
        result("mix-check-b", "waiting", why="needs mix-b"),
    ]
    (mixed, checked), failure = reported(graph.results(steps, [step["step"] for step in steps]))
    assert (mixed.asset_key, mixed.data_version.value) == (BLUE, "1f")
    assert mixed.metadata["shards"] == dg.MetadataValue.path("s3://b/shards")
    assert (checked.asset_key, checked.passed, checked.severity.value) == (BLUE, False, "ERROR")
    assert "mix-b: failed: full disk" in failure


def test_a_failed_check_alone_fails_no_asset_and_warnings_are_warnings(graph: AssetGraph) -> None:
    steps = [result("mix-b", "finished"), result("mix-check-b", "failed", errors=0, warnings=1)]
    (_, checked), failure = reported(graph.results(steps, ["mix-b", "mix-check-b"]))
    assert failure == ""
    assert (checked.passed, checked.severity.value) == (False, "WARN")


def test_scores_are_a_table_and_pesq_a_number_of_the_asset(graph: AssetGraph) -> None:
    scores = {
        "libri": {"clips": 2, "noisy": {"pesq": 1.25, "estoi": None}, "net": {"pesq": 1.5, "estoi": 0.7}}
    }
    ((one,), _) = reported(graph.results([result("page-b", "finished", scores=scores)], ["page-b"]))
    assert "| libri | net | 1.500 | 0.700 |" in one.metadata["scores"].value
    assert one.metadata["PESQ, libri, net"] == dg.MetadataValue.float(1.5)


def test_a_parameter_is_the_partition_and_a_time_a_schedule(workflow: Path) -> None:
    made = workflow_definitions([str(workflow)], cron="0 1 * * 6", partitions=("folder", ["/a", "/b"]))
    (schedule,) = made.schedules
    assert (schedule.cron_schedule, schedule.job.name) == ("0 1 * * 6", "run_toy")
    assert made.resolve_asset_graph().get(RED).partitions_def.get_partition_keys() == ["/a", "/b"]


def test_the_summary_is_found_among_other_lines() -> None:
    assert summary_in('a line\n{"workflow": "toy", "steps": []}\nlate warning\n') == {
        "workflow": "toy",
        "steps": [],
    }
    assert summary_in("error: no such file\n") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "RWSA_WORKFLOW is not set"),
        ("{file} --only mix", "only --smoke, --set, --storage and --address"),
        ("{file} --unknown", "unrecognized arguments: --unknown"),
        ("nothing.yaml", "nothing.yaml"),
    ],
)
def test_what_dagster_cannot_use_is_one_message(
    workflow: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.setenv("RWSA_WORKFLOW", words.format(file=workflow))
    with pytest.raises(InputError, match=message):
        dagster_assets.definitions()


def test_the_variable_names_workflow_and_options(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWSA_WORKFLOW", f"{workflow} --set folder=/elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    dg.Definitions.validate_loadable(dagster_assets.definitions())
