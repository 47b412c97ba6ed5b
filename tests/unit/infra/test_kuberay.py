"""The Kubernetes manifests: rendered, held to the schemas, and read as Ray reads them."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests import kuberay_schema
from tests.kustomize import build

CHECKOUT = Path(__file__).parents[3]
KUBERAY = CHECKOUT / "infra" / "kuberay"
OVERLAYS = ["one-node", "many-nodes"]
JOBS = sorted((KUBERAY / "jobs").glob("*.yaml"))
# What people make by hand, as infra/README.md describes.
SECRETS = {"rwsa-ray", "rwsa-storage", "rwsa-mlflow"}

Resource = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return build(KUBERAY / request.param)


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = [r for r in resources if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return found


def ray_groups(resources: list[Resource]) -> dict[str, Resource]:
    spec = one(resources, "RayCluster", "rwsa")["spec"]
    workers = {group["groupName"]: group for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"], **workers}


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """The specification of every pod, by name."""
    for name, group in ray_groups(resources).items():
        yield name, group["template"]["spec"]
    for resource in resources:
        if resource["kind"] in ("Deployment", "StatefulSet"):
            yield resource["metadata"]["name"], resource["spec"]["template"]["spec"]


def check(resource: Resource) -> None:
    if resource["apiVersion"].startswith("ray.io/"):
        kuberay_schema.check(resource)
        return
    for version in (kuberay_schema.KUBERNETES, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def test_resources_match_the_schemas_of_kubernetes_and_kuberay(resources: list[Resource]) -> None:
    kinds = {resource["kind"] for resource in resources}
    assert {"RayCluster", "Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy"} <= kinds
    for resource in resources:
        check(resource)


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_jobs_match_their_schema_and_run_existing_commands(job: Path) -> None:
    resource = yaml.safe_load(job.read_text())
    check(resource)
    cluster = one(build(KUBERAY / "many-nodes"), "RayCluster", "rwsa")
    assert resource["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert resource["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    python, dash, module, *words = shlex.split(resource["spec"]["entrypoint"])
    assert (python, dash) == ("python", "-m")
    assert (CHECKOUT / Path(*module.split("."))).with_suffix(".py").is_file()
    in_image = [word.removeprefix("/app/") for word in words if word.startswith("/app/")]
    ours = [path for path in in_image if not path.startswith("outputs")]
    assert [path for path in ours if not (CHECKOUT / path).is_file()] == []


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 2, "'maxReplica' was unexpected"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "2", "'2' is not of type 'integer'"),
        (("spec", "headGroupSpec", "template", "spec", "container"), [], "'container' was unexpected"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "ports"), [{}], "'containerPort'"),
        (("spec", "authOptions", "mode"), "password", "'password' is not one of"),
    ],
)
def test_the_schema_refuses_what_is_wrong(where: tuple[str | int, ...], value: Any, complaint: str) -> None:
    cluster = copy.deepcopy(one(build(KUBERAY / "many-nodes"), "RayCluster", "rwsa"))
    inner: Any = cluster
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(complaint)):
        check(cluster)


def test_our_rendering_is_kubectls() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    for overlay in OVERLAYS:
        done = subprocess.run(
            [kubectl, "kustomize", str(KUBERAY / overlay)], check=True, capture_output=True, text=True
        )
        theirs = list(yaml.safe_load_all(done.stdout))
        assert _by_name(build(KUBERAY / overlay)) == _by_name(theirs)


def _by_name(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    named = {(r["kind"], r["metadata"]["name"]): r for r in resources}
    assert len(named) == len(resources)
    return named


@pytest.mark.filterwarnings("ignore")  # Ray's own imports
def test_rays_autoscaler_reads_the_groups_as_meant() -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = one(build(KUBERAY / "many-nodes"), "RayCluster", "rwsa")
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    kinds = read["available_node_types"]
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in kinds.items()} == {
        "headgroup": (0, 0),
        "cpu": (0, 16),
        "gpu": (0, 8),
    }
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["cpu"]["resources"] == {"CPU": 8, "memory": 16 * 2**30}
    assert kinds["gpu"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 32 * 2**30}
    assert read["idle_timeout_minutes"] == 5


def test_no_pod_has_privileges(resources: list[Resource]) -> None:
    """The rules of Kubernetes's Pod Security Standard `restricted`, which the namespace enforces."""
    labels = one(resources, "Namespace", "rwsa")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    cluster = one(resources, "RayCluster", "rwsa")["spec"]
    sidecars = [cluster["autoscalerOptions"]] if cluster["enableInTreeAutoscaling"] else []
    for name, pod in pods(resources):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        allowed = {"name", "persistentVolumeClaim", "emptyDir"}
        assert all(volume.keys() <= allowed for volume in pod["volumes"]), name
        for container in [*pod["containers"], *sidecars]:
            given = container["securityContext"]
            assert given["allowPrivilegeEscalation"] is False, name
            assert given["capabilities"] == {"drop": ["ALL"]}, name
            assert not given.get("privileged"), name
        # The head's autoscaler asks Kubernetes for nodes; no other pod has access.
        assert pod.get("automountServiceAccountToken") is (None if name == "head" else False), name


