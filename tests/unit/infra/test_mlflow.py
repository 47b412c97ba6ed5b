"""MLflow's login, and the commands that save and upgrade its server: parsed, and joined to what is there."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
FOLDER = CHECKOUT / "infra" / "mlflow"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def server(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["server"]


def test_the_server_always_requires_a_login(server: dict[str, Any], compose: dict[str, Any]) -> None:
    """In its own database, with no password written down, for the names that clients use."""
    words = shlex.split(server["command"])
    assert words[words.index("--app-name") + 1] == "basic-auth"
    parsed = configparser.ConfigParser()
    parsed.read_string(compose["configs"]["login"]["content"])
    assert parsed["mlflow"]["database_uri"] == words[words.index("--backend-store-uri") + 1]
    assert "admin_password" not in parsed["mlflow"]
    environment = server["environment"]
    assert environment["MLFLOW_AUTH_CONFIG_PATH"] == server["configs"][0]["target"]
    for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        assert re.fullmatch(r"\$\{\w+:\?.+\}", environment[name])
    assert "*" not in environment["MLFLOW_SERVER_ALLOWED_HOSTS"]


def test_its_first_lines_write_every_secret_for_the_owner_alone(tmp_path: Path) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    lines = re.findall(r"^#   (\(umask 077;.*)$", text, flags=re.M)
    assert len(lines) == 2
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=tmp_path, check=True)
    written = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert set(re.findall(r"\$\{(\w+):\?", text)) == written.keys()
    assert all(re.fullmatch("[0-9a-f]{32,64}", value) for value in written.values())
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_no_documented_line_opens_a_server_without_a_login() -> None:
    """Wherever the word is written: a server that binds beyond loopback has the login beside it."""
    opened = []
    for path in [*CHECKOUT.glob("infra/**/*"), *CHECKOUT.glob("*.md"), *CHECKOUT.glob("*/README.md")]:
        if not path.is_file() or "kuberay" in path.parts:
            continue
        text = path.read_text().replace("\\\n", " ")
        for found in re.finditer(r"mlflow\W{1,3}server .*(?:\n {6}.*)*", text):
            if "--host 0.0.0.0" in found[0]:
                opened.append(path.name)
                assert "--app-name basic-auth" in found[0], path
                assert "can run code on everyone who" in " ".join(text.replace("\n# ", " ").split()), path
    assert sorted(opened) == ["compose.yaml", "mlflow.sh"]


@pytest.mark.parametrize("name", ["backup.sh", "upgrade.sh"])
def test_commands_are_shell_and_name_existing_services(name: str, server: dict[str, Any]) -> None:
    text = (FOLDER / name).read_text()
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    named = re.findall(r"(?:compose (?:build --pull|stop|run --rm)|in_service) ([a-z]+)", text)
    assert named
    assert set(named) <= services.keys()
    assert (FOLDER / name).stat().st_mode & 0o111


def test_without_a_folder_they_print_their_usage() -> None:
    for words in (["backup.sh"], ["backup.sh", "save"], ["upgrade.sh"]):
        done = subprocess.run([str(FOLDER / words[0]), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: " in done.stderr


def backup(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run backup.sh with a program before the commands next to the services."""
    stub = environment.pop("STUB", "echo")
    place = {"IN_DATABASE": stub, "IN_SERVER": stub}
    command = [str(FOLDER / "backup.sh"), *words]
    return subprocess.run(
        command, env={**os.environ, **place, **environment}, capture_output=True, text=True, umask=0o022
    )


def test_a_copy_is_for_its_owner_alone_and_complete(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    done = backup("save", str(folder))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["database.dump", "files.tar"]
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert (folder.stat().st_mode & 0o777, modes) == (0o700, {0o600})
    failed = backup("save", str(tmp_path / "other"), STUB="false")
    assert failed.returncode == 1
    assert list((tmp_path / "other").iterdir()) == []
    assert "has no files.tar" in backup("restore", str(tmp_path / "other")).stderr


def test_a_copy_is_not_written_where_others_may_write(tmp_path: Path) -> None:
    """They could make the files' names links first."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = backup("save", str(tmp_path / "open"))
    assert done.returncode == 2
    assert "is not a folder of yours" in done.stderr
    assert list((tmp_path / "open").iterdir()) == []


def test_a_password_in_the_list_of_processes_is_refused(tmp_path: Path) -> None:
    done = backup("save", str(tmp_path / "copy"), DATABASE="postgresql://me:secret@host/mlflow")
    assert done.returncode == 2
    assert "PGPASSWORD" in done.stderr
    assert "secret" not in done.stderr
