"""KubeRay's cross-field rules: our manifests keep them in every version; each refuses what breaks it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.kuberay import KUBERAY, OVERLAYS, built, one
from tests.kuberay_rules import VERSIONS, problems

SUPPORTED = [version for version in VERSIONS if version >= "1.6"]
NONE: Any = object()
HEAD = "headGroupSpec.template.spec.containers.0"
CPU = "workerGroupSpecs.0"


def cluster() -> dict[str, Any]:
    return one(built("many-nodes"), "RayCluster", "rwsa")


def job() -> dict[str, Any]:
    return one(built("jobs/many-nodes"), "RayJob", "mix")


def own_cluster() -> dict[str, Any]:
    """A job that brings its cluster."""
    changed = copy.deepcopy(job())
    changed["spec"]["rayClusterSpec"] = copy.deepcopy(cluster()["spec"])
    changed["spec"].pop("clusterSelector")
    return changed


def put(resource: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The resource with values set, or with `NONE` removed, at dotted paths below `spec` or `metadata`."""
    changed = copy.deepcopy(resource)
    for path, value in changes.items():
        keys = path.split("/") if path.startswith("metadata/") else ["spec", *path.split(".")]
        inner: Any = changed
        for key in keys[:-1]:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if value is NONE:
            del inner[keys[-1]]
        elif isinstance(inner, list):
            inner[int(keys[-1])] = value
        else:
            inner[keys[-1]] = value
    return changed


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("overlay", [*OVERLAYS, "jobs/one-node", "jobs/many-nodes"])
def test_our_clusters_and_jobs_keep_the_rules(overlay: str, version: str) -> None:
    for each in built(overlay):
        if each["apiVersion"].startswith("ray.io/"):
            assert problems(each, version) == []


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_job_with_a_cluster_of_its_own_keeps_the_rules(version: str) -> None:
    assert problems(own_cluster(), version) == []


def test_kuberay_before_1_6_lacks_the_secrets_name() -> None:
    assert problems(cluster(), "1.5.1") == ["authOptions.secretName: unknown before KubeRay 1.6"]


def test_the_readme_names_these_versions() -> None:
    readme = (KUBERAY.parent / "README.md").read_text()
    assert (
        f"Requires KubeRay {SUPPORTED[0].removesuffix('.0')} or {SUPPORTED[-1].removesuffix('.0')}" in readme
    )


REDIS = {"gcsFaultToleranceOptions": {"redisAddress": "redis:6379"}}
NO_AUTOSCALER = {
    "enableInTreeAutoscaling": False,
    "autoscalerOptions": NONE,
    "workerGroupSpecs.1.idleTimeoutSeconds": NONE,
}


