"""The optional parts of infra/kuberay: built with their overlays, and held to schemas and rules."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kuberay import KUBERAY, OVERLAYS, Resource, built, cluster_of, one, pods, ray_groups
from tests.kuberay_rules import VERSIONS, problems
from tests.kuberay_schema import check
from tests.kustomize import load_all

FOR_BOTH = ("disruption-budget", "monitoring", "priority")
FOR_MANY = ("gcs-fault-tolerance", "gpu-nodes", "kueue", "spot", "workflow-job")
SUITABLE = {"one-node": FOR_BOTH, "many-nodes": FOR_BOTH + FOR_MANY}
BUILDS = [
    (overlay, parts)
    for overlay in OVERLAYS
    for parts in [*((name,) for name in SUITABLE[overlay]), SUITABLE[overlay]]
]
NAMES = ["+".join((overlay, *parts)) for overlay, parts in BUILDS]


@pytest.mark.parametrize(("overlay", "parts"), BUILDS, ids=NAMES)
def test_each_is_accepted_by_all_schemas_and_rules(overlay: str, parts: tuple[str, ...]) -> None:
    resources = built(overlay, *parts)
    for resource in resources:
        check(resource)
    cluster = cluster_of(resources)
    assert [problems(cluster, version) for version in VERSIONS if version >= "1.6"] == [[], [], []]
    assert resources != built(overlay)
    assert all(r["metadata"].get("namespace") == "rwsa" for r in resources if r["kind"] not in CLUSTER_WIDE)


CLUSTER_WIDE = {"Namespace", "PriorityClass"}


def test_the_page_lists_them_all_with_their_overlays() -> None:
    page = (KUBERAY / "components" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (\S+) \|$", page, flags=re.M))
    assert rows == {**dict.fromkeys(FOR_BOTH, "both"), **dict.fromkeys(FOR_MANY, "`many-nodes`")}
    assert rows.keys() == {path.parent.name for path in (KUBERAY / "components").glob("*/kustomization.yaml")}


@pytest.fixture
def scratch_folder() -> Iterator[Path]:
    """A folder beside the overlays, since kustomize resolves what an overlay names relative to it."""
    folder = KUBERAY / ".test-build"
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "jobs/one-node", "jobs/many-nodes"])
def test_our_rendering_is_kubectls(overlay: str, scratch_folder: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    parts = SUITABLE.get(overlay, ())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "rwsa",
        "resources": [f"../{overlay}"],
        "components": [f"../components/{name}" for name in parts],
    }
    (scratch_folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    command = [kubectl, "kustomize", str(scratch_folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert by_name(built(overlay, *parts)) == by_name(
        list(yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    )


def by_name(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    named = {(r["kind"], r["metadata"]["name"]): r for r in resources}
    assert len(named) == len(resources)
    return named


def test_prometheus_is_let_in_where_it_looks() -> None:
    resources = built("many-nodes", "monitoring")
    monitor = one(resources, "PodMonitor", "rwsa")["spec"]
    policy = one(resources, "NetworkPolicy", "rwsa-monitoring")["spec"]
    (endpoint,), ((port,),) = monitor["podMetricsEndpoints"], [rule["ports"] for rule in policy["ingress"]]
    assert policy["podSelector"] == monitor["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    for name, group in ray_groups(resources).items():
        (container,) = group["template"]["spec"]["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert ports[endpoint["port"]] == port["port"] == 8080, name


def test_the_dashboard_asks_for_what_ray_exports() -> None:
    """Metrics that the dashboards of the installed Ray use; those of other versions have other names."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    folder = Path(ray.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    exported = set(re.findall(r"\bray_\w+", (folder / "default_dashboard_panels.py").read_text()))
    written = one(built("many-nodes", "monitoring"), "ConfigMap", "rwsa-dashboard")["data"]["dashboard.json"]
    panels = json.loads(written)["panels"]
    used = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\bray_\w+", target["expr"])
    }
    assert len(used) >= 8
    assert used <= exported
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_budgets_keep_the_pods_that_exist_once(overlay: str) -> None:
    resources = built(overlay, "disruption-budget")
    for name in ("rwsa-head", "mlflow"):
        budget = one(resources, "PodDisruptionBudget", name)["spec"]
        # Of the pods of a RayCluster, Kubernetes cannot tell how many there should be.
        assert budget.keys() == {"minAvailable", "selector"}
    labels = one(resources, "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"]
    assert one(resources, "PodDisruptionBudget", "mlflow")["spec"]["selector"]["matchLabels"] == labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_workers_depend_on_comes_first(overlay: str) -> None:
    resources = built(overlay, "priority")
    one(resources, "PriorityClass", "rwsa-services")
    for name, pod in pods(resources):
        assert ("priorityClassName" in pod) == (name not in ("cpu", "gpu")), name


def test_only_workers_run_on_spot_nodes() -> None:
    for name, pod in pods(built("many-nodes", "spot", "gpu-nodes")):
        keys = {each["key"] for each in pod.get("tolerations", [])}
        assert ("cloud.google.com/gke-spot" in keys) == (name in ("cpu", "gpu")), name
        assert ("nvidia.com/gpu" in keys) == ("nodeSelector" in pod) == (name == "gpu"), name


@pytest.mark.parametrize("parts", [("kueue",), ("kueue", "workflow-job")])
def test_a_queued_cluster_fits_its_quota(parts: tuple[str, ...]) -> None:
    resources = built("many-nodes", *parts)
    cluster = cluster_of(resources)
    queue = one(resources, "LocalQueue", cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"])
    quota = load_all((KUBERAY / "components" / "kueue" / "quota.yaml").read_text())
    for resource in quota:
        check(resource)
    (group,) = one(quota, "ClusterQueue", queue["spec"]["clusterQueue"])["spec"]["resourceGroups"]
    allowed = {each["name"]: each["nominalQuota"] for each in group["flavors"][0]["resources"]}
    assert allowed.keys() == set(group["coveredResources"])
    used = dict.fromkeys(allowed, 0.0)
    for each in ray_groups(resources).values():
        (container,) = each["template"]["spec"]["containers"]
        for name, quantity in container["resources"]["requests"].items():
            used[name] += each.get("replicas", 1) * float(quantity.removesuffix("Gi"))
    assert {name: used[name] <= float(allowed[name].removesuffix("Gi")) for name in allowed} == dict.fromkeys(
        allowed, True
    )


def test_a_queued_workflow_frees_its_quota_and_is_the_job_of_a_cluster_that_stays() -> None:
    resources = built("many-nodes", "kueue", "workflow-job")
    job, staying = cluster_of(resources), one(built("jobs/many-nodes"), "RayJob", "workflow")
    assert job["kind"] == "RayJob"
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "rwsa"}
    # Kueue queues only jobs that bring a cluster of fixed size and remove it.
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert "clusterSelector" not in job["spec"]
    assert job["spec"]["entrypoint"] == staying["spec"]["entrypoint"]


def test_redis_has_the_password_that_ray_sends() -> None:
    resources = built("many-nodes", "gcs-fault-tolerance")
    options = one(resources, "RayCluster", "rwsa")["spec"]["gcsFaultToleranceOptions"]
    pod = one(resources, "StatefulSet", "rwsa-redis")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"]
    service = one(resources, "Service", "rwsa-redis")
    assert options["redisAddress"] == f"rwsa-redis:{service['spec']['ports'][0]['port']}"
    assert (
        "create secret generic rwsa-redis --from-file=password="
        in (KUBERAY / "components" / "gcs-fault-tolerance" / "kustomization.yaml").read_text()
    )
