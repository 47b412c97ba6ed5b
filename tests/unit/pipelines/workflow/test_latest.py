"""Links to the newest results of a workflow: the same paths after a change, also in a moved folder."""

from __future__ import annotations

from pathlib import Path

from pipelines.workflow.latest import LatestResults
from pipelines.workflow.prepare import Preparation
from pipelines.workflow.records import Output, output_of
from pipelines.workflow.runner import StepResult
from pipelines.workflow.schema import read_workflow
from pipelines.workflow.steps import steps_of
from tests.workflow_files import mix_step, train_step, write_workflow


def result(root: Path, preparation: Preparation, step: str, digest: str) -> StepResult:
    """Results of a step: its log, and for training weights in the folder of a run."""
    folder = root / "workflows" / "toy" / step / digest
    folder.mkdir(parents=True)
    outputs: dict[str, Output]
    if step == "train":
        weights = root / "runs" / digest / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_text(digest)
        outputs = {
            "weights": output_of(str(weights), is_place=True),
            "name": output_of(digest, is_place=False),
        }
    else:
        (folder / "shards").mkdir()
        (folder / "shards" / "a.tar").write_text(digest)
        outputs = {"shards": output_of(str(folder / "shards"), is_place=True)}
    return StepResult(step=preparation.steps[step], result="finished", folder=str(folder), outputs=outputs)


def test_links_to_the_newest_results(tmp_path: Path) -> None:
    workflow = read_workflow(write_workflow(tmp_path, {"mix": mix_step(1), "train": train_step("mix", 4)}))
    preparation = Preparation(workflow, steps_of(workflow))
    root, latest = tmp_path / "out", LatestResults(preparation)
    for digest in ("one", "two"):
        results = [result(root, preparation, step, digest) for step in ("mix", "train")]
        results.append(StepResult(step=preparation.steps["mix"], result="waiting"))
        for _ in range(2):
            latest.link(results)
        links = root / "latest" / "toy"
        assert (links / "mix" / "shards" / "a.tar").read_text() == digest
        assert (links / "train" / "weights.safetensors").read_text() == digest
        assert sorted(path.name for path in links.iterdir()) == ["mix", "train"]
        assert latest.path(results[1], "weights") == str(links / "train" / "weights.safetensors")
        assert latest.path(results[0], "shards") == str(links / "mix" / "shards")
        assert f"--weights {links}/train/weights.safetensors" in list(latest.where_to_look(results))[-1]
    root.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest" / "toy" / "train" / "weights.safetensors").read_text() == "two"
