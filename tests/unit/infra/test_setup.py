"""The cluster file and the MLflow setup: parsed, validated, and joined to what is there."""

from __future__ import annotations

import re
import shlex
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
INFRA = CHECKOUT / "infra"
PINS = dict(line.split("==") for line in (INFRA / "constraints.txt").read_text().splitlines() if "==" in line)


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
        kinds = prepared["available_node_types"]
        bounds = {name: (kind["min_workers"], kind["max_workers"]) for name, kind in kinds.items()}
        assert bounds == {"head": (0, 0), "cpu": (0, 16), "gpu": (0, 8)}
        assert sum(upper for _, upper in bounds.values()) == prepared["max_workers"]
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

    def test_what_it_sends_and_installs_exists(self, cluster: dict[str, Any]) -> None:
        (remote,) = [path for path, local in cluster["file_mounts"].items() if local == "."]
        on_gpus = cluster["available_node_types"]["gpu"]["worker_setup_commands"]
        installs = []
        for commands in (cluster["setup_commands"], on_gpus):
            (install,) = [command for command in commands if command.startswith("pip")]
            words = shlex.split(install)
            assert Path(words[words.index("-c") + 1].replace(remote, str(CHECKOUT))).is_file()
            assert words[-1].startswith(f"{remote}[")
            installs.append(words)
        assert installs[0][-1] == installs[1][-1]
        assert "--extra-index-url" in installs[0], "nodes without a GPU do without CUDA's libraries"
        assert "--extra-index-url" not in installs[1]
        extras = words[-1].removeprefix(f"{remote}[").removesuffix("]").split(",")
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        assert set(extras) <= project["optional-dependencies"].keys()
        assert {".git", ".venv", "outputs", "shared"} <= set(cluster["rsync_exclude"])

    def test_access_requires_the_token(self, cluster: dict[str, Any]) -> None:
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
        """pip refuses to build an image where a requested version is not the allowed one."""
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
