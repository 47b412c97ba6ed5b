"""Two nodes with addresses of their own, all storage over S3: the whole job, and what may happen to it.

What each fault does is written down in infra/FAULTS.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import soundfile
import torch
import yaml
from mlflow import MlflowClient
from torch import Tensor

from rwsa.files import list_folder, local_copy, location, read_json, sha256_of
from rwsa.models.weights import read_weights
from tests.node_network import wait_until, why_not
from tests.object_store import set_faults
from tests.ray_nodes import Driver, RayNodes, ray_nodes, reached_from_here
from tests.toy_corpus import write_corpus
from tests.training_runs import RATE_HZ, TINY, example
from tune.trial_results import ResultFolder, TrialResult

pytestmark = pytest.mark.full
ROOT = "s3://rwsa"
STEPS, SHARDS = 40, 16
CARD = """
name: pairs
description: Syllables of noise, in noise.
sample_rate_hz: 16000
licence: CC0
pairs:
  - {{root: {root}, clean: 'clean/(?P<pair>\\S+)\\.wav', noisy: 'noisy/(?P<pair>\\S+)\\.wav', split: test}}
"""
TRAINING = [
    f"model={json.dumps(TINY)}",
    "loss_weights.metric=0",
    "best_metric=si_sdr",
    "global_batch_size=4",
    "log_every_steps=1",
    "checkpoint_every_steps=5",
    f"max_steps={STEPS}",
    "audio_clips=0",
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("nodes")
    write_corpus(folder / "corpus")
    for kind in ("clean", "noisy"):
        (folder / "pairs" / kind).mkdir(parents=True)
        for number in range(12):
            made = example(f"pair-{number}", RATE_HZ)
            soundfile.write(
                folder / "pairs" / kind / f"pair-{number}.wav", getattr(made, kind), RATE_HZ, "PCM_16"
            )
    (folder / "pairs.yaml").write_text(CARD.format(root=folder / "pairs"))
    with ray_nodes(folder) as made_nodes, reached_from_here(made_nodes, "rwsa"):
        yield made_nodes


@pytest.fixture(autouse=True)
def mended(nodes: RayNodes) -> Iterator[None]:
    """What a test broke, or left under way where it failed, is no matter to the next."""
    yield
    nodes.mend()


def storage(nodes: RayNodes) -> list[str]:
    return ["--storage", ROOT, "--set", f"storage.tracking_uri={nodes.mlflow}"]


def mixing(nodes: RayNodes, out: str) -> list[str]:
    corpus = nodes.folder / "corpus"
    words = ["--card", str(corpus / "card.yaml"), "--recipe", str(corpus / "recipe.yaml"), "--out", out]
    words += ["--shard-examples", "8", "--cache", str(nodes.folder / "cache")]
    return [*words, "--set", f"examples={{train: {8 * SHARDS}, valid: 2}}"]


def training(nodes: RayNodes, name: str) -> list[str]:
    words = ["base", "--workers", "2", *storage(nodes), *TRAINING]
    return [*words, f"name={name}", f"data.shards={ROOT}/shards"]


def evaluating(nodes: RayNodes, name: str, root: str = ROOT) -> list[str]:
    words = ["--weights", f"{ROOT}/runs/undisturbed/model.safetensors", "--name", name]
    words += ["--corpora", str(nodes.folder / "pairs.yaml"), "--json", f"{ROOT}/{name}.json"]
    return [*words, "--storage", root, "--set", f"storage.tracking_uri={nodes.mlflow}"]


def sweeping(nodes: RayNodes, name: str) -> list[str]:
    settings_of_sweep = {
        "name": name,
        "question": "Does it run?",
        "base": ["base"],
        "set": {"max_steps": 10},
        "axes": {"model.sharing": ["resolution", "none"]},
        "corpora": [str(nodes.folder / "pairs.yaml")],
        "examples": 2,
        "metric": "si_sdr",
        "workers": 1,
    }
    sweep = nodes.folder / f"{name}.yaml"
    sweep.write_text(yaml.safe_dump(settings_of_sweep))
    settings = [setting for setting in TRAINING if not setting.startswith("max_steps")]
    return [str(sweep), *storage(nodes), *settings, f"data.shards={ROOT}/shards"]


def rows(sweep: str) -> dict[str, TrialResult]:
    """What became of trials, by their points, without what no two runs have in common."""
    files = ResultFolder(f"{ROOT}/sweeps/{sweep}")
    found = [row for name in files.trial_names() if (row := files.result(name)) is not None]
    apart = {"trial": "", "seconds": 0, "evaluation_seconds": 0, "run_id": None, "weights": None}
    return {str(row.point): dataclasses.replace(row, **apart) for row in found}


def tars(folder: str) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in list_folder(location(folder)) if path.suffix == ".tar"}


def weights(name: str) -> dict[str, Tensor]:
    with local_copy(location(f"{ROOT}/runs/{name}/model.safetensors")) as file:
        return read_weights(file)


def scores(name: str) -> dict[str, Any]:
    return read_json(location(f"{ROOT}/{name}.json"))["corpora"]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def newest_checkpoint(name: str) -> int:
    """The step of a run's newest checkpoint, 0 where there is none."""
    folders = list_folder(location(f"{ROOT}/runs/{name}/checkpoints"))
    return max((int(folder.name.removeprefix("step-")) for folder in folders), default=0)


