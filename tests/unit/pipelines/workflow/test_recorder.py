"""What a workflow's page and MLflow run say while steps begin, end, fail and are found done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.workflow import recorder as module
from pipelines.workflow.attempts import begin_attempt, read_attempts
from pipelines.workflow.prepare import Preparation, PreparedStep
from pipelines.workflow.recorder import WorkflowRecorder
from pipelines.workflow.records import Output
from pipelines.workflow.runner import StepResult
from pipelines.workflow.schema import read_workflow
from pipelines.workflow.steps import steps_of
from rwsa.errors import InputError
from rwsa.files import location, write_json

WORKFLOW = """
name: toy
description: Two corpora checked and one scored.
params: {cards: [a.yaml, b.yaml], examples: 2}
steps:
  check:
    verb: check
    foreach: {card: "${cards}"}
    options: {card: "${card}"}
  score:
    verb: evaluate
    needs: [check]
    options: {weights: none.safetensors, corpora: "${cards}", examples: "${examples}"}
"""
CARD = """
{{name: {name}, description: Toy., sample_rate_hz: 16000, licence: CC0,
 speech: [{{root: {root}/speech, pattern: '(?P<speaker>.+)', split: test}}]}}
"""
SCORES = {"corpora": {"a": {"clips": 2, "noisy": {"pesq": 1.25}, "net": {"pesq": 1.5}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workflow, its two cards, and MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("toy")
    (path / "speech").mkdir()
    (path / "none.safetensors").write_bytes(b"")
    for name in "ab":
        (path / f"{name}.yaml").write_text(CARD.format(name=name, root=path))
    (path / "toy.yaml").write_text(WORKFLOW)
    Tracker(storage(path))
    return path


def storage(folder: Path, uri: str = "") -> StorageConfig:
    return StorageConfig(root=str(folder / "out"), tracking_uri=uri or f"sqlite:///{folder}/mlflow.db")


def prepared(folder: Path, *settings: str, uri: str = "") -> Preparation:
    store = storage(folder, uri)
    cards = f"cards=[{folder}/a.yaml,{folder}/b.yaml]"
    settings = (cards, f"storage.root={store.root}", f"storage.tracking_uri={store.tracking_uri}", *settings)
    workflow = read_workflow(folder / "toy.yaml", settings)
    return Preparation(workflow, steps_of(workflow))


def recorder_of(folder: Path, *settings: str, uri: str = "") -> WorkflowRecorder:
    preparation = prepared(folder, *settings, uri=uri)
    return WorkflowRecorder(preparation, folder / "toy.yaml", selected=list(preparation.steps))


def first_step(folder: Path) -> PreparedStep:
    preparation = prepared(folder)
    return preparation.prepare(preparation.steps["check-a"], {})


def result(of: PreparedStep, state: str, **changes: object) -> StepResult:
    values = {"step": of.step, "result": state, "seconds": 2.0, "log": of.log, "folder": of.place}
    return StepResult(**(values | changes))  # type: ignore[arg-type]


@contextmanager
def process_of(variables: dict[str, str]) -> Iterator[None]:
    """As if the block ran in the process of a step."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def page(folder: Path) -> str:
    return (folder / "out/workflows/toy/workflow.html").read_text()


