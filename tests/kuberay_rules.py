"""What KubeRay's operator refuses in a RayCluster or RayJob although its schema accepts it.

The operator checks fields against each other after the API server has stored a resource; one that fails gets
no pods, only an event. The rules here restate in our own words those of KubeRay 1.6 and 1.7, with its feature
gates closed (the default). Version 1.5 is here only so that tests can show why it does not suffice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

VERSIONS = ("1.5.1", "1.6.0", "1.6.1", "1.7.0")  # 1.6.1: any later patch
Fields = Mapping[str, Any]

_LONGEST_CLUSTER_NAME, _LONGEST_JOB_NAME = 53, 47
_V2 = "RAY_enable_autoscaler_v2"
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
# The first version that knows a field; an older operator's schema drops it without a word.
_SINCE = {
    "authOptions.secretName": "1.6",
    "authOptions.enableK8sTokenAuth": "1.6",
    "preRunningDeadlineSeconds": "1.6",
    "autoscalerOptions.args": "1.7",
    "autoscalerOptions.command": "1.7",
    "gcsFaultToleranceOptions.backend": "1.7",
    "gcsFaultToleranceOptions.storage": "1.7",
    "headGroupSpec.ingressOptions": "1.7",
    "historyServerOptions": "1.7",
    "networkPolicy": "1.7",
    "tlsOptions": "1.7",
    "workerGroupSpecs.priority": "1.7",
}
_GATED = {"historyServerOptions", "networkPolicy", "tlsOptions", "deletionStrategy"}


def problems(resource: Fields, version: str) -> list[str]:
    """Why the operator of a version refuses a RayCluster or RayJob; empty if it accepts it."""
    meta, spec = resource["metadata"], resource["spec"]
    found = list(_name(resource["kind"], meta["name"]))
    if resource["kind"] == "RayCluster":
        return [*found, *_cluster(spec, meta.get("annotations", {}), _number(version))]
    return [*found, *_job(spec, meta.get("annotations", {}), _number(version))]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _name(kind: str, name: str) -> Iterator[str]:
    longest = _LONGEST_CLUSTER_NAME if kind == "RayCluster" else _LONGEST_JOB_NAME
    if len(name) > longest:
        yield f"name: longer than {longest} characters"
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        yield "name: must begin with a lower-case letter and hold only letters, digits and hyphens"


def _unknown_fields(spec: Fields, version: tuple[int, ...]) -> Iterator[str]:
    for path, since in _SINCE.items():
        *parents, last = path.split(".")
        holder: Any = spec.get(parents[0], {}) if parents else spec
        for each in holder if isinstance(holder, list) else [holder]:
            if last in each and version < _number(since):
                yield f"{path}: unknown before KubeRay {since}"
    for field in sorted(_GATED & spec.keys()):
        yield f"{field}: needs a feature gate of the operator"


def _cluster(spec: Fields, annotations: Fields, version: tuple[int, ...]) -> Iterator[str]:
    yield from _unknown_fields(spec, version)
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    empty = [name for name, group in _groups(spec) if not group["template"]["spec"].get("containers")]
    if empty:  # the other rules read the first container
        yield from (f"{name}: no container" for name in empty)
        return
    for name, group in _groups(spec):
        yield from _group(name, group)
    variables = _variables(head)
    for group in workers:
        yield from _worker_group(group, spec, variables, version)
    yield from _fault_tolerance(spec, annotations, variables)
    yield from _autoscaler(spec, variables, version)
    yield from _authentication(spec, version)
    if "upgradeStrategy" in spec and spec["upgradeStrategy"].get("type") not in (None, "Recreate", "None"):
        yield "upgradeStrategy.type: must be Recreate or None"


def _groups(spec: Fields) -> list[tuple[str, Fields]]:
    return [
        ("head", spec["headGroupSpec"]),
        *((group["groupName"], group) for group in spec.get("workerGroupSpecs", [])),
    ]


def _variables(group: Fields) -> dict[str, Any]:
    """Environment variables of a group's Ray container, as `env` sets them; None for one from a secret."""
    return {
        each["name"]: each.get("value") for each in group["template"]["spec"]["containers"][0].get("env", [])
    }


def _group(name: str, group: Fields) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    if group.get("resources") and any(
        params.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")
    ):
        yield f"{name}: resources both in rayStartParams and in resources"
    if "labels" in params:
        yield f"{name}: labels belong in the group's own field, not in rayStartParams"
    for key, value in group.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield f"{name}: label {key}={value} is not one of Kubernetes"


def _worker_group(group: Fields, spec: Fields, head: Fields, version: tuple[int, ...]) -> Iterator[str]:
    name, least, most = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
    if not spec.get("enableInTreeAutoscaling") and (least is None or most is None):
        yield f"{name}: minReplicas and maxReplicas are required without the autoscaler"
    if (least or 0) < 0 or (most or 0) < 0:
        yield f"{name}: negative number of replicas"
    if least is not None and most is not None and least > most:
        yield f"{name}: minReplicas {least} is above maxReplicas {most}"
    if group.get("suspend"):
        yield f"{name}: suspend is for the operator itself"
    v2 = _is_v2(spec) or head.get(_V2) in ("1", "true")
    if (idle := group.get("idleTimeoutSeconds")) is not None and version >= (1, 6):
        if idle < 0:
            yield f"{name}: negative idleTimeoutSeconds"
        if not v2:
            yield f"{name}: idleTimeoutSeconds requires autoscalerOptions.version v2"
    if group.get("priority"):
        if not v2:
            yield f"{name}: priority requires autoscalerOptions.version v2"
        if _ray_version(spec) < (2, 56):
            yield f"{name}: priority requires Ray 2.56"


