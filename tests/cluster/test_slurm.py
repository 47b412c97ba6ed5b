"""The SLURM script, with stand-ins for `srun` and `scontrol`, on two nodes that are network namespaces."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwsa.training.checkpoints import Checkpoints
from tests.node_network import why_not
from tests.slurm_nodes import Nodes, slurm_nodes
from tests.training_runs import TINY, write_shards
from tests.workflow_files import mix_step, records, write_workflow

CHECKOUT = Path(__file__).parents[2]
SCRIPT = CHECKOUT / "infra" / "slurm" / "ray.sbatch"
JOB = "4711"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with slurm_nodes() as found:
        yield found


def start(nodes: Nodes, folder: Path, *verb: str, **more: str) -> subprocess.Popen[str]:
    """The script, as SLURM starts it: on the first node, with what a job of two nodes finds set."""
    job = {
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "rwsa[0-1]",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_MEM_PER_NODE": "1500",
        "SLURM_TMPDIR": nodes.local,
        "RWSA_VENV": sys.prefix,
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{nodes.folder}:{os.environ['PATH']}",
    }
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            nodes.on(nodes.names[0], ["bash", str(SCRIPT), *verb]),
            env={**os.environ, **job, **more},
            stdout=log,
            stderr=log,
            text=True,
        )


def assert_nothing_is_left(nodes: Nodes, folder: Path) -> None:
    deadline = time.monotonic() + 60  # processes that were signalled to end
    while nodes.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert nodes.processes() == []
    assert nodes.leftovers() == []
    assert not (folder / "outputs" / "slurm" / JOB / "token").exists()


MEET = """
import json, os, stat
import ray
from pipelines.core.ray_cluster import start_ray

@ray.remote(num_cpus=1)
def look():
    import socket, time
    from pipelines.core.runtime_env import CHECKOUT
    time.sleep(1)  # the other one needs the other node meanwhile
    context = ray.get_runtime_context()
    return context.get_node_id(), socket.gethostname(), str(CHECKOUT)

start_ray()
token = os.environ["RAY_AUTH_TOKEN_PATH"]
spread = [look.options(scheduling_strategy="SPREAD").remote() for _ in range(2)]
print(json.dumps({
    "tasks": ray.get(spread),
    "cpus": ray.cluster_resources()["CPU"],
    "object_store": ray.cluster_resources()["object_store_memory"],
    "token_mode": stat.S_IMODE(os.stat(token).st_mode),
}), file=open("seen.json", "w"))
"""


@pytest.mark.full
def test_a_verb_has_both_nodes_and_saves_before_the_time_limit(nodes: Nodes, tmp_path: Path) -> None:
    """The command runs tasks on the nodes, then trains until it is signalled, and the job is queued again.

    Two workers of one CPU on two nodes of one CPU: training is on both, or waits for ever.
    """
    (tmp_path / "meet.py").write_text(MEET)
    settings = [f"model={json.dumps(TINY)}", "loss_weights.metric=0", "checkpoint_every_steps=100000"]
    settings += [f"data.shards={write_shards(tmp_path / 'shards')}", "name=cut", "global_batch_size=2"]
    settings += ["max_steps=100000", "log_every_steps=1", "best_metric=si_sdr"]
    settings += [f"storage.root={tmp_path}", f"storage.tracking_uri=sqlite:///{tmp_path}/mlflow.db"]
    train = ["python", "-m", "pipelines.train", "base", "--workers", "2", "--set", *settings]
    verb = ["bash", "-c", f"python meet.py && exec {shlex.join(train)}"]
    job = start(nodes, tmp_path, *verb, RWSA_REQUEUE="1")
    deadline = time.monotonic() + 300
    while "step " not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.5)
    job.send_signal(signal.SIGUSR1)
    status = job.wait(timeout=180)
    log = (tmp_path / "log").read_text()
    assert status == 143, log
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len({node for node, _, _ in seen["tasks"]}) == 2
    assert {name for _, name, _ in seen["tasks"]} == set(nodes.names)
    assert {where for _, _, where in seen["tasks"]} == {str(CHECKOUT)}
    assert seen["cpus"] == 2
    assert seen["object_store"] == pytest.approx(2 * 450 * 2**20)
    assert seen["token_mode"] == 0o600
    assert Checkpoints(tmp_path / "runs" / "cut" / "checkpoints", keep=2).latest() is not None
    assert "stopping; waiting for the command to save" in log
    assert nodes.requeued == [JOB]
    assert_nothing_is_left(nodes, tmp_path)


@pytest.mark.full
def test_a_workflow_runs_on_both_nodes(nodes: Nodes, tmp_path: Path) -> None:
    steps = {"one": mix_step(1), "two": mix_step(2)}
    workflow = str(write_workflow(tmp_path, steps))
    status = start(nodes, tmp_path, "python", "-m", "pipelines.run", workflow).wait(timeout=300)
    log = (tmp_path / "log").read_text()
    assert status == 0, log
    assert "2 finished" in log
    assert records(tmp_path).keys() == steps.keys()
    assert_nothing_is_left(nodes, tmp_path)


@pytest.mark.full
def test_a_missing_node_ends_the_job(nodes: Nodes, tmp_path: Path) -> None:
    broken = tmp_path / "srun"
    broken.write_text("#!/bin/sh\necho 'srun: error: node is down' >&2\nexit 1\n")
    broken.chmod(0o755)
    path = f"{tmp_path}:{nodes.folder}:{os.environ['PATH']}"
    status = start(nodes, tmp_path, "touch", "ran", PATH=path).wait(timeout=180)
    assert status == 1
    assert "not all nodes joined; see" in (tmp_path / "log").read_text()
    assert not (tmp_path / "ran").exists()
    assert_nothing_is_left(nodes, tmp_path)
    kept = tmp_path / "outputs" / "slurm" / JOB / "10.77.0.1"
    assert (kept / "gcs_server.out").exists(), "a job that failed leaves Ray's logs"


def test_a_missing_ray_and_a_missing_command_are_reported(tmp_path: Path) -> None:
    def output_of(*verb: str, **more: str) -> str:
        environment = {**os.environ, "SLURM_JOB_ID": JOB, "SLURM_SUBMIT_DIR": str(tmp_path), **more}
        done = subprocess.run(["bash", str(SCRIPT), *verb], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        return done.stderr

    assert "nothing to run; give a command" in output_of()
    assert "no ray in" in output_of("true", PATH="/usr/bin:/bin", RWSA_VENV=str(tmp_path))