def test_the_run_of_a_workflow_from_its_first_step_to_a_failure(folder: Path) -> None:
    one, tracker = first_step(folder), Tracker(storage(folder))
    with recorder_of(folder) as recorder:
        run_id = recorder.start().run_id
        variables = recorder.begin(one)
        assert "0 of 3 steps done, 1 running, 2 waiting" in page(folder)
        assert "refresh" in page(folder)
        with process_of(variables), tracker.run("checked a") as child:
            location(one.log).write_text("a line")
        report = Output(value=f"{one.place}/report.json", digest="d", signature="s")
        recorder.end(result(one, "finished", outputs={"report": report}))
        preparation = prepared(folder)
        other = preparation.steps["check-b"]
        recorder.end(StepResult(step=other, result="failed", why="b.yaml: no such file | or folder"))
    text = page(folder)
    assert "1 of 3 steps done, 1 failed, 1 waiting" in text
    assert "b.yaml: no such file | or folder" in text
    assert "needs check-b" in text
    assert f'href="check-a/{one.identity.digest}/log.txt"' in text
    assert "checked a" in text
    assert "refresh" not in text

    run = tracker.client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert (run.data.params["examples"], run.data.params["workflow.steps"]) == ("2", "3")
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("step.")}
    assert tags == {"step.check-a": "done", "step.check-b": "failed", "step.score": "waiting"}
    assert run.data.metrics["seconds/check-a"] == 2.0
    assert {name: run.data.metrics[f"steps/{name}"] for name in ("done", "failed", "waiting")} == {
        "done": 1, "failed": 1, "waiting": 1,
    }  # fmt: skip
    note = run.data.tags["mlflow.note.content"]
    address = f"#/experiments/{tracker.experiment_id}/runs/{child.run_id}"
    assert re.search(rf"\| check-a \| done \| [\d.]+ s \| \[checked a\]\({address}\) \|", note)
    assert "b.yaml: no such file / or folder" in note
    files = {file.path for file in tracker.client.list_artifacts(run_id)}
    assert files == {"graph.svg", "resolved.yaml", "workflow.html", "workflow.yaml"}
    assert tracker.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == run_id


def test_the_same_command_goes_on_with_the_same_run_and_another_parameter_makes_another(folder: Path) -> None:
    with recorder_of(folder) as first:
        run_id = first.start().run_id
    with recorder_of(folder) as again:
        assert again.start().run_id == run_id
    with recorder_of(folder, "examples=3") as other:
        assert other.start().run_id != run_id
    assert Tracker(storage(folder)).client.get_run(run_id).info.status == "KILLED"


def test_with_nothing_to_do_mlflow_is_not_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a run that broke off after its last step is closed."""
    with recorder_of(folder, "examples=4") as first:
        run_id = first.start().run_id
    client = Tracker(storage(folder)).client
    assert client.get_run(run_id).info.status == "KILLED"
    scores = folder / "out/scores.json"
    write_json(scores, SCORES)
    outputs = {"scores": Output(value=str(scores), digest="d", signature="s")}
    steps = prepared(folder, "examples=4").steps.values()
    for tracker in (Tracker, None):
        monkeypatch.setattr(module, "Tracker", tracker)
        with recorder_of(folder, "examples=4") as recorder:
            for step in steps:
                recorder.end(StepResult(step=step, result="done", seconds=1.0, outputs=outputs))
        assert client.get_run(run_id).info.status == "FINISHED"
    text = page(folder)
    assert "3 of 3 steps done" in text
    assert run_id in text
    assert "Scores: score" in text
    assert ">1.500" in text


def test_without_mlflow_there_is_one_line_and_nothing_has_begun(folder: Path) -> None:
    one = first_step(folder)
    attempts = read_attempts(location(one.place))
    with (
        pytest.raises(InputError, match=r"http://127.0.0.1:1 does not answer"),
        recorder_of(folder, uri="http://127.0.0.1:1") as recorder,
    ):
        recorder.start()
    assert "0 of 3 steps done, 3 waiting" in page(folder)
    assert read_attempts(location(one.place)) == attempts


def test_an_attempt_without_an_end_was_interrupted_when_its_log_ends(folder: Path) -> None:
    preparation = prepared(folder)
    step = preparation.prepare(preparation.steps["check-b"], {})
    place = location(step.place)
    begin_attempt(place, 1000.0)
    location(step.log).write_text("a line")
    os.utime(str(step.log), (1300.0, 1300.0))
    recorder = recorder_of(folder)
    recorder.show(step.step, "partial", "it was started and did not finish", step)
    shown = recorder.write_page()
    state = next(one for one in shown.steps if one.name == "check-b")
    assert (state.state, state.seconds) == ("interrupted", 300.0)
    begin_attempt(place, 2000.0)
    assert [(one.started, one.ended, one.result) for one in read_attempts(place)] == [
        (1000.0, 1300.0, "interrupted"),
        (2000.0, None, "running"),
    ]
