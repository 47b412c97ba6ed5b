"""MLflow's container of infra/kuberay: its command, on a read-only file system as there, and its login."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.kuberay import Resource, built, one, ray_groups
from tests.mlflow_server import HOST, answers, free_port, running

pytestmark = pytest.mark.full
SECRETS = {"admin_password": "a password of this test", "secret_key": "a key of this test"}
# Everything is read-only but the folder `$0`, where the pod's volumes are.
READ_ONLY = """
mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd "$0/tmp" && exec "$@"
"""


def variables(container: Resource) -> dict[str, str]:
    """What a container's `env` sets, with the secrets of this test."""
    return {
        each["name"]: each["value"] if "value" in each else SECRETS[each["valueFrom"]["secretKeyRef"]["key"]]
        for each in container["env"]
    }


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """The address of a server started by the command of the manifest, and the path of its probes."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces (they need root)")
    resources = built("one-node")
    (container,) = one(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    folder, port = Path(tempfile.mkdtemp(prefix="rwsa-mlflow-")), free_port()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"data": "/data", "tmp": "/tmp", "login": "/etc/mlflow"}
    (folder / "tmp").mkdir()
    (folder / "data").mkdir()
    login = one(resources, "ConfigMap", "mlflow-login")["data"]["login.ini"]
    (folder / "login.ini").write_text(login.replace("/data/", f"{folder}/data/"))
    changes = {
        "/data/": f"{folder}/data/",
        "0.0.0.0": HOST,
        "--port=5000": f"--port={port}",
        "localhost:5000": f"localhost:{port}",
    }
    command = [sys.executable, "-m", *container["command"]]
    for arg in container["args"]:
        for old, new in changes.items():
            arg = arg.replace(old, new)
        command.append(arg)
    environment = {
        **variables(container),
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "login.ini"),
    }
    probe = container["readinessProbe"]["httpGet"]["path"]
    address = f"http://{HOST}:{port}"
    wrapped = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(folder), *command]
    with running(wrapped, folder / "tmp", "mlflow server", lambda: answers(f"{address}{probe}"), environment):
        yield address, probe
    assert {path.name for path in (folder / "data").iterdir()} >= {"mlflow.db", "users.db"}
    shutil.rmtree(folder)


def status(url: str, *, host: str = "mlflow:5000", login: tuple[str, str] | None = None) -> int:
    """Of a GET request, as a client of the cluster sends it."""
    headers = {"Host": host}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    try:
        with urlopen(Request(url, headers=headers), timeout=60) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_probes_need_no_login_and_everything_else_does(server: tuple[str, str]) -> None:
    address, probe = server
    # A node asks by the pod's address.
    assert status(address + probe, host="10.1.2.3:5000") == 200
    runs = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    artifacts = f"{address}/api/2.0/mlflow-artifacts/artifacts"
    for url in (address, runs, artifacts):
        assert status(url) == 401
        assert status(url, login=("admin", "password")) == 401
        assert status(url, login=("admin", "")) == 401


def test_the_login_of_rays_pods_is_accepted_for_the_servers_name_only(server: tuple[str, str]) -> None:
    address, _ = server
    runs = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    for name, group in ray_groups(built("many-nodes")).items():
        sent = variables(group["template"]["spec"]["containers"][0])
        login = sent["MLFLOW_TRACKING_USERNAME"], sent["MLFLOW_TRACKING_PASSWORD"]
        assert status(runs, login=login) == 200, name
        assert status(runs, host="evil.example", login=login) == 403, name


def test_the_tracker_uses_that_login(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.core.storage import StorageConfig
    from pipelines.core.tracking import Tracker

    (container,) = ray_groups(built("one-node"))["head"]["template"]["spec"]["containers"]
    for name, value in variables(container).items():
        monkeypatch.setenv(name, value)
    address = server[0].replace(HOST, "localhost")  # one of the allowed hosts
    storage = StorageConfig(root=str(tmp_path), tracking_uri=address)
    with Tracker(storage).run("try", key="try", params={"a": 1}, tags={}) as run:
        run.log_metrics(1, {"loss": 0.5})
