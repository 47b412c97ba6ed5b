"""The cluster file and the MLflow setup: parsed, validated, and joined to what is there."""

from __future__ import annotations

import re
import shlex
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
        """Files of known hashes; torch for CPUs, which is not on PyPI, is all that its own index serves."""
        (remote,) = [path for path, local in cluster["file_mounts"].items() if local == "."]
        on_gpus = cluster["available_node_types"]["gpu"]["worker_setup_commands"]
        on_others = cluster["setup_commands"]
        for commands, torch in ((on_others, "torch"), (on_gpus, f"{remote}/infra/locks/cuda.txt")):
            installs = [shlex.split(command) for command in commands if command.startswith("pip")]
            locks = [f"{remote}/infra/locks/{name}.txt" for name in ("build", "packages")]
            assert [words[-1] for words in installs] == [locks[0], torch, locks[1], remote]
            for words in installs:
                assert "--no-deps" in words
                assert "--extra-index-url" not in words
                assert ("--require-hashes" in words) == words[-1].endswith(".txt")
                assert ("--index-url" in words) == (words[-1] == "torch")
                for word in words:
                    if word.startswith(f"{remote}/"):
                        assert Path(word.replace(remote, str(CHECKOUT))).is_file()
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
        secrets = {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD"}
        secrets.add("MLFLOW_FLASK_SERVER_SECRET_KEY")
        found = {
            key: value
            for service in compose["services"].values()
            for key, value in service.get("environment", {}).items()
            if key in secrets
        }
        assert found.keys() == secrets
        assert all(re.fullmatch(r"\$\{\w+:\?.+\}", value) for value in found.values())
        assert "${STORE_PASSWORD:?" in compose["configs"]["identities"]["content"]

    def test_its_image_installs_files_of_known_hashes(self, compose: dict[str, Any]) -> None:
        build = compose["services"]["server"]["build"]
        context = INFRA / "mlflow" / build["context"]
        text = build["dockerfile_inline"].replace("\\\n", " ")
        assert re.findall(r"^COPY (\S+)", text, flags=re.M) == ["infra/locks"]
        installs = [shlex.split(line) for line in re.findall(r"^RUN (pip .*)$", text, flags=re.M)]
        assert len(installs) == 2
        for words in installs:
            assert "--require-hashes" in words
            (lock,) = [word for word in words if word.startswith("/tmp/locks/")]
            assert (context / "infra" / "locks" / Path(lock).name).is_file()
        # The login needs flask-wtf.
        assert installs[1][-4:] == ["boto3", "flask-wtf", "mlflow", "psycopg2-binary"]
        locked = (context / "infra" / "locks" / "packages.txt").read_text()
        assert all(re.search(rf"^{name}==", locked, flags=re.M) for name in installs[1][-4:])

    def test_every_image_can_be_given_by_its_digest(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        assert services["database"]["image"] == "${POSTGRES_IMAGE:-postgres:17}"
        assert re.fullmatch(r"\$\{STORE_IMAGE:-chrislusf/seaweedfs:[\d.]+\}", services["store"]["image"])
        python = re.findall(r"^ARG PYTHON=(.+)$", (INFRA / "Dockerfile").read_text(), flags=re.M)[0]
        given = services["server"]["build"]["args"]["PYTHON_IMAGE"]
        assert given == f"${{PYTHON_IMAGE:-python:{python}-slim}}"

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
