"""MLflow's login, and the commands that save and upgrade its server: parsed, and joined to what is there."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "infra" / "mlflow"


@pytest.fixture(scope="module")
def server() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["server"]


@pytest.fixture(scope="module")
def login() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "login.yaml").read_text())


def test_the_login_changes_the_servers_command_by_the_login_alone(
    server: dict[str, Any], login: dict[str, Any]
) -> None:
    assert login["services"].keys() == {"server"}
    words = shlex.split(login["services"]["server"]["command"])
    assert words == [*shlex.split(server["command"]), "--app-name", "basic-auth"]


def test_the_login_is_in_the_servers_database_and_no_password_is_written_down(
    server: dict[str, Any], login: dict[str, Any]
) -> None:
    text = login["configs"]["login"]["content"]
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    words = shlex.split(server["command"])
    assert parsed["mlflow"]["database_uri"] == words[words.index("--backend-store-uri") + 1]
    assert "admin_password" not in parsed["mlflow"]
    environment = login["services"]["server"]["environment"]
    assert environment["MLFLOW_AUTH_CONFIG_PATH"] == login["services"]["server"]["configs"][0]["target"]
    for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        assert re.fullmatch(r"\$\{\w+:\?.+\}", environment[name])


def test_the_image_has_what_the_login_needs() -> None:
    assert "boto3 flask-wtf" in (FOLDER / "compose.yaml").read_text()


@pytest.mark.parametrize("name", ["backup.sh", "upgrade.sh"])
def test_commands_are_shell_and_name_existing_services(name: str, server: dict[str, Any]) -> None:
    text = (FOLDER / name).read_text()
    assert subprocess.run(["sh", "-n", str(FOLDER / name)]).returncode == 0
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    named = re.findall(r"\$compose (?:exec -T|build --pull|stop|run --rm) (\w+)", text)
    assert named
    assert set(named) <= services.keys()
    assert (FOLDER / name).stat().st_mode & 0o111


def test_without_a_folder_they_print_their_usage() -> None:
    for words in (["backup.sh"], ["backup.sh", "save"], ["upgrade.sh"]):
        done = subprocess.run([str(FOLDER / words[0]), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: " in done.stderr