def _is_v2(spec: Fields) -> bool:
    return bool(spec.get("autoscalerOptions", {}).get("version") == "v2")


def _ray_version(spec: Fields) -> tuple[int, ...]:
    """Ray's version in numbers; empty if it is missing or no version."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", spec.get("rayVersion", ""))
    return _number(found[1]) if found else ()


def _fault_tolerance(spec: Fields, annotations: Fields, head: Fields) -> Iterator[str]:
    options, params = spec.get("gcsFaultToleranceOptions"), spec["headGroupSpec"].get("rayStartParams", {})
    by_annotation = annotations.get("ray.io/ft-enabled", "")
    if options is None:
        if by_annotation.lower() != "true" and "RAY_REDIS_ADDRESS" in head:
            yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    else:
        if by_annotation:
            yield "gcsFaultToleranceOptions and the annotation ray.io/ft-enabled exclude each other"
        if params.get("redis-password"):
            yield "rayStartParams.redis-password: use gcsFaultToleranceOptions.redisPassword"
        for variable in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
            if variable in head:
                yield f"{variable} in the head's env: use gcsFaultToleranceOptions"
        if annotations.get("ray.io/external-storage-namespace"):
            yield "annotation ray.io/external-storage-namespace: use gcsFaultToleranceOptions"
        if options.get("backend") == "rocksdb":
            yield "gcsFaultToleranceOptions.backend rocksdb: needs a feature gate of the operator"
        elif "storage" in options:
            yield "gcsFaultToleranceOptions.storage is for the backend rocksdb"
    if params.get("redis-username") or "REDIS_USERNAME" in head:
        yield "a user name of Redis: use gcsFaultToleranceOptions.redisUsername"


def _autoscaler(spec: Fields, head: Fields, version: tuple[int, ...]) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling"):
        if head.get(_V2) in ("1", "true"):
            yield f"{_V2} without enableInTreeAutoscaling"
    else:
        if options.get("version") and _V2 in head:
            yield f"{_V2} and autoscalerOptions.version exclude each other"
        if _is_v2(spec):
            for name, group in _groups(spec):
                if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                    yield f"{name}: restartPolicy must be Never with autoscaler v2"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions: negative idleTimeoutSeconds"
    if version >= (1, 7) and "KUBERAY_GEN_AUTOSCALER_START_CMD" in [
        each["name"] for each in options.get("env", [])
    ]:
        yield "autoscalerOptions.env: KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's own"


def _authentication(spec: Fields, version: tuple[int, ...]) -> Iterator[str]:
    options = spec.get("authOptions")
    kubernetes = bool(options and options.get("enableK8sTokenAuth"))
    if options is None or options.get("mode", "token") != "token":
        if kubernetes:
            yield "authOptions.enableK8sTokenAuth requires the mode token"
        return
    if not _ray_version(spec):
        yield f"rayVersion {spec.get('rayVersion')!r}: authOptions require a version, from 2.52"
    elif _ray_version(spec) < (2, 52):
        yield "authOptions require Ray 2.52"
    elif kubernetes and _ray_version(spec) < (2, 55):
        yield "authOptions.enableK8sTokenAuth requires Ray 2.55"
    if kubernetes and options.get("secretName") and version >= (1, 7):
        yield "authOptions.enableK8sTokenAuth and secretName exclude each other"


def _job(spec: Fields, annotations: Fields, version: tuple[int, ...]) -> Iterator[str]:
    yield from _unknown_fields(spec, version)
    selector, mode = spec.get("clusterSelector") or {}, spec.get("submissionMode", "K8sJobMode")
    shutdown, cluster = bool(spec.get("shutdownAfterJobFinishes")), spec.get("rayClusterSpec")
    if spec.get("suspend") and not shutdown:
        yield "suspend requires shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "negative ttlSecondsAfterFinished"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished requires shutdownAfterJobFinishes"
    if cluster is None and not selector:
        yield "neither rayClusterSpec nor clusterSelector"
    if selector:
        yield from _selecting_job(spec, selector, mode, version)
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit does not go with InteractiveMode"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig"):
            if field in spec:
                yield f"{field} does not go with SidecarMode"
        if cluster and cluster["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "head: restartPolicy must be Never with SidecarMode"
    if cluster is not None:
        if cluster.get("authOptions", {}).get("enableK8sTokenAuth") and version >= (1, 7):
            yield "rayClusterSpec.authOptions.enableK8sTokenAuth: not for jobs"
        yield from (f"rayClusterSpec: {each}" for each in _cluster(cluster, annotations, version))
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML: not YAML"
    else:
        if not isinstance(environment, dict | None):
            yield "runtimeEnvYAML: not a mapping"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field}: must be positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "negative backoffLimit"


def _selecting_job(spec: Fields, selector: Fields, mode: str, version: tuple[int, ...]) -> Iterator[str]:
    if spec.get("suspend"):
        yield "suspend does not go with clusterSelector"
    if not selector.get("ray.io/cluster"):
        yield "clusterSelector: no cluster's name under ray.io/cluster"
    if mode == "SidecarMode":
        yield "clusterSelector does not go with SidecarMode"
    if spec.get("backoffLimit", 0) > 0 and version >= (1, 6):
        yield "backoffLimit does not go with clusterSelector"
