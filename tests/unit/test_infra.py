"""The image, the cluster file and the MLflow setup: parsed, validated, and joined to what is there."""

from __future__ import annotations

import re
import shlex
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
INFRA = CHECKOUT / "infra"
PINS = dict(line.split("==") for line in (INFRA / "constraints.txt").read_text().splitlines() if "==" in line)
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's (instruction, arguments), comments left out and continued lines joined."""
    text = (INFRA / "Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    parsed = [line.partition(" ") for line in lines if line.strip()]
    return [(name, " ".join(arguments.split())) for name, _, arguments in parsed]


def arguments_of(name: str) -> list[str]:
    return [arguments for each, arguments in instructions() if each == name]


def installs() -> list[list[str]]:
    """The words of every `pip install` in the Dockerfile."""
    return [shlex.split(run)[2:] for run in arguments_of("RUN") if run.startswith("pip install")]


class TestDockerfile:
    def test_it_has_two_stages_and_ends_without_root(self) -> None:
        found = instructions()
        assert {name for name, _ in found} == INSTRUCTIONS
        assert arguments_of("FROM") == ["python:${PYTHON}-slim AS build", "python:${PYTHON}-slim"]
        last_stage = found[max(at for at, (name, _) in enumerate(found) if name == "FROM") :]
        assert [arguments for name, arguments in last_stage if name == "USER"] == ["rwsa"]
        assert not any("build-essential" in arguments for _, arguments in last_stage)

    def test_it_copies_only_what_is_there_and_what_the_builder_may_see(self) -> None:
        ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
        visible = {line[1:] for line in ignored if line.startswith("!")}
        copied = {
            source for words in arguments_of("COPY") if "--from" not in words for source in words.split()[:-1]
        }
        assert copied == visible
        assert [path for path in copied if not (CHECKOUT / path).exists()] == []
        assert "*" in ignored

    def test_every_install_is_pinned_and_the_extras_exist(self) -> None:
        assert len(installs()) == 2
        for words in installs():
            assert words[words.index("-c") + 1] == "infra/constraints.txt"
        extras = re.fullmatch(r"\.\[(.+)\]", installs()[-1][-1])
        assert extras is not None
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        assert set(extras[1].split(",")) == {"app", "metrics"} <= project["optional-dependencies"].keys()

    def test_what_the_build_needs_is_copied_before_it(self) -> None:
        order = [arguments for name, arguments in instructions() if name in ("COPY", "RUN")]
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        before = " ".join(order[: next(at for at, words in enumerate(order) if "[app,metrics]" in words)])
        for needed in (
            "pyproject.toml",
            project["readme"],
            *project["license-files"],
            "rwsa",
            "build-essential",
        ):
            assert needed in before


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())


class TestClusterFile:
    def test_rays_own_validator_accepts_it(self, cluster: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's imports
            from ray.autoscaler._private.util import prepare_config, validate_config
        prepared = prepare_config(cluster)
        validate_config(prepared)
        assert prepared["available_node_types"]["gpu"]["max_workers"] == 4
        with pytest.raises(Exception, match="'maximum' was unexpected"):
            validate_config(prepared | {"maximum": 3})

    def test_images_have_the_pinned_ray_and_the_tested_python(self, cluster: dict[str, Any]) -> None:
        images = [cluster["docker"]["image"]]
        images += [
            kind["docker"]["worker_image"]
            for kind in cluster["available_node_types"].values()
            if "docker" in kind
        ]
        assert len(images) == 2
        python = re.findall(r"^ARG PYTHON=(\d)\.(\d+)$", (INFRA / "Dockerfile").read_text(), flags=re.M)[0]
        for image in images:
            assert image.startswith(f"rayproject/ray:{PINS['ray']}-py{''.join(python)}-")

    def test_what_it_sends_and_installs_is_there(self, cluster: dict[str, Any]) -> None:
        (remote,) = [path for path, local in cluster["file_mounts"].items() if local == "."]
        (install,) = [command for command in cluster["setup_commands"] if command.startswith("pip")]
        words = shlex.split(install)
        assert Path(words[words.index("-c") + 1].replace(remote, str(CHECKOUT))).is_file()
        assert f"{remote}[app,metrics]" in words
        assert {".git", ".venv", "outputs"} <= set(cluster["rsync_exclude"])

    def test_nobody_gets_in_without_the_token(self, cluster: dict[str, Any]) -> None:
        starts = [
            c
            for kind in ("head", "worker")
            for c in cluster[f"{kind}_start_ray_commands"]
            if "ray start" in c
        ]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
        assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
        assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "mlflow" / "compose.yaml").read_text())


class TestMlflow:
    def test_every_service_has_what_it_names(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        assert services.keys() == {"server", "bucket", "database", "store"}
        for service in services.values():
            assert service["image"]
            assert set(service.get("depends_on", {})) <= services.keys()
            for volume in service.get("volumes", []):
                assert volume.partition(":")[0] in compose["volumes"]
            for needed in service.get("configs", []):
                assert needed["source"] in compose["configs"]
        for name, waited in services["server"]["depends_on"].items():
            if waited["condition"] == "service_healthy":
                assert "healthcheck" in services[name]

    def test_only_the_server_can_be_reached_and_only_from_this_machine(self, compose: dict[str, Any]) -> None:
        published = {name: s["ports"] for name, s in compose["services"].items() if "ports" in s}
        assert published == {"server": ["${MLFLOW_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]}

    def test_no_password_is_written_down(self, compose: dict[str, Any]) -> None:
        secrets = {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD"}
        found = {
            key: value
            for service in compose["services"].values()
            for key, value in service.get("environment", {}).items()
            if key in secrets
        }
        assert found.keys() == secrets
        assert all(re.fullmatch(r"\$\{\w+:\?.+\}", value) for value in found.values())
        assert "${STORE_PASSWORD:?" in compose["configs"]["identities"]["content"]

    def test_its_image_is_pinned(self, compose: dict[str, Any]) -> None:
        build = compose["services"]["server"]["build"]
        context = INFRA / "mlflow" / build["context"]
        copied = re.findall(r"^COPY (\S+)", build["dockerfile_inline"], flags=re.M)
        assert copied == ["infra/constraints.txt"]
        assert (context / copied[0]).is_file()
        assert "-c /tmp/constraints.txt mlflow" in build["dockerfile_inline"]

    def test_its_pins_agree_with_the_constraints(self, compose: dict[str, Any]) -> None:
        """pip refuses to build an image where a version asked for is not the one that is allowed."""
        dockerfile = compose["services"]["server"]["build"]["dockerfile_inline"]
        pinned = re.findall(r"([\w.-]+)==([\w.]+)", dockerfile)
        assert [(name, version) for name, version in pinned if PINS.get(name, version) != version] == []

    @pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own types when imported
    def test_mlflow_understands_its_command_line(self, compose: dict[str, Any]) -> None:
        from mlflow.cli import server

        program, verb, *words = shlex.split(compose["services"]["server"]["command"])
        assert (program, verb) == ("mlflow", "server")
        values = server.make_context("server", words).params
        assert values["port"] == 5000
        # SQLAlchemy's default driver is another one than the image has.
        assert values["backend_store_uri"] == "postgresql+psycopg2://mlflow@database/mlflow"
        assert values["artifacts_destination"] == "s3://mlflow"
