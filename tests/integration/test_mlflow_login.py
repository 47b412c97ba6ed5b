"""`infra/slurm/mlflow.sh`: MLflow with a login; its files, and clients without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from rwsa.errors import InputError
from tests.mlflow_server import answers, free_port, running

pytestmark = pytest.mark.full
SCRIPT = Path(__file__).parents[2] / "infra" / "slurm" / "mlflow.sh"


@dataclass(frozen=True, kw_only=True)
class Server:
    address: str
    folder: Path
    home: Path


def environment(folder: Path) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "RWSA_MLFLOW_FOLDER": str(folder / "data"), "RWSA_VENV": sys.prefix}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("login"), free_port()
    command = ["bash", str(SCRIPT), str(port)]
    address = f"http://localhost:{port}"
    with running(command, folder, "mlflow.sh", lambda: answers(f"{address}/health"), environment(folder)):
        yield Server(address=address, folder=folder, home=folder / "home")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client without any login."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def storage(server: Server, folder: Path) -> StorageConfig:
    return StorageConfig(root=str(folder), tracking_uri=server.address)


def status(url: str, **headers: str) -> int:
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_its_files_are_for_their_owner_and_no_secret_is_in_an_argument(server: Server) -> None:
    password = (server.home / ".mlflow" / "credentials").read_text().split()[-1]
    key = (server.folder / "data" / "key").read_text().strip()
    assert len(password) == 32
    assert len(key) == 64
    for path in (server.home / ".mlflow", server.folder / "data"):
        assert path.stat().st_mode & 0o077 == 0
        assert [one for one in path.iterdir() if one.stat().st_mode & 0o077] == []
    arguments = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    assert str(server.folder / "data") in arguments
    assert password not in arguments
    assert key not in arguments


def test_without_a_login_it_only_says_that_it_lives(server: Server) -> None:
    assert status(f"{server.address}/health") == 200
    for path in (
        "",
        "api/2.0/mlflow/experiments/search?max_results=1",
        "signup",
        "graphql",
        "ajax-api/2.0/mlflow/users/get",
    ):
        assert status(f"{server.address}/{path}") in (401, 404, 405), path
    assert status(f"{server.address}/", Host="attacker.example:5000") == 403, "DNS rebinding"


def test_a_client_without_a_login_gets_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"401.*MLFLOW_TRACKING_USERNAME.*~/\.mlflow/credentials") as error:
        Tracker(storage(server, tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("planted", ["open", "link"])
def test_a_folder_that_others_made_is_refused(tmp_path: Path, planted: str) -> None:
    """They would be the administrator of a database that they made."""
    if planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        (tmp_path / "data").symlink_to(tmp_path / "theirs")
    else:
        (tmp_path / "data").mkdir()
        (tmp_path / "data").chmod(0o777)
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=tmp_path,
        env=os.environ | environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "is not a folder of yours" in done.stderr
    assert not (tmp_path / "home" / ".mlflow").exists()


def test_the_login_of_another_user_does_not_become_the_administrators(tmp_path: Path) -> None:
    credentials = tmp_path / "home" / ".mlflow" / "credentials"
    credentials.parent.mkdir(parents=True)
    credentials.write_text("[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = secret\n")
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ | environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is not the login of an administrator" in done.stderr
    assert "secret" not in done.stderr
