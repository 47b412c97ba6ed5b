"""MLflow refused, deleted, damaged or away: one line with the remedy, and no record lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.core import mlflow_guard, record_queue
from pipelines.core.mlflow_guard import TrackingError, file_name, open_client, searchable, tracked_key
from pipelines.core.model_registry import check_model_name
from pipelines.core.storage import StorageConfig, absolute_storage, sqlite_file
from pipelines.core.tracking import TrackedRun, Tracker
from rwsa.errors import InputError

NAMES = [
    "a/b", "a\nb", "😀", "x" * 1000, "o'brien", 'a"b', "a'b\"c`d", "a\udcffb", "a\0b", "a\\", "a;b", "", ".",
    "..", "../x", "/etc", "50%", "#?&", "e\u0301", "a,b=c",
]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("seed")
    Tracker(StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db"))
    return folder / "mlflow.db"


@pytest.fixture
def storage(database: Path, tmp_path: Path) -> StorageConfig:
    shutil.copy(database, tmp_path / "mlflow.db")
    return StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def refusal(storage: StorageConfig) -> str:
    """The line with which a tracker refuses this storage."""
    with pytest.raises(InputError) as refused:
        Tracker(storage).run("any", key="any").close()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800
    return str(refused.value)


def test_a_deleted_experiment_is_named_with_the_remedy(storage: StorageConfig) -> None:
    tracker = Tracker(storage)
    tracker.client.delete_experiment(tracker.experiment_id)
    assert "'rwsa' was deleted" in refusal(storage)
    assert f"mlflow experiments restore --experiment-id {tracker.experiment_id}`" in refusal(storage)
    with pytest.raises(TrackingError, match="experiments restore --experiment-id"):
        tracker.run("late")  # deleted after it was opened


def test_records_of_a_deleted_run_wait_until_it_is_restored(
    storage: StorageConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 0.02)
    tracker = Tracker(storage)
    with tracker.run("run", key="work") as run:
        tracker.client.delete_run(run.run_id)
        for step in range(20):
            run.log_metrics(step, {"loss": 1.0})
            time.sleep(0.005)
    shown = capsys.readouterr().out.splitlines()
    assert all("mlflow runs restore --run-id" in line for line in shown)
    assert len(shown) == 2  # once during the run, once at its end
    with tracker.run("run", key="work") as another:
        assert another.run_id != run.run_id
    tracker.client.restore_run(run.run_id)
    Tracker(storage)
    assert len(tracker.client.get_metric_history(run.run_id, "loss")) == 20
    assert not list(tmp_path.glob("unsent/*/*"))


def test_any_name_is_logged_and_found_again(storage: StorageConfig) -> None:
    tracker = Tracker(storage)
    for name in NAMES:
        with tracker.run(name, key=name, params={name: name}, tags={name: name}) as run:
            run.log_metrics(0, {f"{name}.pesq": 1.0, name: 2.0})
            run.tag(**{f"tag.{name}": name})
            run.log_table("clips.json", {name: [name]})
            run.log_contents({f"{name}.txt": b"1"}, f"folder {name}")
        if name:  # the empty key is none
            assert tracker._existing(searchable(name)) == run.run_id
        found = tracker.client.get_run(run.run_id)
        assert found.info.status == "FINISHED"
        assert found.data.metrics == {tracked_key(f"{name}.pesq"): 1.0, tracked_key(name): 2.0}
        assert tracked_key(name) in found.data.params
        assert {tracked_key(name), tracked_key(f"tag.{name}")} <= found.data.tags.keys()
        files = tracker.client.list_artifacts(run.run_id, tracked_key(f"folder {name}"))
        assert [Path(file.path).name for file in files] == [file_name(f"{name}.txt")]


def test_different_names_stay_different() -> None:
    assert len({tracked_key(name) for name in [*NAMES, "a_b", "_", "x" * 999]}) == len(NAMES) + 3
    assert len({searchable(name) for name in NAMES}) == len(NAMES)
    assert tracked_key("valid/si_sdr") == "valid/si_sdr"
    assert searchable("train mine in /data (new)") == "train mine in /data (new)"


@pytest.mark.parametrize("name", ["x" * 1000, "", " \n", "a\udcffb"])
def test_an_experiment_that_mlflow_refuses_is_named(storage: StorageConfig, name: str) -> None:
    refused = StorageConfig(root=storage.root, tracking_uri=storage.tracking_uri, experiment=name)
    assert refusal(refused).startswith("storage.experiment ")


@pytest.mark.parametrize("name", ["a/b", "😀", "o'brien; DROP", "a\nb"])
def test_an_experiment_may_have_any_other_name(storage: StorageConfig, name: str) -> None:
    named = StorageConfig(root=storage.root, tracking_uri=storage.tracking_uri, experiment=name)
    assert Tracker(named).experiment_id == Tracker(named).experiment_id


@pytest.mark.parametrize("name", ["a/b", "a:b", "", " ", "x" * 1000, "a\nb", "..", "a@b", "a#b", "\udcff"])
def test_names_and_aliases_of_models_are_checked_before_anything_is_logged(name: str) -> None:
    with pytest.raises(InputError, match="MLflow refuses it"):
        check_model_name(name, "newest")
    with pytest.raises(InputError, match="MLflow refuses it"):
        check_model_name("fine name", name)


def test_reserved_aliases_are_refused() -> None:
    for alias in ("latest", "Latest", "v3"):
        with pytest.raises(InputError, match="neither latest nor v1"):
            check_model_name("fine", alias)
    check_model_name("o'brien's 😀 model", "newest")


def test_a_locked_file_is_refused_in_seconds(storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_guard, "_LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(file_of(storage), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "another process holds the file" in refusal(storage)
    Tracker(storage)


@pytest.mark.parametrize(
    ("version", "words"),
    [("451aebb31d03", "run `mlflow db upgrade sqlite:///"), ("ffffffffffff", "is from a newer MLflow than")],
)
def test_the_database_of_another_mlflow_is_refused(storage: StorageConfig, version: str, words: str) -> None:
    with closing(sqlite3.connect(file_of(storage))) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", [version])
        database.commit()
    assert words in refusal(storage)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file: Path) -> None:
    file.write_bytes(b"not a database" * 1000)


def garble(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:4096] + bytes(len(data) - 4096))


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE other (a)")


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut, overwrite, garble, foreign, folder_instead])
def test_a_file_that_is_not_mlflows_is_refused(
    storage: StorageConfig, damage: Callable[[Path], None]
) -> None:
    damage(file_of(storage))
    assert "mlflow.db" in refusal(storage)


def test_a_read_only_file_is_refused(storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of(storage)
    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file)
    file.chmod(stat.S_IRUSR)
    assert "is not writable; make it so" in refusal(storage)


@pytest.mark.parametrize(
    "uri",
    ["./mlruns", "file:///tmp/x", "ftp://x", "", "sqlite://", "sqlite:///", "sqlite:///:memory:",
     "databricks", "sqlite:///a.db?mode=ro", "postgresql://x/y", "http://", "http://:5000", "http://[::1",
     "http://host:port", "http://a b/", "http://a\nb/", "sqlite:///a\0b", "http://me:secret@host",
     "x" * 10_000],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(tmp_path: Path, uri: str) -> None:
    line = refusal(StorageConfig(root=str(tmp_path), tracking_uri=uri))
    assert "storage.tracking_uri" in line
    assert "secret" not in line


def test_a_file_behind_links_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for file in ("loop", "loop/mlflow.db"):
        uri = f"sqlite:///{tmp_path}/{file}"
        assert f"storage.tracking_uri {uri}" in refusal(StorageConfig(root=str(tmp_path), tracking_uri=uri))


def test_a_server_that_does_not_speak_http_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "does not answer" in refusal(StorageConfig(root=str(tmp_path), tracking_uri=uri))
        thread.join()


def test_a_folder_of_any_name_holds_the_database(database: Path, tmp_path: Path) -> None:
    for name in ("o'brien #1", "50% off", "a%20b", "ü 😀"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(database, folder / "mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            storage = absolute_storage(StorageConfig(root=str(folder), tracking_uri="sqlite:///mlflow.db"))
        assert sqlite_file(storage.tracking_uri) == folder / "mlflow.db"
        with Tracker(storage).run("run") as run:
            run.log_metrics(0, {"x": 1.0})
        with closing(sqlite3.connect(folder / "mlflow.db")) as file:
            assert file.execute("SELECT run_uuid FROM runs").fetchall() == [(run.run_id,)]


def file_of(storage: StorageConfig) -> Path:
    return Path(storage.tracking_uri.removeprefix("sqlite:///"))


@contextmanager
def server(status: int, body: bytes, *, health: int | None = None, hang: bool = False) -> Iterator[str]:
    """A server that answers every request alike, except for `/health`."""
    released = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code = 200 if self.path == "/health" and health is None else health or status
            if hang and self.path != "/health":
                released.wait()
            self.send_response(code)
            self.send_header("Content-Type", "text/html" if body.startswith(b"<") else "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        released.set()
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"<html>no</html>", "MLFLOW_TRACKING_USERNAME"),
        (403, b"<html>no</html>", "MLFLOW_TRACKING_USERNAME"),
        (404, b"<html>no</html>", "the address of an MLflow server"),
        (302, b"<html>no</html>", "the address of an MLflow server"),
        (200, b"<html>a page</html>", "the address of an MLflow server"),
        (200, b"[1]", "the address of an MLflow server"),
        (200, b"{}", "not an MLflow server"),
        (200, b'{"experiment": 5}', "127.0.0.1"),
        (500, b"<html>oops</html>", "start it"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "a\\nb"}', "start it"),
    ],
)
@pytest.mark.parametrize("everywhere", [True, False], ids=["health too", "health answers"])
def test_another_answer_than_mlflows_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, words: str, everywhere: bool
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server(status, body, health=status if everywhere else None) as uri:
        assert words in refusal(StorageConfig(root=str(tmp_path), tracking_uri=uri))


def test_a_server_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with server(200, b"{}", hang=True) as uri:
        assert "cannot be used" in refusal(StorageConfig(root=str(tmp_path), tracking_uri=uri))
        with server(200, b"{}") as plain:
            encrypted = StorageConfig(root=str(tmp_path), tracking_uri=plain.replace("http:", "https:"))
            assert "https against http" in refusal(encrypted)


def test_a_record_that_mlflow_refuses_holds_up_no_other(
    storage: StorageConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(storage).run("run") as run:
        run._queue.add({"metrics": [["ok", 1.0, 0, 0]]}, {"metrics": [["b*d", 1.0, 0, 0]]})
        run._queue.add({"metrics": [["ok", 2.0, 0, 1]]}, {"unknown": 1})
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
    assert run.client.get_run(run.run_id).data.metrics == {"ok": 2.0}
    assert "2 records that MLflow refuses were left out" in capsys.readouterr().out


def test_a_queue_file_reaches_no_file_outside_its_folder(storage: StorageConfig, tmp_path: Path) -> None:
    with Tracker(storage).run("run") as run:
        pass
    outside = tmp_path / "outside.files" / "00000000"
    outside.mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    queue = run._queue.path
    lines = [b"\xff\xfe", b"[1]", b"[" * 100_000, b'"x"']
    spooled = [str(outside), "/etc", "../../outside.files/00000000", 5]
    lines += [json.dumps({"artifacts": None, "spooled": path}).encode() for path in spooled]
    queue.write_bytes(b"\n".join([*lines, json.dumps({"metrics": [["x", 1.0, 0, 0]]}).encode()]) + b"\n")
    Tracker(storage)
    assert (outside / "secret.txt").read_text() == "secret"
    assert run.client.list_artifacts(run.run_id) == []
    assert run.client.get_run(run.run_id).data.metrics == {"x": 1.0}
    assert not list(tmp_path.glob("unsent/*/*"))


def test_every_method_of_a_client_is_guarded(storage: StorageConfig) -> None:
    client = open_client(storage.tracking_uri)
    for call in (
        lambda: client.get_run("0" * 32),
        lambda: client.search_runs(["1"], "nonsense ="),
        lambda: client.download_artifacts("0" * 32, "x"),
        lambda: client.get_model_version_by_alias("none", "newest"),
        lambda: client.get_run(None),
    ):
        with pytest.raises(TrackingError, match="MLflow at sqlite"):
            call()


def test_an_outage_during_a_run_is_reported_once_and_the_run_goes_on(
    storage: StorageConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 0.02)
    run = Tracker(storage).run("run")
    aside = file_of(storage).rename(file_of(storage).with_suffix(".aside"))
    file_of(storage).mkdir()
    for step in range(10):
        run.log_metrics(step, {"loss": 1.0})
        time.sleep(0.02)
    run.close()
    assert len(capsys.readouterr().out.splitlines()) <= 2
    file_of(storage).rmdir()
    aside.rename(file_of(storage))
    Tracker(storage)
    assert len(TrackedRun(storage, run.run_id).client.get_metric_history(run.run_id, "loss")) == 10