def wait_for_checkpoint(train: Driver, name: str, after: int = 0) -> None:
    """Wait until a training has saved a checkpoint of a later step, and is still under way."""
    wait_until(lambda: newest_checkpoint(name) > after, lambda: train.output)
    assert train.is_running
    assert f"step {STEPS}/{STEPS}" not in train.output


@pytest.fixture(scope="module")
def shards(nodes: RayNodes) -> dict[str, str]:
    """Checksums of the shards in the store, mixed with nothing in the way."""
    nodes.drive("pipelines.mix_shards", *mixing(nodes, f"{ROOT}/shards")).ends()
    return tars(f"{ROOT}/shards")


@pytest.fixture(scope="module")
def undisturbed(nodes: RayNodes, shards: dict[str, str]) -> dict[str, Tensor]:
    """Weights of a training with nothing in the way."""
    assert f"step {STEPS}/{STEPS}" in nodes.drive("pipelines.train", *training(nodes, "undisturbed")).ends()
    return weights("undisturbed")


@pytest.fixture(scope="module")
def references(
    nodes: RayNodes, undisturbed: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, TrialResult]]:
    """Scores of an evaluation and results of a sweep with nothing in the way; they run side by side."""
    evaluate = nodes.drive("pipelines.evaluate", *evaluating(nodes, "undisturbed"))
    sweep = nodes.drive("tune.sweep", *sweeping(nodes, "sharing"))
    evaluate.ends()
    sweep.ends()
    return scores("undisturbed"), rows("sharing")


def test_mix_train_evaluate_and_sweep(
    nodes: RayNodes,
    shards: dict[str, str],
    references: tuple[dict[str, Any], dict[str, TrialResult]],
) -> None:
    """The sweep has two trials, each trained by a worker of its own."""
    evaluated, swept = references
    assert len(shards) == SHARDS + 1
    assert evaluated["pairs"]["enhanced"]["si_sdr"] is not None
    assert [row.status for row in swept.values()] == ["finished", "finished"]
    client = MlflowClient(nodes.mlflow)
    found = client.get_experiment_by_name("rwsa")
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    # Except the run that another test leaves open when it kills MLflow.
    assert {run.info.status for run in runs if run.info.run_name != "refused"} == {"FINISHED"}


def test_a_node_lost_while_mixing_into_a_store_that_refuses(nodes: RayNodes, shards: dict[str, str]) -> None:
    _, before = set_faults(nodes.store, refuse_every=10, delay_seconds=0.15)
    mix = nodes.drive("pipelines.mix_shards", *mixing(nodes, f"{ROOT}/lost-node"))
    wait_until(lambda: len(tars(f"{ROOT}/lost-node")) >= 2, lambda: mix.output)
    nodes.net["b"].kill()
    set_faults(nodes.store, refuse_every=10, delay_seconds=0.05)
    assert len(tars(f"{ROOT}/lost-node")) < len(shards)
    mix.ends()
    _, after = set_faults(nodes.store)
    assert after > before
    assert tars(f"{ROOT}/lost-node") == shards


