"""The commands as jobs of a cluster that was started before: submitted, left alone, stopped, gone on with.

The cluster has a token and credentials in its environment, which must show up nowhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from pipelines import mix_shards
from pipelines.core.runtime_env import EXCLUDES, worker_environment
from rwsa.models.weights import read_weights
from rwsa.training.checkpoints import Checkpoints
from tests.mlflow_server import free_port
from tests.toy_corpus import checksums, write_corpus
from tests.training_runs import write_shards
from tests.workflow_files import check_step, mix_step, records, write_workflow

CHECKOUT = Path(__file__).parents[2]
ENVIRONMENT = CHECKOUT / "infra" / "ray" / "runtime_env.yaml"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SECRETS = {
    "RAY_AUTH_TOKEN": "the-token-of-this-cluster-0123456789",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
    "MLFLOW_TRACKING_PASSWORD": "a-password-of-mlflow",
}
TINY = "{channels: 8, blocks: 1, d_state: 4, expand: 2, heads: 2, middle_heads: 2, segment_frames: 32}"
STEPS = 200


def test_a_job_has_what_the_workers_of_other_drivers_have() -> None:
    given = yaml.safe_load(ENVIRONMENT.read_text())
    assert given["excludes"] == EXCLUDES
    assert given["env_vars"].items() >= worker_environment().items()
    more = {
        name: int(given["env_vars"][name]) for name in given["env_vars"].keys() - worker_environment().keys()
    }
    assert more.keys() == {"RWSA_STOP_SECONDS", "RAY_JOB_STOP_WAIT_TIME_S"}
    assert more["RWSA_STOP_SECONDS"] < more["RAY_JOB_STOP_WAIT_TIME_S"]


class Cluster:
    """A head node of two CPUs, with the server that takes jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gcs, self.dashboard, self.client = free_port(), free_port(), free_port()
        # Not the checkout: what jobs run must be what they came with.
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # Jobs say `python`, as on nodes whose environment is on the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment |= {"RAY_AUTH_MODE": "token", "PATH": path, **SECRETS}
        self.address = f"127.0.0.1:{self.gcs}"

    def command(self) -> list[str]:
        ports = ["--port", self.gcs, "--dashboard-port", self.dashboard]
        ports += ["--ray-client-server-port", self.client, "--dashboard-agent-listen-port", free_port()]
        sizes = ["--num-cpus", "2", "--object-store-memory", str(100 * 2**20)]
        start = ["start", "--head", "--block", "--include-dashboard=true", "--disable-usage-stats"]
        # As the address that others reach, else Ray asks the Internet's router for this machine's.
        start += ["--node-ip-address", "127.0.0.1", "--temp-dir", str(self.folder)]
        return [*RAY, *start, *sizes, *map(str, ports)]

    def ask(self, path: str) -> str:
        request = Request(
            f"http://127.0.0.1:{self.dashboard}{path}",
            headers={"Authorization": f"Bearer {SECRETS['RAY_AUTH_TOKEN']}"},
        )
        with urlopen(request, timeout=30) as answer:
            found: bytes = answer.read()
        return found.decode()

    def job(self, *words: str) -> str:
        """What `ray job WORDS` prints."""
        done = subprocess.run(
            [*RAY, "job", words[0], "--address", f"http://127.0.0.1:{self.dashboard}", *words[1:]],
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *command: str) -> str:
        """Submit a job and leave; returns its id."""
        words = ["--no-wait", "--working-dir", ".", "--runtime-env", str(ENVIRONMENT)]
        output = self.job("submit", *words, "--", sys.executable, *command)
        found = re.search(r"raysubmit_\w+", output)
        assert found is not None, output
        return found[0]

    def logs(self, job: str) -> str:
        return str(json.loads(self.ask(f"/api/jobs/{job}/logs"))["logs"])

    def status(self, job: str) -> str:
        return str(json.loads(self.ask(f"/api/jobs/{job}"))["status"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("aiohttp_cors", reason="no job server; pip install 'rwsa[cluster]'")
    # Sockets' paths have to be short, so pytest's folder does not serve.
    with tempfile.TemporaryDirectory(prefix="rwsa-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        log = cluster.folder / "start.log"
        with log.open("w") as output:
            head = subprocess.Popen(
                cluster.command(),
                cwd=cluster.folder,
                env=cluster.environment,
                stdout=output,
                stderr=output,
            )
        try:
            _wait(lambda: head.poll() is not None or cluster.ask("/api/version"), log.read_text)
            assert head.poll() is None, log.read_text()
            yield cluster
        finally:
            processes = [*psutil.Process(head.pid).children(recursive=True), head]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()


def _wait(condition: object, why: object, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():  # type: ignore[operator]
                return
        except OSError:
            pass  # not there yet
        assert time.monotonic() < deadline, why()  # type: ignore[operator]
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training that was submitted, stopped and submitted again.

    Attributes:
        folder: its storage.
        stopped_status: of the first job, after it was stopped.
        saved: steps of the checkpoints that the first job left.
        ended_status: of the second job, which asks for two steps more.
        log: of the second job.
    """

    folder: Path
    stopped_status: str
    saved: list[int]
    ended_status: str
    log: str


@pytest.fixture(scope="module")
def training_job(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    folder = tmp_path_factory.mktemp("job")
    shards = write_shards(folder / "shards")
    command = ["-m", "pipelines.train", "base", "--workers", "2", "--storage", str(folder), "--set"]
    command += [f"model={TINY}", "loss_weights.metric=0", "best_metric=si_sdr", "global_batch_size=4"]
    command += [f"checkpoint_every_steps={STEPS}", f"max_steps={STEPS}", "log_every_steps=1", "name=job"]
    command += [f"data.shards={shards}", f"storage.tracking_uri=sqlite:///{folder}/mlflow.db"]
    first = cluster.submit(*command)
    _wait(lambda: "step   5/" in cluster.logs(first), lambda: cluster.logs(first))
    cluster.job("stop", first)
    stopped_status = cluster.status(first)
    saved = Checkpoints(folder / "runs" / "job" / "checkpoints").steps()
    assert saved, cluster.logs(first)
    longer = f"max_steps={max(saved) + 2}"
    last = cluster.submit(*[longer if word.startswith("max_steps=") else word for word in command])
    _wait(lambda: cluster.status(last) not in ("PENDING", "RUNNING"), lambda: cluster.logs(last))
    return TrainingJob(
        folder=folder,
        stopped_status=stopped_status,
        saved=saved,
        ended_status=cluster.status(last),
        log=cluster.logs(last),
    )


@pytest.mark.full
def test_a_job_lives_without_its_client_saves_when_stopped_and_resumes(training_job: TrainingJob) -> None:
    assert training_job.stopped_status == "STOPPED"
    (saved,) = training_job.saved
    assert 5 <= saved < STEPS
    assert training_job.ended_status == "SUCCEEDED", training_job.log
    assert read_weights(training_job.folder / "runs" / "job" / "model.safetensors")
    assert f"step {saved}/" not in training_job.log
    assert "best si_sdr" in training_job.log


@pytest.mark.full
def test_over_rays_client_shards_are_those_of_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    mix = ["--shard-examples", "8"]
    for name in ("card", "recipe"):
        mix += [f"--{name}", str(tmp_path / "corpus" / f"{name}.yaml")]
    assert mix_shards.main([*mix, "--workers", "0", "--out", str(tmp_path / "here")]) == 0
    there = ["--address", f"ray://127.0.0.1:{cluster.client}", "--storage", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.mix_shards", *mix, *there],
        cwd=CHECKOUT,
        env=cluster.environment | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "shards") == checksums(tmp_path / "here")


@pytest.mark.full
def test_wrong_addresses_and_tokens_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    script = (
        "from pipelines.core.ray_cluster import start_ray\nfrom pipelines.core.cli import verb\n"
        "@verb('none', None)\ndef main(options):\n    start_ray()\n    return 0\nraise SystemExit(main())"
    )
    cases = {
        f"127.0.0.1:{free_port()}": SECRETS["RAY_AUTH_TOKEN"],
        cluster.address: "another-token-0123456789-0123456789",
    }
    drivers = {
        address: subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=CHECKOUT,
            env=cluster.environment | {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": token},
            stderr=subprocess.PIPE,
            text=True,
        )
        for address, token in cases.items()
    }
    for address, driver in drivers.items():
        _, errors = driver.communicate()
        assert driver.returncode == 2, errors
        assert f"error: RAY_ADDRESS {address}: no Ray cluster can be joined there" in errors
        assert "Traceback" not in errors


@pytest.mark.full
def test_no_secret_is_shown_or_written_down(cluster: Cluster, training_job: TrainingJob) -> None:
    """In Ray's logs and state, and in what the jobs left, MLflow's database too."""
    states = ("/api/v0/runtime_envs", "/api/v0/jobs", "/api/v0/actors", "/api/v0/workers")
    shown = "".join(cluster.ask(f"{state}?detail=1") for state in states) + cluster.ask("/api/jobs/")
    assert '"OMP_NUM_THREADS"' in shown
    left = (*cluster.folder.rglob("*"), *training_job.folder.parent.rglob("*"))
    # But for the copy of the code that a job came with, which has this file in it.
    files = [path for path in left if path.is_file() and path.name != Path(__file__).name]
    assert any(path.suffix == ".log" for path in files)
    assert any(path.name == "mlflow.db" for path in files)
    for name, secret in SECRETS.items():
        assert secret not in shown, name
        assert [path for path in files if secret.encode() in path.read_bytes()] == [], name


@pytest.mark.full
def test_a_workflow_is_materialised_by_dagster_as_a_job(cluster: Cluster, tmp_path: Path) -> None:
    """In a process of its own: dagster-ray warns of what pytest would raise."""
    pytest.importorskip("dagster_ray", reason="no dagster-ray; pip install -e '.[dagster]'")
    path = write_workflow(tmp_path, {"one": mix_step(1), "check": check_step("one")})
    script = (
        "import sys, dagster as dg\n"
        "from pipelines.dagster_assets import workflow_definitions\n"
        "definitions = workflow_definitions([sys.argv[1]], address=sys.argv[2])\n"
        "with dg.DagsterInstance.ephemeral() as instance:\n"
        "    run = definitions.resolve_job_def('run_toy').execute_in_process(instance=instance)\n"
        "print([event.asset_key.path for event in run.get_asset_materialization_events()])\n"
        "print([check.passed for check in run.get_asset_check_evaluations()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), f"http://127.0.0.1:{cluster.dashboard}"],
        env=cluster.environment | {"PYTHONPATH": str(CHECKOUT), "DAGSTER_DISABLE_TELEMETRY": "yes"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == ["[['toy', 'one']]", "[True]"]
    assert records(tmp_path).keys() == {"one", "check"}