def env(name: str, value: str = "x") -> dict[str, Any]:
    return {f"{HEAD}.env": [{"name": name, "value": value}]}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metadata/name": "r" * 54}, "name: longer than 53"),
        ({"metadata/name": "2rwsa"}, "name: must begin with a lower-case letter"),
        ({f"{HEAD.removesuffix('.0')}": []}, "head: no container"),
        ({f"{CPU}.template.spec.containers": []}, "cpu: no container"),
        ({"headGroupSpec.resources": {"CPU": "1"}}, "head: resources both"),
        ({f"{CPU}.rayStartParams.labels": "a=b"}, "cpu: labels belong"),
        ({f"{CPU}.labels": {"a b": "c"}}, "cpu: label a b=c"),
        ({f"{CPU}.labels": {"a": "-c"}}, "cpu: label a=-c"),
        ({**NO_AUTOSCALER, f"{CPU}.minReplicas": NONE}, "cpu: minReplicas and maxReplicas are required"),
        ({f"{CPU}.minReplicas": -1}, "cpu: negative number of replicas"),
        ({f"{CPU}.minReplicas": 17}, "cpu: minReplicas 17 is above maxReplicas 16"),
        ({f"{CPU}.suspend": True}, "cpu: suspend"),
        ({f"{CPU}.idleTimeoutSeconds": -1}, "cpu: negative idleTimeoutSeconds"),
        ({"autoscalerOptions.version": NONE}, "gpu: idleTimeoutSeconds requires"),
        ({"autoscalerOptions.version": "v1"}, "gpu: idleTimeoutSeconds requires"),
        ({"autoscalerOptions.idleTimeoutSeconds": -1}, "autoscalerOptions: negative"),
        ({**REDIS, "metadata/annotations/ray.io~ft-enabled": "true"}, "exclude each other"),
        ({**REDIS, "headGroupSpec.rayStartParams.redis-password": "x"}, "rayStartParams.redis-password"),
        ({**REDIS, **env("REDIS_PASSWORD")}, "REDIS_PASSWORD in the head's env"),
        ({**REDIS, **env("RAY_REDIS_ADDRESS")}, "RAY_REDIS_ADDRESS in the head's env"),
        ({**REDIS, "metadata/annotations/ray.io~external-storage-namespace": "x"}, "external-storage"),
        (env("RAY_REDIS_ADDRESS"), "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"),
        (env("REDIS_USERNAME"), "a user name of Redis"),
        ({**NO_AUTOSCALER, **env("RAY_enable_autoscaler_v2", "1")}, "without enableInTreeAutoscaling"),
        (env("RAY_enable_autoscaler_v2", "0"), "autoscalerOptions.version exclude each other"),
        ({"headGroupSpec.template.spec.restartPolicy": "Always"}, "head: restartPolicy must be Never"),
        ({f"{CPU}.template.spec.restartPolicy": "OnFailure"}, "cpu: restartPolicy must be Never"),
        ({"rayVersion": NONE}, "rayVersion None: authOptions require"),
        ({"rayVersion": "nightly"}, "rayVersion 'nightly': authOptions require"),
        ({"rayVersion": "2.51.1"}, "authOptions require Ray 2.52"),
        ({"rayVersion": "2.54.0", "authOptions.enableK8sTokenAuth": True}, "requires Ray 2.55"),
        ({"authOptions": {"mode": "disabled", "enableK8sTokenAuth": True}}, "requires the mode token"),
        ({"upgradeStrategy": {"type": "Rolling"}}, "upgradeStrategy.type"),
        ({"networkPolicy": {}}, "networkPolicy: needs a feature gate"),
    ],
)
@pytest.mark.parametrize("version", SUPPORTED)
def test_a_cluster_that_breaks_a_rule_is_refused(
    changes: dict[str, Any], complaint: str, version: str
) -> None:
    changed = put(cluster(), changes)
    annotations = changed["metadata"].get("annotations", {})
    changed["metadata"]["annotations"] = {key.replace("~", "/"): text for key, text in annotations.items()}
    assert any(complaint in each for each in problems(changed, version)), problems(changed, version)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metadata/name": "m" * 48}, "name: longer than 47"),
        ({"metadata/name": "Mix"}, "name: must begin with a lower-case letter"),
        ({"suspend": True}, "suspend requires shutdownAfterJobFinishes"),
        ({"suspend": True, "shutdownAfterJobFinishes": True}, "suspend does not go with clusterSelector"),
        ({"ttlSecondsAfterFinished": 60}, "ttlSecondsAfterFinished requires shutdownAfterJobFinishes"),
        ({"ttlSecondsAfterFinished": -1}, "negative ttlSecondsAfterFinished"),
        ({"clusterSelector": NONE}, "neither rayClusterSpec nor clusterSelector"),
        ({"clusterSelector": {"name": "rwsa"}}, "no cluster's name"),
        ({"submissionMode": "SidecarMode"}, "clusterSelector does not go with SidecarMode"),
        ({"backoffLimit": 1}, "backoffLimit does not go with clusterSelector"),
        ({"submissionMode": "InteractiveMode", "backoffLimit": 1}, "with InteractiveMode"),
        ({"submissionMode": "SidecarMode", "submitterConfig": {}}, "submitterConfig does not go"),
        ({"submissionMode": "SidecarMode", "submitterPodTemplate": {}}, "submitterPodTemplate does not go"),
        ({"runtimeEnvYAML": "env_vars: {A: "}, "runtimeEnvYAML: not YAML"),
        ({"runtimeEnvYAML": "[pip]"}, "runtimeEnvYAML: not a mapping"),
        ({"activeDeadlineSeconds": 0}, "activeDeadlineSeconds: must be positive"),
        ({"preRunningDeadlineSeconds": 0}, "preRunningDeadlineSeconds: must be positive"),
        ({"backoffLimit": -1}, "negative backoffLimit"),
        ({"deletionStrategy": {}}, "deletionStrategy: needs a feature gate"),
    ],
)
@pytest.mark.parametrize("version", SUPPORTED)
def test_a_job_that_breaks_a_rule_is_refused(changes: dict[str, Any], complaint: str, version: str) -> None:
    found = problems(put(job(), changes), version)
    assert any(complaint in each for each in found), found


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_cluster_of_a_job_is_held_to_the_rules_of_clusters(version: str) -> None:
    changed = put(own_cluster(), {"rayClusterSpec.autoscalerOptions.version": "v1"})
    assert problems(changed, version) == [
        "rayClusterSpec: gpu: idleTimeoutSeconds requires autoscalerOptions.version v2"
    ]
    restart = {
        "submissionMode": "SidecarMode",
        "rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always",
    }
    assert "head: restartPolicy must be Never with SidecarMode" in problems(
        put(own_cluster(), restart), version
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"authOptions.enableK8sTokenAuth": True}, "enableK8sTokenAuth and secretName exclude each other"),
        (
            {"autoscalerOptions.env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]},
            "the operator's own",
        ),
        ({f"{CPU}.priority": 1, "rayVersion": "2.55.0"}, "cpu: priority requires Ray 2.56"),
        ({f"{CPU}.priority": 1, "autoscalerOptions.version": "v1"}, "cpu: priority requires autoscaler"),
        ({"gcsFaultToleranceOptions": {"backend": "rocksdb"}}, "backend rocksdb: needs a feature gate"),
        ({"gcsFaultToleranceOptions": {"storage": {}}}, "storage is for the backend rocksdb"),
    ],
)
def test_what_kuberay_1_7_added_is_refused_there(changes: dict[str, Any], complaint: str) -> None:
    assert any(complaint in each for each in problems(put(cluster(), changes), "1.7.0"))


@pytest.mark.parametrize(
    "changes",
    [{f"{CPU}.priority": 1}, {"tlsOptions": {}}, {"gcsFaultToleranceOptions": {"backend": "redis"}}],
)
def test_fields_of_kuberay_1_7_are_unknown_to_1_6(changes: dict[str, Any]) -> None:
    assert any("unknown before KubeRay 1.7" in each for each in problems(put(cluster(), changes), "1.6.1"))
