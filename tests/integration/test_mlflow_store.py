"""What infra/mlflow sets up, for real: PostgreSQL, an S3 store and MLflow with its login, each restarted in
turn; saved, put back elsewhere, and upgraded by the commands that are written down.

The store is moto's behind a journal: SeaweedFS's own keeping of files is not tried here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import boto3
import pytest
from mlflow import MlflowClient

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from rwsa.errors import InputError
from tests import object_store
from tests.mlflow_server import (
    HOST,
    free_port,
    postgresql_folder,
    postgresql_on,
    postgresql_programs,
    running,
    tracking_server,
)

pytestmark = pytest.mark.full
CHECKOUT = Path(__file__).parents[2]
PASSWORD = "a-long-enough-password"


class Servers:
    """The three, each started and ended alone."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self._data = folder, data
        self._ports = {name: free_port() for name in ("database", "store", "server")}
        self._ends: dict[str, ExitStack] = {}
        self.store_environment = object_store.environment(f"http://{HOST}:{self._ports['store']}")
        self.database = f"postgresql+psycopg2://rwsa@{HOST}:{self._ports['database']}/postgres"
        self.address = f"http://{HOST}:{self._ports['server']}"
        folder.mkdir()
        (folder / "login.ini").write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
            f"database_uri = {self.database}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )

    def start(self, name: str) -> None:
        self._ends[name] = ExitStack()
        self._ends[name].enter_context(getattr(self, f"_{name}")())

    def end(self, name: str) -> None:
        """Without grace."""
        self._ends.pop(name).close()

    def close(self) -> None:
        for name in list(self._ends):
            self.end(name)

    def _database(self) -> object:
        return postgresql_on(self._data, self._ports["database"])

    def _store(self) -> object:
        url = self.store_environment["AWS_ENDPOINT_URL"]
        words = [sys.executable, "-m", "tests.object_store", HOST, str(self._ports["store"])]
        words.append(str(self.folder / "journal"))
        return running(words, CHECKOUT, "store", lambda: _answers(url))

    def _server(self) -> object:
        return tracking_server(
            self.folder,
            self.database,
            self._ports["server"],
            *("--artifacts-destination", "s3://mlflow", "--app-name", "basic-auth"),
            **self.store_environment,
            MLFLOW_AUTH_CONFIG_PATH=str(self.folder / "login.ini"),
            MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
            MLFLOW_FLASK_SERVER_SECRET_KEY="a-key-of-this-test",
        )

    def backup(self, verb: str, folder: Path) -> None:
        """infra/mlflow/backup.sh, beside these servers in place of compose's."""
        environment = {
            **os.environ,
            **self.store_environment,
            "PATH": f"{Path(sys.executable).parent}:{postgresql_programs()}:{os.environ['PATH']}",
            "IN_DATABASE": "",
            "IN_SERVER": "",
            "DATABASE": self.database.replace("+psycopg2", ""),
        }
        words = [str(CHECKOUT / "infra" / "mlflow" / "backup.sh"), verb, str(folder)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    with postgresql_folder() as data:
        made = Servers(folder, data)
        try:
            made.start("database")
            made.start("store")
            yield made
        finally:
            made.close()


def log(storage: StorageConfig, name: str, page: Path) -> str:
    with Tracker(storage).run(name, params={"a": 1}) as run:
        run.log_metrics(1, {"loss": 0.5})
        run.log_file(page)
    return run.run_id


def check(address: str, runs: dict[str, str], folder: Path) -> None:
    """All runs are there, with their figures and files."""
    client = MlflowClient(address)
    for name, run_id in runs.items():
        run = client.get_run(run_id)
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        assert run.data.metrics == {"loss": 0.5}
        folder.mkdir(exist_ok=True)
        assert Path(client.download_artifacts(run_id, "page.html", str(folder))).read_text() == "<p>page</p>"


def test_nothing_is_lost_by_restarts_and_all_comes_back_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>page</p>")
    runs: dict[str, str] = {}
    with servers(tmp_path / "first") as first:
        for name, value in first.store_environment.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="mlflow")
        first.start("server")
        storage = StorageConfig(root=str(tmp_path / "runs"), tracking_uri=first.address)
        with pytest.raises(InputError, match="cannot be used"):
            Tracker(storage)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        runs["before"] = log(storage, "before", page)
        for name in ("server", "store", "database"):
            first.end(name)
            first.start(name)
            check(first.address, runs, tmp_path / f"after-{name}")
            runs[name] = log(storage, name, page)
        first.backup("save", tmp_path / "copy")
    with servers(tmp_path / "second") as second:
        for name, value in second.store_environment.items():
            monkeypatch.setenv(name, value)
        second.backup("restore", tmp_path / "copy")
        upgraded = subprocess.run(
            [sys.executable, "-m", "mlflow", "db", "upgrade", second.database], capture_output=True, text=True
        )
        assert upgraded.returncode == 0, upgraded.stderr
        second.start("server")
        assert len(runs) == 4
        check(second.address, runs, tmp_path / "back")
