"""The Kubernetes manifests: rendered, held to the schemas, and read as Ray reads them."""

from __future__ import annotations

import configparser
import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.kuberay import OVERLAYS, Resource, built, environment, gibibytes, one, pods, ray_groups
from tests.kuberay_schema import check

CHECKOUT = Path(__file__).parents[3]
# What people make by hand, as infra/README.md describes.
SECRETS = {"rwsa-ray", "rwsa-storage", "rwsa-mlflow"}


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return built(request.param)


def test_resources_match_the_schemas_of_kubernetes_and_kuberay(resources: list[Resource]) -> None:
    kinds = {resource["kind"] for resource in resources}
    assert {"RayCluster", "Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy"} <= kinds
    for resource in resources:
        check(resource)


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
    cluster = copy.deepcopy(one(built("many-nodes"), "RayCluster", "rwsa"))
    inner: Any = cluster
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(complaint)):
        check(cluster)


@pytest.mark.filterwarnings("ignore")  # Ray's own imports
def test_rays_autoscaler_reads_the_groups_as_meant() -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = one(built("many-nodes"), "RayCluster", "rwsa")
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
        allowed = {"name", "persistentVolumeClaim", "emptyDir", "configMap"}
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
    keys = set[tuple[str, str]]()
    for name, pod in pods(resources):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v} <= maps, name
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
                    secret = variable["valueFrom"]["secretKeyRef"]
                    keys.add((secret["name"], secret["key"]))
    secrets |= {name for name, _ in keys}
    assert secrets <= SECRETS
    readme = (CHECKOUT / "infra" / "README.md").read_text()
    created = {
        name: re.findall(r"--from-(?:literal|file)=(\w+)=", rest)
        for name, rest in re.findall(r"create secret generic (\S+) (.*)", readme)
    }
    assert [secret for secret in secrets if secret not in created] == []
    assert [(secret, key) for secret, key in keys if key not in created[secret]] == []


def test_the_images_are_the_dockerfiles_and_have_the_pinned_ray(resources: list[Resource]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (CHECKOUT / "infra/Dockerfile").read_text(), flags=re.M))
    for name, pod in pods(resources):
        if name != "mlflow-database":
            (container,) = pod["containers"]
            repository, tag = container["image"].rsplit(":", 1)
            assert repository.split("/")[-1] == "rwsa"
            # A commit, which README's command puts there: nodes do not ask again for a tag that they have.
            target, _, commit = tag.partition("-")
            assert target == ("cuda" if name == "gpu" else "cpu")
            assert target in targets
            assert commit == "COMMIT"
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


def test_mlflow_requires_a_login_that_ray_has(resources: list[Resource]) -> None:
    (server,) = one(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert "--app-name=basic-auth" in server["args"]
    settings = {each["name"]: each for each in server["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert settings["MLFLOW_AUTH_CONFIG_PATH"]["value"] == f"{mounts['login']}/login.ini"
    login = configparser.ConfigParser()
    login.read_string(one(resources, "ConfigMap", "mlflow-login")["data"]["login.ini"])
    store = next(arg for arg in server["args"] if arg.startswith("--backend-store-uri")).partition("=")[2]
    if store.startswith("sqlite"):
        assert login["mlflow"]["database_uri"].startswith(f"sqlite:///{mounts['data']}/")
    else:
        assert login["mlflow"]["database_uri"] == store
    password = settings["MLFLOW_AUTH_ADMIN_PASSWORD"]["valueFrom"]
    for name, group in ray_groups(resources).items():
        (container,) = group["template"]["spec"]["containers"]
        sent = {each["name"]: each for each in container["env"]}
        assert sent["MLFLOW_TRACKING_USERNAME"]["value"] == login["mlflow"]["admin_username"], name
        assert sent["MLFLOW_TRACKING_PASSWORD"]["valueFrom"] == password, name


def test_sqlite_is_on_no_shared_folder(resources: list[Resource]) -> None:
    """Its locks are unreliable on network file systems, such as that of a volume for many nodes."""
    for name, group in ray_groups(resources).items():
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]
        }
        assert "emptyDir" in mounts[environment(resources)["RWSA_CACHE"]], name
        assert environment(resources)["MLFLOW_TRACKING_URI"].startswith("http"), name
    for resource in resources:
        if resource["kind"] == "PersistentVolumeClaim" and resource["metadata"]["name"] != "rwsa-outputs":
            assert resource["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_scratch_space_has_limits_that_fit_the_pod(resources: list[Resource]) -> None:
    for name, pod in pods(resources):
        sizes = [gibibytes(v["emptyDir"]["sizeLimit"]) for v in pod["volumes"] if "emptyDir" in v]
        limit = pod["containers"][0]["resources"]["limits"].get("ephemeral-storage")
        if limit is not None:
            assert sum(sizes) <= gibibytes(limit), name
        assert (limit is not None) == (name in ray_groups(resources)), name


def test_training_has_time_to_save_before_it_is_killed(resources: list[Resource]) -> None:
    settings = environment(resources)
    stop = int(settings["RAY_JOB_STOP_WAIT_TIME_S"])
    drain = int(settings["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert int(settings["RWSA_STOP_SECONDS"]) < drain <= stop
    for name, group in ray_groups(resources).items():
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > stop, name


def test_the_head_has_memory_for_the_trials_of_a_sweep() -> None:
    """In GiB; infra/README.md says how they were measured."""
    ray_itself, job, trial = 2.0, 1.0, 0.7
    head = ray_groups(built("many-nodes"))["head"]
    objects = int(head["rayStartParams"]["object-store-memory"]) / 2**30
    (container,) = head["template"]["spec"]["containers"]
    entrypoint = one(built("jobs/many-nodes"), "RayJob", "sweep")["spec"]["entrypoint"]
    trials = int(re.findall(r"--gpu-trials (\d+)", entrypoint)[0])
    groups = ray_groups(built("many-nodes"))
    assert trials <= groups["gpu"]["maxReplicas"]
    needed = ray_itself + objects + job + trials * trial
    assert needed <= gibibytes(container["resources"]["limits"]["memory"])