def test_a_training_that_loses_a_node_and_then_its_network_for_twenty_seconds(
    nodes: RayNodes, undisturbed: dict[str, Tensor]
) -> None:
    train = nodes.drive("pipelines.train", *training(nodes, "disturbed"))
    wait_for_checkpoint(train, "disturbed")
    nodes.net["b"].kill()
    saved = newest_checkpoint("disturbed")
    nodes.start("b")
    wait_for_checkpoint(train, "disturbed", after=saved)
    nodes.net["b"].cut()
    time.sleep(20)
    assert f"step {STEPS}/{STEPS}" not in train.output
    nodes.net["b"].heal()
    train.ends()
    assert same(weights("disturbed"), undisturbed)


def test_a_node_lost_while_evaluating(
    nodes: RayNodes, references: tuple[dict[str, Any], dict[str, TrialResult]]
) -> None:
    evaluate = nodes.drive("pipelines.evaluate", *evaluating(nodes, "lost-node", f"{ROOT}/other"))
    wait_until(lambda: list_folder(location(f"{ROOT}/other/cache/scores")), lambda: evaluate.output)
    nodes.net["b"].kill()
    assert evaluate.is_running
    evaluate.ends()
    assert scores("lost-node") == references[0]


def test_a_node_lost_in_a_sweep_and_come_back(
    nodes: RayNodes, references: tuple[dict[str, Any], dict[str, TrialResult]]
) -> None:
    sweep = nodes.drive("tune.sweep", *sweeping(nodes, "lost-node"))
    files = ResultFolder(f"{ROOT}/sweeps/lost-node")
    wait_until(
        lambda: any(files.progress(name).reports for name in files.trial_names()), lambda: sweep.output
    )
    nodes.net["b"].kill()
    assert sweep.is_running
    nodes.start("b")
    sweep.ends()
    assert rows("lost-node") == references[1]


def test_a_training_with_a_slow_refusing_store_and_an_unreachable_mlflow(
    nodes: RayNodes, undisturbed: dict[str, Tensor]
) -> None:
    _, before = set_faults(nodes.store, refuse_every=10, delay_seconds=0.05)
    train = nodes.drive("pipelines.train", *training(nodes, "refused"))
    wait_for_checkpoint(train, "refused")
    nodes.net["mlflow"].kill()
    assert "the rest is queued in" in train.ends()
    _, after = set_faults(nodes.store)
    assert after > before
    assert same(weights("refused"), undisturbed)
    refused = nodes.drive("pipelines.train", *training(nodes, "refused"), HOME=str(nodes.folder))
    assert "does not answer" in refused.ends(2)


def test_a_workflow_that_loses_a_node(
    nodes: RayNodes, shards: dict[str, str], undisturbed: dict[str, Tensor]
) -> None:
    """Its training resumes on two nodes again; its check has a process on one of them."""
    path = nodes.folder / "flow.yaml"
    settings = dict(setting.split("=", 1) for setting in TRAINING)
    train = {"configs": ["base"], "workers": 2, "set": {**settings, "data.shards": f"{ROOT}/shards"}}
    checks = {"shards": f"{ROOT}/shards", "json": f"{ROOT}/report.json", "workers": 0}
    tree = {
        "name": "flow",
        "storage": {"root": ROOT, "tracking_uri": nodes.mlflow},
        "steps": {
            "train": {"verb": "train", "options": train},
            "check": {"verb": "check", "cpus": 1, "needs": ["train"], "options": checks},
        },
    }
    path.write_text(yaml.safe_dump(tree))
    flow = nodes.drive("pipelines.run", str(path))
    folder = f"{ROOT}/workflows/flow/train"
    wait_until(lambda: list_folder(location(folder)), lambda: flow.output)
    name = f"flow-train-{list_folder(location(folder))[0].name[:6]}"
    wait_for_checkpoint(flow, name)
    nodes.net["b"].kill()
    nodes.start("b")
    assert "flow: 2 finished" in flow.ends()
    assert same(weights(name), undisturbed)
    assert "flow: 2 done" in nodes.drive("pipelines.run", str(path)).ends()