def test_every_container_has_resource_requests_and_probes(resources: list[Resource]) -> None:
    for name, pod in pods(resources):
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), name


def test_everything_named_exists(resources: list[Resource]) -> None:
    claims = {r["metadata"]["name"] for r in resources if r["kind"] == "PersistentVolumeClaim"}
    maps = {r["metadata"]["name"] for r in resources if r["kind"] == "ConfigMap"}
    secrets = {one(resources, "RayCluster", "rwsa")["spec"]["authOptions"]["secretName"]}
    for name, pod in pods(resources):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        wanted = {
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        }
        assert wanted <= claims, name
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys(), name
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps
                else:
                    secrets.add(source["secretRef"]["name"])
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    secrets.add(variable["valueFrom"]["secretKeyRef"]["name"])
    assert secrets <= SECRETS
    readme = (CHECKOUT / "infra" / "README.md").read_text()
    assert [name for name in secrets if f"create secret generic {name} " not in readme] == []


def test_the_images_are_the_dockerfiles_and_have_the_pinned_ray(resources: list[Resource]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (CHECKOUT / "infra/Dockerfile").read_text(), flags=re.M))
    for name, pod in pods(resources):
        if name != "mlflow-database":
            (container,) = pod["containers"]
            repository, tag = container["image"].rsplit(":", 1)
            assert repository.split("/")[-1] == "rwsa"
            assert tag == ("cuda" if name == "gpu" else "cpu")
            assert tag in targets
    pins = (CHECKOUT / "infra" / "constraints.txt").read_text().splitlines()
    assert f"ray=={one(resources, 'RayCluster', 'rwsa')['spec']['rayVersion']}" in pins


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own types when imported
def test_mlflow_answers_to_the_name_that_clients_use(resources: list[Resource]) -> None:
    from mlflow.cli import server

    container = one(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["mlflow", "server"]
    values = server.make_context("server", list(container["args"])).params
    service = one(resources, "Service", "mlflow")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert one(resources, "ConfigMap", "rwsa")["data"]["MLFLOW_TRACKING_URI"] == f"http://{address}"
    assert address in values["allowed_hosts"].split(",")
    assert values["port"] == container["ports"][0]["containerPort"]
    if values["backend_store_uri"].startswith("postgresql"):
        host = values["backend_store_uri"].split("@")[1].split("/")[0]
        assert one(resources, "Service", host)
    else:  # one writer alone
        assert (values["workers"], values["backend_store_uri"]) == ("1", "sqlite:////data/mlflow.db")


@pytest.mark.filterwarnings("ignore")  # what it imports
def test_the_training_job_is_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.train import main

    entrypoint = yaml.safe_load((KUBERAY / "jobs" / "train.yaml").read_text())["spec"]["entrypoint"]
    assert main([*shlex.split(entrypoint)[3:], "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["storage"]["root"] == "s3://rwsa"
    maps = one(build(KUBERAY / "many-nodes"), "ConfigMap", "rwsa")
    assert config["storage"]["tracking_uri"] == maps["data"]["MLFLOW_TRACKING_URI"]
